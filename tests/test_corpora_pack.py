"""Packing loses, invents and mixes nothing: each token is predicted once, from its own document alone."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from limbeck.corpora import Rows, TokenStore, build_held_out, require_rows
from limbeck.errors import BadCorpus
from limbeck.types import Batch, Corpus

Documents = list[list[tuple[int, bool]]]  # of (token, learned)


def store_of(shards: list[Documents]) -> TokenStore:
    """A store in memory."""
    batches = []
    for number, documents in enumerate(shards):
        offsets = pa.array(np.cumsum([0, *map(len, documents)]), pa.int64())
        tokens, learned = zip(*itertools.chain(*documents), strict=True)
        columns = {
            "name": pa.array([f"{number}:{i}" for i in range(len(documents))]),
            "tokens": pa.LargeListArray.from_arrays(offsets, pa.array(tokens, pa.uint16())),
            "bytes": pa.array([len(document) for document in documents], pa.int64()),
        }
        if not all(learned):
            columns["learned"] = pa.LargeListArray.from_arrays(offsets, pa.array(learned))
        batches.append(pa.RecordBatch.from_pydict(columns))
    everything = list(itertools.chain(*shards))
    counts = {
        "documents": len(everything),
        "tokens": sum(map(len, everything)),
        "bytes": sum(map(len, everything)),
        "predictions": sum(learned for document in everything for _, learned in document[1:]),
    }
    return TokenStore(Path("memory"), counts, batches)


document = st.lists(st.tuples(st.integers(0, 500), st.booleans()), min_size=2, max_size=30)
documents_in_shards = st.lists(st.lists(document, min_size=1, max_size=6), min_size=1, max_size=3)
lengths = st.integers(1, 40)


def epoch(rows: Rows) -> Batch:
    return rows.rows_of(np.arange(rows.n_rows))


def some_store(documents: int = 20) -> TokenStore:
    generator = np.random.default_rng(0)
    sizes = generator.integers(2, 30, documents)
    return store_of([[[(int(t), True) for t in generator.integers(3, 64, size)] for size in sizes]])


@given(documents_in_shards, lengths)
def test_every_token_is_predicted_once_an_epoch_with_its_weight(shards, length):
    store = store_of(shards)
    batch = epoch(Rows(store, length=length))
    everything = list(itertools.chain(*shards))
    expected = [
        [(document[i - 1][0], token, float(learned)) for i, (token, learned) in enumerate(document) if i]
        for document in everything
    ]
    got: list[list[tuple[int, int, float]]] = [[] for _ in everything]
    columns = (batch.tokens, batch.targets, batch.weight, batch.document)
    for token, target, weight, number in zip(*(column.flatten().tolist() for column in columns), strict=True):
        if number >= 0:
            got[number].append((token, target, weight))
    for want, have, document in zip(expected, got, everything, strict=True):
        assert [one for one in have if one[2]] == [one for one in want if one[2]]
        if not store.learns_all:  # rows without anything to learn were passed over
            continue
        assert have[: len(want)] == want
        # the last token is read too, if more stands in its row, and asked for nothing
        assert [(token, weight) for token, _, weight in have[len(want) :]] in ([], [(document[-1][0], 0.0)])
    assert batch.weight.sum() == store.predictions


def test_predictions_at_the_very_end_are_kept():
    store = store_of([[[(1, True), (2, True), (3, True)]]])  # two predictions, so the last token is never read
    batch = epoch(Rows(store, length=2))
    assert batch.tokens.tolist() == [[1, 2]]
    assert batch.targets.tolist() == [[2, 3]]
    assert batch.weight.tolist() == [[1, 1]]


@given(documents_in_shards, lengths)
def test_positions_restart_with_each_document_and_each_row(shards, length):
    batch = epoch(Rows(store_of(shards), length=length))
    for position, document in zip(batch.position.tolist(), batch.document.tolist(), strict=True):
        for t in range(length):
            same = t > 0 and document[t] == document[t - 1]
            assert position[t] == (position[t - 1] + 1 if same else 0)


@given(documents_in_shards, lengths)
def test_padding_weighs_nothing_and_stands_only_at_the_end(shards, length):
    store = store_of(shards)
    batch = epoch(Rows(store, length=length))
    padding = batch.document == -1
    assert not batch.weight[padding].any()
    assert not padding[:-1].any()
    assert padding.sum() < length
    if store.learns_all:
        assert (~padding).sum() in (store.tokens, store.tokens - 1)


def assert_equal(one: Batch, other: Batch) -> None:
    for name in Batch.__dataclass_fields__:
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def joined(batches: list[Batch]) -> Batch:
    return Batch(**{name: torch.cat([getattr(b, name) for b in batches]) for name in Batch.__dataclass_fields__})


@given(st.integers(0, 2**31), st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 7))
def test_a_saved_position_continues_exactly(seed, sizes, cut):
    store = some_store()
    straight = Rows(store, length=7, seed=seed)
    batches = [straight.take(size) for size in sizes]
    broken = Rows(store, length=7, seed=seed)
    for size in sizes[:cut]:
        broken.take(size)
    resumed = Rows(store, length=7, seed=seed)
    resumed.load_state_dict(broken.state_dict())
    for size, batch in zip(sizes[cut:], batches[cut:], strict=True):
        assert_equal(resumed.take(size), batch)
    assert resumed.state_dict() == straight.state_dict() == {"row": sum(sizes)}


@given(st.integers(1, 4), st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_ranks_read_together_what_one_reads(ranks, sizes):
    store = some_store()
    alone = Rows(store, length=7, seed=3)
    many = [Rows(store, length=7, seed=3, rank=rank, ranks=ranks) for rank in range(ranks)]
    for size in sizes:
        whole, parts = alone.take(size), [rows.take(size) for rows in many]
        for rank, part in enumerate(parts):
            assert_equal(part, whole.rows(slice(rank, None, ranks)))
    assert {rows.state_dict()["row"] for rows in many} == {alone.state_dict()["row"]}


def test_each_epoch_is_all_rows_in_an_order_of_its_own():
    store = some_store()
    rows = Rows(store, length=7, seed=1)
    everything = sorted(epoch(rows).tokens.tolist())
    orders = [rows.take(rows.n_rows).tokens.tolist() for _ in range(3)]
    assert all(sorted(order) == everything for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert Rows(store, length=7, seed=2).take(rows.n_rows).tokens.tolist() != orders[0]


def test_orders_of_two_seeds_may_begin_alike_and_go_on_behind_what_was_read():
    store = some_store()
    number = Rows(store, length=8).n_rows
    for read in (3, number, number + 4):
        order = {
            seed: Rows(store, length=8, seed=seed, common=(0, read)).take(3 * number).row.tolist() for seed in (0, 1)
        }
        assert order[0] == Rows(store, length=8).take(3 * number).row.tolist()
        assert order[1][:read] == order[0][:read]
        assert order[1] != order[0]
        assert all(len(set(order[1][e * number : (e + 1) * number])) == number for e in range(3))
        behind = Rows(store, length=8, seed=1, common=(0, read), first=read)
        assert behind.take(5).row.tolist() == order[1][read : read + 5]
        again = Rows(store, length=8, seed=1, common=(0, read), first=read)
        again.load_state_dict(behind.state_dict())
        assert again.take(4).row.tolist() == order[1][read + 5 : read + 9]


@given(st.integers(1, 9), st.integers(1, 3))
def test_a_pass_in_order_covers_every_row_once(batch_rows, ranks):
    store = some_store()
    parts = [joined(list(Rows(store, length=7, rank=r, ranks=ranks).in_order(batch_rows))) for r in range(ranks)]
    whole = epoch(Rows(store, length=7))
    for rank, part in enumerate(parts):
        assert_equal(part, whole.rows(slice(rank, None, ranks)))


def test_rows_are_a_corpus_of_plain_tensors():
    rows = Rows(some_store(), length=7)
    assert isinstance(rows, Corpus)
    batch = rows.take(4)
    assert {getattr(batch, name).dtype for name in ("tokens", "targets", "position", "document")} == {torch.int64}
    assert batch.weight.dtype == torch.float32
    assert all(getattr(batch, name).shape == (4, 7) for name in Batch.__dataclass_fields__ if name != "row")
    assert batch.row.shape == (4,)


def test_too_little_text_for_one_row_is_refused_but_can_be_measured():
    store = store_of([[[(1, True), (2, True), (3, True)]]])
    require_rows(store, length=2)
    with pytest.raises(BadCorpus, match=r"one row of 3 \+ 1 tokens, got 3 tokens in 1 documents: .* with --length"):
        require_rows(store, length=3)
    assert Rows(store, length=5).n_rows == 1
    assert epoch(Rows(store, length=5)).weight.tolist() == [[1, 1, 0, 0, 0]]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_packed_document_is_read_as_if_it_were_alone(attention):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, attn_implementation=attention,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    batch = epoch(Rows(some_store(), length=24))

    def hidden(tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model.model(tokens, position_ids=position, use_cache=False).last_hidden_state

    packed = hidden(batch.tokens, batch.position)
    compared = 0
    for row in range(len(batch.tokens)):
        for number in batch.document[row].unique().tolist():
            own = batch.document[row] == number
            tokens = batch.tokens[row][own][None]
            alone = hidden(tokens, torch.arange(tokens.shape[1])[None])
            torch.testing.assert_close(packed[row][own], alone[0], rtol=1e-5, atol=1e-6)
            compared += 1
    assert compared > len(batch.tokens)  # some rows hold several


def test_the_loss_of_real_stories_is_the_published_one(stories_llama, stories, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(stories_llama)
    model = LlamaForCausalLM.from_pretrained(stories_llama).eval()
    some = tmp_path / "some.jsonl"
    some.write_text("".join(stories.read_text(encoding="utf-8").splitlines(keepends=True)[:60]), encoding="utf-8")
    store = build_held_out(str(some), tokenizer, tmp_path, end=tokenizer.bos_token_id)
    total = weight = 0.0
    for batch in Rows(store, length=256).in_order(16):
        with torch.no_grad():
            logits = model(batch.tokens, position_ids=batch.position, use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        total += float((losses * batch.weight.flatten()).sum())
        weight += float(batch.weight.sum())
    # published: 1.297 on whole stories; here rows cut them, so some tokens are predicted without what came before
    assert weight == store.predictions
    assert 1.2 < total / weight < 1.6


@given(documents_in_shards, lengths)
def test_rows_of_which_nothing_is_learned_are_passed_over(shards: list[Documents], length: int):
    store = store_of(shards)
    rows = Rows(store, length=length)
    weight = epoch(rows).weight
    assert weight.sum() == store.predictions
    if store.predictions and not store.learns_all:
        assert weight.any(1).all()


def test_what_all_ranks_took_last_is_known_to_each():
    store = some_store()
    one, two = Rows(store, length=8, seed=1), Rows(store, length=8, seed=1, rank=1, ranks=2)
    whole = one.take(4)
    two.take(4)
    assert torch.equal(two.taken(4).tokens, whole.tokens)
