"""The picture of SmolLM2's students: bits per byte of held-out stories, over megabytes and over tokens a second.

What is dearer is further to the right, where the teacher is; files in float32 are left out. The SVG is composed as text, so that
all versions of all packages give the same bytes.
"""

from html import escape
from math import log10

BLUE, DEEP, GOLD, GREY, LINE, DARK = "#3b82f6", "#1e3a8a", "#b7791f", "#57606a", "#d8dee4", "#24292f"
COLOURS = {"teacher": GOLD, "20M": BLUE, "40M": DEEP}
WIDTH, HEIGHT, TOP, BOTTOM = 760, 430, 92, 340
PANELS = ((64, 372), (444, 744))  # from and to, in pixels


class Axis:
    """Where values lie between two pixels; logarithmic where ``log``, and from the most to the least where ``falling``."""

    def __init__(self, values, span, *, log=False, falling=False, room=0.12):
        self.log, self.span = log, span
        low, high = self._scaled(min(values)), self._scaled(max(values))
        more = room * (high - low) or 0.1
        self.low, self.high = low - more, high + more
        if falling:
            self.low, self.high = self.high, self.low

    def _scaled(self, value):
        return log10(value) if self.log else value

    def __call__(self, value):
        start, end = self.span
        return start + (self._scaled(value) - self.low) / (self.high - self.low) * (end - start)

    def ticks(self):
        """Round values on the axis, as they are and as they are written."""
        low, high = sorted((self.low, self.high))
        if self.log:
            found = [head * 10.0**power for power in range(-1, 5) for head in (1, 2, 5)]
            return [(value, f"{value:g}") for value in found if low <= log10(value) <= high]
        steps = ((head * 10.0**power, max(0, -power)) for power in range(-3, 3) for head in (1, 2, 5))
        step, digits = next((one, digits) for one, digits in steps if (high - low) / one <= 6)
        found = [number * step for number in range(int(low / step), int(high / step) + 2)]
        return [(value, f"{value:.{digits}f}") for value in found if low <= value <= high]


def text(x, y, said, *, colour=GREY, anchor="middle", size=None, bold=False):
    """A line of text."""
    more = f' font-size="{size}"' if size else ""
    more += ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{more}>{escape(said)}</text>'


def point(x, y, bits, found, colour):
    """A file: its value, and its interval over stories."""
    return [
        f'<path d="M{x:.1f},{y(bits["low"]):.1f} V{y(bits["high"]):.1f}" stroke="{colour}" stroke-width="6" '
        'stroke-linecap="round" stroke-opacity="0.3"/>',
        f'<circle cx="{x:.1f}" cy="{y(bits["value"]):.1f}" r="4.5" fill="{colour}"/>',
        text(x, y(bits["high"]) - 8, found, colour=colour, size=11),
    ]


def grid(axis, y, title):
    """The lines and numbers of a panel."""
    start, end = axis.span
    found = []
    for value, named in y.ticks():
        found.append(f'<path d="M{start},{y(value):.1f} H{end}" stroke="{LINE}"/>')
        found.append(text(start - 8, y(value) + 4, named, anchor="end"))
    for value, named in axis.ticks():
        found.append(f'<path d="M{axis(value):.1f},{TOP} V{BOTTOM}" stroke="{LINE}"/>')
        found.append(text(axis(value), BOTTOM + 18, named))
    return [*found, text((start + end) / 2, BOTTOM + 40, title)]


def panel(rows, axis, y, at, title):
    """One panel: the files of each model joined by a line, each named by its numbers."""
    found = grid(axis, y, title)
    for model, colour in COLOURS.items():
        mine = sorted((row for row in rows if row["model"] == model), key=at)
        places = " L".join(f"{axis(at(row)):.1f},{y(row['bits_per_byte']['value']):.1f}" for row in mine)
        if len(mine) > 1:
            found.append(f'<path d="M{places}" fill="none" stroke="{colour}" stroke-opacity="0.5"/>')
        for row in mine:
            found += point(axis(at(row)), y, row["bits_per_byte"], row["name"].rpartition(", ")[2], colour)
    return found


def drawn(files, results):
    """The picture as SVG text."""
    rows = [row for row in files["files"] if not row["name"].endswith(", f32")]  # nobody ships those
    entropy = {size: results["models"][size]["bits_per_byte"].get("cut+ce@flops") for size in ("20M", "40M")}
    bits = [row["bits_per_byte"][key] for row in rows for key in ("low", "high")]
    bits += [one[key] for one in entropy.values() if one for key in ("low", "high")]
    y = Axis(bits, (BOTTOM, TOP))
    size = Axis([row["bytes"] / 1e6 for row in rows], PANELS[0], log=True)
    speed = Axis([written(row) for row in rows], PANELS[1], log=True, falling=True)
    parts = panel(rows, size, y, lambda row: row["bytes"] / 1e6, "megabytes of the file")
    for which, one in entropy.items():
        if one:
            (whole,) = [row["bytes"] / 1e6 for row in rows if row["name"] == f"{which}, bf16"]
            x, middle = size(whole), y(one["value"])
            parts.append(
                f'<path d="M{x - 5:.1f},{middle:.1f} h10 M{x:.1f},{middle - 5:.1f} v10" stroke="{GREY}" stroke-width="2"/>'
            )
    parts += panel(rows, speed, y, written, "tokens a second in one thread, slower to the right")
    key, x = [], 24.0
    for name, colour in (("teacher", GOLD), ("20M student", BLUE), ("40M student", DEEP)):
        key += [
            f'<circle cx="{x + 4:.1f}" cy="58" r="4.5" fill="{colour}"/>',
            text(x + 14, 62, name, colour=colour, anchor="start"),
        ]
        x += 28 + 7 * len(name)
    if any(entropy.values()):
        key += [
            f'<path d="M{x:.1f},58 h10 M{x + 5:.1f},53 v10" stroke="{GREY}" stroke-width="2"/>',
            text(x + 16, 62, "cross-entropy alone at equal FLOPs, bf16", anchor="start"),
        ]
    title = "SmolLM2-135M-Instruct, made small for children's stories"
    stories = (
        f"Bits per byte of {files['documents']} held-out stories, less is better; bars are 95 % intervals over stories."
    )
    foot = f"{stories} GGUF files in llama.cpp."
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            'font-family="system-ui, sans-serif" font-size="12.5">',
            f"<title>{escape(title)}: bits per byte over size and speed</title>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8" fill="#ffffff" stroke="{LINE}"/>',
            text(24, 32, title, colour=DARK, anchor="start", size=16, bold=True),
            *key,
            *parts,
            text(24, HEIGHT - 16, foot, anchor="start", size=12),
            "</svg>",
            "",
        ]
    )


def written(row):
    """Tokens a second that a file writes."""
    return row["speed"]["generation"]["tokens_per_s"]["value"]
