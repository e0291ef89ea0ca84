"""The page of the study law-smollm2 and its picture, made from its results; every word on an outcome follows a verdict."""

from cells import table, within
from index import BEGIN, END, cells, counted
from law_smollm2_criterion import ARMS, LADDER, PLANNED
from smollm2_page import marked
from smollm2_picture import BLUE, BOTTOM, DARK, DEEP, GOLD, GREY, LINE, TOP, Axis, text
from study_rows import law_smollm2_rows

HEIGHT = 430
PANELS = ((64, 268), (318, 522), (572, 776))
WIDTH = 800
COLOURS = dict(zip(ARMS, (BLUE, GOLD, DEEP), strict=True))
SHAPES = {
    "valley": "a valley",
    "plateau": "a plateau",
    "falling": "a slope that falls to the largest teacher",
    "rising": "a slope that rises from the smallest teacher",
    "undecided": "no shape that these runs tell from noise",
}
PLAN = {
    "confirmed": "the planned teacher is as good as any of the ladder within 0.01 nats",
    "refuted": "another teacher of the ladder is better than the planned one by more than 0.01 nats",
    "inconclusive": "whether another teacher is better than the planned one by 0.01 nats is undecided",
}
AGAINST_TEXT = {
    "confirmed": "its students are better than text alone",
    "refuted": "its students are worse than text alone",
    "inconclusive": "its students are not told apart from text alone",
}


def sentence(found):
    """What came out, in one sentence: of both arms at equal tokens, that of the paper first."""
    same, pruned = (SHAPES[found["claims"][f"valley, {arm}"]["shape"]] for arm in ARMS[:2])
    return (
        f"At equal tokens, students that are pruned out of their own teachers, as in the paper, show {pruned} over the sizes of "
        f"teachers; students of one start show {same}."
    )


def what_it_says(found):
    """Each arm's shape and plan, and what became of text alone."""
    claims, lines = found["claims"], []
    for arm in ARMS:
        seen, plan = claims[f"valley, {arm}"]["shape"], claims[f"plan, {arm}"]["verdict"]
        lines.append(f"- **{arm[0].upper()}{arm[1:]}**: {SHAPES[seen]}; {PLAN[plan]}. {law(found, arm)}")
    healed = {
        "confirmed": "The healed SmolLM2 makes better students than the unhealed one",
        "refuted": "The unhealed SmolLM2 makes better students than the healed one",
        "inconclusive": "The healed and the unhealed SmolLM2 are not told apart as teachers",
    }[claims["healing"]["verdict"]]
    tokens, flops = (AGAINST_TEXT[claims[f"text, {equal}"]["verdict"]] for equal in ("equal tokens", "equal FLOPs"))
    text = f"{tokens} at equal tokens and at equal FLOPs"
    if tokens != flops:
        text = f"{tokens} at equal tokens, and {flops} at equal FLOPs"
    doubt = (
        " One learning rate does not suit both ends of the ladder, so valley and plan are inconclusive."
        if found["rate"]["doubt"]
        else ""
    )
    lines.append(f"\n{healed}. Of the planned teacher: {text}.{doubt}")
    return "\n".join(lines)


def law(found, arm):
    """What the fit of a pilot finds in an arm."""
    words = found["fits"][arm]["words"].partition(": ")[2].partition(": ")[2]
    return f"A quadratic over the ladder, as `limbeck pilot` fits it: {words}." if words else ""


def levels(found):
    """Students by teacher and arm, beside what each teacher is."""
    lines = []
    for name, one in found["models"]["teachers"].items():
        shown = f"**{label(name, one)}**" if name == PLANNED else label(name, one)
        students = [within(found["levels"][arm][name]) if name in found["levels"][arm] else "" for arm in ARMS]
        lines.append([shown, ratio(found, one), within(one["nats"]), *students])
    alone = [within(found["levels"][arm]["text"]) if "text" in found["levels"][arm] else "" for arm in ARMS]
    lines.append(["text alone", "", "", *alone])
    return table(f"teacher | times the student | its own nats | {' | '.join(ARMS)}", lines)


