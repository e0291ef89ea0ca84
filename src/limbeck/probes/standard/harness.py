"""limbeck's models as lm-eval asks them: log-likelihoods of continuations and of whole texts, and greedy completions.

Imported only where the extra ``eval`` is installed. Texts are encoded by lm-eval's own pair rule (`TemplateLM._encode_pair`), so
scores are those of its model ``hf``. Two things differ: the head is multiplied only at positions that count, and a text that does
not fit the context is refused, where lm-eval drops its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from limbeck.errors import BadModel, BadTask, Mismatch
from limbeck.generation.generators import Batches, Sampling
from limbeck.generation.local import Continuation, generate
from limbeck.models.language_model import LanguageModel
from limbeck.models.micro_batch import MICRO_TOKENS
from limbeck.types import Batch, Outputs

_CELLS = 1 << 22  # logits at a time
_MOST_NEW = 256  # tokens of a completion, where a task gives no number, as in lm-eval
_FIRST_NEW = 32  # tokens generated before the first look for a stop sequence

Ids = tuple[int, ...]


@dataclass(frozen=True)
class _Question:
    """One continuation to be scored after a context, both in tokens. ``number``: its place among the requests."""

    number: int
    context: Ids
    continuation: Ids

    @property
    def inputs(self) -> Ids:
        """The tokens that the model reads: all but the last."""
        return (self.context + self.continuation)[:-1]


class HarnessLM(TemplateLM):
    """A `LanguageModel` behind lm-eval's interface."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self._limbeck, self.tokenizer = model, model.tokenizer
        self._device = model.device

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text. Raises BadModel where the tokenizer has none."""
        found = self._limbeck.tokenizer.eos_token_id
        if found is None:
            raise BadModel(
                f"{self._limbeck.name}: tasks need a token before a text without context, and the tokenizer has none"
            )
        return int(found)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context: what documents begin with, else the end of a text, as in lm-eval."""
        opening = self._limbeck.tokenizer.bos_token_id
        return self.eot_token_id if opening is None else int(opening)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The tokens of a text, by default with those that the tokenizer adds unless the text spells out the first."""
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            given = {"add_special_tokens": False}
        return list(self.tokenizer.encode(string, **given))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(sum of log-probabilities in nats, whether greedy) of each continuation."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """The log-probability in nats of each text, in windows as long as the context; every token is predicted once."""
        owners: list[int] = []
        windows: list[tuple[tuple[str, str], list[int], list[int]]] = []
        for number, (text,) in enumerate(request.args for request in requests):
            tokens = self.tok_encode(text)
            rolling = get_rolling_token_windows(
                tokens, prefix_token=self.prefix_token_id, max_seq_len=self._limbeck.context, context_len=1
            )
            for context, continuation in map(make_disjoint_window, rolling):
                owners.append(number)
                windows.append((("", text), context, continuation))
        totals = [0.0] * len(requests)
        for owner, (nats, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += nats
        return totals

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        questions = [_Question(n, tuple(one[1]), tuple(one[2])) for n, one in enumerate(requests)]
        self._require_scored(questions)
        by_inputs: dict[Ids, list[_Question]] = {}
        for question in questions:  # answers of one token share a pass
            by_inputs.setdefault(question.inputs, []).append(question)
        found: list[tuple[float, bool]] = [(0.0, False)] * len(questions)
        for group in _batches(sorted(by_inputs, key=lambda ids: (-len(ids), ids)), MICRO_TOKENS[self._kind]):
            outputs = self._limbeck(_batch(group, self._limbeck.device))
            asked = [(row, question) for row, ids in enumerate(group) for question in by_inputs[ids]]
            for question, answer in self._answers(outputs, asked, width=len(group[0])):
                found[question.number] = answer
        return found

    def _answers(
        self, outputs: Outputs, asked: Sequence[tuple[int, _Question]], *, width: int
    ) -> Iterator[tuple[_Question, tuple[float, bool]]]:
        """The answers of a batch, for which the head is multiplied at the continuations' positions alone."""
        places, targets = [], []
        for row, question in asked:
            begin = row * width + len(question.inputs) - len(question.continuation)
            places.append(torch.arange(begin, begin + len(question.continuation)))
            targets.append(torch.tensor(question.continuation))
        device, size = outputs.hidden.device, max(8, _CELLS // outputs.vocab)
        place, target = torch.cat(places).to(device), torch.cat(targets).to(device)
        nats, greedy = [], []
        for start in range(0, len(place), size):
            part = slice(start, start + size)
            log_q = outputs.logits(place[part]).float().log_softmax(-1)
            nats.append(log_q.gather(-1, target[part, None]).squeeze(-1))
            greedy.append(log_q.argmax(-1) == target[part])
        log_p, best = torch.cat(nats).double().cpu(), torch.cat(greedy).cpu()
        end = 0
        for _, question in asked:
            begin, end = end, end + len(question.continuation)
            yield question, (float(log_p[begin:end].sum()), bool(best[begin:end].all()))

    def _require_scored(self, questions: Sequence[_Question]) -> None:
        """Raises Mismatch for texts beyond the context, and BadTask for an answer without a token."""
        most = self._limbeck.context + 1  # the last token is not read
        long = [len(q.context) + len(q.continuation) for q in questions if len(q.context) + len(q.continuation) > most]
        if long:
            raise Mismatch(
                f"{len(long):,} of {len(questions):,} questions are longer than the context of {self._limbeck.name}, which is "
                f"{self._limbeck.context} tokens; the longest has {max(long) - 1:,}. Their beginnings would be lost, so no score "
                "is given: leave this task out, or give it fewer examples (num_fewshot)"
            )
        empty = [q for q in questions if not q.continuation]
        if empty:
            raise BadTask(
                f"{len(empty):,} of {len(questions):,} answers have no token of their own after their context, the first is "
                f"number {empty[0].number}: a tokenizer that joins both cannot score them; put a space between them"
            )

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy completions, up to the first of a task's stop sequences."""
        found = [""] * len(requests)
        by_kind: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            by_kind.setdefault(self._how(request.args[1]), []).append(number)
        for (most, until), numbers in by_kind.items():
            prompts = [self.tok_encode(requests[number].args[0]) or [self.prefix_token_id] for number in numbers]
            long = [len(ids) for ids in prompts if len(ids) + most > self._limbeck.context]
            if long:
                raise Mismatch(
                    f"{len(long):,} of {len(prompts):,} prompts leave no room for {most} tokens in the context of "
                    f"{self._limbeck.name}, which is {self._limbeck.context}; the longest has {max(long):,}: leave this task out "
                    "or give it fewer examples (num_fewshot) or a smaller max_gen_toks"
                )
            for number, text in zip(numbers, self._completions(prompts, most, until), strict=True):
                found[number] = text
        return found

    def _how(self, given: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
        """(most new tokens, stop sequences) of a task's settings. Raises BadTask for one that samples."""
        how = normalize_gen_kwargs(given, _MOST_NEW)
        if how.get("do_sample") and how.get("temperature", 1.0) != 0:
            raise BadTask(
                "this task samples its answers (do_sample), which limbeck does not: set do_sample: false in its generation_kwargs"
            )
        return int(how["max_gen_toks"]), tuple(how.get("until") or ())

    def _completions(self, prompts: Sequence[Sequence[int]], most: int, until: tuple[str, ...]) -> list[str]:
        """Completions in rounds of growing length, since most end at a stop sequence long before their limit."""
        tokens: list[list[int]] = [[] for _ in prompts]
        left, limit = list(range(len(prompts))), min(_FIRST_NEW, most)
        while left:
            further = limit - len(tokens[left[0]])
            beginnings = [[*prompts[i], *tokens[i]] for i in left]
            for i, continuation in zip(left, self._generate(beginnings, further), strict=True):
                tokens[i] += continuation.tokens
            left = [i for i in left if len(tokens[i]) == limit < most and not self._stops(tokens[i], until)]
            limit = min(2 * limit, most)
        return [postprocess_generated_text(self._text(ids), list(until), None) for ids in tokens]

    def _generate(self, prompts: Sequence[Sequence[int]], most: int) -> list[Continuation]:
        batches = Batches.of(self._limbeck, longest=max(map(len, prompts)) + most)
        found: dict[int, Continuation] = {}
        for group in batches.groups([len(ids) for ids in prompts], Sampling(most, temperature=0)):
            uniforms = np.zeros((len(group), most))
            made = generate(
                self._limbeck, [prompts[i] for i in group], max_new_tokens=most, temperature=0, uniforms=uniforms
            )
            found |= zip(group, made, strict=True)
        return [found[i] for i in range(len(prompts))]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _stops(self, ids: Sequence[int], until: tuple[str, ...]) -> bool:
        text = self._text(ids)
        return any(term in text for term in until if term)

    @property
    def _kind(self) -> str:
        return "cuda" if self._limbeck.device.type == "cuda" else "cpu"


def _batches(rows: Sequence[Ids], tokens: int) -> Iterator[list[Ids]]:
    """The rows, longest first, in batches of at most about so many tokens, padding counted.

    From a quarter of that on, where products are as fast as they get, a batch ends before a row that is a tenth shorter than
    its longest: padding would cost more.
    """
    start = 0
    while start < len(rows):
        longest = len(rows[start])
        most, enough = max(1, tokens // longest), max(1, tokens // 4 // longest)
        end = min(start + most, len(rows))
        short = (n for n in range(start + enough, end) if 10 * len(rows[n]) <= 9 * longest)
        end = next(short, end)
        yield list(rows[start:end])
        start = end


def _batch(rows: Sequence[Ids], device: torch.device) -> Batch:
    """Rows padded on the right, where causal models do not look. Each is one document."""
    width = len(rows[0])
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = torch.tensor(ids)
    index = torch.arange(len(rows))
    position = torch.arange(width).expand(len(rows), -1).contiguous()
    return Batch(
        tokens=tokens,
        targets=torch.zeros_like(tokens),
        weight=torch.zeros(len(rows), width),
        position=position,
        document=index[:, None].expand(-1, width).contiguous(),
        row=index,
    ).to(device)
