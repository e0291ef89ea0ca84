"""Growth: what keeps the logits keeps them in every architecture, copies come apart, mixtures lie on the diagonal."""

from dataclasses import replace

import pytest
import torch

from limbeck.errors import BadModel, BadShape, Mismatch
from limbeck.models.anatomy import Anatomy
from limbeck.models.build import build
from limbeck.models.language_model import LanguageModel
from limbeck.students.deepen import IDENTITY, INTERLEAVE, STACK, order
from limbeck.students.grow import PAD, WIDEN, Growth, grow, grow_mixture, growth
from limbeck.students.mixture import COPY, ZERO, check_pair, mixtures
from limbeck.students.pad import FAMILIES
from limbeck.students.shape import Shape
from tests.helpers.zoo import CONFIGS, animal, packed, words

EXACT = 2e-5  # of logits up to 6, in float32
# One of each kind of table, norm and fused matrix; the others are long.
KINDS = ("llama", "llama-bias-untied", "qwen3", "phi3", "gemma2", "gpt2", "gpt_neox", "olmo2", "granite", "stablelm")


def logits(model: LanguageModel) -> torch.Tensor:
    model.model.eval()
    with torch.no_grad():
        return model(packed()).logits()


def uneven(name: str) -> Shape:
    """Three times the channels, and other multiples of heads and neurons where an architecture allows them."""
    now, anatomy = Shape.of(CONFIGS[name]), Anatomy.of(CONFIGS[name])
    if anatomy.kind.square or anatomy.kind.divides or name.startswith("olmo"):
        return Shape(now.layers, 2 * now.hidden, 2 * now.heads, 2 * now.kv_heads, now.ffn + 7)
    return Shape(now.layers, 3 * now.hidden, 9, 3, now.ffn + 7)


@pytest.mark.parametrize(
    "name", [name if name in KINDS else pytest.param(name, marks=pytest.mark.long) for name in CONFIGS]
)
def test_a_wider_and_deeper_model_of_identities_has_the_small_ones_logits(name):
    small = animal(name)
    shape = replace(uneven(name), layers=6)
    grown = grow(small, Growth(INTERLEAVE, shape, IDENTITY))
    assert Shape.of(grown.config) == shape
    torch.testing.assert_close(logits(grown), logits(small), rtol=0, atol=EXACT)
    assert (grown.lineage or {})["grown"]["layers"] == [0, 0, 1, 2, 2, 3]
    assert all(parameter.requires_grad for parameter in grown.model.parameters())


def test_the_shares_of_copies_differ_so_that_their_gradients_do():
    """With one share for a whole column the gradients of copies differ by a factor, which Adam takes out."""
    small = animal("llama")
    grown = grow(small, growth(small.config, WIDEN, shape=None, new_layers=None, seed=0))
    grown(packed()).logits().logsumexp(-1).sum().backward()
    for part in ("mlp.up_proj", "self_attn.v_proj"):
        gradient = grown.model.get_submodule(f"model.layers.1.{part}").weight.grad
        assert gradient is not None
        first, second = gradient.chunk(2)
        assert torch.cosine_similarity(first, second, dim=1).median() < 0.95


@pytest.mark.parametrize(
    "name", ["llama-bias-untied", *(n if n == "llama" else pytest.param(n, marks=pytest.mark.long) for n in FAMILIES)]
)
def test_a_padded_model_has_the_small_ones_logits_and_trains_all_that_is_new(name):
    """Hidden channels grow by a quarter, of which norms know: their mean squares are over zeros too."""
    small = animal(name)
    grown = grow(small, growth(small.config, PAD, shape="hidden=40,heads=10,ffn=47,layers=5".replace(
        "heads=10", "heads=10" if name in ("llama", "llama-bias-untied") else "heads=6"), new_layers=None, seed=3))  # fmt: skip
    torch.testing.assert_close(logits(grown), logits(small), rtol=0, atol=EXACT)
    assert (grown.lineage or {})["grown"]["layers"] == [0, 0, 1, 2, 3]
    before = {name: parameter.detach().clone() for name, parameter in grown.model.named_parameters()}
    for _ in range(3):  # what writes moves first, then what it reads
        grown(packed()).logits().logsumexp(-1).sum().backward()
        for parameter in grown.model.parameters():
            assert parameter.grad is not None
            parameter.data -= 1e-2 * parameter.grad
    theirs = dict(small.model.named_parameters())
    for name, parameter in grown.model.named_parameters():
        new = torch.ones_like(parameter, dtype=torch.bool)
        if name in theirs:
            new[tuple(slice(length) for length in theirs[name].shape)] = False
        assert (parameter != before[name])[new].float().mean() > 0.3 or not new.any(), name  # embeddings of tokens


