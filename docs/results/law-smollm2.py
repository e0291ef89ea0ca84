"""One rung of the capacity-gap ladder with SmolLM2-135M-Instruct at its top: students of about 10M parameters on stories.

usage: law-smollm2.py split OUT TEXT TEXT... writes OUT/{held_out,heal,train}.jsonl; shape NAME prints the flags of a shape, of a
teacher or "student"; rate RUNS those of the students' learning rate; tokens RUNS TEACHER those of how many tokens a student of a
teacher, or of "text" alone, reads at equal FLOPs; judge RUNS OUT reads the runs of law-smollm2.sh and writes OUT/results.json and
the page.

What is judged, and how, is in law_smollm2_criterion.py.
"""

import json
import sys
from dataclasses import asdict
from itertools import permutations
from pathlib import Path
from typing import Any

import law_smollm2_criterion as criterion
import numpy as np
from arms import gain, judged, level, measured, require_same_tokens
from law_smollm2_criterion import ARMS, LADDER, PLANNED, RATES
from law_smollm2_page import drawn, page
from shared import held_out_split, made_by, write_texts
from smollm2 import EVERY, read_json, record

from limbeck.disk import write_json, write_text
from limbeck.errors import BadPoints
from limbeck.models.configuration import load_config
from limbeck.papers.capacity_gap.recipe import RATIO
from limbeck.planning.cost.size import Size
from limbeck.planning.laws.points import Point
from limbeck.planning.laws.ratio import fit_ratio_law
from limbeck.probes.interval import difference_test

LENGTH = 512
UNHEALED, TEXT = "whole", "text"
SHAPES = {  # each can be pruned to the student's, which keeps three query heads for a key head
    "student": "layers=12,hidden=264,heads=3,kv_heads=1,ffn=640",
    "16m": "layers=14,hidden=312,heads=6,kv_heads=2,ffn=672",
    "25m": "layers=16,hidden=384,heads=6,kv_heads=2,ffn=832",
    "45m": "layers=20,hidden=480,heads=6,kv_heads=2,ffn=1056",
    "111m": "layers=30,hidden=576,heads=9,kv_heads=3,ffn=1536",  # all of SmolLM2-135M
}
FOLDERS = dict(zip(ARMS, ("same", "pruned", "flops"), strict=True))


def split(out, sources):
    """Writes the stories that are held out, those that teachers are healed on, and those that students read."""
    held_out, rest = held_out_split(sources, every=EVERY)
    write_texts(out, {"held_out": held_out, "heal": rest[::2], "train": rest[1::2]})


def folder_of(runs, arm, teacher):
    """The run of an arm's students. At equal FLOPs that of the smallest teacher is the run that sets the FLOPs."""
    return runs / (FOLDERS[ARMS[0]] if teacher == LADDER[0] and arm == ARMS[2] else FOLDERS[arm]) / teacher


def rates(runs):
    """What was tried to choose the learning rate: nats per token by end of the ladder and rate."""
    return {
        end: {rate: level(measured(runs / "rates" / f"{end}-{named(rate)}", "student"))["value"] for rate in RATES}
        for end in criterion.ENDS
    }


def named(rate):
    """A learning rate as it is written in flags and folders, such as 2e-3."""
    return f"{rate:.0e}".replace("e-0", "e-")


def size_of(runs, teacher):
    """The size of a teacher, as it was healed or is."""
    return Size.of(load_config(runs / UNHEALED if teacher == UNHEALED else runs / "teachers" / teacher / "student"))


def spent(runs, teacher, tokens):
    """FLOPs of a student on so many tokens: its own, and a teacher's one pass over what of the text it reads."""
    own = 3 * Size.of(load_config(runs / "start")).forward_flops(LENGTH)
    if teacher == TEXT:
        return own * tokens
    return own * tokens + size_of(runs, teacher).forward_flops(LENGTH) * min(tokens, text_tokens(runs))


def text_tokens(runs):
    """Tokens of the text that students read, from the run that all compare with: its passes are of the tokens it trained."""
    about = record(runs / "same" / LADDER[0])
    return about["teacher"]["passes"] * about["plan"]["tokens"]


def tokens_at_equal_flops(runs, teacher):
    """How many tokens a student reads for the FLOPs of the smallest teacher's student at equal tokens."""
    budget = spent(runs, LADDER[0], record(runs / "same" / LADDER[0])["plan"]["tokens"])
    text, own = text_tokens(runs), spent(runs, TEXT, 1)
    if teacher == TEXT:
        return budget / own
    once = budget / (own + size_of(runs, teacher).forward_flops(LENGTH))
    return once if once <= text else (budget - spent(runs, teacher, text)) / own + text


def tested(students, others):
    """(by how many nats per token students are better, its p-value)."""
    require_same_tokens(others, students)
    return difference_test(
        np.stack([one.nats for one in others]), np.stack([one.nats for one in students]), students[0].tokens
    )


