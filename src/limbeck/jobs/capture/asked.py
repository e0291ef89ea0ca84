"""Who is asked by a capture: a model in memory, or one on a server, of which only configuration and tokenizer are here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from limbeck.config import CaptureSettings
from limbeck.corpora.tokenizer import fingerprint
from limbeck.errors import BadSetting, Mismatch
from limbeck.jobs.setup import Machine
from limbeck.models.load import LanguageModel, load, load_described
from limbeck.models.source import resolve, resolve_description, weights_digest
from limbeck.run.log import console
from limbeck.teachers.codec import Coarse
from limbeck.teachers.http import Address, Patience, is_served
from limbeck.teachers.served import Served, connect
from limbeck.types import Teacher

_ROWS_EACH = (
    8  # rows that are asked about together, for each question in flight: the last of them wait for nothing else
)


@dataclass(frozen=True)
class Asked:
    """``about`` tells what the teacher is (of a served one without its weights), ``told`` is asked.

    ``made_from`` is what tells it from another.
    """

    about: LanguageModel
    told: Teacher
    made_from: dict[str, Any]

    @property
    def model(self) -> LanguageModel | None:
        """The model in memory, None where it is on a server."""
        return None if isinstance(self.told, Served) else self.about

    @property
    def served(self) -> Served | None:
        """The model on a server, None where it is in memory."""
        return self.told if isinstance(self.told, Served) else None


def description_of(settings: CaptureSettings) -> str:
    """Where the teacher's configuration is. Raises BadSetting where the flags do not say it, or do not belong together."""
    if not is_served(settings.teacher):
        if settings.tokenizer is not None:
            raise BadSetting(
                f"--tokenizer {settings.tokenizer}: only a teacher on a server needs it; {settings.teacher} has its own"
            )
        return settings.teacher
    Address.of(settings.teacher)
    if settings.tokenizer is None:
        raise BadSetting(
            f"--teacher {settings.teacher}: text is made into tokens here, and a server does not give its tokenizer: give the "
            "folder or hub id of the model's configuration and tokenizer (its weights are not needed) with --tokenizer"
        )
    if settings.kind == "drawn":
        raise BadSetting("--kind drawn: a server tells its likeliest outcomes, none that are drawn: use coarse or auto")
    return settings.tokenizer


@contextmanager
def asking(settings: CaptureSettings, where: Machine, *, length: int, k: int | None) -> Iterator[Asked]:
    """The teacher of a capture; of a served one so many outcomes as were begun with, else as many as fit and are told."""
    if not is_served(settings.teacher):
        model = load(settings.teacher, device=where.world.device, dtype=where.dtype)
        dtype = str(where.dtype).removeprefix("torch.")
        made_from = {"teacher": weights_digest(resolve(settings.teacher)), "dtype": dtype}
        yield Asked(model, model, made_from | {"tokenizer": fingerprint(model.tokenizer)})
        return
    address = Address.of(settings.teacher)
    assert settings.tokenizer is not None, "description_of looked for it"
    about = load_described(resolve_description(settings.tokenizer), name=address.model)
    served = connect(
        address,
        about.tokenizer,
        k=k or Coarse.most(about.vocab, settings.bytes_per_token).k,
        length=length,
        patience=Patience(limit=settings.time_limit),
        in_flight=settings.in_flight,
    )
    with served:
        if k is not None and served.k < k:
            raise Mismatch(
                f"{address}: this capture was begun with {k} outcomes a token, the server now gives {served.k}: let it give as "
                "many again, or capture anew into another --out"
            )
        says = json.dumps(served.says, sort_keys=True)
        console.print(f"{address} is asked as {served.kind.name}, for {served.k} outcomes a token; it says {says}")
        made_from = {"teacher": f"served {says}", "dtype": "the server's"}
        yield Asked(about, served, made_from | {"tokenizer": fingerprint(about.tokenizer)})


def rows_together(served: Served) -> int:
    """Rows that a server is asked about at once."""
    return _ROWS_EACH * served.in_flight
