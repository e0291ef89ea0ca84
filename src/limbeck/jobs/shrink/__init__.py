"""`limbeck shrink`."""
