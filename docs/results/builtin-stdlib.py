"""Ships a pretrained model as the one that comes with limbeck, in half precision.

usage: builtin-stdlib.py RUN SHIPPED RESULTS; RUN is the folder of `limbeck pretrain`, SHIPPED where the model goes, RESULTS where
its readings are kept.
"""

import shutil
import sys
from pathlib import Path

from limbeck.models.load import load
from limbeck.models.save import save


def main(run, shipped, results):
    """Writes the model with its card, and copies what was measured."""
    made = Path(run) / "model"
    model = load(made)
    model.model.half()
    save(model, shipped, card=(made / "README.md").read_text(encoding="utf-8"))
    for name in ("run.json", "readings.jsonl"):
        shutil.copy(Path(run) / name, Path(results) / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
