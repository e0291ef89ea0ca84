"""Shared parts of several commands: the environment, the run's folder, its text, and its held-out part."""
