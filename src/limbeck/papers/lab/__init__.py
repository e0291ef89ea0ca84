"""Shared parts of the reproductions: a recipe and its criterion, small trainings, grids, plots."""
