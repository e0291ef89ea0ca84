"""The text of a run as token stores in its folder: made once, by the first rank, and opened by all."""

from __future__ import annotations

from limbeck.config import Settings
from limbeck.corpora import TokenStore, build_stores
from limbeck.jobs.setup import Machine
from limbeck.models.load import LanguageModel
from limbeck.run.log import console


def stores_of(settings: Settings, teacher: LanguageModel, where: Machine) -> tuple[TokenStore, TokenStore]:
    """(training store, held-out store) of --data and --eval-data, in the teacher's tokens."""
    folder = settings.out / "data"
    if where.world.first:
        train, _ = build_stores(
            settings.data,
            teacher.tokenizer,
            folder,
            end=teacher.end,
            eval_source=settings.eval_data,
            progress=console.is_terminal,
        )
        if overlap := train.manifest.get("overlap"):
            console.print(
                f"warning: {overlap} training documents are in --eval-data too: held-out readings are too good. "
                "Take them out of one of the two."
            )
    where.world.barrier()
    return TokenStore.open(folder / "train"), TokenStore.open(folder / "held_out")
