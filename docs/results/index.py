"""The table of all claims in README.md here, made from the committed files of the studies.

usage: index.py writes it between the two marks of README.md; a test compares them.
"""

import json
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
BEGIN, END = "<!-- made by index.py: begin -->", "<!-- made by index.py: end -->"
WHOLE = ("difference", " less ", "on the whole")  # words of a clause that gives a claim's effect, before any other
CLAUSES = {  # where that is not so: which clauses give it, by paper and number of the claim
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
Row = tuple[str, str, str, str, str]  # link, claim, verdict, effect, n


def read(file: str) -> dict:
    return json.loads((HERE / file).read_text(encoding="utf-8"))


def effect(seen: str, claim: tuple[str, int]) -> str:
    """The clauses of what was seen that give the effect: the first one, unless another is a difference or is named above."""
    clauses = [clause.strip().rstrip(".") for clause in seen.split(";")]
    usual = next((i for i, one in enumerate(clauses) if any(word in one for word in WHOLE)), 0)
    return "; ".join(clauses[i].split(", by seed")[0] for i in CLAUSES.get(claim, (usual,)))


def count(seen: str, seeds: int) -> str:
    """n of what was seen, with its seeds."""
    clauses = [clause.strip().rstrip(".") for clause in seen.split(";")]
    found = next((one.partition("n = ")[2] for one in clauses if "n = " in one), "")
    found = found.removesuffix(", one number each")
    return found if "seeds" in seen.split(";")[-1] else f"{found}, {seeds} seeds".removeprefix(", ")


def papers() -> Iterator[Row]:
    """Claims of papers that `limbeck reproduce` judged."""
    files = sorted(HERE.glob("*/reproduction.json")) + sorted(HERE.glob("*/*/capacity-gap.json"))
    for file in files + sorted(HERE.glob("*/*/distillation-law.json")):
        found, folder = json.loads(file.read_text(encoding="utf-8")), file.relative_to(HERE).parts[0]
        name = folder if len(file.relative_to(HERE).parts) == 2 else f"{found['recipe']}, {file.parent.name}"
        for number, one in enumerate(found["judged"]):
            seen = effect(one["seen"], (found["recipe"], number)), count(one["seen"], found["seeds"])
            yield f"[{name}]({folder}/README.md)", one["claim"], one["verdict"], *seen


def interval(found: dict, *, digits: int = 3, unit: str = "nats per token") -> str:
    return f"{found['value']:+.{digits}f} ({found['low']:+.{digits}f} to {found['high']:+.{digits}f}) {unit}"


def sign(found: dict) -> str:
    """Confirmed where an interval lies below 0, refuted where it lies above."""
    return "confirmed" if found["high"] < 0 else "refuted" if found["low"] > 0 else "inconclusive"


def stories() -> Iterator[Row]:
    found = read("stories/results.json")
    gains, n = found["student_better_by"], f"{found['documents']} stories, {len(found['seeds'])} seeds"
    link = "[stories](stories/README.md)"
    yield (
        link,
        "Of text that is read once, cross-entropy at equal compute makes the better student.",
        found["once"],
        interval(gains["single-use"]["cut+ce@flops"]),
        n,
    )
    yield (
        link,
        "With logits that are used ten times, the distilled student is better at equal compute.",
        found["ten times"],
        interval(gains["ten-uses"]["cut+ce@flops"]),
        n,
    )
    even = found["break_even"]
    yield (
        link,
        "A pass of the teacher pays from some number of uses on, between one and ten.",
        found["break-even"],
        f"{even['value']:.1f} ({even['low']:.1f} to {even['high']:.1f}) uses",
        n,
    )


def caches() -> Iterator[Row]:
    names = {"drawn": "sampled logits", "likeliest without the rest": "top-k logits without the rest"}
    for text in ("stories", "stdlib"):
        found = read(f"caches/{text}.json")
        for row in found["rows"]:
            if row["kind"] not in names:
                continue
            above, margin = row["nats_above_live"], found["margin_nats"]
            outside = above["low"] > margin or above["high"] < -margin
            yield (
                f"[captured logits, {text}](caches/README.md)",
                f"A student of {names[row['kind']]} ({row['objective']}, {row['bytes']} bytes a token) equals the live "
                "teacher's.",
                "confirmed" if row["equivalent"] else "refuted" if outside else "inconclusive",
                interval(above),
                f"{above['documents']} documents, {len(found['seeds'])} seeds",
            )


def alignment() -> Iterator[Row]:
    for text in ("stories", "stdlib"):
        found = read(f"alignment/{text}.json")
        for row in found["rows"]:
            if row["tokenizer"] == "own" and row["arm"] in ("ALM", "ULD"):
                above = row["above_cross_entropy"]
                yield (
                    f"[two tokenizers, {text}](alignment/README.md)",
                    f"A teacher with another tokenizer helps by {row['arm']}, beside cross-entropy alone.",
                    sign(above),
                    interval(above, unit="bits per byte"),
                    f"{above['documents']} documents, {len(found['seeds'])} seeds",
                )


def packing() -> Iterator[Row]:
    found = read("packing/results.json")
    for text in ("stories", "answers"):
        above = found[text]["whole_above_stream"]
        yield (
            f"[packing, {text}](packing/README.md)",
            "Students of rows with whole documents are better than those of rows cut out of the stream.",
            sign(above),
            interval(above),
            f"{above['documents']} documents, {above['seeds']} seeds",
        )


def verdicts() -> Iterator[Row]:
    found = read("verdicts/results.json")
    rows = [row["verdict"] for row in found["rows"] if row["seeds"] >= 3]
    worst = max(rows, key=lambda row: row["high"])
    share, low, high = (100 * worst[key] for key in ("share", "low", "high"))
    first, last = found["seeds"]
    yield (
        "[verdicts](verdicts/README.md)",
        "A verdict of three or five seeds names a winner of equal arms in at most 5 % of comparisons.",
        found["judged"],
        f"at most {share:.1f} % ({low:.1f} to {high:.1f})",
        f"{last - first + 1} trainings",
    )


def table() -> str:
    rows = [*stories(), *caches(), *alignment(), *packing(), *verdicts(), *papers()]
    counts = {name: sum(row[2] == name for row in rows) for name in ("confirmed", "refuted", "inconclusive")}
    said = ", ".join(f"{number} {name}" for name, number in counts.items())
    lines = [
        f"{len(rows)} claims: {said}.",
        "",
        "| study | claim | verdict | effect, 95 % interval | n |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def written(page: str) -> str:
    """The page with the table of today."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    file = HERE / "README.md"
    file.write_text(written(file.read_text(encoding="utf-8")), encoding="utf-8")