def judgements(arms, alone, *, doubt):
    """Verdict and differences of every claim. ``arms[arm][teacher]``: measurements of each seed; ``alone``: of text alone."""
    found: dict[str, dict[str, Any]] = {}
    for arm in ARMS:
        better = {pair: tested(*(arms[arm][one] for one in pair)) for pair in permutations(LADDER, 2)}
        found[f"valley, {arm}"] = {
            "verdict": criterion.valley(better, doubt=doubt),
            "shape": criterion.shape(better),
            "gains": {f"{a} over {b}": asdict(one) | {"p": p} for (a, b), (one, p) in better.items()},
        }
        found[f"plan, {arm}"] = {
            "verdict": criterion.plan(better, doubt=doubt),
            "gains": {f"{one} over {PLANNED}": asdict(better[one, PLANNED][0]) for one in LADDER if one != PLANNED},
        }
    same, dear = arms[ARMS[0]], arms[ARMS[2]]
    others = {
        "healing": {f"{LADDER[-1]} over {UNHEALED}": gain(same[LADDER[-1]], same[UNHEALED])},
        "text, equal tokens": {f"{PLANNED} over text": gain(same[PLANNED], alone["tokens"])},
        "text, equal FLOPs": {
            f"{PLANNED} over text": gain(dear[PLANNED], alone["flops"]),
            f"{PLANNED} over text at equal tokens": gain(dear[PLANNED], alone["tokens"]),
        },
    }
    for claim, gains in others.items():
        some = {name: asdict(one) for name, one in gains.items()}
        found[claim] = {"verdict": judged(*gains.values()), "gains": some}
    return found


def fitted(arm, about):
    """What the fit of `limbeck pilot` finds in an arm, in its words; sizes are of all parameters, as the plan counts them."""
    points = [
        Point(
            student_params=about["student"]["parameters"],
            student_tokens=1.0,  # one number for all: the fit asks that it be the same
            student_loss=float(one.nats.sum() / one.tokens.sum()),
            teacher_params=about["teachers"][teacher]["parameters"],
            seed=seed,
        )
        for teacher in LADDER
        for seed, one in enumerate(arm[teacher])
    ]
    try:
        (valley,) = fit_ratio_law(points).valleys
    except BadPoints as error:
        return {"words": str(error)}
    return asdict(valley) | {"words": str(valley)}


def models(runs):
    """Sizes, shapes and losses of the teachers, and the size of the student."""
    teachers = {}
    for name in (*LADDER, UNHEALED):
        run = runs / "same" / name
        size, nats = size_of(runs, name), level(measured(run, "teacher"))
        shape = SHAPES[LADDER[-1] if name == UNHEALED else name]
        teachers[name] = {"parameters": size.parameters, "body": size.body, "shape": shape, "nats": nats}
    size = Size.of(load_config(runs / "start"))
    return {
        "teachers": teachers,
        "student": {"parameters": size.parameters, "body": size.body, "shape": SHAPES["student"]},
    }


def costs(runs):
    """By arm and teacher: tokens that were read, and FLOPs with the teacher's pass."""
    found: dict[str, dict[str, Any]] = {}
    for arm in ARMS:
        for teacher in (*LADDER, *([UNHEALED] if arm == ARMS[0] else [])):
            tokens = record(folder_of(runs, arm, teacher))["plan"]["tokens"]
            found.setdefault(arm, {})[teacher] = {"tokens": tokens, "flops": spent(runs, teacher, tokens)}
    for name, arm in (("tokens", ARMS[0]), ("flops", ARMS[2])):
        tokens = record(runs / "text-alone" / name)["plan"]["tokens"]
        found[arm][TEXT] = {"tokens": tokens, "flops": spent(runs, TEXT, tokens)}
    return found


def seconds(runs):
    """Seconds of all runs by their kind."""
    found: dict[str, float] = {}
    for file in sorted(runs.glob("**/run.json")):
        took = read_json(file).get("seconds")
        if took is not None:
            kind = file.relative_to(runs).parts[0]
            found[kind] = found.get(kind, 0.0) + took
    return found


def judge(runs, out):
    """Reads what was trained, and writes what came out and its page."""
    arms = {arm: {one: measured(folder_of(runs, arm, one), "student") for one in LADDER} for arm in ARMS}
    arms[ARMS[0]][UNHEALED] = measured(runs / "same" / UNHEALED, "student")
    alone = {name: measured(runs / "text-alone" / name, "student") for name in ("tokens", "flops")}
    tried, about, first = rates(runs), models(runs), record(runs / "same" / LADDER[0])
    rate, doubt = criterion.common_rate(tried)
    levels = {arm: {one: level(found) for one, found in some.items()} for arm, some in arms.items()}
    levels[ARMS[0]][TEXT], levels[ARMS[2]][TEXT] = level(alone["tokens"]), level(alone["flops"])
    result = {
        "criterion": criterion.digest(),
        "margin_nats": criterion.MARGIN,
        "planned_ratio": RATIO,
        "claims": judgements(arms, alone, doubt=doubt),
        "levels": levels,
        "fits": {arm: fitted(some, about) for arm, some in arms.items()},
        "models": about,
        "cost": costs(runs),
        "text_tokens": text_tokens(runs),
        "rate": {
            "chosen": rate,
            "doubt": doubt,
            "tried": {end: {named(k): v for k, v in of.items()} for end, of in tried.items()},
        },
        "documents": int((arms[ARMS[0]][PLANNED][0].tokens > 0).sum()),
        "seeds": sorted({one["seed"] for one in first["plan"]["arms"]}),
        "seconds": seconds(runs),
        "versions": first["versions"],
        **made_by("law-smollm2.py", "judge", "RUNS", "docs/results/law-smollm2"),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", result)
    write_text(out / "README.md", page(result))
    write_text(out / "rung.svg", drawn(result))
    print(json.dumps({name: one["verdict"] for name, one in result["claims"].items()}, indent=1))


def main(what, *rest):
    """Does what the usage says."""
    if what == "split":
        split(Path(rest[0]), rest[1:])
    elif what == "shape":
        print(f"--shape {SHAPES[rest[0]]}")
    elif what == "rate":
        print(f"--lr {named(criterion.common_rate(rates(Path(rest[0])))[0])}")
    elif what == "tokens":
        print(f"--tokens {round(tokens_at_equal_flops(Path(rest[0]), rest[1]))}")
    else:
        judge(*map(Path, rest))


if __name__ == "__main__":
    main(*sys.argv[1:])
