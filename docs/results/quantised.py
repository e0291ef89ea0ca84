"""Training with the weights of a quantised file, against quantising after the same training, on a pruned student.

usage: quantised.py RUNS OUT reads the runs of quantised.sh and writes OUT/results.json.

The criterion, fixed before the first run. All losses are nats per token of the trimmed vocabulary on the same held-out stories,
which no arm was trained on; every quantised arm is measured with the values that its file holds. A winner is named by the 95 %
interval of its difference over held-out stories and three seeds (200 to 202, not seen before); it is not corrected, since each
claim stands on its own comparison. The learning rate is the best of three that were tried, with one other seed, without
quantised weights, which favours quantising afterwards.

int4: the student that is trained with the weights of Q4_0 has fewer nats per token than the one that is trained on the same
tokens, rows and start without them and quantised to Q4_0 at its end.
int8: likewise with Q8_0.

Each is confirmed, refuted (decided the other way) or inconclusive. Without a claim: what each loses to the same training without
any quantisation (the share of the loss that training with quantised weights takes back has no interval of its own), and how far
the file in llama.cpp is from the student's folder.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from arms import facts, gain, judged, level, measured

from limbeck.disk import write_json

FORMATS = {"int4": "Q4_0", "int8": "Q8_0"}


def judge(runs, out):
    """What came out of the runs of quantised.sh."""
    plain = measured(runs / "plain", "student")
    found = {name: {arm: measured(runs / name, arm) for arm in ("student", "ptq")} for name in FORMATS}
    assert all(len(arm) == 3 for arm in [plain, *(arm for one in found.values() for arm in one.values())])
    gains = {name: gain(one["student"], one["ptq"]) for name, one in found.items()}
    result = {
        "verdicts": {name: judged(one) for name, one in gains.items()},
        "gains": {name: asdict(one) for name, one in gains.items()},
        "above_plain": {
            name: {arm: asdict(gain(plain, runs_of)) for arm, runs_of in one.items()} for name, one in found.items()
        },
        "levels": {
            "teacher": level(measured(runs / "plain", "teacher")),
            "plain": level(plain),
            **{name: {arm: level(runs_of) for arm, runs_of in one.items()} for name, one in found.items()},
        },
        "documents": int((plain[0].tokens > 0).sum()),
        **trained(runs / "plain"),
        "files": {name: filed(runs / f"{name}-gguf") for name in FORMATS},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", result)
    return result


def trained(run):
    """`facts` of a run, with its rate and the tokens of its vocabulary."""
    found = json.loads((run / "run.json").read_text())
    return facts(run) | {
        "learning_rate": found["plan"]["learning_rate"],
        "vocabulary": found["vocabulary"]["tokens"],
    }


def filed(folder):
    """The file of a student in llama.cpp beside the student's folder, on the same text."""
    about = json.loads((folder / "export.json").read_text())
    (row,) = about["exports"]
    assert row["compared"] is not None, row["reason"]
    keys = ("tokens", "largest_difference", "kl", "same", "nats", "written_nats", "difference")
    weights = sum((folder / file).stat().st_size for file in row["files"] if file.endswith(".gguf"))
    return {"bytes": weights, "in_float32": about["student"]["bytes"]} | {key: row["compared"][key] for key in keys}


def main(runs, out):
    """Does what the usage says."""
    print(json.dumps(judge(Path(runs), Path(out)), indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
