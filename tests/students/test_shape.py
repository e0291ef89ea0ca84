"""Budgets, shapes and the search between them."""

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, LlamaConfig

from limbeck.errors import BadShape
from limbeck.models.anatomy import Anatomy, resized
from limbeck.models.build import build
from limbeck.models.gguf import numbers
from limbeck.planning.cost.size import Size
from limbeck.students.shape import (
    BLOCK,
    Shape,
    anatomy_of,
    budget_of_shrink,
    check,
    choose,
    choose_unblocked,
    config_of,
    parameters,
    parse_shape,
    row_widths,
)
from tests.helpers.zoo import CONFIGS

LLAMA = CONFIGS["llama"]
SMALL = LlamaConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=172,
    num_hidden_layers=5,
    num_attention_heads=8,
    num_key_value_heads=4,
    tie_word_embeddings=True,
)
LARGE = LlamaConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
)


@given(st.sampled_from(sorted(CONFIGS)), st.floats(0.15, 1.0))
def test_a_chosen_shape_is_legal_within_budget_and_counted_exactly(name, part):
    config = CONFIGS[name]
    budget = int(part * parameters(config, Shape.of(config)))
    shape = choose(config, parameters=budget)
    check(config, shape)
    count = parameters(config, shape)
    assert 0.6 * budget <= count <= budget  # steps of 8 are coarse at a width of 32
    anatomy = Anatomy.of(config)
    sizes = replace(anatomy.sizes, **asdict(shape))
    model = build(resized(config, layers=list(range(shape.layers)), sizes=sizes))
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert Size.of(config_of(shape, config)) == Size.of_anatomy(anatomy_of(shape, anatomy))


@pytest.mark.parametrize("config", [SMALL, LARGE, GPT2Config()])
@pytest.mark.parametrize("part", [0.75, 0.4, 0.2])
def test_the_budget_is_filled_to_95_percent_and_the_axes_shrink_alike(config, part):
    teacher = Shape.of(config)
    budget = int(part * parameters(config, teacher))
    shape = choose(config, parameters=budget)
    assert 0.95 * budget <= parameters(config, shape) <= budget
    ratios = [getattr(shape, axis) / getattr(teacher, axis) for axis in ("layers", "hidden", "heads", "ffn")]
    assert max(ratios) / min(ratios) < 1.4


def test_seven_billion_to_three_is_about_three_quarters_of_every_axis():
    shape = choose(LARGE, parameters=3_000_000_000)
    for axis, full in asdict(Shape.of(LARGE)).items():
        assert 0.68 < getattr(shape, axis) / full < 0.82
    assert shape.hidden % 64 == 0
    assert shape.ffn % 64 == 0


def test_the_whole_budget_is_the_teacher_itself():
    assert choose(SMALL, parameters=parameters(SMALL, Shape.of(SMALL))) == Shape.of(SMALL)


@given(st.floats(0.1, 1.0), st.floats(0.1, 1.0))
def test_a_larger_budget_is_never_a_smaller_student_by_more_than_the_slack(a, b):
    small, large = sorted((a, b))
    full = parameters(SMALL, Shape.of(SMALL))
    counts = [parameters(SMALL, choose(SMALL, parameters=int(part * full))) for part in (small, large)]
    assert counts[0] * 0.95 <= counts[1]


def smollm2(vocab: int) -> LlamaConfig:
    """The configuration of SmolLM2-135M with another number of tokens."""
    return LlamaConfig(
        vocab_size=vocab,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )


@pytest.mark.parametrize("vocab", [10_000, 49_152])
@pytest.mark.parametrize("budget", range(30_000_000, 101_000_000, 14_000_000))
def test_rows_are_whole_blocks_where_that_costs_under_two_percent(vocab, budget):
    config = smollm2(vocab)
    shape, free = choose(config, parameters=budget), choose_unblocked(config, parameters=budget)
    assert parameters(config, free) - 0.02 * budget <= parameters(config, shape) <= budget
    rows = row_widths(anatomy_of(shape, Anatomy.of(config))).values()
    assert [width % (64 if width > 512 else 32) for width in rows] == [0, 0, 0]
    ratios = [getattr(shape, axis) / getattr(Shape.of(config), axis) for axis in ("layers", "hidden", "heads", "ffn")]
    assert max(ratios) / min(ratios) < 1.5


