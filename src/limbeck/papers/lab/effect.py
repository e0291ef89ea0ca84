"""Short cells for a table of claims: the effect with its interval, and n, out of the sentence of what was seen.

A claim's ``seen`` is one line of clauses between semicolons; the last one has ``n = ...`` and the seeds.
"""

_WHOLE = ("difference", " less ", "on the whole")  # words of a clause that gives a claim's effect, before any other
_CLAUSES = {  # where that is not so: which clauses give it, by paper and number of the claim
    ("arithmetic", 0): (0, 1),
    ("arithmetic", 1): (0, 1),
    ("arithmetic", 2): (0, 1),
    ("based", 0): (0, 4),
    ("based", 1): (0, 3),
    ("based", 4): (0, 4),
    ("s4d", 0): (0, 1),
    ("s4d", 1): (0, 1),
    ("s4d", 2): (0, 3),
    ("s4d", 3): (0, 3),
    ("self-pretraining", 2): (0, 1),
    ("zoology", 0): (0, 1),
    ("zoology", 1): (0, 1, 2),
    ("zoology", 3): (0, 1),
}


def _clauses(seen: str) -> list[str]:
    return [clause.strip().rstrip(".") for clause in seen.split(";")]


def effect_of(seen: str, paper: str, number: int) -> str:
    """The clauses that give the effect of a paper's claim: the first one, unless another is a difference."""
    clauses = _clauses(seen)
    usual = next((i for i, one in enumerate(clauses) if any(word in one for word in _WHOLE)), 0)
    chosen = [i for i in _CLAUSES.get((paper, number), (usual,)) if i < len(clauses)]
    return "; ".join(clauses[i].split(", by seed")[0] for i in chosen)


def count_of(seen: str, seeds: int) -> str:
    """n with its seeds, as the clauses have it; the number of seeds alone where they have no n."""
    clauses = _clauses(seen)
    found = next((one.partition("n = ")[2] for one in clauses if "n = " in one), "").removesuffix(", one number each")
    return found if "seeds" in clauses[-1] else f"{found}, {seeds} seeds".removeprefix(", ")
