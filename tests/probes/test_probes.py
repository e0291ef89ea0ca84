"""Probes: readings against float64 references, and the coverage of intervals."""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig, GPT2Config, LlamaConfig

from limbeck.corpora import Rows, TokenStore, build_stores, train_tokenizer
from limbeck.errors import BadCorpus, Mismatch
from limbeck.generation.greedy import generate_greedy
from limbeck.generation.local import decoded_completion, stop_tokens
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.probes import (
    Measurements,
    bootstrap,
    calibration,
    cost,
    difference_interval,
    fidelity,
    in_words,
    likelihood,
    mean_interval,
    measure,
    samples,
)
from limbeck.probes.interval import _t
from limbeck.probes.measurements import BINS
from limbeck.teachers.remembered import RememberedTeacher
from limbeck.types import Batch, Reading

TEXTS = [f"Tom the {animal} ran {how} to the {place}, and then it slept for {n} hours." * 3
         for n, (animal, how, place) in enumerate(
             (a, h, p) for a in ("cat", "dog", "hen") for h in ("fast", "home") for p in ("lake", "barn"))]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab=300)


def tiny(tokenizer, seed: int, *, padded: int = 0, tied: bool = False) -> LanguageModel:
    config = LlamaConfig(
        vocab_size=len(tokenizer) + padded,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    model = new_model(config, tokenizer, seed, name=f"tiny-{seed}")
    model.model.eval().requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def student(tokenizer) -> LanguageModel:
    return tiny(tokenizer, 1)


@pytest.fixture(scope="module")
def teacher(tokenizer) -> LanguageModel:
    return tiny(tokenizer, 2, padded=5)


@pytest.fixture(scope="module")
def store(tokenizer, tmp_path_factory) -> TokenStore:
    folder = tmp_path_factory.mktemp("store")
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return build_stores(str(source), tokenizer, folder / "stores", eval_source=str(source))[1]


@pytest.fixture(scope="module")
def batches(store: TokenStore) -> list[Batch]:
    return list(Rows(store, length=40).in_order(3))


def dense(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """log-probabilities in float64, straight from the Hugging Face model."""
    logits = model.model(input_ids=batch.tokens, position_ids=batch.position, use_cache=False).logits
    return logits[..., : model.vocab].double().log_softmax(-1)


def summed(batches: list[Batch], documents: int, per_position: Callable[[Batch], torch.Tensor]) -> np.ndarray:
    total = np.zeros(documents)
    for batch in batches:
        counts = (batch.weight > 0).reshape(-1)
        values = (per_position(batch) * batch.weight).reshape(-1)[counts]
        np.add.at(total, batch.document.reshape(-1)[counts].numpy(), values.numpy())
    return total


def nats(model: LanguageModel) -> Callable[[Batch], torch.Tensor]:
    return lambda batch: -dense(model, batch).gather(-1, batch.targets[..., None])[..., 0]


def test_sums_by_document_are_those_of_the_dense_models(student, teacher, store, batches):
    found = measure(student, teacher, batches, documents=store.documents)

    def p_q(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return dense(teacher, batch), dense(student, batch)

    def kl(batch: Batch, *, reverse: bool = False) -> torch.Tensor:
        a, b = reversed(p_q(batch)) if reverse else p_q(batch)
        return (a.exp() * (a - b)).sum(-1)

    expected = {
        "tokens": lambda batch: torch.ones_like(batch.weight),
        "nats": nats(student),
        "teacher_nats": nats(teacher),
        "kl": kl,
        "reverse_kl": lambda batch: kl(batch, reverse=True),
        "total_variation": lambda batch: 1 - torch.minimum(*(x.exp() for x in p_q(batch))).sum(-1),
        "agreement": lambda batch: (p_q(batch)[0].argmax(-1) == p_q(batch)[1].argmax(-1)).double(),
    }
    for name, per_position in expected.items():
        np.testing.assert_allclose(
            getattr(found, name), summed(batches, store.documents, per_position), rtol=1e-5, err_msg=name
        )


def test_weights_multiply_what_a_prediction_counts(student, store, batches):
    once = measure(student, None, batches, documents=store.documents)
    half = [replace(batch, weight=batch.weight / 2) for batch in batches]
    halved = measure(student, None, half, documents=store.documents)
    np.testing.assert_allclose(halved.nats, once.nats / 2, rtol=1e-6)
    np.testing.assert_allclose(halved.bins, once.bins / 2, rtol=1e-6)
    assert once.kl is None


def test_a_teacher_that_remembers_its_outputs_gives_the_same_sums(student, teacher, batches, store):
    remembered = RememberedTeacher(teacher)
    for model, other in ((teacher, remembered), (student, remembered)):
        expected = measure(model, teacher, batches, documents=store.documents)
        found = measure(model, other, batches, documents=store.documents)
        assert found.surprises == expected.surprises
        for name, value in vars(expected).items():
            assert np.array_equal(getattr(found, name), value), name


def test_chunks_change_nothing(student, teacher, store, batches, monkeypatch):
    whole = measure(student, teacher, batches, documents=store.documents)
    monkeypatch.setattr("limbeck.probes.measurements._CELLS", {"cpu": 1})
    chunked = measure(student, teacher, batches, documents=store.documents)
    np.testing.assert_allclose(chunked.kl, whole.kl, rtol=1e-6)
    np.testing.assert_allclose(chunked.bins, whole.bins, rtol=1e-6)
    assert [s.token for s in chunked.surprises] == [s.token for s in whole.surprises]


def test_a_model_is_at_no_distance_from_itself(teacher, store, batches):
    found = measure(teacher, teacher, batches, documents=store.documents)
    assert np.array_equal(found.kl, np.zeros(store.documents))
    readings = {reading.name: reading.value for reading in fidelity("student", [found])}
    assert readings == {"kl_teacher_student": 0, "kl_student_teacher": 0, "top1_agreement": 1, "acceptance": 1}
    assert found.surprises == ()


def test_measurements_survive_the_disk(student, teacher, store, batches, tmp_path):
    found = measure(student, teacher, batches, documents=store.documents)
    found.save(tmp_path / "sums.safetensors")
    again = Measurements.load(tmp_path / "sums.safetensors")
    for name in ("tokens", "nats", "bins", "kl", "agreement"):
        assert np.array_equal(getattr(again, name), getattr(found, name))
    assert again.surprises == found.surprises


def test_models_of_different_vocabularies_are_refused(student, batches):
    other = tiny(train_tokenizer(TEXTS, vocab=280), 3)
    with pytest.raises(
        Mismatch, match=r"tiny-3 has a vocabulary of \d+ tokens, tiny-1 one of \d+.*without --teacher.*bits per byte"
    ):
        measure(student, other, batches, documents=12)


def test_text_without_a_token_that_counts_is_refused(student, batches):
    nothing = replace(batches[0], weight=torch.zeros_like(batches[0].weight))
    with pytest.raises(BadCorpus, match=r"no token of weight > 0, so tiny-1 cannot be measured: .*--eval-data"):
        measure(student, None, [nothing], documents=12)


def test_largest_kl_values_are_the_largest_and_at_their_stated_positions(student, teacher, store, batches, tokenizer):
    found = measure(student, teacher, batches, documents=store.documents)
    kls = torch.cat(
        [(dense(teacher, b).exp() * (dense(teacher, b) - dense(student, b))).sum(-1)[b.weight > 0] for b in batches]
    )
    expected = kls.sort(descending=True).values[: len(found.surprises)].tolist()
    assert [s.kl for s in found.surprises] == pytest.approx(expected, rel=1e-5)
    for surprise in found.surprises:
        begin, end = store.starts[surprise.document], store.starts[surprise.document + 1]
        text = store.slice(int(begin), int(end)).tolist()
        window = [*surprise.before, surprise.token, *surprise.after]
        assert any(text[i : i + len(window)] == window for i in range(len(text))), (
            "its context is a piece of its document"
        )
        assert sum(p for _, p in surprise.teacher_top) <= 1 + 1e-6
    words = in_words(found.surprises[:3], tokenizer, store.name_of)
    assert words[0]["document"] == store.name_of(found.surprises[0].document)
    joined = words[0]["before"] + words[0]["token"] + words[0]["after"]
    window = found.surprises[0]
    assert joined == tokenizer.decode([*window.before, window.token, *window.after])
    assert len(words[0]["teacher_top"]) == 5


@given(
    st.integers(3, 30),
    st.integers(1, 3),
    st.integers(0, 10**6),
)
def test_an_interval_holds_its_value_and_ignores_unread_documents(documents, seeds, seed):
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 50, documents).astype(float)
    runs = np.stack([np.stack([counts * generator.normal(2, 1, documents), counts], -1) for _ in range(seeds)])

    def ratio(total: np.ndarray) -> np.ndarray:
        return total[..., :1] / total[..., 1:]

    (found,) = bootstrap(ratio, runs)
    assert found.low <= found.value <= found.high
    assert found.n == documents
    assert found.value == pytest.approx(np.mean([run[:, 0].sum() / run[:, 1].sum() for run in runs]))
    unread = np.concatenate([runs, np.zeros((seeds, 4, 2))], axis=1)
    assert bootstrap(ratio, unread) == [found]


@pytest.mark.parametrize("documents", [1, 2])
def test_one_or_two_documents_give_no_interval(documents):
    found = mean_interval(np.array([30.0, 60.0])[:documents], np.array([10.0, 20.0])[:documents])
    assert (found.value, found.n) == (3.0, documents)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.excludes_zero
    row = Reading("student", "likelihood", "held_out", found.value, "nats/token", 1, found.low, found.high).row()
    assert (row["value"], row["low"], row["high"]) == (3.0, None, None)


def test_a_difference_of_equal_models_is_nothing_and_certain():
    sums = np.random.default_rng(0).normal(100, 10, (1, 40))
    found = difference_interval(sums, sums, np.full(40, 30.0))
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_pairing_by_document_sees_what_two_means_cannot():
    generator = np.random.default_rng(0)
    counts = np.full(100, 50.0)
    a = counts * generator.normal(2, 0.5, 100)
    b = a - counts * generator.normal(0.02, 0.01, 100)
    found = difference_interval(a[None], b[None], counts)
    assert found.low > 0
    assert found.half < mean_interval(a, counts).half / 10


@pytest.mark.parametrize(("documents", "seeds", "training_noise"), [(8, 1, 0.0), (25, 3, 0.15), (25, 2, 0.15)])
def test_intervals_of_probes_have_their_stated_coverage(documents, seeds, training_noise):
    generator = np.random.default_rng(1)
    covered, trials = 0, 100
    for _ in range(trials):
        counts = generator.integers(20, 60, documents).astype(float)
        of_document, of_seed = generator.normal(0, 0.3, documents), generator.normal(0, training_noise, seeds)
        sums = counts * (2 + of_document[None] + of_seed[:, None])
        found = difference_interval(sums, np.zeros_like(sums), counts)
        covered += found.low <= 2 <= found.high
    # 95 % less three standard errors of so few trials, and what percentiles of a ratio miss
    assert covered / trials > 0.88


def test_students_t_is_right_beyond_its_table():
    for freedom, quantile in ((1, 12.706), (10, 2.228), (11, 2.201), (20, 2.086), (60, 2.000), (1000, 1.962)):
        assert _t(freedom) == pytest.approx(quantile, abs=0.003)


def plain(nats_by_document: list[float], tokens: list[float]) -> Measurements:
    return Measurements(np.array(tokens), np.array(nats_by_document), np.zeros((len(tokens), BINS, 3)))


def test_likelihood_in_nats_bits_and_perplexity():
    found = {
        r.name: r for r in likelihood("student", [plain([20, 40, 0], [10, 10, 0])], text_bytes=np.array([30, 20, 1000]))
    }
    assert found["held_out"].value == 3.0
    assert found["held_out"].n == 2
    assert found["bits_per_byte"].value == pytest.approx(60 / math.log(2) / 50), (
        "bytes of unread documents do not count"
    )
    assert found["perplexity"].value == pytest.approx(math.exp(3))
    assert found["held_out"].unit == "nats/token"
    assert {r.name for r in likelihood("student", [plain([20], [10])])} == {"held_out", "perplexity"}


def test_several_seeds_are_averaged_and_widen_the_interval():
    runs = [plain([20 + s, 40 + s, 30 + s], [10, 10, 10]) for s in (0, 6, -3)]
    one, all_ = likelihood("student", runs[:1], seed=4)[0], likelihood("student", runs)[0]
    assert (one.seed, all_.seed) == (4, None)
    assert all_.value == pytest.approx(3.1)
    assert all_.high - all_.low > one.high - one.low


def test_calibration_error_of_a_model_as_right_as_it_is_sure_is_small_and_of_a_boaster_large():
    generator = np.random.default_rng(0)
    honest, boaster = np.zeros((60, BINS, 3)), np.zeros((60, BINS, 3))
    for document in range(60):
        confidence = generator.random(200)
        right = generator.random(200) < confidence
        at = (confidence * BINS).astype(int)
        np.add.at(honest[document], at, np.stack([np.ones(200), confidence, right], -1))
        boaster[document, BINS - 1] = [200, 200 * 0.99, 200 * 0.6]
    tokens = np.full(60, 200.0)
    sure, wrong = (calibration("student", [Measurements(tokens, tokens, bins)])[0] for bins in (honest, boaster))
    assert sure.value < 0.02
    assert 0 <= sure.low <= sure.value <= sure.high
    assert wrong.value == pytest.approx(0.39)
    accuracy = calibration("student", [Measurements(tokens, tokens, boaster)])[1]
    assert accuracy.value == pytest.approx(0.6)


def test_calibration_bins_are_those_of_the_dense_model(student, store, batches):
    found = measure(student, None, batches, documents=store.documents).bins.sum(0)
    expected = np.zeros((BINS, 3))
    for batch in batches:
        counts = batch.weight > 0
        top, guess = dense(student, batch)[counts].max(-1)
        confidence = top.exp().numpy()
        right = (guess == batch.targets[counts]).numpy()
        np.add.at(expected, (confidence * BINS).astype(int), np.stack([np.ones(len(right)), confidence, right], -1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("config", [LlamaConfig, GPT2Config])
def test_continuations_are_greedy_generation(config, tokenizer):
    sizes = {"vocab_size": len(tokenizer), "initializer_range": 0.3, "max_position_embeddings": 64}
    if config is LlamaConfig:
        sizes |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    else:
        sizes |= {"n_embd": 32, "n_layer": 2, "n_head": 4}
    model = new_model(config(**sizes), tokenizer, 0)
    model.model.eval()
    prompt = [5, 9, 40, 7]
    writer = generate_greedy(model, prompt)
    ours = [next(writer) for _ in range(20)]
    plan = GenerationConfig(max_new_tokens=20, min_new_tokens=20, do_sample=False, pad_token_id=0)
    tokens = torch.tensor([prompt])
    theirs = model.model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=plan)
    assert ours == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("tied", [True, False])
def test_cost_counts_and_measures(tokenizer, tmp_path, tied):
    model = tiny(tokenizer, 5, tied=tied)
    save(model, tmp_path / "model")
    found = {reading.name: reading for reading in cost("student", model, folder=tmp_path / "model")}
    table = len(tokenizer) * 32
    assert found["embedding_parameters"].value == (table if tied else 2 * table)
    assert found["parameters"].value == model.parameters_count
    assert found["weights_on_disk"].value == (tmp_path / "model" / "model.safetensors").stat().st_size
    for name in ("prefill", "decode"):
        assert 0 < found[name].low <= found[name].value <= found[name].high
        assert found[name].unit == "tokens/s"
    if "peak_memory" in found:  # only where the system tells
        assert found["peak_memory"].value >= 4 * model.parameters_count


@pytest.mark.parametrize(("seconds", "repeats"), [(0.001, 5), (0.009, 4), (0.1, 3), (3.0, 1)])
def test_a_slow_model_is_timed_less_often(monkeypatch, teacher, seconds, repeats):
    """By a clock that goes on by so many seconds a token, 8 a repeat: until 0.3 s, three times if that takes under 20 s."""
    module = import_module("limbeck.probes.cost")
    now = [0.0]

    def generated(model, prompt):
        while True:
            now[0] += seconds
            yield 0

    monkeypatch.setattr(module, "REPEATS", 5)
    monkeypatch.setattr(module, "generate_greedy", generated)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = {reading.name: reading for reading in cost("teacher", teacher)}
    assert found["decode"].n == found["prefill"].n == repeats
    assert found["decode"].value == pytest.approx(1 / seconds)


def test_samples_continue_the_same_beginnings(student, teacher, store, tokenizer):
    new = import_module("limbeck.probes.samples").NEW
    rows = samples(student, teacher, store, count=2)
    assert len(rows) == 2
    for row in rows:
        document = next(i for i in range(store.documents) if store.name_of(i) == row["document"])
        text = tokenizer.decode(
            store.slice(int(store.starts[document]), int(store.starts[document + 1])).tolist(), skip_special_tokens=True
        )
        assert (row["prompt"] + row["text"]) == text[: len(row["prompt"] + row["text"])]
        assert row["student"] != row["teacher"]
        prompt = store.slice(int(store.starts[document]), int(store.starts[document]) + 32).tolist()
        tokens = itertools.islice(generate_greedy(student, prompt), new)  # one document by itself
        until = list(itertools.takewhile(lambda token: token not in stop_tokens(student), tokens))
        assert row["student"] == decoded_completion(tokenizer, prompt, until)
    assert "teacher" not in samples(student, None, store, count=1)[0]


def test_no_samples_from_a_context_too_short(tokenizer, store):
    model = tiny(tokenizer, 1)
    model.model.config.max_position_embeddings = 33
    assert samples(model, None, store) == []


def test_real_models_read_stories_as_well_as_published(stories_llama: Path, test_data: Path, tmp_path):
    teacher = load(stories_llama)
    lines = (test_data / "text/tinystories/train_v2.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    (tmp_path / "stories.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = str(tmp_path / "stories.jsonl")
    held_out = build_stores(source, teacher, tmp_path / "stores", eval_source=source)[1]
    found = measure(teacher, None, Rows(held_out, length=384).in_order(4), documents=held_out.documents)
    reading = likelihood("teacher", [found])[0]
    assert reading.low < 1.297 < reading.high, "the loss its author published lies in the interval"
    assert calibration("teacher", [found])[0].value < 0.1
