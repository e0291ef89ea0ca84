"""The text of a run as token stores in its folder: made once, by the first rank, and opened by all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from limbeck.config import Settings
from limbeck.corpora import TokenStore, build_stores
from limbeck.jobs.folder import text_of_run
from limbeck.jobs.setup import Machine
from limbeck.run.log import console


class Reads(Protocol):
    """Whose tokens a text is read in."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def end(self) -> int | None: ...


@dataclass(frozen=True)
class Reader:
    """What is known of a model that is to read a text: its tokenizer, and the token that closes a document."""

    tokenizer: PreTrainedTokenizerBase
    end: int | None


def stores_of(settings: Settings, reader: Reads, where: Machine) -> tuple[TokenStore, TokenStore]:
    """(training store, held-out store) of --data and --eval-data, in the tokens of who reads."""
    folder = settings.out / "data"
    if where.world.first:
        train, _ = build_stores(
            settings.data,
            reader.tokenizer,
            folder,
            end=reader.end,
            eval_source=settings.eval_data,
            progress=console.is_terminal,
        )
        if overlap := train.manifest.get("overlap"):
            console.print(
                f"warning: {overlap} training documents are in --eval-data too: held-out readings are too good. "
                "Take them out of one of the two."
            )
    where.world.barrier()
    return text_of_run(settings.out)
