"""`limbeck export`."""
