"""PassUntil: samples completions until enough of them pass, to measure very small pass probabilities.

Hu et al., Predicting Emergent Abilities with Infinite Resolution Evaluation (arXiv 2310.03262, sec. 3): completions of each
instance are sampled at temperature 1 until r of them pass, and K is the number of samples. A model that never solves an instance
greedily may still solve it once in 10,000 samples, and this rate grows smoothly with model size.

Samples count in the order in which they start, not in which they finish. Wrong completions are decided early and correct ones
late, so the first r passes to *finish* in a batch would follow too many failures. Sample k of an instance uses row k of the
instance's own random numbers, so K does not depend on the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.corpora.tasks.checked import Checked
from limbeck.corpora.tokenizer import Frame, document_tokens, frame
from limbeck.errors import BadSetting, Mismatch
from limbeck.generation.local import decoded_completion, draw_tokens, stop_tokens
from limbeck.models.cached import last_places, read_on, select_rows
from limbeck.models.language_model import LanguageModel
from limbeck.models.vocabulary import require_rows_of
from limbeck.probes.tasks import Instance, Task

ROWS = 16384  # samples started in one round
_PROMPTS = 64  # instances in one round
_BLOCK = 1024  # samples of an instance whose random numbers are generated together


@dataclass(frozen=True)
class Count:
    """The counts of one instance: ``successes`` of ``samples`` passed. ``name`` is the name of the instance.

    ``capped`` is true if the limit of samples was reached before the wanted successes; the counts are then binomial. Otherwise
    the last sample passed, and ``samples`` is a waiting time. ``log_p``, in nats, is `log_probability` or None.
    """

    name: str
    successes: int
    samples: int
    capped: bool
    log_p: float | None = None

    def row(self) -> dict[str, Any]:
        """The count as a row of JSON lines."""
        return asdict(self)


@torch.inference_mode()
def pass_until(
    model: LanguageModel,
    task: Task,
    *,
    successes: int = 4,
    max_samples: int = 100_000,
    seed: int = 0,
    rows: int = ROWS,
) -> list[Count]:
    """Samples completions of each instance until ``successes`` pass or ``max_samples`` are reached (arXiv 2310.03262, sec. 3).

    Returns one count for each instance, in the task's order. ``rows`` is the number of samples started at once; counts do not
    depend on it beyond rounding. Raises BadSetting for successes or samples below 1, and Mismatch if a prompt and its answer
    are longer than the model's context.
    """
    if successes < 1 or max_samples < 1:
        raise BadSetting(
            f"expected at least 1 success and 1 sample, got {successes} and {max_samples}: an unbiased estimate needs 2 "
            "successes, the usual number is 4"
        )
    _check_room(model, task)
    draws = [_Draws(instance, tokens, i, seed) for i, (instance, tokens) in enumerate(_prompts(model, task))]
    sampler = _Sampler(model)
    waiting = list(draws)
    while waiting:
        # Prompts of equal length share a batch, so that no padding is needed, which some architectures do not support.
        length = len(waiting[0].prompt)
        batch = [d for d in waiting if len(d.prompt) == length][:_PROMPTS]
        for draw in batch:
            draw.begin_round(min(rows // len(batch) or 1, max(2 * successes, draw.begun), max_samples - draw.begun))
        sampler.decide(batch)
        for draw in batch:
            draw.settle(successes, max_samples)
        waiting = [d for d in waiting if d.count is None]
    return [d.count for d in draws if d.count is not None]


@torch.inference_mode()
def log_probability(model: LanguageModel, task: Task, *, rows: int = 64) -> list[float | None]:
    """The log-probability, in nats, that each instance passes, from one forward pass. None if several answers pass.

    It is the probability of the answer's usual tokens, followed by any token that ends the answer. It is exact if the answer
    has only one tokenization, as with one token a character. Otherwise, other tokenizations of the answer pass as well but are
    not included, and the value is a lower bound.
    """
    _check_room(model, task)
    closing = torch.tensor(sorted(stop_tokens(model) | _line_breaks(model)), device=model.device)
    pairs = [
        (i, *spelled(model, instance.prompt, instance.answers[0]))
        for i, instance in enumerate(task.instances)
        if isinstance(instance, Instance) and instance.unique
    ]
    found: list[float | None] = [None] * len(task.instances)
    pairs.sort(key=lambda pair: (len(pair[1]), len(pair[2])))
    for _, same in groupby(pairs, key=lambda pair: (len(pair[1]), len(pair[2]))):
        group = list(same)
        for start in range(0, len(group), rows):
            part = group[start : start + rows]
            tokens = torch.tensor([[*prompt, *answer] for _, prompt, answer in part], device=model.device)
            answers = tokens[:, len(part[0][1]) :]
            places = last_places(model.model, tokens, answers.shape[1] + 1)
            outputs = model.model(input_ids=tokens, use_cache=False, logits_to_keep=places)
            log_q = outputs.logits[..., : model.vocab].double().log_softmax(-1)  # (B, answer + 1, V)
            log_p = log_q[:, :-1].gather(-1, answers[..., None]).squeeze(-1).sum(-1)
            ended = log_q[:, -1, closing].logsumexp(-1)
            for (i, _, _), value in zip(part, (log_p + ended).tolist(), strict=True):
                found[i] = value
    return found


@dataclass
class _Draws:
    """The samples of one instance, in the order in which they start."""

    instance: Instance | Checked
    prompt: list[int]
    number: int
    seed: int
    begun: int = 0
    round: range = range(0)  # the samples of this round
    passed: list[int] = field(default_factory=list)  # numbers of the samples that passed, from 1, in order
    count: Count | None = None
    _blocks: dict[int, np.ndarray] = field(default_factory=dict)  # random numbers of this round

    def begin_round(self, samples: int) -> None:
        self.round = range(self.begun, self.begun + samples)
        self.begun += samples

    def settle(self, successes: int, max_samples: int) -> None:
        """Sets the count once it is known. Samples after the r-th pass do not count."""
        self.passed.sort()
        if len(self.passed) >= successes:
            self.count = Count(self.instance.name, successes, self.passed[successes - 1], capped=False)
        elif self.begun >= max_samples:
            self.count = Count(self.instance.name, len(self.passed), max_samples, capped=True)
        self._blocks.clear()

    @property
    def longest(self) -> int:
        """The most tokens of a completion that can pass: each token is at least one byte, and one token ends it."""
        return self.instance.longest + 2

    def uniforms(self, samples: Int[np.ndarray, " samples"], step: int) -> Float[np.ndarray, " samples"]:
        """The random numbers in [0, 1) that choose the token at ``step`` of these samples. They are deterministic."""
        found = np.empty(len(samples))
        for block in np.unique(samples // _BLOCK).tolist():
            here = samples // _BLOCK == block
            found[here] = self._block(block)[samples[here] % _BLOCK, step]
        return found

    def _block(self, block: int) -> np.ndarray:
        if block not in self._blocks:
            generator = np.random.default_rng([self.seed, self.number, block])
            self._blocks[block] = generator.random((_BLOCK, self.longest))
        return self._blocks[block]


class _Sampler:
    """Samples tokens from a model with a key-value cache, and decides which completions pass.

    Samples with the same tokens so far share one row of the cache, since their next-token distributions are equal. With one
    answer and one token a character, that is one row for each instance, for any number of samples.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._ends = stop_tokens(model)

    def decide(self, batch: Sequence[_Draws]) -> None:
        """Samples all completions of this round until each is decided. All prompts have the same length."""
        said: list[tuple[int, tuple[int, ...]]] = [(i, ()) for i in range(len(batch))]  # of a row: instance, its tokens
        tokens = torch.tensor([draw.prompt for draw in batch], device=self._model.device)
        row = np.repeat(np.arange(len(batch)), [len(draw.round) for draw in batch])  # of each sample
        owner = row
        sample = np.concatenate([np.arange(draw.round.start, draw.round.stop) for draw in batch])
        cache: Any = None
        for step in range(max(draw.longest for draw in batch)):
            logits, cache = self._logits(tokens, cache)
            chosen = draw_tokens(logits, row, _uniforms(batch, owner, sample, step))
            # distinct completions
            keys, met = np.unique(row * self._model.vocab + chosen, return_inverse=True)
            parents, last = np.divmod(keys, self._model.vocab)
            completions = [(said[p][0], (*said[p][1], t)) for p, t in zip(parents.tolist(), last.tolist(), strict=True)]
            verdicts = [self._verdict(batch[i], completion) for i, completion in completions]
            passed = np.array([verdict is True for verdict in verdicts])[met]
            for i, k in zip(owner[passed].tolist(), sample[passed].tolist(), strict=True):
                batch[i].passed.append(k + 1)
            still = np.array([verdict is None for verdict in verdicts])
            if not still.any():
                return
            said = [completion for completion, open_ in zip(completions, still.tolist(), strict=True) if open_]
            tokens = torch.from_numpy(last[still][:, None]).to(self._model.device)
            select_rows(cache, torch.from_numpy(parents[still]).to(self._model.device))
            alive = still[met]
            row, owner, sample = (np.cumsum(still) - 1)[met[alive]], owner[alive], sample[alive]

    def _logits(self, tokens: Int[Tensor, "B T"], cache: Any) -> tuple[Float[Tensor, "B V"], Any]:
        logits, cache = read_on(self._model.model, tokens, cache)
        return logits[:, : self._model.vocab], cache

    def _verdict(self, of: _Draws, tokens: tuple[int, ...]) -> bool | None:
        """Whether a completion passes, or None if it is undecided."""
        ended = tokens[-1] in self._ends
        text = decoded_completion(self._model.tokenizer, of.prompt, tokens[:-1] if ended else tokens, special=True)
        verdict = of.instance.passes(text, ended=ended)
        return False if verdict is None and len(tokens) >= of.longest else verdict


