"""Rows of other text among those of a training: their share is exact, and neither ranks nor a stop change what is read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.corpora import Rows, build_stores
from limbeck.corpora.replay import Replay
from limbeck.objectives import CrossEntropy, ForwardKL
from limbeck.run.optim import adamw, set_rates
from limbeck.run.replay import ReplayStep
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import World, alone
from tests.helpers.models import frozen, llama, stores, texts, tokenizer
from tests.helpers.ranks import on_ranks

OWN = CrossEntropy()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(a store, the store of another text)."""
    place, tok = tmp_path_factory.mktemp("replay"), tokenizer()
    other = place / "other.txt"
    other.write_text("\n<|endoftext|>\n".join(texts(60, seed=7)))
    return stores(place, tok)[0], build_stores(str(other), tok, place / "other")[0]


def corpus(both, share: float, *, rank: int = 0, size: int = 1) -> Replay:
    world = World(rank, size, torch.device("cpu"))
    return Replay(Rows(both[0], length=16, seed=3, ranks=world), both[1], share, world)


@given(share=st.floats(0.01, 0.99), steps=st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_the_other_text_has_its_share_to_less_than_a_row(both, share, steps):
    rows = corpus(both, share)
    found = sum(int(rows.is_other(rows.take(step)).sum()) for step in steps)
    assert abs(found - share * sum(steps)) < 1


@given(share=st.floats(0.05, 0.95), size=st.integers(2, 4), step=st.integers(1, 9))
def test_ranks_read_what_one_process_reads_and_equally_much(both, share, size, step):
    alone_rows, parts = corpus(both, share), [corpus(both, share, rank=rank, size=size) for rank in range(size)]
    for _ in range(3):
        whole, taken = alone_rows.take(step), [part.take(step) for part in parts]
        assert sorted(whole.row.tolist()) == sorted(row for batch in taken for row in batch.row.tolist())
        sizes = [len(batch.row) for batch in taken]
        assert max(sizes) == -(-step // size)


def test_a_saved_position_continues_with_the_same_rows(both):
    rows = corpus(both, 0.3)
    rows.take(7)
    state = rows.state_dict()
    expected = rows.take(5)
    again = corpus(both, 0.3)
    again.load_state_dict(state)
    found = again.take(5)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.row, expected.row)
    assert again.documents(5) == rows.documents(5)


def test_rows_of_the_other_text_are_of_that_text(both):
    rows = corpus(both, 0.5)
    batch = rows.take(8)
    other = rows.is_other(batch)
    assert other.tolist() == [False] * 4 + [True] * 4
    names = {both[1].name_of(i) for i in batch.document[other][batch.weight[other] > 0].unique().tolist()}
    assert names <= set(rows.documents(8))
    assert all("other.txt" in name for name in names)


def test_ranks_with_unlike_rows_take_one_step_of_both_objectives(both):
    """Of three rows of the data and one of the other text, one rank has none of these."""
    parent = frozen(llama(layers=2, hidden=32, seed=1, tok=tokenizer()))

    def losses(world):
        rows = Replay(Rows(both[0], length=16, seed=3, ranks=world), both[1], 0.3, world)
        model, own = llama(layers=2, hidden=32, seed=0, tok=tokenizer()), CrossEntropy()
        optimizer = adamw(model.model, [], weight_decay=0.0)
        set_rates(optimizer, 0, steps=10, peak=0.01, schedule="constant")
        step = ReplayStep(own, ForwardKL(), parent, rows.is_other)
        return [step(model, [LossTerm(rows.take(4), own)], optimizer, mesh=world).loss for _ in range(3)]

    one = losses(alone())
    assert [found == pytest.approx(one, abs=1e-6) for found in on_ranks(2, losses, mesh="replicate")] == [True, True]


def gradients(both, update, objective, teacher) -> list[torch.Tensor]:
    """The change of each weight by one step of plain descent in the direction of AdamW's first."""
    rows, model = corpus(both, 0.5), llama(layers=2, hidden=32, seed=0, tok=tokenizer())
    batch = rows.take(8)
    terms = [
        LossTerm(batch.rows(slice(0, 6)), objective, teacher),
        LossTerm(batch.rows(slice(6, 8)), objective, teacher),
    ]
    optimizer = adamw(model.model, [], weight_decay=0.0)
    set_rates(optimizer, 0, steps=10, peak=0.0, schedule="constant")  # so that gradients stay as they are
    update(model, terms, optimizer, mesh=alone(), max_norm=1e9)
    return [parameter.grad.clone() for parameter in model.model.parameters()]


def test_the_objective_of_other_rows_is_the_sum_of_both_over_all_tokens(both):
    """Half of the rows by cross-entropy and half by a divergence, divided by the weight of all: each alone, added."""
    parent = frozen(llama(layers=2, hidden=32, seed=1, tok=tokenizer()))
    is_other = corpus(both, 0.5).is_other
    found = gradients(both, ReplayStep(OWN, ForwardKL(), parent, is_other), OWN, None)

    def only(kept_other: bool, objective, teacher):
        def update(model, terms, optimizer, **how):
            total = sum(term.weight for term in terms)
            parts = [term.batch.rows((is_other(term.batch) == kept_other).nonzero().squeeze(-1)) for term in terms]
            mine = [LossTerm(part, objective, teacher) for part in parts if len(part.row)]
            share = sum(term.weight for term in mine) / total
            train_step(model, mine, optimizer, **how)
            for parameter in model.model.parameters():
                parameter.grad.mul_(share)

        return gradients(both, update, objective, teacher)

    own, other = only(False, CrossEntropy(), None), only(True, ForwardKL(), parent)
    for one, a, b in zip(found, own, other, strict=True):
        torch.testing.assert_close(one, a + b, rtol=1e-4, atol=1e-7)
