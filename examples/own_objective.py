"""An objective of one's own, trained with limbeck's parts: a corpus, a teacher, a student, a plan, a run.

The objective gives nats for each position. Shifting, masking, averaging and chunking are not its business.

usage: python examples/own_objective.py [STEPS]
"""

import json
import sys
import sysconfig
from pathlib import Path

import torch

import limbeck
from limbeck import Objective, Plan, Rows, Run, alone

MODULES = ("argparse", "ast", "csv", "dataclasses", "enum", "fractions", "inspect", "pathlib", "statistics", "typing")


class Hinge(Objective):
    """Nats by which the student falls short of the teacher on the teacher's most likely token."""

    def forward(self, logits, signal, chunk):
        log_p, log_q = signal.against(logits)
        top = log_p.argmax(-1, keepdim=True)
        return (log_p.gather(-1, top) - log_q.gather(-1, top)).clamp(min=0).squeeze(-1)


def written_text(folder: Path) -> Path:
    """A few modules of Python's standard library as JSON lines, a document each."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = [file for name in MODULES if (file := library / f"{name}.py").is_file()]
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": file.read_text(encoding="utf-8")}) for file in found]
    (folder / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "text.jsonl"


def main(steps: str = "40", out: str = "runs/own-objective") -> None:
    """Prunes a student, trains it by the objective, and saves it."""
    torch.set_num_threads(1)
    folder, text = Path(out), written_text(Path(out))
    limbeck.shrink(shrink=2.5, data=str(text), out=folder / "pruned")
    teacher, student = limbeck.load("builtin:stdlib"), limbeck.load(folder / "pruned", train=True)
    train, _ = limbeck.build_stores(str(text), teacher.tokenizer, folder / "data", fraction=0.2)
    plan = Plan(steps=int(steps), rows=4, lr=1e-3)
    run = Run(folder / "training", "hinge", student, teacher, Rows(train, length=256), Hinge(), plan, alone())
    run.train()
    limbeck.save(student, folder / "student")
    print(f"{plan.steps} steps of Hinge; student: {folder / 'student'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
