"""What several commands need: the environment, the run's folder, its text, what is held out."""
