"""The README's picture of where distillation is better, from stories/results.json.

usage: headline.py writes headline.svg in its folder. The SVG is composed as text, so that all versions of all packages give the
same bytes. A test compares them.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
LEFT, RIGHT, LOW, HIGH = 258, 680, 1.4, 3.0  # where nats per token lie, and which
BLUE, GREY, GOLD = "#1f5fbf", "#8a8f98", "#b7791f"


def x(nats: float) -> float:
    """The horizontal place of a loss in the picture."""
    return LEFT + (nats - LOW) / (HIGH - LOW) * (RIGHT - LEFT)


def row(y: int, label: str, found: dict, colour: str, *, bold: bool = False) -> list[str]:
    """A line of the picture: a label, an interval, a value."""
    low, value, high = (found[key] for key in ("low", "value", "high"))
    weight = ' font-weight="600"' if bold else ""
    return [
        f'<text x="{LEFT - 14}" y="{y + 4}" text-anchor="end" fill="#24292f"{weight}>{label}</text>',
        f'<path d="M{x(low):.1f},{y} H{x(high):.1f}" stroke="{colour}" stroke-width="7" stroke-linecap="round" '
        'stroke-opacity="0.35"/>',
        f'<circle cx="{x(value):.1f}" cy="{y}" r="4.5" fill="{colour}"/>',
        f'<text x="{x(high) + 12:.1f}" y="{y + 4}" fill="{colour}"{weight}>{value:.3f}</text>',
    ]


def panel(y: int, title: str, rows: list[tuple[str, dict, str]], teacher: dict) -> list[str]:
    """A titled group of lines: the teacher first, then ``rows``, with the lowest loss in bold."""
    best = min(found["value"] for _, found, _ in rows)
    found = [f'<text x="24" y="{y}" font-size="14" font-weight="600" fill="#24292f">{title}</text>']
    found += row(y + 26, "teacher", teacher, GOLD)
    for number, (label, values, colour) in enumerate(rows, 2):
        found += row(y + 26 * number, label, values, colour, bold=values["value"] == best)
    return found


def drawn(results: dict) -> str:
    """The picture as SVG text."""
    levels, teacher = results["levels"], results["teacher"]
    once, short = levels["single-use"], levels["cross-entropy on the short text, by epochs"]
    epochs = min((name for name in short if name.isdigit()), key=lambda name: short[name]["value"])
    parts = panel(
        62,
        "A long text, each of the teacher's passes used once",
        [
            ("distilled student", once["student"], BLUE),
            ("cross-entropy, equal compute", once["cut+ce@flops"], GREY),
        ],
        teacher,
    )
    parts += panel(
        180,
        "A tenth of the text, logits kept and used ten times",
        [
            ("distilled student", levels["ten-uses"]["student"], BLUE),
            ("cross-entropy, equal compute", short["equal compute"], GREY),
            (f"cross-entropy, best epochs ({epochs})", short[epochs], GREY),
        ],
        teacher,
    )
    ticks = []
    for tenths in range(14, 31, 4):
        at = x(tenths / 10)
        ticks.append(f'<path d="M{at:.1f},72 V158 M{at:.1f},190 V302" stroke="#d8dee4"/>')
        ticks.append(f'<text x="{at:.1f}" y="318" text-anchor="middle" fill="#57606a">{tenths / 10:.1f}</text>')
    seeds = len(results["seeds"])
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 350" font-family="system-ui, sans-serif" font-size="12.5">',
            "<title>Held-out loss of a distilled student beside cross-entropy at equal compute</title>",
            '<rect width="760" height="350" rx="8" fill="#ffffff" stroke="#d8dee4"/>',
            '<text x="24" y="30" font-size="16" font-weight="600" fill="#24292f">Where a teacher pays: held-out loss beside '
            "cross-entropy</text>",
            *ticks,
            *parts,
            f'<text x="24" y="339" fill="#57606a">Nats per token on {results["documents"]} held-out stories, less is better; '
            f"95 % intervals over stories and {seeds} seeds.</text>",
            "</svg>",
            "",
        ]
    )


def main() -> None:
    """Writes the picture."""
    results = json.loads((HERE / "stories" / "results.json").read_text(encoding="utf-8"))
    (HERE / "headline.svg").write_text(drawn(results), encoding="utf-8")


if __name__ == "__main__":
    main()
