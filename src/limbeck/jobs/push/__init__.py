"""`limbeck push`."""
