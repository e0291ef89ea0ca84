"""`limbeck plan`."""
