"""Corrupted inputs: which tokens may change, and that nothing else does."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.config import DistilSettings, TuneSettings
from limbeck.corpora import Rows, build_stores
from limbeck.corpora.mask_input import MaskedInputs, Masking, MaskInput, answer_inputs, require_prompts
from limbeck.corpora.replay import Replay
from limbeck.corpora.tasks.synthetic import Drawing, SyntheticCorpus
from limbeck.errors import BadCorpus, BadSetting
from tests.helpers.models import stores, texts, tokenizer

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


def test_of_packed_documents_answers_are_found_and_those_without_a_prompt_are_left_as_they_are():
    batch = SyntheticCorpus(Lines()).take(1)
    two = torch.tensor([[0] * 6 + [1] * 6])
    position = torch.tensor([[*range(6), *range(6)]])
    weight = torch.ones_like(batch.weight)
    weight[0, 6] = 0.0  # the second document has a prompt of two tokens
    packed = type(batch)(batch.tokens, batch.targets, weight, position, two, batch.row)
    assert answer_inputs(packed)[0].tolist() == [*[False] * 8, *[True] * 4]


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
        ((1.0, VOCAB), "--mask-input: expected a share from 0 to below 1, got 1"),
        ((-0.1, VOCAB), "got -0.1"),
        ((0.4, VOCAB, VOCAB), "a mask token below the vocabulary of 50, got 50"),
    ],
)
def test_what_masks_everything_or_nothing_known_is_refused(options, message):
    with pytest.raises(BadSetting, match=message):
        Masking(*options)


def test_text_without_prompts_is_refused_and_rows_without_one_stay_plain(tmp_path):
    text, _ = stores(tmp_path, tokenizer())
    with pytest.raises(BadCorpus, match=r"text in .* that is learned from its first token"):
        require_prompts(text)
    rows = MaskedInputs(SyntheticCorpus(Lines(begin=1)), Masking(0.4, VOCAB)).take(4)
    assert torch.equal(rows.for_student().tokens, rows.tokens)


def test_other_text_is_read_as_it_is_and_rows_of_both_stay_together(tmp_path):
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps({"prompt": t[:20], "completion": t[20:60]}) + "\n" for t in texts(60, seed=5)))
    own, _ = build_stores(str(asked), tokenizer(), tmp_path / "own")
    other, _ = stores(tmp_path, tokenizer())
    replay = Replay(MaskedInputs(Rows(own, length=32, seed=3), Masking(0.9, 300)), other, 0.5)
    batch = replay.take(8)
    plain = Replay(Rows(own, length=32, seed=3), other, 0.5).take(8)
    assert torch.equal(batch.tokens, plain.tokens)
    changed = (batch.for_student().tokens != batch.tokens).any(-1)
    assert torch.equal(changed, ~replay.is_other(batch))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (0.4, "0.4"),
        ("0.40, token=random, warmup=0.67", "0.4"),
        ("0.2,token=007,warmup=0", "0.2,token=7,warmup=0"),
        ("0", None),
        (None, None),
    ],
)
def test_a_setting_is_kept_as_its_shortest_text(text, kept):
    assert TuneSettings(student="m", mask_input=text).mask_input == kept


@pytest.mark.parametrize("text", ["1", "-0.1", "half", "0.4,token=<mask>", "0.4,warmup=2", "0.4,rate=1", "nan", ""])
def test_a_setting_that_masks_all_or_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match=r"expected a share of the learned tokens from 0 to below 1, such as 0\.4"):
        DistilSettings(mask_input=text)


def test_the_share_of_a_setting_rises_over_its_part_of_a_training():
    assert MaskInput.of("0.4,token=7,warmup=0.5").over(200, vocab=9) == Masking(0.4, 9, 7, 100)
    assert MaskInput.of("0.2").over(300, vocab=9) == Masking(0.2, 9, None, 201)
    with pytest.raises(BadSetting, match="a mask token below the vocabulary of 9, got 9"):
        MaskInput.of("0.2,token=9").over(300, vocab=9)
