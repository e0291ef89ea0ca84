"""Who learns: which shape a budget buys, what matters in the teacher, and the cut."""
