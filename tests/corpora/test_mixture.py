"""Mixtures: their grammar, the source of each row, and stores and rows of several sources."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.corpora import Document, Rows, build_stores, is_held_out, tokenised, train_tokenizer, writer
from limbeck.corpora.draws import sides
from limbeck.corpora.interleave import Interleaved, Span, counts
from limbeck.corpora.mixture import Mixture, plain
from limbeck.corpora.pack import Blend, Rank
from limbeck.corpora.source import resolve
from limbeck.errors import BadCorpus

TEXTS = [f"story {i}: " + "the cat sat on the mat. " * (i % 7) for i in range(60)]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "sources", "stages"),
    [
        ("a.jsonl:0.7,hf:b:0.3", ("a.jsonl", "hf:b"), [(0.0, (0.7, 0.3))]),
        ("a.jsonl:3M, hf:org/b:config/train:1M", ("a.jsonl", "hf:org/b:config/train"), [(0.0, (0.75, 0.25))]),
        ("s3://bucket/a.jsonl:1", ("s3://bucket/a.jsonl",), [(0.0, (1.0,))]),
        ("python:stdlib:1e1,a:.5e1,b:1_000", None, None),
        (
            "web:0.9,math:0.1; 0.5: math:1; annealed: math:1,chat:1",
            ("web", "math", "chat"),
            [(0.0, (0.9, 0.1, 0.0)), (0.5, (0.0, 1.0, 0.0)), ("annealed", (0.0, 0.5, 0.5))],
        ),
    ],
)
def test_weights_and_stages_are_read(text, sources, stages):
    if sources is None:
        with pytest.raises(BadCorpus, match="b:1_000: expected a weight behind each source"):
            Mixture.of(text)
        return
    found = Mixture.of(text)
    assert found.sources == sources
    assert [stage.begins for stage in found.stages] == [begins for begins, _ in stages]
    for stage, (_, shares) in zip(found.stages, stages, strict=True):
        assert stage.shares == pytest.approx(shares, rel=1e-12)
    assert plain(text) == ",".join(sources)


@pytest.mark.parametrize(
    "text",
    ["a.jsonl", "hf:b", "hf:b:20220301.en", "hf:2020", "a,b", "python:stdlib", "https://host:8080", "hf:b:0.3/train"],
)
def test_sources_without_weights_are_no_mixture(text):
    assert Mixture.of(text) is None
    assert plain(text) == text


def test_a_file_that_is_called_so_has_no_weight(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("a:0.5"), ["one"])
    write(Path("b"), ["one"])
    assert Mixture.of("a:0.5") is None
    assert Mixture.of("a:0.5:2,b:2").sources == ("a:0.5", "b")
    with pytest.raises(
        BadCorpus, match=r"b: expected a weight behind the colon, a number such as 0.7 or 2M, got 'much'"
    ):
        Mixture.of("a:0.5:2,b:much")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:0.7,b", "b: expected a weight behind each source, such as b:0.3, got none"),
        ("a:-1,b:2", "a: expected a weight of 0 or more, got -1"),
        ("a:nan,b:2", "a: expected a weight of 0 or more, got nan"),
        ("a:inf,b:2", "a: expected a weight of 0 or more, got inf"),
        ("a:0,b:0", "the weights of a stage are all 0"),
        ("a:1,b:0", "b: has the weight 0 wherever it is named"),
        ("a:1,a:2", "a: is named twice in one stage"),
        ("a:1,,b:2", "expected a source with its weight, got nothing"),
        ("a:1;b:1", "such as 0.8: or annealed:, got 'b:1'"),
        ("a:1;1.5:b:1", "such as 0.8: or annealed:, got '1.5:b:1'"),
        ("a:1;0.8:b:1;0.5:a:1", "expected stages in the order in which they begin, annealed last, got 0.8, 0.5"),
        ("a:1;annealed:b:1;0.9:a:1", "annealed last, got annealed, 0.9"),
        ("a;0.5:b", "a: expected a weight behind each source"),
    ],
)
def test_mixtures_that_are_wrong_are_refused(text, message):
    with pytest.raises(BadCorpus) as caught:
        Mixture.of(text)
    assert message in str(caught.value)


def test_stages_share_the_tokens_of_a_training():
    found = Mixture.of("a:1;0.5:a:1,b:3;annealed:b:1")
    assert found.begins(0.8) == [0.0, 0.5, 0.8]
    assert found.budgets(1000, 0.8) == [575, 425]
    with pytest.raises(BadCorpus, match="give --schedule wsd, or when the stage begins"):
        found.begins(None)
    with pytest.raises(BadCorpus, match=r"begins to fall at 0.4 of the training, before the stage at 0.5"):
        found.begins(0.4)
    with pytest.raises(BadCorpus, match="weights of sources are for limbeck distil, pretrain and capture"):
        resolve("a:1,b:2")


def slowly(shares, rows):
    """The sources of the first rows, one by one: each time that of the lowest next place."""
    given, found = [0] * len(shares), []
    for _ in range(rows):
        places = [(n + 0.5) / w if w else np.inf for n, w in zip(given, shares, strict=True)]
        found.append(int(np.argmin(places)))
        given[found[-1]] += 1
    return found


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any), st.integers(0, 300))
def test_the_source_of_a_row_needs_no_other_rows(weights, start):
    shares = np.array(weights) / sum(weights)
    expected = slowly(shares, start + 40)
    found = Interleaved([Span(0, shares)])
    assert [found.at(row)[0] for row in range(start, start + 40)] == expected[start:]
    assert found.at(start) == (expected[start], expected[:start].count(expected[start]))
    for rows in (start, start + 40):
        assert counts(shares, rows).tolist() == [expected[:rows].count(i) for i in range(len(shares))]
        assert np.abs(counts(shares, rows) - shares * rows).max() <= (1 + len(shares)) / 2


def test_stages_go_on_with_the_rows_that_their_sources_have_not_given():
    found = Interleaved([Span(0, np.array([0.5, 0.5])), Span(4, np.array([0.0, 1.0])), Span(6, np.array([1.0, 0.0]))])
    assert [found.at(row) for row in (7, 0, 3, 5, 4, 6, 9000)] == [
        (0, 3),
        (0, 0),
        (1, 1),
        (1, 3),
        (1, 2),
        (0, 2),
        (0, 2 + 9000 - 6),
    ]
    assert found.counts(6).tolist() == [2, 4]
    assert found.counts(8).tolist() == [4, 4]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab=300)


@pytest.fixture
def mixed(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_DOCUMENTS", 7)
    monkeypatch.setattr(tokenised, "BLOCK_DOCUMENTS", 5)
    one, two = write(tmp_path / "one.jsonl", TEXTS[:40]), write(tmp_path / "two.jsonl", TEXTS[40:])
    store, held_out = build_stores(f"{one}:3,{two}:1", tokenizer, tmp_path / "out", fraction=0.2)
    apart = [build_stores(source, tokenizer, f"{source}-out", fraction=0.2)[0] for source in (one, two)]
    return store, held_out, apart


def test_each_source_has_the_rows_that_it_has_alone(mixed):
    store, held_out, apart = mixed
    assert [store.manifest["sources"][i]["documents"] for i in range(2)] == [one.documents for one in apart]
    assert held_out.documents == len(TEXTS) - store.documents
    edges = store.rows_by_source(16)
    assert np.diff(edges).tolist() == [one.layout(16).rows for one in apart]
    together = Rows(store, length=16)
    for i, one in enumerate(apart):
        alone = Rows(one, length=16).rows_of(np.arange(np.diff(edges)[i]))
        there = together.rows_of(np.arange(edges[i], edges[i + 1]))
        assert (alone.tokens == there.tokens).all()
        assert (alone.weight == there.weight).all()


def test_rows_are_read_by_their_shares_of_tokens_and_continue_anywhere(mixed):
    store, _, _ = mixed
    blend = Blend((0, 12), ((0.75, 0.25), (0.0, 1.0)))
    whole = Rows(store, length=16, seed=1, blend=blend)
    taken = whole.take(32)
    edges = store.rows_by_source(16)
    source = np.searchsorted(edges, taken.row.numpy(), side="right") - 1
    layout = store.layout(16)
    read = [layout.read(edges[i], edges[i + 1]) / (edges[i + 1] - edges[i]) for i in range(2)]
    tokens = [(source[:12] == i).sum() * read[i] for i in range(2)]
    assert abs(tokens[0] / sum(tokens) - 0.75) <= 1.5 / 12  # up to one and a half rows
    assert (source[12:] == 1).all()
    two = int(edges[2] - edges[1])  # the second source begins again when all its rows were read
    second = taken.row[source == 1].numpy()
    for epoch in range(len(second) // two):
        assert sorted(second[epoch * two : (epoch + 1) * two]) == list(range(edges[1], edges[2]))
    going_on = Rows(store, length=16, seed=1, blend=blend)
    going_on.load_state_dict({"row": 10})
    assert (going_on.take(22).row == taken.row[10:]).all()
    ranks = [Rows(store, length=16, seed=1, blend=blend, ranks=Rank(rank, 2)).take(32).row for rank in range(2)]
    assert [int(row) for pair in zip(*ranks, strict=True) for row in pair] == taken.row.tolist()
    assert whole.passes(32).tolist() == pytest.approx(
        [(source == i).sum() / (edges[i + 1] - edges[i]) for i in range(2)]
    )


def test_a_source_of_a_mixture_that_is_missing_or_empty_is_named(tokenizer, tmp_path):
    one, blank = write(tmp_path / "one.jsonl", TEXTS), write(tmp_path / "blank.jsonl", [" "])
    with pytest.raises(BadCorpus, match=r"none.jsonl: expected .*, got a path that does not exist"):
        build_stores(f"{one}:1,{tmp_path / 'none.jsonl'}:1", tokenizer, tmp_path / "a")
    with pytest.raises(BadCorpus, match=r"blank.jsonl: expected text, got only blank documents"):
        build_stores(f"{one}:1,{blank}:1", tokenizer, tmp_path / "b")
    kept = next(text for text in map(str, range(100)) if is_held_out(Document("", text=text), fraction=0.2))
    short = write(tmp_path / "short.jsonl", [kept])
    with pytest.raises(BadCorpus, match=r"short.jsonl: expected documents to train on, got none"):
        build_stores(f"{one}:1,{short}:1", tokenizer, tmp_path / "c", fraction=0.2)


def test_a_streamed_source_is_read_until_it_has_its_tokens(tokenizer, tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setattr(tokenised, "BLOCK_DOCUMENTS", 5)
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pipe("/far/a.jsonl", Path(write(tmp_path / "a.jsonl", TEXTS)).read_bytes())
    near = write(tmp_path / "near.jsonl", TEXTS[:20])
    store, _ = build_stores(
        f"memory://far/a.jsonl:1,{near}:1", tokenizer, tmp_path / "out", fraction=0.1, most=(150, 5)
    )
    far, here = store.manifest["sources"]
    whole, _ = build_stores(near, tokenizer, tmp_path / "whole", fraction=0.1)
    assert here["documents"] == whole.documents  # a file that is here is read to its end
    assert 150 <= far["tokens"] < store.tokens
    assert far["documents"] < 20  # blocks of five documents
    assert store.manifest["made_from"]["draws"][0]["most"] == 150
    system.store.clear()


def test_a_blend_says_how_many_tokens_each_source_gives():
    blend = Blend((0, 12, 16), ((0.75, 0.25), (0.0, 1.0), (0.5, 0.5)))
    assert blend.tokens(20, length=10) == (12 * 7.5 + 4 * 5, 12 * 2.5 + 4 * 10 + 4 * 5)
    assert blend.tokens(13, length=10) == (90, 40)


def test_a_source_with_a_weight_has_another_store_than_without(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n')
    (alone,), (weighted,) = (sides(source, None, 0.0) for source in (str(file), f"{file}:1"))
    assert alone.facts([]) != weighted.facts([])