def test_a_width_of_312_becomes_320():
    config = smollm2(10_000)
    assert choose_unblocked(config, parameters=20_000_000) == Shape(16, 312, 4, 2, 832)
    assert choose(config, parameters=20_000_000) == Shape(16, 320, 4, 2, 832)


@pytest.mark.parametrize("part", [0.3, 0.55, 0.8])
def test_narrow_students_keep_the_finest_steps(part):
    budget = int(part * parameters(SMALL, Shape.of(SMALL)))
    assert choose(SMALL, parameters=budget) == choose_unblocked(SMALL, parameters=budget)


def test_blocks_that_cost_more_are_not_forced():
    """Of whole blocks, the next larger shape is above the budget and the next smaller over 2 % below."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=320,
        intermediate_size=200,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        tie_word_embeddings=True,
    )
    budget = int(0.97 * parameters(config, Shape.of(config)))
    shape = choose(config, parameters=budget)
    assert shape == choose_unblocked(config, parameters=budget) == Shape(1, 312, 4, 4, 192)
    assert parameters(config, Shape(1, 320, 4, 4, 192)) > budget
    assert parameters(config, Shape(1, 320, 4, 4, 160)) < parameters(config, shape) - 0.02 * budget


def test_a_block_is_that_of_the_files():
    assert BLOCK == numbers.BLOCK


def test_a_shape_is_parsed_and_the_teacher_fills_the_rest():
    assert parse_shape("layers=3, hidden=48,heads=6,kv_heads=3,ffn=128", SMALL) == Shape(3, 48, 6, 3, 128)
    assert parse_shape("layers=3", SMALL) == replace(Shape.of(SMALL), layers=3)
    assert parse_shape("hidden=16,heads=2", CONFIGS["gpt2"]) == Shape(4, 16, 2, 2, 128)
    shape = choose(SMALL, parameters=100_000)
    assert parse_shape(str(shape), SMALL) == shape


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer=4", r"got 'layer=4'; did you mean layers\?"),
        ("4 layers", "a shape is layers=N, hidden=N, heads=N, kv_heads=N, ffn=N; got '4 layers'"),
        ("layers=4,layers=3", "gives layers twice"),
        ("layers=four", "needs a whole number above 0 for layers, got 'four'"),
        ("layers=0", "needs a whole number above 0"),
        ("layers=9", "layers=9 cannot be pruned from the teacher's layers=5; give 1 to 5"),
        ("heads=6,kv_heads=4", "heads=6 do not fit kv_heads=4.*give heads one of 4, 8"),
        ("heads=8,kv_heads=2", "give heads one of 2, 4"),
        ("hidden=60", "hidden is a multiple of heads, got hidden=60 with heads=8; give hidden=56"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_with_the_remedy(text, message):
    with pytest.raises(BadShape, match=message):
        parse_shape(text, SMALL)


def test_width_follows_heads_where_the_architecture_ties_them():
    with pytest.raises(BadShape, match="hidden is heads x 8, got hidden=32 with heads=3; give hidden=24"):
        parse_shape("heads=3", CONFIGS["gpt2"])


def test_a_budget_above_the_teacher_or_below_every_student_is_refused():
    with pytest.raises(BadShape, match="budget of 6,000,000 parameters is more than the teacher's 260,032"):
        choose(SMALL, parameters=6_000_000)
    with pytest.raises(
        BadShape, match=r"less than the smallest student of this teacher has, 4,\d+ \(layers=1,hidden=8"
    ):
        choose(SMALL, parameters=4_000)


def test_the_smallest_student_can_be_chosen():
    smallest = Shape(1, 8, 1, 1, 8)
    assert choose(SMALL, parameters=parameters(SMALL, smallest)) == smallest


@pytest.mark.parametrize("factor", [1.0, 0.5, -2.0, float("nan"), float("inf")])
def test_a_shrink_factor_is_above_one(factor):
    with pytest.raises(
        BadShape, match="a shrink factor is how many times smaller the student is, so it must be above 1"
    ):
        budget_of_shrink(SMALL, factor)


def test_a_shrink_factor_divides_the_parameters():
    assert budget_of_shrink(SMALL, 2.5) == 260_032 / 2.5 // 1
