"""The in-context recall probe: pairs of the model's own tokens, then all keys again in another order. Are the values predicted?

This is multi-query associative recall (arXiv 2312.04927) for language models: it has no fillers, and each question is followed by
its value. Each value is queried once, so values already read are excluded from a guess. Chance is the mean of 1 / (K - i) over
questions with i questions before them, 34 % for 8 pairs. The control has two pairs and one question. A model that fails it has
not learned to recall, and its results with many pairs are no evidence about its state. (With one pair alone, repeating the only
token that was read once would be enough.)
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
_CONTROL = 2  # pairs of the control, with one question
ROWS = 128
_TOGETHER = 16  # rows whose logits are in memory at once
_FEWEST = 8  # smallest number of words for the probe


@probe("mqar", reads=("seed",))
def probe_mqar(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> list[Reading]:
    """The readings of `mqar` for a model, in the form that `limbeck probe` calls."""
    return mqar(model, seed=context.seed)


def mqar(model: LanguageModel, *, seed: int = 0) -> list[Reading]:
    """Recall accuracy by number of pairs and distance, for as many pairs as fit the context (arXiv 2312.04927).

    n counts rows, and each row has one question for each pair. ``guess`` is the most probable of the row's values not read yet,
    instead of all tokens, and its chance level is among these values. Accuracy over all tokens has a chance level of almost 0.
    Raises BadTask if the tokenizer has too few words of one token.
    """
    words = _words(model)
    correct, guessed, _ = _recalled(model, words, _CONTROL, np.random.default_rng([seed, 1]), questions=1)
    everywhere = np.ones_like(correct)
    found = {
        "recall_control": _share(correct, everywhere),
        "recall_control_guess": _share(guessed, everywhere),
        "recall_control_guess_chance": _chance(_CONTROL, questions=1),
    }
    for pairs in PAIRS:
        if 2 * pairs <= len(words) and 4 * pairs + 1 <= model.context:
            found |= _by_distance(model, words, pairs, seed)
    return [
        Reading(model.name, "mqar", name, share.value, "share", share.n, share.low, share.high, seed)
        for name, share in found.items()
    ]


def _by_distance(
    model: LanguageModel, words: Int64[np.ndarray, " words"], pairs: int, seed: int
) -> dict[str, Interval]:
    correct, guessed, distance = _recalled(model, words, pairs, np.random.default_rng([seed, pairs]), questions=pairs)
    near = distance <= np.median(distance)
    everywhere = np.ones_like(near)
    return {
        f"recall_{pairs}_pairs": _share(correct, everywhere),
        f"recall_{pairs}_near": _share(correct, near),
        f"recall_{pairs}_far": _share(correct, ~near),
        f"recall_{pairs}_guess": _share(guessed, everywhere),
        f"recall_{pairs}_guess_chance": _chance(pairs, questions=pairs),
    }


def _chance(pairs: int, *, questions: int) -> Interval:
    """The chance level of a guess among the values not read yet, averaged over the questions."""
    value = float(np.mean([1 / (pairs - i) for i in range(questions)]))
    return Interval(value, value, value, 1)


def _recalled(
    model: LanguageModel,
    words: Int64[np.ndarray, " words"],
    pairs: int,
    generator: np.random.Generator,
    *,
    questions: int,
) -> tuple[Bool[np.ndarray, "rows Q"], Bool[np.ndarray, "rows Q"], Int64[np.ndarray, "rows Q"]]:
    """For each question: is its value the most probable token, is it so among values not read yet, and its key's distance."""
    chosen = words[distinct(generator, ROWS, 2 * pairs, len(words))]
    keys, values = chosen[:, :pairs], chosen[:, pairs:]
    order = generator.permuted(np.broadcast_to(np.arange(pairs), (ROWS, pairs)), axis=1)[:, :questions]
    listed = np.stack([keys, values], -1).reshape(ROWS, -1)
    again = np.take_along_axis(listed.reshape(ROWS, pairs, 2), order[..., None], 1).reshape(ROWS, -1)
    opening = [] if model.tokenizer.bos_token_id is None else [model.tokenizer.bos_token_id]
    tokens = np.concatenate([np.tile(opening, (ROWS, 1)).astype(np.int64), listed, again], 1)[:, :-1]
    place = len(opening) + 2 * pairs + 2 * np.arange(questions)
    correct, guessed = [], []
    for start, logits in _logits(model, tokens, place):
        rows = slice(start, start + len(logits))
        right = np.take_along_axis(values[rows], order[rows], 1)  # (b, Q)
        mine = np.take_along_axis(logits, np.broadcast_to(values[rows, None], (len(logits), questions, pairs)), 2)
        mine[_read(order[rows], pairs)] = -np.inf
        correct.append(logits.argmax(-1) == right)
        guessed.append(mine.argmax(-1) == order[rows])
    distance = 2 * pairs + 2 * np.arange(questions) - 2 * order
    return np.concatenate(correct), np.concatenate(guessed), distance


def _read(order: Int64[np.ndarray, "b Q"], pairs: int) -> Bool[np.ndarray, "b Q K"]:
    """The values already read before each question, (b, Q, K)."""
    read = np.eye(pairs, dtype=bool)[order]  # (b, Q, K)
    before = np.tril(np.ones((order.shape[1], order.shape[1]), dtype=bool), -1)
    return np.einsum("qp,bpk->bqk", before, read)


@torch.inference_mode()
def _logits(
    model: LanguageModel, tokens: Int64[np.ndarray, "rows T"], place: Int64[np.ndarray, " Q"]
) -> Iterator[tuple[int, Float[np.ndarray, "b Q V"]]]:
    """Yields logits at the positions ``place`` for a few rows at a time, with the number of the first row."""
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
    """The tokens that consist of letters only, with or without a leading space."""
    special = set(model.tokenizer.all_special_ids)
    texts = model.tokenizer.batch_decode([[token] for token in range(model.vocab)], clean_up_tokenization_spaces=False)
    found = [i for i, text in enumerate(texts) if text.strip().isalpha() and i not in special]
    if len(found) < _FEWEST:
        raise BadTask(
            f"mqar: the tokenizer of {model.name} has {len(found)} tokens of letters alone, and {_FEWEST} are the fewest that "
            "pairs can be made of: this tokenizer cannot spell the task"
        )
    return np.array(found)