def label(name, one):
    """A teacher as tables call it."""
    return f"{one['parameters'] / 1e6:.1f}M{', unhealed' * (name not in LADDER)}"


def named(found, name):
    """A teacher by its name in results, as tables call it; text alone has none."""
    teachers = found["models"]["teachers"]
    return label(name, teachers[name]) if name in teachers else "text alone"


def ratio(found, one):
    """A teacher's parameters over the student's."""
    return f"{one['parameters'] / found['models']['student']['parameters']:.1f}"


def cost(found):
    """Tokens and FLOPs of the students of each arm."""
    lines = []
    for arm in ARMS:
        for name, one in found["cost"][arm].items():
            lines.append([arm, named(found, name), f"{one['tokens']:,}", f"{one['flops'] / 1e12:.1f}"])
    return table("arm | teacher | tokens | TFLOP, with the teacher's pass", lines)


def rates(found):
    """The learning rates that were tried at both ends of the ladder."""
    tried = found["rate"]["tried"]
    lines = [[rate, *(f"{tried[end][rate]:.3f}" for end in tried)] for rate in next(iter(tried.values()))]
    return table(f"learning rate | {' | '.join(named(found, end) for end in tried)}", lines)


def at_an_end(found):
    """That the rate of all students lies at an end of those tried, where it does."""
    tried = [float(rate) for rate in next(iter(found["rate"]["tried"].values()))]
    if float(found["rate"]["chosen"]) not in (min(tried), max(tried)):
        return ""
    return " The one that all students have is at an end of those tried, so a better one may lie beyond."


def page(found):
    """The whole page."""
    about, rows = found["models"], list(law_smollm2_rows(found))
    student = about["student"]
    return (
        "\n\n".join(
            [
                "# One rung of the capacity-gap ladder with a real teacher",
                sentence(found),
                f"{BEGIN}\n\n{counted(rows)}\n\n{cells(rows, link=False)}\n\n{END}",
                "![Nats per token of students by the size of their teacher, in three arms](rung.svg)",
                "**The question.** The law of capacity gap (arXiv 2311.07052) says that a student's best teacher has "
                f"{found['planned_ratio']} times its parameters, and that a larger one is worse. Here the largest teacher is a "
                "language model that others trained, SmolLM2-135M-Instruct.",
                f"**What was done.** [`../law-smollm2.sh`](../law-smollm2.sh). SmolLM2 with the tokens of the stories alone has "
                f"{about['teachers']['111m']['parameters']:,} parameters. Three smaller teachers were pruned out of it. All four "
                "were trained on one half of the stories (healed). Each teacher's logits of the other half were computed once, "
                f"and students of {student['parameters']:,} parameters (`{student['shape']}`) read them. Seeds "
                f"{', '.join(map(str, found['seeds']))}; {found['documents']} held-out stories. The criterion, in "
                f"[`../law_smollm2_criterion.py`](../law_smollm2_criterion.py), stood before the first run; its digest is "
                f"`{found['criterion']}`.",
                "## What it says",
                what_it_says(found),
                "## Levels",
                "Nats per token of held-out stories, 95 % intervals over stories and seeds; the planned teacher is bold.",
                marked("levels", levels(found)),
                "## Learning rates",
                "After 200k tokens on another seed, nats per token of students of both ends of the ladder."
                f"{at_an_end(found)}",
                marked("rates", rates(found)),
                "## Cost",
                "The teachers' own training is not counted.",
                marked("cost", cost(found)),
                "## What it does not say",
                "One size of student, one family of teachers, one kind of text, and few tokens: students read at most half of "
                "three thousand stories a few times. Healed teachers were trained at one learning rate if they were pruned, and "
                "at a smaller one if they were not; neither was chosen by their students. Sizes count all parameters; without "
                "embeddings the ratios are larger. The students' one start is pruned out of SmolLM2, so it is nearest to the "
                "largest teacher.",
                "## Make it again",
                "```sh\nbash docs/results/law-smollm2.sh\n```",
                "Each command of it continues where it was stopped. `results.json` holds the numbers.",
            ]
        )
        + "\n"
    )


