"""Tables of trained students: conversion, stories, verdicts, packing, captured logits, two tokenizers."""

from functools import partial

import chat_page
from cells import Tables, readings, table, within
from study_rows import bounds, read, there

SLICES = (
    ("perplexity", "perplexity", 2),
    ("nats per token", "held_out", 3),
    ("on recall hits", "recall_hits", 3),
    ("of these, bigram seen 11 to 100 times in training", "recall_hits, seen 11-100", 3),
    ("101 to 1,000 times", "recall_hits, seen 101-1000", 3),
    ("over 1,000 times", "recall_hits, seen over 1000", 3),
    ("elsewhere", "elsewhere", 3),
    ("the second reading of a passage is easier by", "recalled", 3),
)


def converted() -> str:
    """Losses on recall slices: teacher, matched student, converted student, and the student with attention everywhere."""
    found, models = readings("conversion"), ("teacher", "cut", "student", "attention")
    lines = []
    for name, key, digits in SLICES:
        cells = [
            within(found[model, key], digits)
            if key in ("perplexity", "recalled")
            else f"{found[model, key]['value']:.{digits}f}"
            for model in models
        ]
        lines.append([name, *cells])
    return table(" | teacher | matched, not distilled | **converted student** | attention everywhere", lines)


def damage() -> str:
    """Nats on recall hits and elsewhere with the attention of one layer replaced; the layer with the largest loss is bold."""
    found = read("conversion/conversion.json")
    kept = max(found["damage"], key=lambda one: one["damage"])
    lines = []
    for one in found["damage"]:
        layer = "no layer" if one["layer"] is None else f"layer {one['layer']}"
        name = f"**{layer}** (keeps it)" if one is kept else layer
        more = "" if one["layer"] is None else f"{one['damage']:.3f}"
        lines.append([name, f"{one['hits']:.3f}", more, f"{one['elsewhere']:.3f}"])
    return table("attention replaced in | nats on recall hits | more than before | elsewhere", lines)


def delta() -> str:
    """The converted student with based mixers beside the one with gated DeltaNet, and attention everywhere."""
    based, gdn = readings("conversion"), readings("conversion/gdn")
    lines = []
    for name, key, digits in (SLICES[1], SLICES[2], *SLICES[-2:]):
        lines.append(
            [
                name,
                *(within(one, digits) for one in (based["student", key], gdn["student", key], based["attention", key])),
            ]
        )
    return table(" | based, one layer kept | **gdn, two layers kept** | attention everywhere", lines)


def rates() -> str:
    """Share of groupings with a named winner among trainings that differ only in seed, by number of seeds and of baselines."""
    found = read("verdicts/results.json")["rows"]
    by = {(one["seeds"], one["baselines"]): one for one in found}

    def cell(one: dict) -> str:
        """A share in percent with its interval, or "none" where it was never seen."""
        if not one["share"]:
            return "none"
        share, low, high = (100 * one[key] for key in ("share", "low", "high"))
        return f"{share:.1f} % ({low:.1f} to {high:.1f})"

    lines = []
    for seeds in sorted({one["seeds"] for one in found}):
        lines.append(
            [str(seeds), *(cell(by[seeds, many][rule]) for rule in ("interval", "verdict") for many in (1, 4))]
        )
    return table("seeds | interval excludes 0, one baseline | any of four | verdict, one baseline | any of four", lines)


def levels() -> str:
    """Nats per token by use of the text: once, ten times, and cross-entropy alone by number of epochs."""
    found = read("stories/results.json")["levels"]
    once, ten = found["single-use"], found["ten-uses"]
    short = found["cross-entropy on the short text, by epochs"]
    lines = [
        ["500k tokens once", *(within(once[arm]) for arm in ("student", "cut+ce", "cut+ce@flops"))],
        ["50k tokens ten times", within(ten["student"]), within(short["10"]), within(short["equal compute"])],
    ]
    lines += [
        [f"50k tokens, {epochs} epoch{'s' * (epochs != '1')}", "", within(short[epochs]), ""]
        for epochs in ("1", "2", "4", "7")
    ]
    return table("nats per token | the student | cross-entropy, equal tokens | cross-entropy, equal compute", lines)


ARMS = {
    "teacher": "teacher",
    "cut": "pruned, untrained",
    "student": "**student (pruned, forward KL)**",
    "cut+ce": "pruned, cross-entropy, equal tokens",
    "cut+ce@flops": "pruned, cross-entropy, equal compute",
    "fresh+kd": "fresh start, forward KL",
}


def longer() -> str:
    """Held-out loss, bits per byte, KL and agreement with the teacher, for each model of the longer study."""
    found, lines = readings("stories"), []
    for model, name in ARMS.items():
        cells = [within(found[model, "held_out"]), f"{found[model, 'bits_per_byte']['value']:.3f}"]
        own = model == "teacher"
        cells.append("–" if own else f"{found[model, 'kl_teacher_student']['value']:.3f}")
        cells.append("–" if own else f"{100 * found[model, 'top1_agreement']['value']:.1f} %")
        lines.append([name, *cells])
    return table("model | nats per token | bits per byte | KL(teacher ‖ model) | top-1 agreement", lines)


