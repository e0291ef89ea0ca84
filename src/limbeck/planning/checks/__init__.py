"""The doctor's checks: whether teacher, student, data and machine fit together."""
