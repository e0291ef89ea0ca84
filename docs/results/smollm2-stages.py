"""What an on-policy stage and a chat stage buy a student of SmolLM2-135M-Instruct, beside as much compute of the same.

usage: smollm2-stages.py whole prints the flags of SmolLM2's own shape; rate RUNS STAGE those of a stage's learning rate;
tokens RUNS first|second those of how many tokens "more" reads at equal FLOPs; model RUNS ARM SEED those of a model after
the first stage; measure RUNS measures all models on held-out stories and answers, once; judge RUNS OUT writes OUT/results.json
and the page.

What is judged, and how, is in smollm2_stages_criterion.py.
"""

import json
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import numpy as np
import smollm2_stages_criterion as criterion
from arms import gain, level, measured
from shared import made_by, records
from smollm2 import record
from smollm2_stages_criterion import FIRST, RATES, SECOND, SEEDS
from smollm2_stages_page import page

from limbeck.corpora import Rows
from limbeck.disk import write_json, write_text
from limbeck.jobs.common.folder import text_of_run
from limbeck.models.configuration import load_config
from limbeck.models.load import load
from limbeck.planning.cost.size import Size
from limbeck.probes.interval import bootstrap
from limbeck.probes.measurements import measure
from limbeck.probes.overlap import Overlap, measure_overlap

law, chat = import_module("law-smollm2"), import_module("smollm2-chat")
TEACHER = "builtin:smollm2-135m"
LENGTH = 512
START, LEARNER, OFF_POLICY = "start", "student", "off-policy@flops"
TEXTS = {"stories": "logits", "answers": "chat-logits"}  # the runs that have the held-out texts
TRIED = ("on-policy", "more", "chat")
_TOGETHER = 4  # rows measured at once


def rates(runs, stage):
    """What was tried to choose a stage's learning rate: nats per token of its held-out text by rate."""
    return {rate: level(measured(runs / "rates" / f"{stage}-{law.named(rate)}", LEARNER))["value"] for rate in RATES}


def chosen(runs, stage):
    """The learning rate of a stage."""
    tried = rates(runs, stage)
    return min(RATES, key=lambda rate: tried[rate])


def flops(runs):
    """FLOPs a token of a forward pass of the student, and of SmolLM2 with the kept tokens."""
    models = (runs / START / LEARNER, runs / "whole")
    return tuple(Size.of(load_config(model)).forward_flops(LENGTH) for model in models)


def first_budget(runs):
    """FLOPs of a first stage, of each seed: those of the off-policy baseline, which has as many as on-policy."""
    own, teacher = flops(runs)
    plan = record(runs / "on-policy")["plan"]
    (steps,) = {one["steps"] for one in plan["arms"] if one["name"] == OFF_POLICY}
    return (3 * own + teacher) * steps * plan["rows"] * plan["length"]


def second_budget(runs):
    """FLOPs of a chat stage: the student's training, the teacher's pass over the answers, and its generation of all of them."""
    own, teacher = flops(runs)
    run = record(runs / "more-chat" / str(SEEDS[0]))
    trained, passes, written = run["plan"]["tokens"], run["teacher"]["passes"], record(runs / "answered")["written"]
    whole = Size.of(load_config(TEACHER)).forward_flops(LENGTH)
    return 3 * own * trained + teacher * passes * trained + whole * (written["prompt_tokens"] + written["tokens"])


def tokens(runs, stage):
    """How many tokens "more" reads with the FLOPs of a stage. The logits of the stories are kept, so it has no teacher's pass."""
    budget = first_budget(runs) if stage == "first" else second_budget(runs)
    return round(budget / (3 * flops(runs)[0]))


def models(runs):
    """The folder of every model by its arm and seed."""
    found = {(START, record(runs / START)["signature"]["seed"]): runs / START / LEARNER}
    names = {("on-policy", LEARNER): "on-policy", ("on-policy", OFF_POLICY): "off-policy", ("more", LEARNER): "more"}
    for run in ("on-policy", "more"):
        for (arm, seed), folder in chat.models(runs / run).items():
            if (run, arm) in names:
                found[names[run, arm], seed] = folder
    for arm in SECOND:
        found |= {(arm, seed): runs / arm.replace(", ", "-") / str(seed) / LEARNER for seed in SEEDS}
    return found


def measure_all(runs):
    """Measures every model, and SmolLM2 with the kept tokens; what is there is not done again."""
    texts = {name: text_of_run(runs / run)[1] for name, run in TEXTS.items()}
    teacher = load(runs / "whole")
    for (arm, seed), folder in {**models(runs), ("teacher", 0): runs / "whole"}.items():
        files = {text: file_of(runs, text, arm, seed) for text in texts}
        own = file_of(runs, "own", arm, seed) if arm in (START, *FIRST) else None
        if all(file.exists() for file in (*files.values(), *filter(None, [own]))):
            continue
        model = load(folder)
        for text, store in texts.items():
            files[text].parent.mkdir(parents=True, exist_ok=True)
            measure(model, None, batches(store), documents=store.documents).save(files[text])
        if own:
            measure_overlap(model, teacher, batches(texts["stories"]), documents=texts["stories"].documents).save(own)
        print(arm, seed, flush=True)


def file_of(runs, text, arm, seed):
    """Where a measurement is kept, as those of a run are."""
    return runs / "measured" / text / "measurements" / f"{arm}-seed{seed}.safetensors"


