"""The page of the study values and its picture, made from its results; every word on an outcome follows a verdict."""

import values_criterion as criterion
from cells import table, within
from index import BEGIN, END, cells, counted
from smollm2_page import marked
from smollm2_picture import BLUE, BOTTOM, DARK, DEEP, GOLD, GREY, LINE, TOP, Axis, text
from study_rows import values_rows
from values_criterion import ARMS, ATTENTION, BUDGETS, DELTA, LENGTH, LENGTHS, PAIRS, SOURCES, WINDOWS

WIDTH, HEIGHT = 760, 430
PANELS = ((64, 366), (442, 744))
KINDS = {
    ATTENTION: ("attention", GOLD),
    **dict.fromkeys(WINDOWS, ("Based", BLUE)),
    **dict.fromkeys(WINDOWS.values(), ("window", GREY)),
    DELTA: (DELTA, DEEP),
}
ATTENDS = {
    "confirmed": "attention reads back more than every model of fixed state",
    "refuted": "a model of fixed state reads back more than attention",
    "inconclusive": "whether attention reads back more than every model of fixed state is undecided",
}
SAYS = {
    "attention": ATTENDS,
    "state": {
        "confirmed": "Based reads back more with more state",
        "refuted": "Based reads back less with more state",
        "inconclusive": "whether more state helps Based is undecided",
    },
    "window": {
        "confirmed": "Based reads back more than a window of no fewer bytes, with little state and with much",
        "refuted": "a window of no fewer bytes reads back more than Based, with little state or with much",
        "inconclusive": "Based is not told apart from a window of no fewer bytes with both sizes of state",
    },
}
TENTH = {
    "confirmed": "Attention reads back more than a tenth of the values.",
    "refuted": "Attention reads back less than a tenth of the values.",
    "inconclusive": "Whether attention reads back a tenth of the values is undecided.",
}
SAVED = "Nats a token of a value that its entry saves, by bytes of state"
NOTHING = "attention reads back nothing that could be told from chance"
LARGER = "SmolLM2-135M-Instruct"  # which others trained, for what the rows permit


def of_source(found, source):
    """The main outcome of a source in words, at equal tokens."""
    if not reads(found, source):
        return NOTHING
    return ATTENDS[found["claims"][f"{source}: attention, {BUDGETS[0]}"]["verdict"]]


def reads(found, source):
    """Whether attention reads anything back, without which nothing else is judged."""
    return found["claims"][f"{source}: context"]["gains"][ATTENTION]["low"] > 0


def sentence(found):
    """What came out, in one sentence."""
    first, second = (of_source(found, source) for source in SOURCES)
    if first == second:
        return f"Out of held-out Python and out of Wikipedia, {first}."
    return f"Out of held-out Python {first}; out of Wikipedia {second}."


def what_it_says(found):
    """Of each source and budget what each claim came to."""
    lines = []
    for source in SOURCES:
        claims = found["claims"]
        head = TENTH[claims[f"{source}: context"]["verdict"]]
        said = [
            f"at {budget}, "
            + "; ".join(SAYS[claim][claims[f"{source}: {claim}, {budget}"]["verdict"]] for claim in PAIRS)
            for budget in BUDGETS
        ]
        rest = " ".join(f"{one[0].upper()}{one[1:]}." for one in said)
        lines.append(
            f"- **{source.capitalize()}.** {head} {rest if reads(found, source) else NOTHING.capitalize() + '.'}"
        )
    return "\n".join(lines) + larger(found) + without_width(found)


def larger(found):
    """What the larger model reads back of the same articles, which says whether rows can be answered; "" where it is missing."""
    if LARGER not in found["converted"]:
        return ""
    one = found["converted"][LARGER]
    back = one["lengths"][str(LENGTH)]["back"]
    said = "so a model can read such rows" if back["low"] > 0 else "so the rows may be beyond it too"
    return (
        f"\n- **A larger model.** {LARGER}, {one['parameters'] / 1e6:.0f}M parameters, reads back {percent(back)} % of the "
        f"values of Wikipedia's articles in rows of {LENGTH} of its tokens, {said}."
    )


def without_width(found):
    """Of a source where attention reads back nothing in any row: how much it may be by documents alone; else ""."""
    some = {source: found["levels"][source][BUDGETS[0]][ATTENTION]["lengths"][str(LENGTH)] for source in SOURCES}
    ends = [
        f"{100 * one['shown']['high']:.1f} % ({source})"
        for source, one in some.items()
        if one["back"]["low"] == one["back"]["high"]
    ]
    if not ends:
        return ""
    return (
        "\n\nNot one value was read back, so the interval of the first claim has no width, and its verdict follows the criterion "
        f"as it stood. Counted by documents alone, the share may be up to {' and '.join(ends)}."
    )


def percent(one, *, sign=""):
    """A share with its interval, in percent."""
    return within({key: 100 * one[key] for key in ("value", "low", "high")}, 1, sign=sign)