def _uniforms(batch: Sequence[_Draws], owner: np.ndarray, sample: np.ndarray, step: int) -> np.ndarray:
    found = np.empty(len(owner))
    for i in np.unique(owner).tolist():
        mine = owner == i
        found[mine] = batch[i].uniforms(sample[mine], step)
    return found


def _prompts(model: LanguageModel, task: Task) -> list[tuple[Instance | Checked, list[int]]]:
    """Each instance with its prompt's tokens, with the start of a document and without its end."""
    begin = Frame(frame(model.tokenizer, end=model.end).begin, None)
    tokens = document_tokens(model.tokenizer, [i.prompt for i in task.instances], frame=begin)
    for instance, ids in zip(task.instances, tokens, strict=True):
        require_rows_of(model.tokenizer, ids, model.vocab, where=f"the prompt {instance.prompt[:60]!r} of {task.name}")
    return list(zip(task.instances, tokens, strict=True))


def spelled(model: LanguageModel, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, with the start of a document, and of its answer, tokenized separately as in generation."""
    begin = Frame(frame(model.tokenizer, end=model.end).begin, None)
    first, whole = document_tokens(model.tokenizer, [prompt, prompt + answer], frame=begin)
    require_rows_of(model.tokenizer, whole, model.vocab, where=f"the prompt {prompt[:60]!r} with its answer")
    if whole[: len(first)] == first:
        return first, whole[len(first) :]
    # Joint tokenization may merge the prompt's end with the answer's start, which generation after the prompt cannot.
    return first, document_tokens(model.tokenizer, [answer], frame=Frame(None, None))[0]


def _line_breaks(model: LanguageModel) -> set[int]:
    """The tokens whose text starts with a line break."""
    tokens = range(model.vocab)
    texts = model.tokenizer.batch_decode([[token] for token in tokens], clean_up_tokenization_spaces=False)
    return {token for token, text in zip(tokens, texts, strict=True) if text.startswith("\n")}


def _check_room(model: LanguageModel, task: Task) -> None:
    for instance, prompt in _prompts(model, task):
        needed = len(prompt) + instance.longest + 2
        if needed > model.context:
            raise Mismatch(
                f"the prompt {instance.prompt[:60]!r} of {task.name} may need {needed} tokens with its answer, and the "
                f"context of {model.name} is {model.context}: shorten it, or take a model with a longer context"
            )
