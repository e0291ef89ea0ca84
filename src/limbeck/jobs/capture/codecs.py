"""The choice of a codec for a number of bytes, by measurement on a sample of the text before the capture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from limbeck.corpora import Rows
from limbeck.errors import BadSetting
from limbeck.jobs.capture.certificate import BLOCKS, OBJECTIVES, STEP, Certificate, Damage, certify
from limbeck.jobs.capture.logits import Whole, cells_of
from limbeck.report.words import interval, share
from limbeck.teachers.codec import Codec, Sampled, TopK
from limbeck.types import Batch, Outputs, each

DECIDES = "ForwardKL"
_POSITIONS, _CELLS = 256, 2**27  # positions of a block, and logits of all, at most


@torch.no_grad()
def sample_of(teacher: Whole, rows: Rows, *, seed: int) -> Iterator[tuple[Batch, Outputs]]:
    """Random rows of the text in blocks with the teacher's logits, of as many positions as are affordable."""
    yield from each(teacher, _questions(teacher, rows, seed=seed))


def _questions(teacher: Whole, rows: Rows, *, seed: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    each = max(8, min(_POSITIONS, _CELLS // teacher.vocab // BLOCKS))
    blocks = min(BLOCKS, rows.n_rows)
    together = max(1, min(rows.n_rows // blocks, each // rows.length))
    chosen = rng.choice(rows.n_rows, size=(blocks, together), replace=False)
    for block in chosen:
        batch = rows.rows_of(block).to(teacher.device)
        left_out = torch.from_numpy(rng.permutation(batch.weight.numel())[each:]).to(teacher.device)
        batch.weight.view(-1)[left_out] = 0
        yield batch


def codecs_within(vocab: int, size: int, kind: str = "auto") -> list[Codec]:
    """The codecs that fit into a number of bytes per token. Raises BadSetting if none of the kind does."""
    found: list[Codec] = []
    refused = []
    for name, make in (("drawn", Sampled.within), ("coarse", TopK.most)):
        if kind in ("auto", name):
            try:
                found.append(make(vocab, size))
            except BadSetting as error:
                refused.append(str(error))
    if not found:
        raise BadSetting(f"--bytes-per-token {size}: {refused[0]}")
    return found


def best(certificates: Sequence[Certificate]) -> Certificate:
    """The codec with the smallest error in the gradient of forward KL."""
    return min(certificates, key=lambda certificate: certificate.damage[DECIDES].error)


def choose_codec(teacher: Whole, rows: Rows, *, size: int, kind: str, seed: int) -> tuple[Codec, list[dict[str, Any]]]:
    """The codec to use, and the certificates of all that fit."""
    codecs = codecs_within(teacher.vocab, size, kind)
    if len(codecs) == 1:
        return codecs[0], []
    found = certify(
        sample_of(teacher, rows, seed=seed), codecs, objectives=[DECIDES], seed=seed, cells=cells_of(teacher)
    )
    chosen = best(found)
    return codecs[found.index(chosen)], [certificate.row() for certificate in found]


def show(certificate: Certificate, console: Console) -> None:
    """Prints what a codec keeps, and its errors for each objective."""
    mass, top = share(certificate.exact_mass.value, digits=1), share(certificate.top1_kept.value)
    message = f"{certificate.codec} outcomes at {certificate.bytes} bytes: {mass} of the mass exactly, "
    message += f"the most probable token at {top} of {certificate.positions:,} positions"
    if certificate.kl is not None:
        message += f", KL {interval(certificate.kl, '.3f')} nats with the rest spread evenly"
    table = Table("objective", "bias of its gradient", "noise of a step")
    for name in OBJECTIVES:
        damage = certificate.damage.get(name)
        table.add_row(name, *(("cannot be computed", "") if damage is None else _shown(damage)))
    console.print(message)
    console.print(table)
    console.print(_LEGEND)


def show_kinds(certificates: Sequence[Certificate], console: Console) -> None:
    """Prints bytes against errors of forward KL."""
    table = Table("codec", "bytes", "exact mass", "most probable kept", "bias", "noise")
    for c in certificates:
        kept = (share(c.exact_mass.value, digits=1), share(c.top1_kept.value))
        table.add_row(c.codec, str(c.bytes), *kept, *_shown(c.damage[DECIDES]))
    console.print(table)
    console.print(f"Of {DECIDES}: {_LEGEND}")


def _shown(damage: Damage) -> tuple[str, str]:
    return interval(damage.bias, ".3f"), interval(damage.noise, ".3f")


_LEGEND = (
    "bias stays and noise averages out, of the gradient in the output head's weights; shares of its norm, with 95 % intervals; "
    f"noise is that of a step of {STEP:,} tokens."
)