def levels(found, source, budget):
    """What each kind of model reads by length of the rows."""
    lines = []
    for arm in ARMS:
        one, state = found["levels"][source][budget][arm]["lengths"], found["arms"][budget][arm]["state_bytes"]
        longest = one[str(LENGTH)]
        lines.append(
            [
                arm,
                f"{state[str(LENGTH)] / 1024:,.0f}",
                *(percent(one[str(length)]["shown"]) if str(length) in one else "" for length in LENGTHS),
                percent(longest["without"]),
                percent(longest["back"], sign="+"),
                within(longest["saved"], 2, sign="+"),
            ]
        )
    exact = " | ".join(f"exact, {length} tokens" for length in LENGTHS)
    return table(f"model | KiB of state | {exact} | without the entry | read back | nats a token that it saves", lines)


def forms(found, source):
    """What is read back of each form, at equal tokens and the longest rows."""
    some = found["levels"][source][BUDGETS[0]]
    names = list(some[ATTENTION]["forms"])
    lines = [[arm, *(percent(some[arm]["forms"][form]["back"], sign="+") for form in names)] for arm in ARMS]
    return table(f"model | {' | '.join(names)}", lines)


def cost(found):
    """What was trained: parameters, learning rate, tokens and FLOPs."""
    lines = []
    for arm in ARMS:
        same, equal = (found["arms"][budget][arm] for budget in BUDGETS)
        factor = f"{found['factors'][arm]:g}"
        numbers = [f"{same['trained_tokens']:,}", f"{same['flops'] / 1e12:.2f}"]
        numbers += [f"{equal['trained_tokens']:,}", f"{equal['flops'] / 1e12:.2f}"]
        lines.append([arm, f"{same['parameters']:,}", factor, *numbers])
    head = "model | parameters | rate, times the usual | equal tokens | TFLOP | tokens at equal FLOPs | TFLOP"
    return table(head, lines)


def others(found):
    """Models that were trained for something else, on articles of Wikipedia; "" without any."""
    lines = []
    for name, one in found["converted"].items():
        state, by = one["state_bytes"], one["lengths"]
        cells_of = [percent(by[length]["back"], sign="+") if length in by else "" for length in map(str, LENGTHS)]
        lines.append([name, str(one["seeds"]), f"{state[str(LENGTH)] / 1024:,.0f}", *cells_of])
    head = f"model | seeds | KiB of state | {' | '.join(f'read back, {length} tokens' for length in LENGTHS)}"
    return table(head, lines) if lines else ""


def asked(found):
    """How much was asked."""
    parts = []
    for source, one in found["rows"].items():
        rows = ", ".join(f"{rows} of {length}" for length, rows in one["rows"].items())
        entries = f"{one['entries'][str(LENGTH)]:.0f} entries in a row of {LENGTH}"
        parts.append(
            f"{source.capitalize()}: names of {one['documents']} documents; {rows} tokens; {entries} in the mean."
        )
    return " ".join(parts)


def rules():
    """When each claim is confirmed and refuted, as the criterion has it."""
    (paragraph,) = (part for part in criterion.__doc__.split("\n\n") if part.startswith("context: "))
    return paragraph.replace("\n", " ").strip()


def page(found):
    """The whole page."""
    rows = list(values_rows(found))
    converted = others(found)
    steps = ", ".join(map(str, found["seeds"]))
    parts = [
        "# Values read back out of real text",
        sentence(found),
        f"{BEGIN}\n\n{counted(rows)}\n\n{cells(rows, link=False)}\n\n{END}",
        f"![{'Values read back, in percent' if any(reads(found, source) for source in SOURCES) else 'Nats saved a token'}, over "
        "bytes of state, out of Python and out of Wikipedia](state.svg)",
        "**The question.** Recall is what a small state costs (Based, arXiv 2402.18668). On made-up keys and values it is "
        "measured in [based](../based/README.md). Here the keys are names that a text defines, and the values what it says they "
        "are: can a model read such a value out of its context, as fields, as a table or as the text has it?",
        f"**What was done.** [`../values.sh`](../values.sh). Decoders of {found['arms'][BUDGETS[0]][ATTENTION]['parameters']:,} "
        f"parameters, about half of them embeddings, were trained on Python's standard library: {criterion.STEPS:,} steps of "
        f"{criterion.ROWS_OF_STEP} rows of {LENGTH} tokens, or as many as cost the same FLOPs. Every second layer is a short "
        f"convolution in all of them; the layers between differ. Seeds {steps}. {asked(found)} The criterion, in "
        "[`../values_criterion.py`](../values_criterion.py), stood before the first run; its digest is "
        f"`{found['criterion']}`. Differences in the table are the smallest of a claim.",
        "## What it says",
        what_it_says(found),
        "## Criterion",
        rules(),
    ]
    for source in SOURCES:
        parts += [
            f"## Out of {source.capitalize()}",
            "In percent of the rows, with 95 % intervals over documents and seeds. *Exact*: the whole value is the most probable "
            "one. *Read back*: exact with the entry in the row, less exact without it. At equal tokens:",
            marked(f"{source}-tokens", levels(found, source, BUDGETS[0])),
            "At equal FLOPs:",
            marked(f"{source}-flops", levels(found, source, BUDGETS[1])),
            f"Read back by form, rows of {LENGTH} tokens, equal tokens:",
            marked(f"{source}-forms", forms(found, source)),
        ]
    if converted:
        parts += [
            "## Models that were trained for other things",
            "The students of [conversion](../conversion/README.md), which were trained on stories, and their teacher, on the "
            "same articles in their own tokens. They were measured before for other things, so no claim is judged by them."
            + (f" {LARGER} as it comes shows what the rows permit." if LARGER in found["converted"] else ""),
            marked("converted", converted),
        ]
    parts += [
        "## Cost",
        f"FLOPs are those of `limbeck plan`, forward and backward. {found['doubt']}".strip(),
        marked("cost", cost(found)),
        "## What it does not say",
        "Models are small and have read little; one that attends and was trained longer reads better, and so may one of fixed "
        "state. Values are three words, names are found by a pattern, and a heading that runs into its sentence may be left in a "
        "name. Fields and tables are made by a program out of what the text says. Articles are few, so their intervals are wide. "
        "Learning rates were chosen by loss, not by what is read back, and in shorter trainings. A window reaches further than "
        "its width through two layers of it.",
        "## Make it again",
        "```sh\nbash docs/results/values.sh\n```",
        "It continues where it was stopped. `results.json` holds the numbers.",
    ]
    return "\n\n".join(parts) + "\n"


