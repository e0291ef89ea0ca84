"""A teacher and a student before anything is trained: the student's shape, its mixers, the teacher's likelihood of the text."""
