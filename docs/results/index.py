"""The table of all claims in README.md here, and of their own in the pages of studies, made from the committed files.

usage: index.py writes them between the two marks of each page that has these; a test compares them.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from limbeck.papers import recipe
from limbeck.papers.lab.recipe import count_of

HERE = Path(__file__).parent
BEGIN, END = "<!-- made by index.py: begin -->", "<!-- made by index.py: end -->"
Row = tuple[str, str, str, str, str]  # link, claim, verdict, effect, n


def read(file: str) -> dict:
    return json.loads((HERE / file).read_text(encoding="utf-8"))


def papers() -> Iterator[Row]:
    """Claims of papers that `limbeck reproduce` judged."""
    files = sorted(HERE.glob("*/reproduction.json")) + sorted(HERE.glob("*/*/capacity-gap.json"))
    for file in files + sorted(HERE.glob("*/*/distillation-law.json")):
        found, folder = json.loads(file.read_text(encoding="utf-8")), file.relative_to(HERE).parts[0]
        name = folder if len(file.relative_to(HERE).parts) == 2 else f"{found['recipe']}, {file.parent.name}"
        for one in found["judged"]:
            short = recipe(found["recipe"]).short_of(one["claim"])
            seen = short.effect_of(one["seen"]), count_of(one["seen"], found["seeds"])
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


def rows() -> list[Row]:
    return [*stories(), *caches(), *alignment(), *packing(), *verdicts(), *papers()]


def table(page: Path) -> str:
    """All claims in the overview; those of a study on its own page, without links."""
    found, head = rows(), ["study", "claim", "verdict", "effect, 95 % interval", "n"]
    own = page.parent != HERE
    if own:
        found = [row for row in found if f"]({page.parent.name}/README.md)" in row[0]]
    counts = {name: sum(row[2] == name for row in found) for name in ("confirmed", "refuted", "inconclusive")}
    said = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    cells = [head, ["---"] * len(head)]
    for link, *rest in found:
        cells.append([link.partition("](")[0][1:] if own else link, *(cell.replace("|", "\\|") for cell in rest)])
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([f"{len(found)} claims: {said}.", "", *lines])


def pages() -> list[Path]:
    """The pages with a table made here."""
    found = [HERE / "README.md", *sorted(HERE.glob("*/README.md"))]
    return [page for page in found if BEGIN in page.read_text(encoding="utf-8")]


def written(page: Path) -> str:
    """A page with the table of today."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table(page)}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    for page in pages():
        page.write_text(written(page), encoding="utf-8")