def batches(store):
    """All rows of a held-out text, a few at a time."""
    rows = Rows(store, length=LENGTH)
    for start in range(0, rows.n_rows, _TOGETHER):
        yield rows.rows_of(np.arange(start, min(start + _TOGETHER, rows.n_rows)))


def own_texts(runs, arm):
    """What models of an arm generated, one a seed."""
    return [Overlap.load(file) for file in sorted((runs / "measured" / "own" / "measurements").glob(f"{arm}-seed*"))]


def closer(mine, others):
    """By how many nats a token of their own texts the first models are closer to the teacher."""
    columns = [[one.kl, one.tokens, other.kl, other.tokens] for one, other in zip(mine, others, strict=True)]
    runs = np.stack([np.stack(one, -1) for one in columns])
    (found,) = bootstrap(lambda total: total[..., 2:3] / total[..., 3:4] - total[..., 0:1] / total[..., 1:2], runs)
    return found


def of_own_texts(found):
    """KL to the teacher on texts that models generated, and how many of these ended by themselves."""
    kl, ended = (
        bootstrap(lambda total: total[..., :1] / total[..., 1:], np.stack([np.stack(pair(one), -1) for one in found]))[
            0
        ]
        for pair in (lambda one: (one.kl, one.tokens), lambda one: (one.ended, one.texts))
    )
    return {"kl": asdict(kl), "ended": asdict(ended)}


def comparisons(runs):
    """By claim: by how much what it is about is better than each of its controls."""
    stories, answers = ({arm: measured(runs / "measured" / text, arm) for arm in (*FIRST, *SECOND)} for text in TEXTS)
    own = {arm: own_texts(runs, arm) for arm in FIRST}
    on_policy, _, more = FIRST
    first_chat, chat_alone, twice = SECOND
    return {
        "own texts": {arm: closer(own[on_policy], own[arm]) for arm in FIRST[1:]},
        "stories": {more: gain(stories[on_policy], stories[more])},
        "answers": {chat_alone: gain(answers[first_chat], answers[chat_alone])},
        "chat": {twice: gain(stories[chat_alone], stories[twice])},
    }


def costs(runs):
    """By arm: tokens that its last stage reads, and FLOPs of that."""
    own, _ = flops(runs)
    found = {"on-policy": (record(runs / "on-policy")["plan"]["tokens"], first_budget(runs))}
    plan = record(runs / "on-policy")["plan"]
    (steps,) = {one["steps"] for one in plan["arms"] if one["name"] == OFF_POLICY}
    found["off-policy"] = (steps * plan["rows"] * plan["length"], first_budget(runs))
    found |= {arm: (n := record(runs / arm)["plan"]["tokens"], 3 * own * n) for arm in ("more",)}
    for arm in SECOND:
        read = record(runs / arm.replace(", ", "-") / str(SEEDS[0]))["plan"]["tokens"]
        found[arm] = (read, 3 * own * read if arm == SECOND[2] else second_budget(runs))
    return {arm: {"tokens": read, "flops": spent} for arm, (read, spent) in found.items()}


def judge(runs, out):
    """Reads what was trained and measured, and writes what came out and its page."""
    gains, run = comparisons(runs), record(runs / START)
    levels = {
        arm: {text: level(measured(runs / "measured" / text, arm)) for text in TEXTS}
        for arm in ("teacher", START, *FIRST, *SECOND)
    }
    for arm in (START, *FIRST):
        levels[arm] |= of_own_texts(own_texts(runs, arm))
    asked = SECOND[1], FIRST[2]  # what chat lowers the loss on answers by
    learned = gain(*(measured(runs / "measured" / "answers", arm) for arm in asked))
    held_out = {text: int((measured(runs / "measured" / text, START)[0].tokens > 0).sum()) for text in TEXTS}
    result = {
        "criterion": criterion.digest(),
        "margin_nats": criterion.MARGIN,
        "claims": {
            claim: {
                "verdict": criterion.judged(claim, list(found.values())),
                "gains": {arm: asdict(one) for arm, one in found.items()},
            }
            for claim, found in gains.items()
        },
        "levels": levels,
        "learned": asdict(learned),
        "cost": costs(runs),
        "rates": {
            stage: {"chosen": law.named(chosen(runs, stage))}
            | {"tried": {law.named(rate): nats for rate, nats in rates(runs, stage).items()}}
            for stage in TRIED
        },
        "documents": held_out,
        "answers": len(records(runs / "chat" / "train.jsonl")),
        "parameters": {"student": run["student"]["parameters"], "teacher": run["teacher"]["parameters"]},
        "shape": run["student"]["shape"],
        "start_tokens": run["plan"]["tokens"],
        "seeds": list(SEEDS),
        "seconds": law.seconds(runs),
        "versions": run["versions"],
        **made_by("smollm2-stages.py", "judge", "RUNS", "docs/results/smollm2-stages"),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", result)
    write_text(out / "README.md", page(result))
    print(json.dumps({name: one["verdict"] for name, one in result["claims"].items()}, indent=1))


def main(what, *rest):
    """Does what the usage says."""
    if what == "whole":
        print(f"--shape {law.SHAPES['111m']}")
    elif what == "rate":
        print(f"--lr {law.named(chosen(Path(rest[0]), rest[1]))}")
    elif what == "tokens":
        print(f"--tokens {tokens(Path(rest[0]), rest[1])}")
    elif what == "model":
        print(f"--student {models(Path(rest[0]))[rest[1], int(rest[2])]}")
    elif what == "measure":
        measure_all(Path(rest[0]))
    else:
        judge(*map(Path, rest))


if __name__ == "__main__":
    main(*sys.argv[1:])
