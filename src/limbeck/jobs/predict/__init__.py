"""`limbeck predict`."""