def drawn(found):
    """The picture as SVG text: a panel a source, over bytes of state what is read back; where that is nothing, what is saved."""
    parts, read = [], any(reads(found, source) for source in SOURCES)
    for source, span in zip(SOURCES, PANELS, strict=True):
        parts += panel(found, source, span, *(("back", 100) if read else ("saved", 1)))
    seen = dict(KINDS.values())
    at = 24
    for name, colour in seen.items():
        parts.append(f'<circle cx="{at + 5}" cy="52" r="4" fill="{colour}"/>')
        parts.append(text(at + 15, 56, name, anchor="start", colour=colour))
        at += 40 + 7 * len(name)
    title = "Values read back out of real text, %, by bytes of state" if read else SAVED
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12.5">'
    )
    frame = f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8" fill="#ffffff" stroke="{LINE}"/>'
    foot = f"Rows of {LENGTH} tokens; bars: 95 % intervals over documents and seeds; discs: equal tokens; rings: equal FLOPs."
    return "\n".join(
        [
            head,
            f"<title>{title}</title>",
            frame,
            text(24, 32, title, colour=DARK, anchor="start", size=16, bold=True),
            *parts,
            text(24, HEIGHT - 16, foot, anchor="start", size=11),
            "</svg>",
            "",
        ]
    )


def of_arm(levels, name, times):
    """A reading of a kind of model on the longest rows, times a number."""
    return {key: times * levels["lengths"][str(LENGTH)][name][key] for key in ("value", "low", "high")}


def panel(found, source, span, name, times):
    """A source: its axes, and a reading of each kind of model at both budgets, times a number."""
    some = found["levels"][source]
    shown = {budget: {arm: of_arm(some[budget][arm], name, times) for arm in ARMS} for budget in BUDGETS}
    sizes = {arm: found["arms"][BUDGETS[0]][arm]["state_bytes"][str(LENGTH)] / 1024 for arm in ARMS}
    ends = [one[key] for arms in shown.values() for one in arms.values() for key in ("low", "high")]
    x, y = Axis(list(sizes.values()), span, log=True), Axis([0.0, *ends], (BOTTOM, TOP))
    parts = [text(sum(span) / 2, TOP - 12, source.capitalize(), colour=DARK, bold=True)]
    for value, name in y.ticks():
        parts.append(f'<path d="M{span[0]},{y(value):.1f} H{span[1]}" stroke="{LINE}"/>')
        parts.append(text(span[0] - 8, y(value) + 4, name, anchor="end", size=11))
    for value, name in x.ticks():
        parts.append(text(x(value), BOTTOM + 18, name, size=11))
    parts.append(text(sum(span) / 2, BOTTOM + 40, "KiB of state"))
    for number, budget in enumerate(BUDGETS):
        for arm, one in shown[budget].items():
            at, colour = x(sizes[arm]) + 8 * number, KINDS[arm][1]
            parts.append(
                f'<path d="M{at:.1f},{y(one["low"]):.1f} V{y(one["high"]):.1f}" stroke="{colour}" '
                'stroke-width="5" stroke-opacity="0.3"/>'
            )
            fill = "#ffffff" if number else colour
            parts.append(f'<circle cx="{at:.1f}" cy="{y(one["value"]):.1f}" r="4" fill="{fill}" stroke="{colour}"/>')
    return parts
