"""What the reproductions share: a recipe and its criterion, small trainings, grids, plots."""