SHOWN = {  # of each text the lengths of rows that are shown, and its name
    "preference": ("`preference`", (256, 1024, 2048)),
    "alpaca": ("`alpaca`", (256, 512)),
    "gsm8k": ("`gsm8k`", (256, 512)),
    "tinystories": ("stories", (256, 1024)),
    "c4": ("C4", (1024,)),
    "python": ("Python files", (1024,)),
}


def lacking() -> str:
    """Shares in percent of tokens without their document's beginning, of padding and of tokens read again, by text and length."""
    lines = []
    for text, (name, lengths) in SHOWN.items():
        found = read("packing/results.json")["texts"][text]
        for number, length in enumerate(lengths):
            stream, whole = (found["rows"][kind][str(length)] for kind in ("stream", "whole"))
            shares = stream["lacking"], whole["lacking"], whole["padding"], whole["read_again"]
            first = ["", ""] if number else [name, f"{found['documents']:,}, {found['median']:,.0f}"]
            lines.append([*first, f"{length:,}", *(f"{100 * share:.1f}" for share in shares)])
    return table("text | documents, median tokens | rows of | stream | whole | padding | read again", lines)


def students() -> str:
    """Held-out loss of students trained on rows from the stream and on rows of whole documents, with the paired difference."""
    found, lines = read("packing/results.json"), []
    for text, student, learns in (
        ("stories", "pruned out of the teacher, forward KL", "stories"),
        ("answers", "from scratch, cross-entropy", "answers of `gsm8k`"),
    ):
        one = found[text]
        above, losses = one["whole_above_stream"], [f"{one['nats'][kind]:.3f}" for kind in ("stream", "whole")]
        difference = f"{within(above, sign='+')}, {above['documents']} documents"
        lines.append([student, learns, *losses, difference, one["verdict"]])
    return table("student | learns | stream | whole | difference | verdict", lines)


KINDS = {
    "live": "live",
    "drawn": "sampled",
    "coarse": "top-k and the rest",
    "likeliest without the rest": "top-k alone",
}


def captures(text: str) -> str:
    """Loss and calibration of students by objective and codec of captured logits, with differences to a live teacher."""
    lines, before = [], ""
    for one in read(f"caches/{text}.json")["rows"]:
        first = "" if one["objective"] == before else one["objective"]
        before = one["objective"]
        kind = KINDS[one["kind"]] + (f", {one['bytes']} bytes" if one["bytes"] else "")
        above = (
            ["", ""]
            if one["kind"] == "live"
            else [within(one[key], sign="+") for key in ("nats_above_live", "kl_above_live")]
        )
        lines.append([first, kind, f"{one['nats']:.3f}", *above, within(one["ece"])])
    return table("objective | teacher | nats | above live | KL to the teacher above live | ECE", lines)


def aligned() -> str:
    """Bits per byte of students with another tokenizer than their teacher's, and differences to the two baselines."""
    lines = []
    for text in ("stdlib", "stories"):
        found = read(f"alignment/{text}.json")
        for one in found["rows"]:
            tokenizer = one["tokenizer"].partition(",")[0]
            above = [
                "" if not any(bounds(one[key])) else within(one[key], sign="+")
                for key in ("above_cross_entropy", "above_kd_with_the_teachers_tokenizer")
            ]
            lines.append(
                [
                    f"`{found['teacher']['name'].rpartition('/')[2]}`",
                    f"{tokenizer}, {found['students'][tokenizer]['vocab']}",
                    f"`{one['objective']}`" + (" of shared tokens" if "shared" in one["tokenizer"] else ""),
                    f"{one['bits_per_byte']['value']:.3f}",
                    *above,
                ]
            )
    return table(
        "teacher | student's tokenizer | objective | bits per byte | above cross-entropy | above KD with the teacher's tokenizer",
        lines,
    )


def chat() -> str:
    """Loss, constraints followed and length of answers, by what the chat student was trained on."""
    found, lines = read("smollm2-chat/results.json"), []
    for arm, name in chat_page.ARMS.items():
        one = found["followed"][arm]
        rest = (f"{100 * one[key]['value']:.1f} %" for key in ("by_chance", "loosely", "ended"))
        cells = [within(found["nats"][arm]), chat_page.percent(one["followed"]), *rest, f"{one['tokens']['value']:.0f}"]
        lines.append([name, *cells])
    return table(
        "trained on | nats per token | constraints followed | by chance | loosely | answers that end | tokens each",
        lines,
    )


TABLES: Tables = {
    "conversion/README.md": {"converted": converted, "damage": damage, "gdn": delta},
    "verdicts/README.md": {"rates": rates},
    "packing/README.md": {"lacking": lacking, "students": students},
    "stories/README.md": {"levels": levels, "longer": longer},
    "caches/README.md": {text: partial(captures, text) for text in ("stories", "stdlib")},
    "alignment/README.md": {"aligned": aligned},
}
if there("smollm2-chat"):
    TABLES["smollm2-chat/README.md"] = {"models": chat}
