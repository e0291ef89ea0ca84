"""`limbeck probe`."""
