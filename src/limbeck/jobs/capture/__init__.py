"""`limbeck capture` and `limbeck cache`: a teacher's logits, computed once, certified, and used by students without it."""
