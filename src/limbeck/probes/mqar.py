"""In-context recall: pairs of tokens of the model's own, then their first ones again in another order; does it say the second?

Multi-query associative recall (arXiv 2312.04927) in the form that a model of text can be asked: no fillers, and each value is
read after its question, since a text goes on. As each value is asked once, those that were read are no answers any more: a guess
is among the others, and chance the mean of 1 / (K - i) over the i questions before, 34 % of 8 pairs. The control are two pairs of
which one is asked: a model that does not even tell these apart has not learned to recall, and what it does with many pairs says
nothing about its state. (One pair alone would be answered by repeating the token that was read once.)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from limbeck.corpora.tasks.sampling import distinct
from limbeck.errors import BadTask
from limbeck.models.language_model import LanguageModel
from limbeck.probes.interval import Interval, share_interval
from limbeck.probes.named import ProbeContext, probe
from limbeck.types import Batch, Reading

PAIRS = (2, 4, 8, 16, 32)
_CONTROL = 2  # pairs of which the control asks one
ROWS = 128
_TOGETHER = 16  # rows whose logits are in memory at once
_FEWEST = 8  # words without which there is nothing to ask


@probe("mqar", reads=("seed",))
def probe_mqar(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> list[Reading]:
    """`mqar` of a model."""
    return mqar(model, seed=context.seed)


def mqar(model: LanguageModel, *, seed: int = 0) -> list[Reading]:
    """Accuracy by pairs and distance, as many pairs as fit into the context; n is rows, which ask a question for each pair.

    ``guess`` is the likeliest of the row's values that were not read yet rather than of all tokens, and its chance is among those
    too; what is said freely would reach none by luck.
    Raises BadTask where the tokenizer has too few words of one token.
    """
    words = _words(model)
    said, guessed, _ = _answers(model, words, _CONTROL, np.random.default_rng([seed, 1]), asked=1)
    everywhere = np.ones_like(said)
    found = {
        "recall_control": _share(said, everywhere),
        "recall_control_guess": _share(guessed, everywhere),
        "recall_control_guess_chance": _chance(_CONTROL, asked=1),
    }
    for pairs in PAIRS:
        if 2 * pairs <= len(words) and 4 * pairs + 1 <= model.context:
            found |= _asked(model, words, pairs, seed)
    return [
        Reading(model.name, "mqar", name, share.value, "share", share.n, share.low, share.high, seed)
        for name, share in found.items()
    ]


def _asked(model: LanguageModel, words: Int64[np.ndarray, " words"], pairs: int, seed: int) -> dict[str, Interval]:
    said, guessed, distance = _answers(model, words, pairs, np.random.default_rng([seed, pairs]), asked=pairs)
    near = distance <= np.median(distance)
    everywhere = np.ones_like(near)
    return {
        f"recall_{pairs}_pairs": _share(said, everywhere),
        f"recall_{pairs}_near": _share(said, near),
        f"recall_{pairs}_far": _share(said, ~near),
        f"recall_{pairs}_guess": _share(guessed, everywhere),
        f"recall_{pairs}_guess_chance": _chance(pairs, asked=pairs),
    }


def _chance(pairs: int, *, asked: int) -> Interval:
    """Of a guess among the values that were not read yet, over the questions."""
    value = float(np.mean([1 / (pairs - i) for i in range(asked)]))
    return Interval(value, value, value, 1)


def _answers(
    model: LanguageModel, words: Int64[np.ndarray, " words"], pairs: int, generator: np.random.Generator, *, asked: int
) -> tuple[Bool[np.ndarray, "rows Q"], Bool[np.ndarray, "rows Q"], Int64[np.ndarray, "rows Q"]]:
    """Of each question: whether the value is the likeliest token, whether of the values not read yet, how far its key is."""
    chosen = words[distinct(generator, ROWS, 2 * pairs, len(words))]
    keys, values = chosen[:, :pairs], chosen[:, pairs:]
    order = generator.permuted(np.broadcast_to(np.arange(pairs), (ROWS, pairs)), axis=1)[:, :asked]
    told = np.stack([keys, values], -1).reshape(ROWS, -1)
    again = np.take_along_axis(told.reshape(ROWS, pairs, 2), order[..., None], 1).reshape(ROWS, -1)
    opening = [] if model.tokenizer.bos_token_id is None else [model.tokenizer.bos_token_id]
    tokens = np.concatenate([np.tile(opening, (ROWS, 1)).astype(np.int64), told, again], 1)[:, :-1]
    place = len(opening) + 2 * pairs + 2 * np.arange(asked)
    said, guessed = [], []
    for start, logits in _logits(model, tokens, place):
        rows = slice(start, start + len(logits))
        right = np.take_along_axis(values[rows], order[rows], 1)  # (b, Q)
        mine = np.take_along_axis(logits, np.broadcast_to(values[rows, None], (len(logits), asked, pairs)), 2)
        mine[_read(order[rows], pairs)] = -np.inf
        said.append(logits.argmax(-1) == right)
        guessed.append(mine.argmax(-1) == order[rows])
    distance = 2 * pairs + 2 * np.arange(asked) - 2 * order
    return np.concatenate(said), np.concatenate(guessed), distance


def _read(order: Int64[np.ndarray, "b Q"], pairs: int) -> Bool[np.ndarray, "b Q K"]:
    """Which values the questions before each question have been followed by."""
    answered = np.eye(pairs, dtype=bool)[order]  # (b, Q, K)
    before = np.tril(np.ones((order.shape[1], order.shape[1]), dtype=bool), -1)
    return np.einsum("qp,bpk->bqk", before, answered)


@torch.inference_mode()
def _logits(
    model: LanguageModel, tokens: Int64[np.ndarray, "rows T"], place: Int64[np.ndarray, " Q"]
) -> Iterator[tuple[int, Float[np.ndarray, "b Q V"]]]:
    """Logits at some places, a few rows at a time."""
    for start in range(0, len(tokens), _TOGETHER):
        part = torch.from_numpy(tokens[start : start + _TOGETHER]).to(model.device)
        rows, length = part.shape
        position = torch.arange(length, device=model.device).expand(rows, length)
        nothing = torch.zeros_like(part)
        batch = Batch(part, nothing, nothing.float(), position, nothing, nothing[:, 0])
        flat = (torch.arange(rows)[:, None] * length + torch.from_numpy(place)).reshape(-1).to(model.device)
        logits = model(batch).logits(flat).float().cpu().numpy()
        yield start, logits.reshape(rows, len(place), -1)


def _share(right: Bool[np.ndarray, "rows Q"], where: Bool[np.ndarray, "rows Q"]) -> Interval:
    rows = where.any(1)
    return share_interval((right & where)[rows].sum(1).astype(float), where[rows].sum(1).astype(float))


def _words(model: LanguageModel) -> Int64[np.ndarray, " words"]:
    """The tokens that are letters alone, a space in front of them or none."""
    special = set(model.tokenizer.all_special_ids)
    texts = model.tokenizer.batch_decode([[token] for token in range(model.vocab)], clean_up_tokenization_spaces=False)
    found = [i for i, text in enumerate(texts) if text.strip().isalpha() and i not in special]
    if len(found) < _FEWEST:
        raise BadTask(
            f"mqar: the tokenizer of {model.name} has {len(found)} tokens of letters alone, and {_FEWEST} are the fewest that "
            "pairs can be made of: this tokenizer cannot spell the task"
        )
    return np.array(found)
