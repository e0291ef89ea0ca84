"""Corrupted inputs: which tokens may change, and that nothing else does."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.corpora.mask_input import MaskedInputs, Masking, answer_inputs
from limbeck.corpora.tasks.synthetic import Drawing, SyntheticCorpus
from limbeck.errors import BadCorpus, BadSetting

VOCAB, MASK = 50, 49


class Lines:
    """Rows with a prompt of 4 tokens, an answer of 6, and padding; with ``begin`` 0 they have no prompt."""

    length, vocab, name = 12, VOCAB, "lines"

    def __init__(self, begin=4):
        self.begin = begin

    def draw(self, generator, rows):
        tokens = generator.integers(MASK, size=(rows, self.length + 1))
        asked = np.zeros((rows, self.length + 1), dtype=bool)
        asked[:, self.begin : 10] = True
        return Drawing(tokens[:, :-1].copy(), tokens[:, 1:].copy(), asked[:, 1:])


def masked(share=0.4, token=MASK, *, seed=0, rank=0, ranks=1, rising=0):
    rows = SyntheticCorpus(Lines(), seed=seed, rank=rank, ranks=ranks)
    return MaskedInputs(rows, Masking(share, VOCAB, token, rising))


@given(st.integers(0, 1000), st.integers(1, 40), st.floats(0.01, 0.99), st.sampled_from([MASK, None]))
def test_only_the_answer_is_corrupted_and_only_for_the_student(seed, rows, share, token):
    plain = SyntheticCorpus(Lines(), seed=seed).take(rows)
    batch = masked(share, token, seed=seed).take(rows)
    for name in ("tokens", "targets", "weight", "position", "document", "row"):
        assert torch.equal(getattr(batch, name), getattr(plain, name))
    read = batch.for_student()
    changed = read.tokens != plain.tokens
    assert not changed[:, :4].any()  # the prompt
    assert not changed[:, 10:].any()  # what is not learned
    assert torch.equal(read.targets, plain.targets)
    assert token is None or bool((read.tokens[changed] == MASK).all())


def test_a_share_of_the_answer_is_corrupted():
    batch = masked(0.3).take(1000)
    can = answer_inputs(batch)
    assert can.sum() == 1000 * 6
    share = float((batch.for_student().tokens == MASK)[can].float().mean())
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / (1000 * 6)) ** 0.5


def test_the_first_token_of_a_next_document_is_no_answer():
    batch = SyntheticCorpus(Lines()).take(1)
    two = torch.tensor([[0] * 6 + [1] * 6])
    position = torch.tensor([[*range(6), *range(6)]])
    packed = type(batch)(batch.tokens, batch.targets, torch.ones_like(batch.weight), position, two, batch.row)
    assert answer_inputs(packed)[0].tolist() == [False, *[True] * 5, False, *[True] * 5]


def test_nothing_masked_is_the_plain_batch():
    assert masked(0.0).take(5).student_inputs is None
    assert masked(0.4, rising=100).take(1).student_inputs is None  # the share begins at 0


def test_batches_ranks_and_where_a_run_was_continued_do_not_matter():
    whole = masked(rising=30).take(24).for_student().tokens
    in_parts = masked(rising=30)
    assert torch.equal(torch.cat([in_parts.take(n).for_student().tokens for n in (7, 17)]), whole)
    ranks = [masked(rising=30, rank=rank, ranks=2).take(24).for_student().tokens for rank in (0, 1)]
    assert torch.equal(torch.stack(ranks, 1).flatten(0, 1), whole)
    continued = masked(rising=30)
    continued.load_state_dict({"row": 7})
    assert torch.equal(continued.take(17).for_student().tokens, whole[7:])


def test_the_share_rises():
    how = Masking(0.4, VOCAB, rising=100)
    assert [how.at(row) for row in (0, 50, 100, 1000)] == [0.0, 0.2, 0.4, 0.4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((1.0, VOCAB), "expected a share of masked input from 0 to below 1, got 1"),
        ((-0.1, VOCAB), "got -0.1"),
        ((0.4, VOCAB, VOCAB), "a mask token below the vocabulary of 50, got 50"),
    ],
)
def test_what_masks_everything_or_nothing_known_is_refused(options, message):
    with pytest.raises(BadSetting, match=message):
        Masking(*options)


def test_text_without_prompts_is_refused():
    rows = MaskedInputs(SyntheticCorpus(Lines(begin=1)), Masking(0.4, VOCAB))
    with pytest.raises(BadCorpus, match="text that is learned from its first token"):
        rows.take(4)
