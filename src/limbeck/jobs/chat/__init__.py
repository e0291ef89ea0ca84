"""`limbeck chat`."""
