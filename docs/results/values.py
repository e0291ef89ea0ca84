"""Values read out of real text by bytes of state: saved models of one tokenizer on held-out modules of Python and on Wikipedia.

usage: values.py measure MODELS WORK SOURCE... measures models on each source and writes WORK/NAME.json, once; MODELS is a folder
with a model in each subfolder (or in the folder student of it), or NAME=FOLDER,NAME=FOLDER. judge WORK OUT reads what was
measured and writes OUT/results.json and OUT/state.svg.

The criterion, fixed before the first run. Rows and readings are those of `limbeck probe --probe values`, seed 0, all forms
together, at the longest length that all models of a tokenizer share. A difference is of the shares of exact answers on the same
rows, with its 95 % interval over rows; a model is one training, so nothing is said of seeds. A state is fixed if it is no larger
after twice as many tokens; attention is any model with another.

attention: the attention model with the most exact answers has more than every model of fixed state. Confirmed: every interval
above 0. Refuted: one below.
state: of the models of fixed state that of the largest has more than that of the smallest. Confirmed: the interval above 0.
Refuted: below.
context: the best attention model answers more with the entry in the row than without it. Confirmed, refuted: likewise. Where it
is not confirmed, the models have not learned to look up, and the other two are inconclusive.
"""

import json
import sys
import tempfile
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from shared import as_json, made_by, versions
from smollm2_picture import BLUE, BOTTOM, DARK, GOLD, GREY, LINE, TOP, Axis, text

from limbeck.corpora.build import build_held_out
from limbeck.disk import write_json, write_text
from limbeck.models.load import load
from limbeck.planning.cost.size import Size
from limbeck.probes.interval import difference_interval
from limbeck.probes.values import measure_values, pooled, rows_by_length, texts_of

FLOAT32 = 4
CLAIMS = ("attention", "state", "context")


def folders(models):
    """The folder of each model by its name."""
    if "=" in models:
        return {name: Path(folder) for name, folder in (one.split("=", 1) for one in models.split(","))}
    found = {}
    for sub in sorted(Path(models).iterdir()):
        for place in (sub, sub / "student"):
            if (place / "config.json").is_file():
                found[sub.name] = place
                break
    return found


def measure(models, work, *sources):
    """Measures each model on each source, and keeps what every row came to."""
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    for name, folder in folders(models).items():
        if not (work / f"{name}.json").exists():
            found = measured(str(folder), sources)
            write_json(work / f"{name}.json", found)
            print(name, {source: sorted(of) for source, of in found["sources"].items()})


def measured(folder, sources):
    """Parameters of a model, and by source and length its rows and bytes of state."""
    model = load(folder)
    size = Size.of(model.model.config)
    by_source = {}
    for source in sources:
        with tempfile.TemporaryDirectory() as place:
            texts = texts_of(build_held_out(source, model, Path(place) / "text"), model)
        by_source[named(source)] = {
            str(length): of_length(model, size, length, rows)
            for length, rows in rows_by_length(model, texts, seed=0).items()
        }
    return {"parameters": size.parameters, "sources": by_source}


def of_length(model, size, length, rows):
    """Scores of rows of a length, all forms together, and the digest of what was asked, which models compared share."""
    scores = pooled([measure_values(model, some) for some in rows.values()])
    asked = [(row.question.prompt, row.question.answer) for some in rows.values() for row in some]
    return {
        "asked": sha256(json.dumps(asked).encode()).hexdigest()[:16],
        "state_bytes": size.state_bytes(length, FLOAT32),
        "fixed": size.state_bytes(2 * length, FLOAT32) == size.state_bytes(length, FLOAT32),
        **{kind: {key: value.tolist() for key, value in asdict(one).items()} for kind, one in vars(scores).items()},
    }


def named(source):
    """A source as results call it: the name of its file."""
    return Path(source).stem if "/" in source else source


def more(first, second):
    """By how much larger a share of rows the first has exactly."""
    a, b = (np.array([one["exact"]]) for one in (first, second))
    return difference_interval(a, b, np.ones(a.shape[1]))


