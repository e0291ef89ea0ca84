"""Lines of text: answers of a decoder, and its tokenizer of characters. Trainings on lines are in test_arithmetic."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from limbeck.generation.generators import Sampling
from limbeck.papers.lab import lines
from limbeck.papers.lab.lines import characters, greedy, ids_of, new_decoder, sampled, text_of

PROMPTS = ("11+2=", "3=", "1+12=", "3=")


@pytest.fixture(scope="module")
def decoder():
    return new_decoder(SimpleNamespace(width=16, layers=1, heads=2, seed=0))


def test_a_token_is_a_character():
    text = "".join(map(chr, range(1, 128)))
    assert characters()(text)["input_ids"] == ids_of(text) == list(range(1, 128))
    assert characters().decode(ids_of(text), clean_up_tokenization_spaces=False) == text
    assert text_of(ids_of(text)) == text


def test_writing_stops_at_the_end_and_at_the_limit(decoder, monkeypatch):
    chosen = iter([*b"12\n\0", *b"12345"])

    def read_on(tokens, cache, **others):
        logits = torch.full((len(tokens), lines.VOCAB), -1.0)
        logits[:, next(chosen)] = 1.0
        return logits, SimpleNamespace(batch_select_indices=lambda rows: None)

    monkeypatch.setattr(type(decoder), "read_on", lambda model, *args, **others: read_on(*args, **others))
    assert greedy(decoder, ["1+1=", "10+2"], most=9) == ["12\n"] * 2
    assert greedy(decoder, ["1+1="], most=3) == ["123"]


def test_each_sample_has_its_own_random_numbers(decoder, monkeypatch):
    how = Sampling(6, samples=3, seed=5)
    found = sampled(decoder, PROMPTS, how)
    assert [len(samples) for samples in found] == [3] * 4
    assert len({samples[0].tokens for samples in found}) == 4  # also those of equal prompts
    monkeypatch.setattr(lines, "_TOGETHER", 2)  # the batches do not matter
    assert sampled(decoder, PROMPTS, how) == found
    assert sampled(decoder, PROMPTS[:2], how) == found[:2]
    assert sampled(decoder, PROMPTS, Sampling(6, samples=3, seed=6)) != found


def test_samples_have_the_models_distribution(decoder):
    """The share of each first token in 4,000 samples, beside its probability."""
    (samples,) = sampled(decoder, ["3="], Sampling(1, samples=4000, temperature=0.7))
    first = [one.tokens[0] if one.tokens else 0 for one in samples]
    logits = decoder.model(input_ids=torch.tensor([ids_of("3=")])).logits[0, -1]
    expected = (logits.detach() / 0.7).softmax(-1).numpy()
    share = np.bincount(first, minlength=lines.VOCAB) / 4000
    assert np.abs(share - expected).max() < 4 * np.sqrt(expected.max() / 4000)
