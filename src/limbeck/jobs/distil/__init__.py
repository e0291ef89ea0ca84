"""`limbeck distil`: one student or a sweep of them, what they are compared with, and what came out."""
