"""The job of `limbeck constraints write`."""
