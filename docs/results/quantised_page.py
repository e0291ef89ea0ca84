"""The page of quantised training and its picture, from results.json of its folder.

usage: quantised_page.py [FOLDER] writes README.md and effects.svg there, by default in docs/results/quantised. Nothing on the
page is typed by hand: what is said follows the verdicts. A test compares it as soon as results.json is committed.
"""

import sys
from pathlib import Path

from cells import table, within
from effects import Axis, picture
from index import BEGIN, END, cells, counted
from quantised import FORMATS
from study_rows import HERE, quantised, read

AXIS = Axis("Trained with quantised weights, or quantised afterwards", "nats per token, 95 % intervals")
SAYS = {
    "confirmed": "{kind} trained with its weights is better than quantised afterwards by {by} nats per token",
    "refuted": "{kind} quantised afterwards is better than trained with its weights by {by} nats per token",
    "inconclusive": "for {kind} the two are not told apart",
}


def sentence(found):
    """What came out, in one sentence."""
    parts = []
    for name, kind in FORMATS.items():
        by = f"{abs(found['gains'][name]['value']):.4f}"
        parts.append(SAYS[found["verdicts"][name]].format(kind=kind, by=by))
    said = "; ".join(parts)
    return f"At equal tokens, {said}."


def claims(folder):
    """The table of claims, as index.py writes it."""
    rows = list(quantised(folder))
    return f"{BEGIN}\n\n{counted(rows)}\n\n{cells(rows, link=False)}\n\n{END}"


def setting(found):
    """What was made of what."""
    whole, kept = found["vocabulary"]
    return (
        f"SmolLM2-135M-Instruct teaches students of {found['parameters']:,} parameters (`{found['shape']}`), cut out of it, on "
        f"TinyStories: {found['tokens']:,} tokens of logits that were captured once, over the {kept:,} of {whole:,} tokens "
        f"that the stories use, with forward KL, a peak learning rate of {found['learning_rate']:g} and products in bfloat16. "
        f"Seeds {', '.join(map(str, found['seeds']))}. All arms of a seed read the same rows from the same start; they differ in "
        f"the weights that a step computes with. Losses are in float32, on the same {found['documents']} held-out stories, with "
        "the values that the file holds. The criterion is in `../quantised.py` and stood before the first run. "
        "Meanwhile attention in bfloat16 on a CPU got a faster kernel: the arms of Q4_0 were trained with the older one, all "
        "others with the newer; [performance](../performance.md) compares the two."
    )


def levels(found):
    """Losses of all arms."""
    lines = [
        ["teacher", within(found["levels"]["teacher"], 4), ""],
        ["not quantised", within(found["levels"]["plain"], 4), ""],
    ]
    for name, kind in FORMATS.items():
        for arm, what in (("ptq", "quantised afterwards"), ("student", "**trained with its weights**")):
            above = within(found["above_plain"][name][arm], 4, sign="+")
            lines.append([f"{kind}, {what}", within(found["levels"][name][arm], 4), above])
    return table("student | nats per token | above not quantised", lines)


def files(found):
    """The files in llama.cpp beside their students' folders."""
    lines = []
    for name, kind in FORMATS.items():
        one = found["files"][name]
        cells_of = [f"{one[key] / 1e6:.1f} MB" for key in ("bytes", "in_float32")]
        cells_of += [f"{one[key]['value']:.4f}" for key in ("nats", "written_nats")]
        cells_of += [
            within(one["difference"], 4, sign="+"),
            f"{one['kl']['value']:.5f}",
            f"{100 * one['same']['value']:.1f} %",
        ]
        lines.append([kind, *cells_of])
    head = "file | size | folder, float32 | nats, folder | nats, llama.cpp | difference | KL | same greedy tokens"
    return table(head, lines)


def marked(name, made):
    """A table between its marks."""
    return f"<!-- table {name}: begin -->\n\n{made}\n\n<!-- table {name}: end -->"


def page(folder="quantised"):
    """The page as text."""
    found = read(f"{folder}/results.json")
    parts = [
        "# Trained with quantised weights, or quantised afterwards",
        sentence(found),
        claims(folder),
        "![Differences in nats per token with their intervals](effects.svg)",
        setting(found),
        marked("levels", levels(found)),
        "## The files",
        (
            "The students of the first seed, exported and read again by llama.cpp on held-out rows. The folder holds the values "
            "of its blocks, so what differs is llama.cpp's own rounding of activations to 8 bits."
        ),
        marked("files", files(found)),
        "Numbers are in `results.json`, both runs in `int4/` and `int8/`; made by `../quantised.sh`.",
    ]
    return "\n\n".join(parts) + "\n"


def drawing(folder="quantised"):
    """The picture as SVG."""
    return picture(AXIS, list(quantised(folder)))


def write(folder="quantised"):
    """Writes page and picture beside the results."""
    out = HERE / folder
    (out / "README.md").write_text(page(folder), encoding="utf-8")
    (out / "effects.svg").write_text(drawing(folder), encoding="utf-8")


if __name__ == "__main__":
    write(*(str(Path(one).absolute()) for one in sys.argv[1:]))