def test_stacked_copies_are_whole_layers_in_order():
    small = animal("gpt_neox")
    grown = grow(small, growth(small.config, STACK, shape="layers=8", new_layers=None, seed=0))
    ours, theirs = (model.model.state_dict() for model in (grown, small))
    for number in range(8):
        name = f"gpt_neox.layers.{number}.attention.dense.weight"
        assert torch.equal(ours[name], theirs[name.replace(f".{number}.", f".{number % 4}.")])
    identity = grow(small, growth(small.config, STACK, shape="layers=8", new_layers=IDENTITY, seed=0))
    assert torch.equal(logits(identity), logits(small))
    assert order(INTERLEAVE, 4, 7) == [0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("name", ["llama-bias-untied", "phi3", "gemma2", "gpt2", "gpt_neox"])
def test_two_equal_models_side_by_side_are_that_model(name):
    small = animal(name)
    wide = grow_mixture(small, small, off_diagonal=ZERO)
    torch.testing.assert_close(logits(wide), logits(small), rtol=0, atol=EXACT)


def test_a_mixture_has_both_on_its_diagonal_and_mixtures_beside():
    first, second = animal("llama"), animal("llama", seed=1)
    grown = grow_mixture(first, second, off_diagonal=COPY, scale=0.5)
    name = "model.layers.2.mlp.down_proj.weight"  # (hidden, ffn)
    wide, one, two = (model.model.state_dict()[name] for model in (grown, first, second))
    assert torch.equal(wide, torch.cat([torch.cat([one, one / 2], 1), torch.cat([two / 2, two], 1)]))
    assert torch.equal(
        grown.model.get_input_embeddings().weight,
        torch.cat([model.model.get_input_embeddings().weight for model in (first, second)], 1),
    )


def test_an_orthogonal_mixture_is_of_the_layers_and_orthogonal_to_its_own():
    matrices = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    for layer in range(3):
        new, own = mixtures(matrices, layer).flatten(), matrices[layer].flatten()
        assert abs(float(new @ own)) < 1e-4
        assert float(new.norm() / own.norm()) == pytest.approx(1, abs=1e-5)
        basis = torch.linalg.qr(matrices.flatten(1).T).Q
        torch.testing.assert_close(basis @ (basis.T @ new), new, rtol=0, atol=1e-5)
    same = torch.stack([matrices[0], 2 * matrices[0]])
    assert not mixtures(same, 1).any()  # nothing is orthogonal to the only template


@pytest.mark.parametrize(
    ("name", "op", "shape", "message"),
    [
        ("llama", WIDEN, "hidden=16", r"hidden=16 is less than the model's 32.*limbeck shrink"),
        ("llama", WIDEN, "hidden=80", r"hidden=80 is no multiple of the model's 32.*hidden=96"),
        ("llama", WIDEN, "heads=9,kv_heads=3", r"in llama models hidden is a multiple of heads.*give hidden=288"),
        ("mistral", WIDEN, "heads=7", r"heads=7 do not fit kv_heads=2.*heads=8"),
        ("mistral", PAD, "heads=6,kv_heads=2", r"heads=6 do not fit kv_heads=2.*kv_heads=3"),
        ("mistral", PAD, "hidden=31", "limbeck shrink"),
        ("mistral", WIDEN, "layers=8", r"widen adds no layers; give --op stack"),
        ("mistral", STACK, "layers=6", r"layers=6 is no multiple of the model's 4.*layers=8.*--op interleave"),
        ("mistral", STACK, "hidden=64", r"stack adds layers, and the shape"),
        ("mistral", WIDEN, "layers=4", "has that shape already"),
        ("gpt2", WIDEN, "hidden=64,heads=4", "hidden is heads x 8"),
        ("gpt2", WIDEN, "hidden=64,heads=8,kv_heads=4", "leave kv_heads out"),
        ("olmo2", WIDEN, "heads=6,kv_heads=3", "the same multiple of 4 and 2"),
    ],
)
def test_shapes_that_a_model_does_not_grow_to_are_refused(name, op, shape, message):
    with pytest.raises(BadShape, match=message):
        growth(CONFIGS[name], op, shape=shape, new_layers=None, seed=0)


def test_models_that_do_not_belong_side_by_side_are_refused():
    first = animal("mistral")
    config = type(first.config).from_dict(first.config.to_dict() | {"tie_word_embeddings": True})
    tied = LanguageModel(build(config), words(), "tied")
    with pytest.raises(Mismatch, match=r"differ in tie_word_embeddings \(False, True\)"):
        check_pair(first, tied, ZERO)
    with pytest.raises(Mismatch, match="two tokenizers"):
        check_pair(first, LanguageModel(first.model, words(39), "other"), ZERO)
    with pytest.raises(BadModel, match=r"a gpt2 model cannot be padded: limbeck pads granite, llama.* or --op widen"):
        growth(CONFIGS["gpt2"], PAD, shape=None, new_layers=None, seed=0)
    with pytest.raises(BadModel, match=r"one self_attn.k_norm.weight for all heads"):
        grow_mixture(animal("qwen3"), animal("qwen3", seed=1))
