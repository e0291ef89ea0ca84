"""Models: architecture, loading and saving. Import its files by name, since half of them need no torch."""
