"""Predictions before training: scaling laws, their fits to measured points, and the teacher that each law recommends."""
