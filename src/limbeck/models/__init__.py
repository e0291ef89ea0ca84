"""What a model is made of, and how it is loaded and saved. Its files are imported by name: half of them need no torch."""
