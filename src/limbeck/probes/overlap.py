"""Overlap: how near a model is to its teacher on texts that it generates itself, which on-policy distillation trains it on.

Each model continues beginnings of the same held-out documents. At every generated token the most probable tokens of both are
compared (arXiv 2604.13016, sec. 3). Held-out text shows a model the states of its teacher's text; these are its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import BadSetting
from limbeck.generation.rollouts import Continuing
from limbeck.models.language_model import LanguageModel
from limbeck.probes.interval import bootstrap, share_interval
from limbeck.probes.kept import Kept
from limbeck.probes.named import TEXT, ProbeContext, probe
from limbeck.types import Batch, Reading

TOP = 16  # the most probable tokens of each, as in the paper
_NEW, _ENOUGH = 48, {"cpu": 4096, "cuda": 65_536}  # tokens of a continuation at most, and of all about
_COLUMNS = 7  # sums over tokens
_CELLS = 2**22  # logits in memory at once


@dataclass(frozen=True)
class Overlap(Kept):
    """Sums over the generated tokens of each document.

    ``shared``: of the `TOP` tokens of model and teacher the share that both have; ``mass`` and ``teachers_mass``: the
    probability of those by each; ``kl``: KL(model || teacher); ``entropy`` and ``teachers_entropy``, both in nats. ``texts`` and
    ``ended`` count its continuations, and those that ended by themselves.
    """

    tokens: Float[np.ndarray, " documents"]
    shared: Float[np.ndarray, " documents"]
    mass: Float[np.ndarray, " documents"]
    teachers_mass: Float[np.ndarray, " documents"]
    kl: Float[np.ndarray, " documents"]
    entropy: Float[np.ndarray, " documents"]
    teachers_entropy: Float[np.ndarray, " documents"]
    texts: Float[np.ndarray, " documents"]
    ended: Float[np.ndarray, " documents"]


@torch.no_grad()
def measure_overlap(
    model: LanguageModel,
    teacher: LanguageModel,
    batches: Iterable[Batch],
    *,
    documents: int,
    seed: int = 0,
    max_new_tokens: int = _NEW,
    temperature: float = 1.0,
    part: float = 1.0,
    least: int = 0,
) -> Overlap:
    """Compares model and teacher on the model's own continuations of documents in ``batches``, of some thousand tokens.

    Prompts and random numbers are those of all models with this ``seed``. Both models need the same tokens. ``part``: of the
    usual number of tokens; ``least``: continuations, where there are so many.
    """
    mixed = torch.is_autocast_enabled(model.device.type)  # as it is measured, which weights held in bfloat16 need
    how = Continuing(model, max_new_tokens, temperature, seed, bf16=mixed)
    sums, texts, read = np.zeros((_COLUMNS, documents)), np.zeros((2, documents)), 0
    for batch in batches:
        places = np.arange(read, read + len(batch.tokens))
        read += len(batch.tokens)
        rows, generated = how.rows(batch.to("cpu"), places)
        for document, _, ended in generated.texts:
            texts[:, document] += (1, ended)
        generated_alone = (rows.row < 0)[:, None]  # a row without a beginning stays text
        rows = replace(rows, weight=rows.weight * generated_alone)
        found = rows.to(model.device)
        ours, theirs = model(found), teacher(found)
        step = max(1, _CELLS // model.vocab)
        for positions in found.counted.split(step):
            values = compared(ours.logits(positions), theirs.logits(positions))
            of = rows.document.flatten()[positions.cpu()].numpy()
            for column, value in zip(sums, values, strict=True):
                np.add.at(column, of, value.cpu().numpy())
        if (
            texts[0].sum() >= least
            and sums[0].sum() >= part * _ENOUGH["cuda" if model.device.type == "cuda" else "cpu"]
        ):
            break
    return Overlap(*sums, *texts)


def together(parts: Sequence[Overlap]) -> Overlap:
    """The sums over all parts, each measured on documents of its own."""
    return Overlap(*(reduce(np.add, sums) for sums in zip(*(vars(part).values() for part in parts), strict=True)))


def in_all(found: Overlap) -> dict[str, float]:
    """What a row of held_out.jsonl says of a model's own texts: over all tokens, and of all texts.

    ``tokens_own_texts`` are those of a text on average, its end counted; ``own_texts`` how many were measured.
    """
    tokens, texts = found.tokens.sum(), found.texts.sum()
    return {
        "overlap": float(found.shared.sum() / tokens),
        "kl_own_texts": float(found.kl.sum() / tokens),
        "entropy_own_texts": float(found.entropy.sum() / tokens),
        "texts_ended": float(found.ended.sum() / texts),
        "tokens_own_texts": float(tokens / texts),
        "own_texts": round(texts),
    }


def compared(ours: Float[Tensor, "n V"], theirs: Float[Tensor, "n V"], *, top: int = TOP) -> list[Tensor]:
    """A model's logits at n positions beside its teacher's: the columns of `Overlap`, from ``tokens`` to ``teachers_entropy``.

    Each is (n,). ``top`` is the number of most probable tokens of each that are compared.
    """
    log_q, log_p = (logits.double().log_softmax(-1) for logits in (ours, theirs))
    top = min(top, log_q.shape[-1])
    (q, q_ids), p_ids = log_q.topk(top), log_p.topk(top).indices
    both = (q_ids[:, :, None] == p_ids[:, None, :]).any(-1)
    q_all = log_q.exp()
    return [
        torch.ones(len(q), dtype=torch.float64),
        both.double().mean(-1),
        (q.exp() * both).sum(-1),
        (log_p.gather(-1, q_ids).exp() * both).sum(-1),
        (q_all * (log_q - log_p)).sum(-1),
        -(q_all * log_q).sum(-1),
        -(log_p.exp() * log_p).sum(-1),
    ]


_READINGS = (
    ("overlap", "share"),
    ("overlap_mass", "share"),
    ("overlap_mass_teacher", "share"),
    ("kl_own_texts", "nats/token"),
    ("entropy_own_texts", "nats/token"),
    ("entropy_own_texts_teacher", "nats/token"),
)


def overlap(model: str, runs: Sequence[Overlap], *, seed: int | None = None) -> list[Reading]:
    """The readings of a model on its own texts, with 95 % intervals over documents; ``runs`` are one model of several seeds."""
    sums = np.stack([np.stack(list(vars(run).values())[:_COLUMNS], -1) for run in runs])
    found = bootstrap(lambda total: total[..., 1:] / total[..., :1], sums)
    readings = []
    for (name, unit), interval in zip(_READINGS, found, strict=True):
        x = interval.within(0.0, 1.0) if unit == "share" else interval.within(0.0)
        readings.append(Reading(model, "overlap", name, x.value, unit, x.n, x.low, x.high, seed))
    texts, ended = (np.sum(parts, 0) for parts in zip(*((run.texts, run.ended) for run in runs), strict=True))
    x = share_interval(ended[texts > 0], texts[texts > 0])
    return [*readings, Reading(model, "overlap", "texts_ended", x.value, "share", x.n, x.low, x.high, seed)]


@probe("overlap", reads=(*TEXT, "teacher", "seed"))
def probe_overlap(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> list[Reading]:
    """How near a model is to its teacher on texts that it generates itself. Raises BadSetting without a teacher."""
    if teacher is None:
        raise BadSetting(
            "--probe overlap compares a model with its teacher on the model's own texts: give --teacher too"
        )
    if not model.in_one_process:
        raise BadSetting("--probe overlap generates texts, which needs all weights in one process: leave --mesh out")
    text = context.held_out()
    found = measure_overlap(model, teacher, text.batches(), documents=text.store.documents, seed=context.seed)
    context.note(
        f"top {TOP} of {model.vocab:,} tokens: two models that know nothing of each other share {TOP / model.vocab:.2%}"
    )
    return overlap("model", [found])
