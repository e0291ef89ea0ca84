"""`limbeck plan --bytes`, and --bytes of shrink and distil: the shapes that fit a file, counted one by one here."""

import itertools
import json
from dataclasses import asdict, replace

import pytest
from torch import nn
from transformers import LlamaConfig

from limbeck.api import plan
from limbeck.config import DistilSettings, ShrinkSettings
from limbeck.errors import BadSetting, BadShape
from limbeck.jobs.common.folder import signature_of
from limbeck.jobs.pair.student import possible_shapes, target_shape
from limbeck.jobs.plan import timed
from limbeck.jobs.plan.search import search
from limbeck.models.anatomy import Anatomy
from limbeck.models.weight_bytes import bytes_of
from limbeck.planning.cost.size import Size
from limbeck.students.shape import BODY, Budget, Shape, anatomy_of, balanced, balanced_within, check, common_ratio
from limbeck.teachers.ref import teacher_ref
from tests.helpers.zoo import CONFIGS, animal

CONFIG = LlamaConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    architectures=["LlamaForCausalLM"],
)
ANATOMY = Anatomy.of(CONFIG)
MOST = 60_000
LENGTH = 32


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    CONFIG.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def every() -> list[Shape]:
    """Every shape that may be cut: steps of 8, equal parts of each group of heads, and a width that heads divide (Llama)."""
    full = Shape.of_anatomy(ANATOMY)
    axes = itertools.product(
        range(1, full.layers + 1),
        range(8, full.hidden + 1, 8),
        range(1, full.kv_heads + 1),
        range(1, full.heads // full.kv_heads + 1),
        range(8, full.ffn + 1, 8),
    )
    shapes = [Shape(layers, hidden, kv * queries, kv, ffn) for layers, hidden, kv, queries, ffn in axes]
    found = [shape for shape in shapes if shape.hidden % shape.heads == 0]
    check(CONFIG, found[0])
    check(CONFIG, found[-1])
    return found


@pytest.mark.parametrize("kind", ["float32", "q8_0", "q4_0"])
def test_every_legal_shape_is_counted_and_the_extremes_are_those_of_all(kind, every):
    most = MOST * {"float32": 4, "q8_0": 1, "q4_0": 0.6}[kind]
    budget = Budget(int(most), kind)
    found = search([ANATOMY], budget, LENGTH)
    counted = {shape: bytes_of(anatomy_of(shape, ANATOMY), kind) for shape in every}
    assert (found.legal, found.within) == (len(every), sum(size <= budget.most for size in counted.values()))
    balanced_one = balanced_within(ANATOMY, budget)
    assert found.chosen[0].shape == balanced_one
    assert "balanced" in found.chosen[0].names

    rows_whole = kind != "float32" and all(
        row % 32 == 0 for row in (balanced_one.hidden, balanced_one.heads * 16, balanced_one.ffn)
    )
    near = {
        shape: Size.of_anatomy(anatomy_of(shape, ANATOMY))
        for shape, size in counted.items()
        if min(0.95 * budget.most, counted[balanced_one]) <= size <= budget.most
        and is_near(shape, common_ratio(ANATOMY, budget))
        and not (rows_whole and any(row % 32 for row in (shape.hidden, shape.heads * 16, shape.ffn)))
    }
    best = {
        "widest": max(shape.hidden for shape in near),
        "deepest": max(shape.layers for shape in near),
        "fewest FLOPs": min(size.forward_flops(LENGTH) for size in near.values()),
        "most FLOPs": max(size.forward_flops(LENGTH) for size in near.values()),
        "smallest KV cache": min(size.state_bytes(LENGTH, 2) for size in near.values()),
    }
    of = {name: one for one in found.chosen for name in one.names}
    assert {
        "widest": of["widest"].shape.hidden,
        "deepest": of["deepest"].shape.layers,
        "fewest FLOPs": of["fewest FLOPs"].flops,
        "most FLOPs": of["most FLOPs"].flops,
        "smallest KV cache": of["smallest KV cache"].kv_bytes,
    } == best
    for one in (*found.chosen, *found.front):
        size = Size.of_anatomy(anatomy_of(one.shape, ANATOMY))
        assert (one.bytes, one.parameters) == (counted[one.shape], size.parameters)
        assert one.bytes <= budget.most


def is_near(shape: Shape, ratio: float) -> bool:
    full = asdict(Shape.of_anatomy(ANATOMY))
    return all(
        0.5 <= length / (ratio * full[axis]) <= 2 for axis, length in asdict(shape).items() if axis != "kv_heads"
    )


def test_of_no_shape_on_the_front_another_there_is_better_in_all():
    front = search([ANATOMY], Budget(4 * MOST, "float32"), LENGTH).front
    costs = [(one.flops, one.kv_bytes, -Size.of_anatomy(anatomy_of(one.shape, ANATOMY)).body) for one in front]
    assert len(costs) > 3
    for one, other in itertools.permutations(costs, 2):
        assert any(a < b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_bytes_of_a_folder_are_a_number_of_parameters(name):
    anatomy = Anatomy.of(CONFIGS[name])
    budget = int(0.6 * Size.of_anatomy(anatomy).parameters)
    same = balanced(anatomy, parameters=budget)
    assert balanced_within(anatomy, Budget(2 * budget, "bfloat16")) == same
    assert balanced_within(anatomy, Budget(4 * budget + 3, "float32")) == same


def test_where_steps_are_too_coarse_the_extremes_are_of_all_shapes():
    """Of the smallest student no axis is near the common ratio; it alone is within so few bytes."""
    smallest = bytes_of(anatomy_of(Shape(1, 8, 1, 1, 8), ANATOMY), "q8_0")
    found = search([ANATOMY], Budget(smallest + 100, "q8_0"), LENGTH)
    assert found.within == 1
    assert [one.shape for one in (*found.chosen, *found.front)] == [Shape(1, 8, 1, 1, 8)] * 2
    assert len(found.chosen[0].names) == 6


def test_bytes_of_q8_0_hold_more_parameters_in_whole_blocks():
    shape = balanced_within(ANATOMY, Budget(MOST, "q8_0"))
    assert [row % 32 for row in (shape.hidden, shape.heads * 16, shape.ffn)] == [0, 0, 0]
    assert Size.of_anatomy(anatomy_of(shape, ANATOMY)).parameters > balanced(ANATOMY, parameters=MOST // 2).hidden


def test_a_plan_shows_the_shapes_and_plans_the_balanced_one(teacher):
    found = plan(teacher=teacher, bytes=f"{MOST}:q8_0", tokens="1M", seq_len=LENGTH)
    rows = found.shapes["rows"]
    assert rows[0]["shape"] == found.student["shape"] == str(balanced_within(ANATOMY, Budget(MOST, "q8_0")))
    assert rows[0]["parameters"] == found.student["parameters"]
    assert {name for row in rows for name in row["names"]} == {
        *("balanced", "widest", "deepest", "fewest FLOPs", "most FLOPs", "smallest KV cache")
    }
    assert found.shapes["format"] == "q8_0"
    assert plan(teacher=teacher, bytes=2 * MOST, tokens="1M").shapes["format"] == "float32"
    json.dumps(found.to_dict())


def test_several_vocabularies_are_compared_at_equal_bytes(teacher):
    found = plan(teacher=teacher, bytes=f"{MOST}:q8_0", vocab="32,64", tokens="1M", seq_len=LENGTH)
    rows = found.shapes["rows"]
    assert [row["vocab"] for row in rows if "balanced" in row["names"]] == [64, 32]
    assert found.student["vocabulary"]["tokens"] == 64
    assert all(row["bytes"] <= MOST for row in rows)
    largest = bytes_of(replace(ANATOMY, sizes=replace(ANATOMY.sizes, vocab=8)), "q8_0")
    found = plan(teacher=teacher, bytes=f"{largest + 1}:q8_0", vocab="8,64", tokens="1M", seq_len=LENGTH)
    (skipped,) = found.shapes["skipped"]
    assert skipped.startswith(f"no student with 8 tokens: the budget of {largest + 1:,} bytes in q8_0 is more than")


def test_time_is_measured_here_without_a_device_and_what_is_over_is_marked(teacher, monkeypatch):
    seconds = itertools.chain([0.004], itertools.repeat(0.002))
    monkeypatch.setattr(timed, "token_seconds", lambda model: next(seconds))
    found = plan(teacher=teacher, bytes=f"{MOST}:q8_0", latency="3ms", tokens="1M", seq_len=LENGTH)
    rows = found.shapes["rows"]
    assert [row["over"] for row in rows] == [True, *([False] * (len(rows) - 1))]
    assert found.student["shape"] == rows[1]["shape"]
    assert "PyTorch, float32" in found.shapes["seconds_of"]
    with pytest.raises(
        BadShape, match=r"none of \d shapes keeps to 1 ms a token on this machine; nearest are layers=.* and "
    ):
        plan(teacher=teacher, bytes=f"{MOST}:q8_0", latency="1ms", tokens="1M", seq_len=LENGTH)


def test_a_token_is_timed_on_a_model_of_random_weights(teacher):
    found = plan(teacher=teacher, bytes=f"{MOST}:q4_0", latency="10s", vocab=48, tokens="1M", seq_len=LENGTH)
    assert all(0 < row["seconds"] < 10 for row in found.shapes["rows"])


def test_a_device_times_by_its_bandwidth(teacher):
    found = plan(teacher=teacher, bytes=f"{MOST}:q8_0", gpu="L4", tokens="1M", seq_len=LENGTH)
    size = Size.of_anatomy(anatomy_of(balanced_within(ANATOMY, Budget(MOST, "q8_0")), ANATOMY))
    row, state = found.shapes["rows"][0], size.state_bytes(LENGTH, 2)
    assert size.multiplied == pytest.approx(size.parameters, rel=0.02)  # tied: a token reads all weights but the norms
    assert row["seconds"] == pytest.approx((row["bytes"] + state) / (0.6 * 0.3e12), rel=0.02)
    assert row["seconds"] < 0.7 * size.bytes_read(LENGTH, 2) / (0.6 * 0.3e12)  # of bfloat16
    assert "weights in q8_0, keys and values in bfloat16" in found.shapes["seconds_of"]
    assert found.device["format"] == "q8_0"
    assert found.device["student_bytes"] == row["bytes"] + state
    assert any("with weights in q8_0, keys and values in bfloat16" in one for one in found.assumptions)


def test_memory_of_a_device_holds_the_student_in_its_own_format(teacher):
    """A memory that holds the q8_0 student with its state, and not the same one in bfloat16."""
    about = {"teacher": teacher, "bytes": f"{MOST}:q8_0", "tokens": "1M", "seq_len": LENGTH}
    need = plan(**about, gpu="L4").device["student_bytes"]
    found = plan(**about, gpu="L4", device_memory=need)
    assert not found.shapes["rows"][0]["over"]
    assert found.device["student_bytes"] == need


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"bytes": "1kB:q8_0"}, ("1,000 bytes in q8_0", "smallest student of this teacher has", "layers=1")),
        ({"bytes": "1GB"}, ("1,000,000,000 bytes in float32", "more than the teacher's")),
        ({"bytes": "50kB", "params": "10k"}, ("--params 10,000", "--bytes 50000", "give one of them")),
        ({"bytes": "50kB", "vocab": "1k"}, ("--vocab 1000", "96 tokens")),
        ({"bytes": "50kB:q9"}, ("unknown number format 'q9'", "q8_0")),
        ({"bytes": "0"}, ("at least 1 byte",)),
        ({"body_params": "10k", "params": "10k"}, ("--params 10,000", "--body-params 10,000", "give one of them")),
        ({"body_params": "1B"}, ("1,000,000,000 parameters without embeddings", "more than the teacher's")),
        ({"body_params": "10"}, ("10 parameters without embeddings", "smallest student of this teacher has")),
        ({"body_params": "10k", "device_memory": "10kB"}, ("--body-params 10,000", "contradict each other")),
        ({"params": "10k", "vocab": "32,64"}, ("--vocab 64,32", "--bytes")),
        ({"latency": "3ms"}, ("--latency", "--gpu", "--bytes")),
        ({"bytes": "50kB", "latency": "0.05us", "gpu": "L4", "seq_len": 64}, ("none of", "nearest are")),
    ],
)
def test_bytes_that_cannot_be_had_are_one_message(teacher, asked, words):
    with pytest.raises((BadSetting, BadShape)) as error:
        plan(teacher=teacher, tokens="1M", **asked)
    for word in words:
        assert word in str(error.value)


