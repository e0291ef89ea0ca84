"""A teacher and a student before anything is trained: the student's shape, its mixers, what the teacher knows of the text."""
