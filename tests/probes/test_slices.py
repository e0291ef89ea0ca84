"""Recall slices against counts by hand, and their share of the gap."""

import json
from importlib import import_module
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import limbeck.api
from limbeck.corpora import Document, Rows, build_stores, is_held_out
from limbeck.errors import BadCorpus
from limbeck.models.save import save
from limbeck.probes.slices import BINS, DISTANCES, EDGES, Bigrams, Slices, distances, measure_slices, slices
from limbeck.types import Batch, Outputs
from tests.helpers.models import WORDS, frozen, llama, write_corpus


def a_batch(tokens: list[list[int]], document: list[list[int]]) -> Batch:
    """Rows of tokens, the last of each a target alone, and the documents of the others."""
    rows, documents = torch.tensor(tokens), torch.tensor(document)
    weight = torch.ones(documents.shape)
    weight[:, :-1] = (documents[:, 1:] == documents[:, :-1]).float()
    position = torch.zeros_like(documents)
    for t in range(1, documents.shape[1]):
        position[:, t] = (position[:, t - 1] + 1) * (documents[:, t] == documents[:, t - 1])
    return Batch(rows[:, :-1], rows[:, 1:], weight, position, documents, torch.arange(len(rows)))


@given(st.lists(st.integers(0, 3), min_size=24, max_size=24), st.lists(st.booleans(), min_size=20, max_size=20))
def test_hits_are_those_found_one_by_one(tokens, opens):
    rows = [tokens[:12], tokens[12:]]
    document = np.cumsum([0, *opens[:10], 1, *opens[10:]]).reshape(2, 11).tolist()
    batch = a_batch(rows, document)
    back = distances(batch)
    found = back > 0
    for row in range(2):
        for t in range(11):
            pair = (rows[row][t], rows[row][t + 1])
            before = [
                s for s in range(t) if document[row][s] == document[row][t] and (rows[row][s], rows[row][s + 1]) == pair
            ]
            assert bool(found[row, t]) == bool(before)
            assert int(back[row, t]) == (t - before[-1] if before else 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, the stores of a text in which words repeat, and the bigrams that its rows hold."""
    folder = tmp_path_factory.mktemp("slices")
    model = frozen(llama(layers=1))
    train, held_out = build_stores(str(write_corpus(folder)), model, folder / "data", fraction=0.3)
    batches = list(Rows(held_out, length=32).in_order(2))
    return folder, model, train, held_out, batches, Bigrams.counted(train, batches, vocab=model.vocab)


def test_bigrams_are_counted_inside_documents(made, monkeypatch):
    _, model, train, _, batches, bigrams = made
    seen: dict[int, int] = {}
    for first, stop in pairwise(train.starts.tolist()):
        tokens = train.slice(first, stop).tolist()
        for a, b in pairwise(tokens):
            seen[a * model.vocab + b] = seen.get(a * model.vocab + b, 0) + 1
    assert bigrams.counts.sum() > 0
    assert bigrams.counts.tolist() == [seen.get(code, 0) for code in bigrams.codes.tolist()]
    monkeypatch.setattr(import_module("limbeck.probes.slices"), "_PIECE", 7)
    again = Bigrams.counted(train, batches, vocab=model.vocab)
    assert again.counts.tolist() == bigrams.counts.tolist()


def test_slices_add_up_to_the_dense_model(made, tmp_path):
    _, model, _, held_out, batches, bigrams = made
    found = measure_slices(model, batches, bigrams, documents=held_out.documents)
    nats, tokens = np.zeros(2), np.zeros(2)
    for batch in batches:
        log_q = model.model(input_ids=batch.tokens, position_ids=batch.position, use_cache=False).logits
        each = -log_q[..., : model.vocab].log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
        hit = distances(batch) > 0
        for side, part in enumerate((hit, ~hit)):
            nats[side] += float((each * batch.weight)[part].sum())
            tokens[side] += float(batch.weight[part].sum())
    assert tokens.min() > 0
    assert found.mean(hits=True) == pytest.approx(nats[0] / tokens[0], rel=1e-5)
    assert found.mean(hits=False) == pytest.approx(nats[1] / tokens[1], rel=1e-5)
    assert found.far_nats.sum() == pytest.approx(nats[0], rel=1e-5)
    assert found.far_tokens.sum(1).tolist() == found.tokens[:, :-1].sum(1).tolist()
    found.save(tmp_path / "a.safetensors")
    again = Slices.load(tmp_path / "a.safetensors")
    assert (again.nats == found.nats).all()
    assert (again.tokens == found.tokens).all()
    assert (again.far_nats == found.far_nats).all()
    Slices(found.tokens, found.nats).save(tmp_path / "before.safetensors")  # as earlier versions wrote it
    assert Slices.load(tmp_path / "before.safetensors").far_tokens is None


def test_a_hit_goes_into_the_bin_of_its_count():
    batch = a_batch([[1, 2, 1, 2]], [[0, 0, 0]])
    for count, name in ((0, "0"), (1, "1-10"), (10, "1-10"), (11, "11-100"), (1_000, "101-1000"), (1_001, "over 1000")):
        bigrams = Bigrams(np.array([12, 21]), np.array([count, 5]), vocab=10)
        assert bigrams.slices_of(batch, distances(batch) > 0).tolist() == [len(BINS), len(BINS), BINS.index(name)]
    assert len(BINS) == len(EDGES) + 1


PLAIN = SimpleNamespace(logits=lambda hidden: hidden)  # a head of hidden states that are logits already


def a_model_of(nats):
    """A model whose logits give the target of each flat position this loss, over two tokens."""

    def model(batch):
        p = torch.tensor(nats).neg().exp()
        right = torch.nn.functional.one_hot(batch.targets.reshape(-1), 2).bool()
        logits = torch.where(right, p[:, None], 1 - p[:, None]).log()
        return Outputs(logits.view(*batch.tokens.shape, 2), PLAIN, 2)

    model.name = "made up"
    return model


def test_slices_of_a_text_by_hand():
    # Pairs of 0 1 0 1 1 0 1: 01, 10, 01 again 2 back, 11, 10 again 3 back, 01 again 3 back.
    batch = a_batch([[0, 1, 0, 1, 1, 0, 1]], [[0] * 6])
    assert distances(batch).tolist() == [[0, 0, 2, 0, 3, 3]]
    bigrams = Bigrams(np.array([1, 2, 3]), np.array([0, 11, 5]), vocab=2)
    found = measure_slices(a_model_of([1.0, 2.0, 0.5, 3.0, 0.25, 0.75]), [batch], bigrams, documents=1)
    assert found.tokens.tolist() == [[2, 0, 1, 0, 0, 3]]
    np.testing.assert_allclose(found.nats, [[1.25, 0, 0.25, 0, 0, 6.0]], rtol=1e-6)
    assert found.far_tokens.tolist() == [[3, 0, 0, 0]]
    np.testing.assert_allclose(found.far_nats, [[1.5, 0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(("back", "place"), [(1, 0), (16, 0), (17, 1), (64, 1), (65, 2), (256, 2), (257, 3)])
def test_a_hit_goes_into_the_bin_of_its_distance(back, place):
    tokens = [0, 1, *range(2, back), 0, 1] if back > 1 else [0, 0, 0]
    batch = a_batch([tokens], [[0] * (len(tokens) - 1)])
    assert int(distances(batch)[0, -1]) == back
    model = lambda b: Outputs(torch.zeros(*b.tokens.shape, 300), PLAIN, 300)  # noqa: E731
    model.name = "made up"
    found = measure_slices(model, [batch], Bigrams(np.array([0]), np.array([0]), vocab=300), documents=1)
    assert found.far_tokens.tolist() == [[float(i == place) for i in range(len(DISTANCES))]]


def test_gaps_are_given_by_bin_and_by_distance():
    tokens = np.zeros((5, len(BINS) + 1))
    tokens[:, 1], tokens[:, 2], tokens[:, -1] = 2, 3, 10
    far = np.tile([4.0, 1.0, 0.0, 0.0], (5, 1))
    theirs = Slices(tokens, tokens, far, far)
    more = tokens * [1, 1.5, 2, 1, 1, 1]
    ours = Slices(tokens, more, far, far * [1.75, 2, 1, 1])
    found = {r.name: r.value for r in slices("model", [ours], against=[theirs])}
    assert found["gap_on_hits, seen 1-10"] == 0.5
    assert found["gap_on_hits, seen 11-100"] == 1.0
    assert found["gap_on_hits, 1-16 tokens back"] == 0.75
    assert found["gap_on_hits, 17-64 tokens back"] == 1.0
    assert found["recall_hits, 1-16 tokens back"] == 1.75
    assert found["gap_share_on_hits"] == 1.0
    assert not any("65-256" in name or "seen 0" in name for name in found)
    before = {r.name for r in slices("model", [ours], against=[Slices(tokens, tokens)])}
    assert "recall_hits, 1-16 tokens back" in before
    assert "gap_on_hits, 1-16 tokens back" not in before


def test_the_share_of_a_gap_is_that_of_its_sums_and_not_clipped():
    generator = np.random.default_rng(0)
    tokens = np.zeros((40, len(BINS) + 1))
    tokens[:, 1], tokens[:, -1] = 20, 80
    ours, theirs = Slices(tokens, 2 * tokens), Slices(tokens, 2 * tokens)
    more = generator.normal(10, 1, 40)
    ours.nats[:, 1] += more
    ours.nats[:, -1] -= 2  # better elsewhere
    found = {r.name: r for r in slices("model", [ours], against=[theirs])}
    assert found["gap_share_on_hits"].value == pytest.approx(more.sum() / (more.sum() - 80))
    assert 1 < found["gap_share_on_hits"].low < found["gap_share_on_hits"].value < found["gap_share_on_hits"].high
    assert found["share_of_hits"].value == pytest.approx(0.2)
    assert found["recall_hits, seen 1-10"].value == found["recall_hits"].value
    assert "recall_hits, seen 0" not in found  # there are none
    same = {r.name for r in slices("model", [ours], against=[ours])}
    assert "gap" in same
    assert "gap_share_on_hits" not in same


def test_the_probe_names_the_texts_of_its_counts_and_results(made, tmp_path, capsys):
    folder, model, _, _, _, _ = made
    save(model, tmp_path / "model")
    result = limbeck.api.probe(
        str(tmp_path / "model"),
        teacher=str(tmp_path / "model"),
        probe="slices",
        data=str(folder / "text.jsonl"),
        length=32,
        device="cpu",
        out=tmp_path / "out",
    )
    assert "training half" in result["counted_in"]
    assert "documents held out of" in result["measured_on"]["slices"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "readings.jsonl").read_text().splitlines()]
    assert {row["name"] for row in rows} == set(result["readings"]) > {"recall_hits", "elsewhere", "gap_on_hits"}
    assert result["readings"]["gap"]["value"] == 0
    assert "is not distinguishable from 0" in capsys.readouterr().err


def test_a_text_that_repeats_nothing_is_an_error(made, tmp_path):
    _, model, _, _, _, _ = made
    save(model, tmp_path / "model")
    lines = [json.dumps({"text": " ".join(WORDS[i % 20] for i in (n, n + 1, n + 3))}) for n in range(200)]
    (tmp_path / "short.jsonl").write_text("\n".join(lines))
    with pytest.raises(BadCorpus, match="none repeats a pair of tokens"):
        limbeck.api.probe(
            str(tmp_path / "model"), probe="slices", data=str(tmp_path / "short.jsonl"), length=16, device="cpu"
        )


@pytest.fixture(scope="module")
def in_a_run(made):
    """A model in the folder of a run that was trained on the text: the folder, and the names of what it held out."""
    folder, model, _, _, _, _ = made
    run = folder / "run"
    _, held_out = build_stores(str(folder / "text.jsonl"), model, run / "data", fraction=0.3)
    signature = {"job": "distil", "data": str(folder / "text.jsonl"), "eval_data": None}
    (run / "run.json").write_text(json.dumps({"signature": signature}))
    save(model, run / "student")
    return run, held_out


def probed(run, capsys, **keys):
    found = limbeck.api.probe(str(run / "student"), length=32, device="cpu", **keys)
    err = " ".join(capsys.readouterr().err.split())
    assert all(" ".join(texts_read.split()) in err for texts_read in found["measured_on"].values())
    return found["readings"], found["measured_on"]


def test_a_model_in_a_run_is_measured_on_what_the_run_held_out(made, in_a_run, tmp_path, capsys):
    folder, *_ = made
    run, held_out = in_a_run
    alone, texts_read = probed(run, capsys, probe="likelihood,slices")
    assert alone["held_out"]["n"] == held_out.documents
    assert texts_read["likelihood"] == texts_read["slices"]
    assert texts_read["likelihood"].startswith(f"held out: the {held_out.documents} documents of ")
    assert texts_read["likelihood"].endswith("kept from training")
    again, same = probed(run, capsys, data=str(folder / "text.jsonl"))
    assert same["likelihood"] == texts_read["likelihood"]
    assert again["held_out"] == alone["held_out"]
    texts = (folder / "text.jsonl").read_text().splitlines()
    (tmp_path / "copy.jsonl").write_text("\n".join([*reversed(texts), json.dumps({"text": "the cat sat on a dog"})]))
    copied, texts_read = probed(run, capsys, data=str(tmp_path / "copy.jsonl"))
    assert copied["held_out"]["n"] == held_out.documents + 1
    assert f"; {len(texts) - held_out.documents} it was trained on are left out" in texts_read["likelihood"]


@pytest.mark.long
def test_a_run_without_its_stores_is_split_again(made, in_a_run, tmp_path, capsys):
    folder, model, *_ = made
    save(model, tmp_path / "run" / "student")
    signature = json.loads((in_a_run[0] / "run.json").read_text())["signature"]
    (tmp_path / "run" / "run.json").write_text(json.dumps({"signature": signature}))
    texts = [json.loads(line)["text"] for line in (folder / "text.jsonl").read_text().splitlines()]
    expected = sum(is_held_out(Document("", text=text)) for text in texts)
    for keys in ({}, {"data": str(folder / "text.jsonl")}):
        found, texts_read = probed(tmp_path / "run", capsys, **keys)
        assert found["held_out"]["n"] == expected
        assert texts_read["likelihood"].startswith(f"held out: the {expected} document")
    signature["data"] = str(tmp_path / "gone.jsonl")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"signature": signature}))
    with pytest.raises(BadCorpus, match=r"this is the text of the run in .*name another to measure on with --data"):
        probed(tmp_path / "run", capsys)
    found = limbeck.api.probe(
        str(tmp_path / "run" / "student"), data=str(folder / "text.jsonl"), length=32, device="cpu"
    )
    assert found["readings"]["held_out"]["n"] == len(texts)
    assert "what it trained on may be among the documents" in " ".join(capsys.readouterr().err.split())


def test_training_text_alone_is_refused(made, in_a_run, tmp_path):
    folder, *_ = made
    run, held_out = in_a_run
    lines = (folder / "text.jsonl").read_text().splitlines()
    kept = held_out.digests()
    trained = [line for line in lines if Document("", text=json.loads(line)["text"]).digest() not in kept]
    (tmp_path / "trained.jsonl").write_text("\n".join(trained))
    with pytest.raises(BadCorpus, match=rf"not trained on, got none: all {len(trained)} were in the training text"):
        limbeck.api.probe(str(run / "student"), data=str(tmp_path / "trained.jsonl"), length=32, device="cpu")