def groups(work):
    """By source and what was asked: the models that answered the same rows, at the longest length that each of them has."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for file in sorted(work.glob("*.json")):
        one = json.loads(file.read_text(encoding="utf-8"))
        for source, lengths in one["sources"].items():
            for length, of in lengths.items():
                group = found.setdefault((source, of["asked"]), {"length": int(length), "models": {}})
                group["models"][file.stem] = of | {"parameters": one["parameters"]}
    best: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for (source, _), group in found.items():
        names = (source, tuple(sorted(group["models"])))
        if len(group["models"]) > 1 and group["length"] >= best.get(names, {"length": 0})["length"]:
            best[names] = group
    whole = [(source, names, group) for (source, names), group in best.items()]
    return [  # models that share a shorter length alone are in a larger group already
        (source, group)
        for source, names, group in whole
        if not any(source == other and set(names) < set(more_names) for other, more_names, _ in whole)
    ]


def verdict(gains):
    """Confirmed where all lie above 0, refuted where one lies below."""
    if not gains:
        return "inconclusive"
    if any(one.high < 0 for one in gains):
        return "refuted"
    return "confirmed" if all(one.low > 0 for one in gains) else "inconclusive"


def claims(models):
    """Verdict and differences of each claim about a group of models."""
    by_state = sorted(
        (name for name, one in models.items() if one["fixed"]), key=lambda name: models[name]["state_bytes"]
    )
    attention = [name for name, one in models.items() if not one["fixed"]]
    found = {claim: {"verdict": "inconclusive", "gains": {}} for claim in CLAIMS}
    if not attention:
        return found
    best = max(attention, key=lambda name: sum(models[name]["shown"]["exact"]))
    pairs = {
        "attention": [(f"{best} over {name}", models[best]["shown"], models[name]["shown"]) for name in by_state],
        "context": [(f"{best}: with over without", models[best]["shown"], models[best]["without"])],
        "state": [
            (f"{by_state[-1]} over {by_state[0]}", models[by_state[-1]]["shown"], models[by_state[0]]["shown"])
            for _ in range(len(by_state) > 1)
        ],
    }
    gains = {claim: {name: more(a, b) for name, a, b in some} for claim, some in pairs.items()}
    learned = verdict(list(gains["context"].values()))
    for claim, some in gains.items():
        seen = verdict(list(some.values())) if claim == "context" or learned == "confirmed" else "inconclusive"
        found[claim] = {"verdict": seen, "gains": {name: as_json(one) for name, one in some.items()}}
    return found


def shares(one):
    """What a model came to: exact answers with the entry and without, bytes of state, parameters."""
    zeros = {"exact": [0.0] * len(one["shown"]["exact"])}
    kept = {key: one[key] for key in ("state_bytes", "fixed", "parameters")}
    return kept | {kind: as_json(more(one[kind], zeros)) for kind in ("shown", "without")}


def judge(work, out):
    """Reads what was measured, and writes what came out."""
    work, out = Path(work), Path(out)
    found = [
        {
            "source": source,
            "length": group["length"],
            "models": {name: shares(one) for name, one in group["models"].items()},
            "claims": claims(group["models"]),
        }
        for source, group in groups(work)
    ]
    out.mkdir(parents=True, exist_ok=True)
    command = made_by("values.py", "judge", "WORK", "docs/results/values")
    write_json(out / "results.json", {"groups": found, "versions": versions("torch"), **command})
    write_text(out / "state.svg", drawn(found))
    for group in found:
        verdicts = {name: one["verdict"] for name, one in group["claims"].items()}
        print(group["source"], group["length"], verdicts)


def drawn(found):
    """The picture as SVG text: exact answers over bytes of state, a panel for each group of models."""
    width, wide = 24 + 340 * len(found), 260
    parts = []
    for number, group in enumerate(found):
        span = (64 + 340 * number, 64 + 340 * number + wide)
        models = group["models"].values()
        y = Axis([0.0, *(100 * one["shown"]["high"] for one in models)], (BOTTOM, TOP))
        x = Axis([one["state_bytes"] / 1024 for one in models], span, log=True)
        parts.append(
            text(sum(span) / 2, TOP - 16, f"{group['source']}, {group['length']} tokens", colour=DARK, bold=True)
        )
        for value, name in y.ticks():
            parts.append(f'<path d="M{span[0]},{y(value):.1f} H{span[1]}" stroke="{LINE}"/>')
            parts.append(text(span[0] - 8, y(value) + 4, name, anchor="end"))
        parts.append(text(sum(span) / 2, BOTTOM + 40, "KiB of state, logarithmic"))
        for name, one in group["models"].items():
            at, share, colour = x(one["state_bytes"] / 1024), one["shown"], BLUE if one["fixed"] else GOLD
            parts.append(
                f'<path d="M{at:.1f},{y(100 * share["low"]):.1f} V{y(100 * share["high"]):.1f}" stroke="{colour}" '
                'stroke-width="5" stroke-opacity="0.3"/>'
            )
            parts.append(f'<circle cx="{at:.1f}" cy="{y(100 * share["value"]):.1f}" r="4" fill="{colour}"/>')
            parts.append(text(at, y(100 * share["high"]) - 6, name, colour=GREY, size=10))
    title = "Values read out of real text, % exact, by bytes of state"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 400" width="{width}" height="400" '
        'font-family="system-ui, sans-serif" font-size="12.5">'
    )
    frame = f'<rect x="0.5" y="0.5" width="{width - 1}" height="399" rx="8" fill="#ffffff" stroke="{LINE}"/>'
    name = text(24, 32, title, colour=DARK, anchor="start", size=16, bold=True)
    return "\n".join([head, f"<title>{title}</title>", frame, name, *parts, "</svg>", ""])


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    (measure if what == "measure" else judge)(*rest)
