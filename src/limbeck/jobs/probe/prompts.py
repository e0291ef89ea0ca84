"""The prompts that a tuning by a reward trained on, so that its models are not measured on documents with them.

Such a run reads prompts and has no store of text. What it trained on is read again, from the source in its signature.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.corpora import Document, Prompt, is_held_out, prompts_of
from limbeck.corpora.document import PROMPTS_HELD_OUT
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.prompt import prompt_of
from limbeck.corpora.reading import Records
from limbeck.corpora.records import Columns
from limbeck.corpora.source import read
from limbeck.errors import BadCorpus, BadRecord
from limbeck.run.log import console


@dataclass(frozen=True)
class PromptsRun:
    """A tuning by a reward, in ``folder``: where its prompts are, and how their ``records`` are read, from its signature."""

    folder: Path
    data: str
    eval_data: str | None
    records: Records

    @classmethod
    def of(cls, folder: Path, signature: dict[str, Any]) -> PromptsRun | None:
        """The run with a signature; None where that is of another job."""
        if not signature.get("reward") or not isinstance(signature.get("data"), str):
            return None
        columns = tuple((ours, there) for ours, there in signature.get("columns") or ())
        records = Records(Columns(columns, prompts=True), signature.get("skip_bad") or 0)
        return cls(folder, signature["data"], signature.get("eval_data"), records)

    def trained_among(self, source: str, records: Records) -> frozenset[bytes]:
        """Digests of the documents of a source whose prompts the run trained on; none, with a warning, where those are gone.

        Raises BadCorpus where that are all documents.
        """
        try:
            trained = set(map(_asked, self._trained()))
        except BadCorpus:
            console.print(
                f"warning: the prompts of the run in {self.folder} are not there any more, so what it trained on may be among "
                f"the documents of {source}"
            )
            return frozenset()
        found, others = set(), 0
        for document in read(source, records.columns, BadRecords(records.skip_bad)):
            if _asked_by(document) in trained:
                found.add(document.digest())
            else:
                others += 1
        if found and not others:
            raise BadCorpus(
                f"{source}: expected documents that the model was not trained on, got none: the run in {self.folder} trained on "
                f"the prompts of all {len(found):,}: name another text with --data"
            )
        return frozenset(found)

    def _trained(self) -> list[Prompt]:
        """The prompts that the run trained on, and those that it left out of them. Raises BadCorpus where they are gone."""
        bad = BadRecords(self.records.skip_bad)
        prompts = prompts_of(self.data, columns=self.records.columns, bad=bad)
        if self.eval_data is None:
            return [one for one in prompts if not is_held_out(one.document, fraction=PROMPTS_HELD_OUT)]
        held_out = set(map(_asked, prompts_of(self.eval_data, columns=self.records.columns)))
        return [one for one in prompts if _asked(one) not in held_out]


def _asked_by(document: Document) -> str | None:
    """What a document asks, None where it asks nothing."""
    try:
        return _asked(prompt_of(document))
    except BadRecord:
        return None


def _asked(prompt: Prompt) -> str:
    """What a prompt asks, whatever form its record has."""
    return json.dumps(prompt.asked, sort_keys=True)
