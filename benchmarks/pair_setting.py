"""The setting of `real_pair.py`, made once and kept: text in tokens, the trimmed vocabulary, and two starts of one cut.

The starts are one pruned model: with all tokens of the teacher, and with the rows of those that the text uses.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setting import Texts, write_texts

ROOT = Path(__file__).resolve().parents[1]
VOCABULARIES = ("all", "trimmed")


@dataclass(frozen=True)
class PairSetting(Texts):
    """Where the parts lie. ``train`` has the ids in all tokens too."""

    @property
    def vocabulary(self) -> Path:
        return self.folder / "vocabulary"

    def start(self, vocabulary: str) -> Path:
        """The pruned student with ``all`` tokens, or with the ``trimmed`` ones."""
        return self.folder / "starts" / vocabulary

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes, as they are kept with the results."""
        found: dict[str, Any] = json.loads((self.folder / "facts.json").read_text(encoding="utf-8"))
        return found


def prepare(
    folder: Path, *, teacher: str, sources: Sequence[Path], shape: str, length: int, judged: int
) -> PairSetting:
    """The setting in ``folder``; parts that are there already stay.

    Of the held-out documents the first ``judged`` that fit a row of ``length`` tokens in both vocabularies are kept.
    """
    setting = PairSetting(folder)
    texts = folder / "texts"
    if not (texts / "train.jsonl").exists():
        split = [sys.executable, str(ROOT / "docs" / "results" / "smollm2.py"), "split", str(texts), *map(str, sources)]
        subprocess.run(split, check=True)
    if not (setting.start("all") / "config.json").exists():
        made = [sys.executable, "-m", "limbeck", "shrink", "--teacher", teacher, "--shape", shape]
        made += ["--data", str(texts / "train.jsonl"), "--seq-len", str(length), "--out", str(setting.start("all"))]
        subprocess.run(made, check=True, stdout=sys.stderr)
    if not (folder / "facts.json").exists():  # written last
        _finish(setting, teacher=teacher, length=length, judged=judged)
    return setting


def _finish(setting: PairSetting, *, teacher: str, length: int, judged: int) -> None:
    """Trims the start, and writes the documents that are trained on and those that are held out."""
    from limbeck import load, save
    from limbeck.config import DistilSettings
    from limbeck.corpora.opening import begin_with
    from limbeck.corpora.tokenizer import document_tokens, frame
    from limbeck.jobs.pair.vocabulary import trimmed_beside
    from limbeck.models.source import resolve
    from limbeck.models.trim.folder import open_vocabulary
    from limbeck.models.trim.model import trim
    from limbeck.teachers.ref import LocalRef

    texts = setting.folder / "texts"
    if not setting.vocabulary.is_dir():
        data, eval_data = (str(texts / f"{side}.jsonl") for side in ("train", "held_out"))
        asked = DistilSettings(teacher=teacher, data=data, eval_data=eval_data, vocab="auto")
        trimmed_beside(asked, LocalRef(teacher), setting.folder)
    start = load(setting.start("all"))
    readers, opening = {"all": start.tokenizer}, start.tokenizer.bos_token
    parameters = {"all": start.parameters_count}
    trimmed = trim(start, open_vocabulary(setting.vocabulary))
    begin_with(trimmed, opening)
    save(trimmed, setting.start("trimmed"))
    readers["trimmed"], parameters["trimmed"] = trimmed.tokenizer, trimmed.parameters_count

    def lengths(text: str) -> list[int]:
        return [len(document_tokens(one, [text], frame=frame(one))[0]) for one in readers.values()]

    train, held_out = (
        [json.loads(line)["text"] for line in (texts / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()]
        for side in ("train", "held_out")
    )
    random.Random(0).shuffle(train)
    ids = document_tokens(readers["all"], train, frame=frame(readers["all"]))
    lines = [json.dumps({"text": text, "ids": some}) + "\n" for text, some in zip(train, ids, strict=True)]
    setting.train.write_text("".join(lines), encoding="utf-8")
    fitting = [text for text in held_out if max(lengths(text)) <= length][:judged]
    write_texts(setting.held_out, fitting)
    facts = {
        "teacher": teacher,
        "teacher_folder": str(resolve(teacher)),
        "training_tokens": sum(map(len, ids)),
        "held_out_documents": len(fitting),
        "vocabulary": {name: len(reader) for name, reader in readers.items()},
        "student_parameters": parameters,
    }
    (setting.folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
