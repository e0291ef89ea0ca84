"""The tables below a page's first one, computed from the committed files.

usage: tables.py writes them between the marks of each page, `<!-- table NAME: begin -->` and its end; a test compares them.
"""

import re
from pathlib import Path

import law_tables
import speed_tables
import student_tables
from cells import Tables
from study_rows import HERE

MARKS = re.compile(r"(<!-- table (\S+): begin -->\n\n).*?(\n\n<!-- table \2: end -->)", re.DOTALL)
TABLES: Tables = {
    **speed_tables.TABLES,
    **student_tables.TABLES,
    **law_tables.TABLES,
}


def written(page: Path) -> str:
    """A page with its tables of today."""
    made = TABLES[str(page.relative_to(HERE))]
    return MARKS.sub(lambda found: found[1] + made[found[2]]() + found[3], page.read_text(encoding="utf-8"))


def named(page: Path) -> list[str]:
    """The tables that a page has marks for."""
    return [found[2] for found in MARKS.finditer(page.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    for name in TABLES:
        page = HERE / name
        page.write_text(written(page), encoding="utf-8")
