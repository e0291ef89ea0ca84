"""`limbeck grow`."""
