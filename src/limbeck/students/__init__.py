"""Who learns: which shape a budget buys, what matters in the teacher, and the cut."""

from limbeck.students.cut import Student, cut
from limbeck.students.score import Scores, score
from limbeck.students.shape import Shape, budget_of_shrink, choose, parameters, parse_shape

__all__ = [
    "Scores",
    "Shape",
    "Student",
    "budget_of_shrink",
    "choose",
    "cut",
    "parameters",
    "parse_shape",
    "score",
]
