"""The job of `limbeck import`."""
