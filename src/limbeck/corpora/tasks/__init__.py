"""Synthetic tasks by name: each draws rows with questions, from a seed alone."""
