"""`limbeck rank`: which of several rationales a student can use."""
