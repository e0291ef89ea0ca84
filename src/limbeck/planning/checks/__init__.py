"""Whether a teacher, a student, a text and a machine belong together."""
