"""`limbeck pretrain`."""
