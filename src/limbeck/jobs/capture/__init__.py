"""`limbeck capture` and `limbeck cache`: a teacher's answers, made once, certified, and read by students without it."""
