"""What to expect before training: scaling laws, how they are fitted, and which teacher each of them would choose."""
