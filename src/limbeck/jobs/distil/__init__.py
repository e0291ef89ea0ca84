"""`limbeck distil`: one student or a sweep of them, their baselines, and the evaluation of all."""
