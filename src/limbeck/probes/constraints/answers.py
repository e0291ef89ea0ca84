"""Greedy answers of a model to prompts, such as those with constraints."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.errors import Mismatch
from limbeck.generation.generators import Batches, LocalGenerator, Sampling
from limbeck.generation.served import Completion
from limbeck.models.language_model import LanguageModel
from limbeck.probes.constraints.items import Item


def answered(model: LanguageModel, items: Sequence[Item], *, most: int) -> list[Completion]:
    """The greedy answer of a model to each prompt, up to ``most`` tokens, or fewer where its context has no room for them.

    A model with a chat template reads each prompt as a user's turn. Raises Mismatch where a prompt fills the context.
    """
    chat = model.tokenizer.chat_template is not None
    return greedy_answers(model, [item.asked(chat=chat).tokens(model.tokenizer) for item in items], most=most)


def greedy_answers(model: LanguageModel, tokens: Sequence[Sequence[int]], *, most: int) -> list[Completion]:
    """The same for prompts as tokens."""
    longest = max(map(len, tokens))
    new = min(most, model.context - longest)
    if new < 1:
        raise Mismatch(
            f"the longest prompt takes {longest} tokens, and the context of {model.name} is {model.context}, so there is no room "
            "for an answer: leave it out, or use a model with a longer context"
        )
    batches = Batches.of(model, longest=longest + new)
    generator = LocalGenerator(model, tokens, Sampling(new, temperature=0.0), batches)
    found = dict(generator.generate(range(len(tokens))))
    return [_completed(found[number]) for number in range(len(tokens))]


def _completed(found: object) -> Completion:
    assert isinstance(found, Completion), "a model in memory answers every prompt"
    return found
