"""The figure of a page whose study has no other: each effect with its interval, one below the other, as SVG."""

from dataclasses import dataclass
from html import escape
from math import log10

from smollm2_stages_criterion import MARGIN as MARGIN_OF_STAGES
from study_rows import Row, read, there

BLUE, GREY, LINE, DARK, RED = "#1d4ed8", "#57606a", "#d8dee4", "#24292f", "#b8442c"
LEFT, RIGHT, STEP, TOP, WIDTH = 384, 24, 24, 56, 760

MARGIN = read("caches/stories.json")["margin_nats"]


@dataclass(frozen=True)
class Axis:
    """What a figure says: its title, what its axis measures, where it has dashed ``marks``, and whether it is logarithmic."""

    title: str
    label: str
    marks: tuple[float, ...] = (0.0,)
    log: bool = False


FIGURES = {
    "alignment": Axis("A teacher with another tokenizer", "bits per byte above cross-entropy alone; less is better"),
    "caches": Axis(
        "Students of captured logits",
        "nats per token above the live teacher's student; dashed: the margin of equality",
        (-MARGIN, MARGIN),
    ),
    "packing": Axis("Rows of whole documents", "nats per token above rows of the stream; less is better"),
    "conversion": Axis("Attention replaced by state", "nats per token, 95 % intervals"),
    "law-coverage": Axis(
        "Intervals of fitted laws", "share that holds the truth, %; a 95 % interval should hold 95", (95.0,)
    ),
    "streamed": Axis(
        "A teacher in a quarter of its memory",
        "peak memory, MB; dashed: the limit",
        (read("streamed/streamed.json")["limit_bytes"] / 1e6,),
    ),
    "performance.md": Axis("Speed and memory", "times the other; from the least to the most turn", (1.0,), log=True),
}
if there("smollm2-chat"):
    FIGURES["smollm2-chat"] = Axis(
        "A small chat model of answers and logits",
        "better by so many nats per token, or by such a share of constraints",
    )
if there("smollm2-stages"):
    FIGURES["smollm2-stages"] = Axis(
        "Stages after a distillation",
        "nats per token better than the control that is nearest; dashed: no difference, and the margin",
        (-MARGIN_OF_STAGES, 0.0),
    )


def ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Round values in a range, five or so."""
    if log:
        found = [head * 10.0**power for power in range(-2, 4) for head in (1, 3)]
    else:
        step = next(
            step for power in range(-4, 5) for head in (1, 2, 5) if (high - low) / (step := head * 10.0**power) <= 6
        )
        found = [number * step for number in range(int(low / step) - 1, int(high / step) + 2)]
    return [value for value in found if low <= value <= high]


def drawn(page: str, rows: list[Row]) -> str:
    """The picture of those rows of a page that have bounds."""
    return picture(FIGURES[page], [row for row in rows if row.page == page])


def picture(axis: Axis, rows: list[Row]) -> str:
    """The picture of those rows that have bounds."""
    shown = [(row, row.bounds) for row in rows if row.bounds]
    scale = log10 if axis.log else float
    values = [value for _, bounds in shown for value in bounds] + list(axis.marks)
    least, most = min(map(scale, values)), max(map(scale, values))
    room = 0.06 * (most - least)
    least, most = least - room, most + room

    def x(value: float) -> float:
        return LEFT + (scale(value) - least) / (most - least) * (WIDTH - LEFT - RIGHT)

    bottom = TOP + STEP * len(shown)
    ends = (10**least, 10**most) if axis.log else (least, most)
    parts = []
    for value in ticks(*ends, log=axis.log):
        parts.append(f'<path d="M{x(value):.1f},{TOP - 8} V{bottom - 6}" stroke="{LINE}"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{bottom + 10}" text-anchor="middle" fill="{GREY}">{value:g}</text>')
    for value in axis.marks:
        parts.append(
            f'<path d="M{x(value):.1f},{TOP - 8} V{bottom - 6}" stroke="{RED}" stroke-dasharray="4 3" stroke-width="1.5"/>'
        )
    for number, (row, (value, low, high)) in enumerate(shown):
        y = TOP + 8 + STEP * number
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end" fill="{DARK}">{escape(label(row))}</text>')
        parts.append(
            f'<path d="M{x(low):.1f},{y} H{x(high):.1f}" stroke="{BLUE}" stroke-width="7" stroke-linecap="round" '
            'stroke-opacity="0.35"/>'
        )
        parts.append(f'<circle cx="{x(value):.1f}" cy="{y}" r="4.5" fill="{BLUE}"/>')
    height = bottom + 44
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12.5">'
    )
    frame = f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="#ffffff" stroke="{LINE}"/>'
    title = f'<text x="24" y="30" font-size="16" font-weight="600" fill="{DARK}">{escape(axis.title)}</text>'
    foot = f'<text x="24" y="{bottom + 32}" fill="{GREY}">{escape(axis.label)}</text>'
    return "\n".join([head, f"<title>{escape(axis.title)}</title>", frame, title, *parts, foot, "</svg>", ""])


def label(row: Row) -> str:
    """A row's claim, with what tells it from others of its study."""
    part = row.study.partition(", ")[2]
    name = row.claim.replace(" equal the live teacher", "")
    return f"{part}: {name}" if part else name