def drawn(found):
    """The picture as SVG text: students over the size of their teacher, one panel an arm, text alone as a dashed line."""
    levels = [one for some in found["levels"].values() for one in some.values()]
    y = Axis([one[key] for one in levels for key in ("low", "high")], (BOTTOM, TOP))
    sizes = {name: one["parameters"] / 1e6 for name, one in found["models"]["teachers"].items()}
    parts = []
    for arm, span in zip(ARMS, PANELS, strict=True):
        parts += panel(found["levels"][arm], sizes, Axis(list(sizes.values()), span, log=True), y, arm)
    title = "The best teacher of a 10M student, up to SmolLM2-135M"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12.5">'
    )
    foot = (
        f"Nats per token of {found['documents']} held-out stories, less is better; bars: 95 % intervals; ring: the planned "
        "teacher; cross: unhealed; dashed: text alone."
    )
    frame = f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8" fill="#ffffff" stroke="{LINE}"/>'
    return "\n".join(
        [
            head,
            f"<title>{title}: students by the size of their teacher, in three arms</title>",
            frame,
            text(24, 32, title, colour=DARK, anchor="start", size=16, bold=True),
            *parts,
            text(24, HEIGHT - 16, foot, anchor="start", size=11),
            "</svg>",
            "",
        ]
    )


def panel(levels, sizes, x, y, arm):
    """An arm: its students over their teachers' sizes, and text alone."""
    (start, end), colour = x.span, COLOURS[arm]
    found = [text((start + end) / 2, TOP - 16, arm, colour=colour, bold=True)]
    for value, named in y.ticks():
        found.append(f'<path d="M{start},{y(value):.1f} H{end}" stroke="{LINE}"/>')
        found.append(text(start - 8, y(value) + 4, named, anchor="end", size=11))
    for name in LADDER:
        found.append(text(x(sizes[name]), BOTTOM + 18, f"{sizes[name]:.0f}M", size=11))
    found.append(text((start + end) / 2, BOTTOM + 40, "parameters of the teacher"))
    if "text" in levels:
        at = y(levels["text"]["value"])
        found.append(f'<path d="M{start},{at:.1f} H{end}" stroke="{GREY}" stroke-dasharray="4 3"/>')
    places = " L".join(f"{x(sizes[name]):.1f},{y(levels[name]['value']):.1f}" for name in LADDER)
    found.append(f'<path d="M{places}" fill="none" stroke="{colour}" stroke-opacity="0.5"/>')
    for name in LADDER:
        one, at = levels[name], x(sizes[name])
        found.append(
            f'<path d="M{at:.1f},{y(one["low"]):.1f} V{y(one["high"]):.1f}" stroke="{colour}" stroke-width="6" '
            'stroke-linecap="round" stroke-opacity="0.3"/>'
        )
        found.append(f'<circle cx="{at:.1f}" cy="{y(one["value"]):.1f}" r="4" fill="{colour}"/>')
    at, middle = x(sizes[PLANNED]), y(levels[PLANNED]["value"])
    found.append(f'<circle cx="{at:.1f}" cy="{middle:.1f}" r="8" fill="none" stroke="{DARK}"/>')
    for name, one in levels.items():
        if name not in (*LADDER, "text"):
            at, middle = x(sizes[name]), y(one["value"])
            found.append(
                f'<path d="M{at - 5:.1f},{middle - 5:.1f} l10,10 M{at - 5:.1f},{middle + 5:.1f} l10,-10" stroke="{GREY}" '
                'stroke-width="2"/>'
            )
    return found
