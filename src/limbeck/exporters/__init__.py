"""Formats that a model is written in for others. One file a format."""
