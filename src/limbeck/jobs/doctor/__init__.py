"""`limbeck doctor`."""
