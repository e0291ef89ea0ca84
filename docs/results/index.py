"""The table of all claims in README.md here, and of their own in the pages of studies, with a figure where a study has none.

usage: index.py writes the tables between the two marks of each page, and the figures; a test compares them with the files.
"""

from collections import Counter
from pathlib import Path

from effects import FIGURES, drawn
from study_rows import HERE, JUDGED, NOT_RUN, Row, coverages, rows

BEGIN, END = "<!-- made by index.py: begin -->", "<!-- made by index.py: end -->"


def table(page: Path) -> str:
    """All claims in the overview, below them what was measured and what is not yet run; those of a study on its own page."""
    if page.parent == HERE and page.name == "README.md":
        judged = [row for row in rows() if row.verdict in JUDGED]
        to_come = [row for row in rows() if row.verdict == NOT_RUN]
        rest = [row for row in rows() if row.verdict not in (*JUDGED, NOT_RUN)]
        parts = [part for part in (judged, rest, to_come) if part]
        return "\n\n".join(text for part in parts for text in (counted(part), cells(part, link=True)))
    found = [row for row in rows() if row.page == name_of(page)]
    return f"{counted(found)}\n\n{cells(found, link=False)}"


def name_of(page: Path) -> str:
    """What rows call a page: its folder, or the file where it stands here."""
    return page.name if page.parent == HERE else page.parent.name


def counted(found: list[Row]) -> str:
    """How many claims there are by verdict, and how many measurements, with the aims that were met."""
    counts = Counter(row.verdict for row in found)
    claims = sum(counts[name] for name in JUDGED)
    parts = []
    if claims:
        verdicts = ", ".join(f"{counts[name]} {name}" for name in JUDGED if counts[name])
        parts.append(f"{claims} claim{'s' * (claims != 1)}: {verdicts}.")
    if counts[NOT_RUN]:
        parts.append(f"{counts[NOT_RUN]} claims are not yet run. Their criteria stand.")
    if rest := len(found) - claims - counts[NOT_RUN]:
        aims = ", ".join(f"{counts[name]} {name}" for name in ("aim met", "aim missed") if counts[name])
        parts.append(f"{rest} measurement{'s' * (rest != 1)} without a criterion{f': {aims}' * bool(aims)}.")
    return " ".join(parts)


def cells(found: list[Row], *, link: bool) -> str:
    """Rows as a table. A page's own has a column of studies where it has several, without what these begin with alike."""
    several = link or len({row.study for row in found}) > 1
    alike = (
        ""
        if link or len({row.study.partition(", ")[0] for row in found}) > 1
        else f"{found[0].study.partition(', ')[0]}, "
    )
    lines = [["study"] * several + ["claim", "verdict", effect_of(found), "n"]]
    lines.append(["---"] * len(lines[0]))
    for row in found:
        study = [f"[{row.study}]({place_of(row)})" if link else row.study.removeprefix(alike)] * several
        lines.append([*study, *(cell.replace("|", "\\|") for cell in (row.claim, row.verdict, row.effect, row.n))])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def place_of(row: Row) -> str:
    """Where a row leads: to its page, or to the commands of a study that has none yet."""
    if row.verdict == NOT_RUN:
        return f"{row.page}.sh"
    return row.page if row.page.endswith(".md") else f"{row.page}/README.md"


def effect_of(found: list[Row]) -> str:
    """The head of the column of effects: speed has the least and the most of several turns in place of an interval."""
    turns = [row.page in ("performance.md", "mixers") for row in found]
    return (
        "effect, least to most" if all(turns) else f"effect, 95 % interval{' (of speed: least to most)' * any(turns)}"
    )


def pages() -> list[Path]:
    """The pages with a table made here."""
    found = [HERE / "README.md", HERE / "performance.md", *sorted(HERE.glob("*/README.md"))]
    return [page for page in found if BEGIN in page.read_text(encoding="utf-8")]


def written(page: Path) -> str:
    """A page with the table of today."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table(page)}\n\n{END}{rest.partition(END)[2]}"


def figures() -> dict[Path, str]:
    """The figures made here, by file."""
    return {HERE / page.removesuffix(".md") / "effects.svg": drawn(page, [*rows(), *coverages()]) for page in FIGURES}


if __name__ == "__main__":
    for page in pages():
        page.write_text(written(page), encoding="utf-8")
    for file, picture in figures().items():
        file.write_text(picture, encoding="utf-8")
