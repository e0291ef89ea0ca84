"""The predictions of largest KL(teacher || student), with their context."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from limbeck.types import Batch

KEPT = 40
_BEFORE, _AFTER, _TOP = 24, 8, 5

Ranked = tuple[tuple[int, float], ...]  # tokens and their probabilities, most probable first


@dataclass(frozen=True)
class KLExample:
    """One prediction: KL(teacher || student) in nats, the token ids around it, and the top tokens of either model."""

    kl: float
    document: int
    before: tuple[int, ...]
    token: int
    after: tuple[int, ...]
    teacher_top: Ranked
    student_top: Ranked

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> KLExample:
        """The example from a row of JSON, which has lists for tuples."""
        teacher_top, student_top = (tuple((t, p) for t, p in row[key]) for key in ("teacher_top", "student_top"))
        before, after = tuple(row["before"]), tuple(row["after"])
        return cls(row["kl"], row["document"], before, row["token"], after, teacher_top, student_top)


class LargestKL:
    """Keeps the predictions of largest KL among all that are added."""

    def __init__(self) -> None:
        self._kept: list[KLExample] = []

    def add(
        self,
        kl: Float[Tensor, " n"],
        log_p: Float[Tensor, "n V"],
        log_q: Float[Tensor, "n V"],
        batch: Batch,
        where: Int[Tensor, " n"],
    ) -> None:
        """Adds n predictions at the flat positions ``where`` of a batch; ``kl`` is in nats."""
        largest, index = kl.topk(min(KEPT, len(kl)))
        least = self._kept[-1].kl if len(self._kept) == KEPT else 0.0
        index = index[largest > least]
        if not len(index):
            return
        p, p_token = log_p[index].topk(min(_TOP, log_p.shape[-1]))
        q, q_token = log_q[index].topk(min(_TOP, log_q.shape[-1]))
        for i, flat in enumerate(where[index].tolist()):
            found = KLExample(
                float(kl[index[i]]), *_context(batch, flat), _ranked(p_token[i], p[i]), _ranked(q_token[i], q[i])
            )
            self._kept.append(found)
        self._kept = [*largest_of(self._kept)]

    def largest(self) -> tuple[KLExample, ...]:
        """The kept predictions, largest KL first."""
        return tuple(self._kept)


def largest_of(examples: Iterable[KLExample]) -> tuple[KLExample, ...]:
    """The `KEPT` predictions of largest KL, largest first."""
    return tuple(sorted(examples, key=lambda example: -example.kl)[:KEPT])


def in_words(
    surprises: tuple[KLExample, ...], tokenizer: PreTrainedTokenizerBase, name_of: Callable[[int], str]
) -> list[dict[str, Any]]:
    """Rows of surprises.json: the predictions of largest KL with text for tokens and names for documents."""
    return [_as_text(example, tokenizer, name_of(example.document)) for example in surprises]


def _as_text(example: KLExample, tokenizer: PreTrainedTokenizerBase, name: str) -> dict[str, Any]:
    before = tokenizer.decode(list(example.before))

    def following(*tokens: int) -> str:
        # A single token is decoded without its leading space, so its text is the difference it makes to the text before it.
        text = tokenizer.decode([*example.before, *tokens])
        return text[len(before) :] if text.startswith(before) else tokenizer.decode(list(tokens))

    def words(ranked: Ranked) -> list[tuple[str, float]]:
        return [(following(token), round(share, 4)) for token, share in ranked]

    token = following(example.token)
    return {
        "document": name,
        "before": before,
        "token": token,
        "after": following(example.token, *example.after)[len(token) :],
        "kl": round(example.kl, 4),
        "teacher_top": words(example.teacher_top),
        "student_top": words(example.student_top),
    }


def _ranked(tokens: Int[Tensor, " K"], log_p: Float[Tensor, " K"]) -> Ranked:
    return tuple(zip(tokens.tolist(), log_p.exp().tolist(), strict=True))


def _context(batch: Batch, flat: int) -> tuple[int, tuple[int, ...], int, tuple[int, ...]]:
    """(document, tokens before, the token predicted, tokens after), as far as row and document reach without a gap."""
    row, t = divmod(flat, batch.tokens.shape[1])
    document = int(batch.document[row, t])
    tokens, targets = batch.tokens[row].tolist(), batch.targets[row].tolist()
    piece = (batch.position[row] == 0).cumsum(0)
    same = (piece == piece[t]).tolist()
    first = t
    while first > 0 and same[first - 1] and targets[first - 1] == tokens[first] and t - first + 1 < _BEFORE:
        first -= 1
    last = t
    while last + 1 < len(same) and same[last + 1] and last - t < _AFTER:
        last += 1
    # Position t + 1 reads the token predicted at t; what it predicts is the first token after.
    after = [targets[i] for i in range(t + 1, last + 1) if batch.weight[row, i] > 0 or i < last]
    return document, tuple(tokens[first : t + 1]), targets[t], tuple(after)