def test_candidates_have_no_bytes():
    with pytest.raises(BadSetting, match="needs a configuration to count from: give one --teacher"):
        plan(candidates="4B", tokens="1B", params=None, bytes="1GB")


def test_students_of_shrink_and_distil_are_the_balanced_one_in_their_files_format(teacher):
    ref = teacher_ref(teacher)
    whole = balanced_within(ANATOMY, Budget(MOST, "q8_0"))
    assert target_shape(ShrinkSettings(teacher=teacher, weight_bytes=f"{MOST}:q8_0"), ref) == whole
    half = DistilSettings(teacher=teacher, weight_bytes=MOST, student_dtype="float16")
    assert possible_shapes(half, ref) == (balanced(ANATOMY, parameters=MOST // 2),)
    assert target_shape(DistilSettings(teacher=teacher, weight_bytes=MOST), ref) == balanced(
        ANATOMY, parameters=MOST // 4
    )
    trained = target_shape(DistilSettings(teacher=teacher, weight_bytes=MOST, qat="int8"), ref)
    assert bytes_of(anatomy_of(trained, ANATOMY), "q8_0") <= MOST
    with pytest.raises(BadSetting, match="--shrink and --bytes both define the student"):
        target_shape(DistilSettings(teacher=teacher, weight_bytes=MOST, shrink=2), ref)
    with pytest.raises(BadSetting, match="--bytes counts the weights of a pruned student"):
        target_shape(DistilSettings(teacher=teacher, weight_bytes=MOST, mixers="attention*1,gdn*1"), ref)


@pytest.mark.parametrize("family", ["llama", "llama-bias-untied", "gpt2", "gpt_neox", "gemma2"])
def test_a_budget_without_embeddings_counts_what_a_model_has_besides_them(family):
    model = animal(family)
    anatomy = Anatomy.of(model.config)
    embeddings = {
        id(part.weight): part.weight.numel() for part in model.model.modules() if isinstance(part, nn.Embedding)
    }
    head = model.model.get_output_embeddings().weight
    embeddings[id(head)] = head.numel()
    body = model.parameters_count - sum(embeddings.values())
    budget = Budget(body, BODY)
    assert budget.of(anatomy, Shape.of_anatomy(anatomy)) == body == Size.of_anatomy(anatomy).body
    half = balanced_within(anatomy, Budget(body // 2, BODY))
    assert 0.3 * body < Size.of_anatomy(anatomy_of(half, anatomy)).body <= body // 2


def test_parameters_without_embeddings_plan_and_make_the_same_student(teacher):
    ref, most = teacher_ref(teacher), 40_000
    shape = balanced_within(ANATOMY, Budget(most, BODY))
    assert target_shape(DistilSettings(teacher=teacher, body_params=most), ref) == shape
    assert target_shape(ShrinkSettings(teacher=teacher, body_params=most), ref) == shape
    found = plan(teacher=teacher, tokens="1M", body_params=most)
    assert found.student["shape"] == str(shape)
    with pytest.raises(BadSetting, match="--params and --body-params both define the student"):
        target_shape(DistilSettings(teacher=teacher, params=most, body_params=most), ref)
    with pytest.raises(BadSetting, match="--body-params counts the weights of a pruned student"):
        target_shape(DistilSettings(teacher=teacher, body_params=most, mixers="attention*1,gdn*1"), ref)


def test_runs_of_earlier_versions_have_the_same_signature():
    assert "body_params" not in signature_of(DistilSettings(), "distil")
    assert "weight_bytes" not in signature_of(DistilSettings(), "distil")
    assert signature_of(DistilSettings(weight_bytes="25MB:q8_0"), "distil")["weight_bytes"] == "25000000:q8_0"
