"""Mixtures of experts become dense decoders: exactly where that can be, and as students of their family."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig

from limbeck.errors import BadCorpus, BadModel, BadSetting
from limbeck.models.anatomy import Anatomy
from limbeck.models.build import build
from limbeck.models.experts import DENSE
from limbeck.models.language_model import LanguageModel
from limbeck.models.save import save
from limbeck.students.dense import EXPERTS, LINEAGE, lineage_of_experts, make_dense, routing_of
from limbeck.students.prune import prune
from limbeck.students.score import score
from limbeck.students.shape import Shape, parameters
from tests.helpers.zoo import packed, words

_BODY = {
    "vocab_size": 48,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_experts_per_tok": 2,
}
_QWEN = {"num_experts": 5, "moe_intermediate_size": 12, "intermediate_size": 24, "norm_topk_prob": True}
MIXTURES = {
    "mixtral": lambda **keys: MixtralConfig(**_BODY | {"num_local_experts": 5, "intermediate_size": 12} | keys),
    "qwen2_moe": lambda **keys: Qwen2MoeConfig(**_BODY | _QWEN | {"shared_expert_intermediate_size": 20} | keys),
    "qwen3_moe": lambda **keys: Qwen3MoeConfig(**_BODY | _QWEN | {"head_dim": 16} | keys),
}


def mixture(name: str, *, equal: bool = False, router: str = "random", **keys) -> LanguageModel:
    """A random mixture of experts. ``router``: "random", "zero" (all experts alike), or "third" (always the expert 2)."""
    torch.manual_seed(0)
    model = build(MIXTURES[name](**keys)).eval().requires_grad_(False)
    for layer in model.model.layers:
        block = layer.mlp
        torch.nn.init.normal_(block.gate.weight, std=0.3 * (router == "random"))
        if router == "third":
            block.gate.weight[2, 0] = 100.0
        if equal:
            for weight in (block.experts.gate_up_proj, block.experts.down_proj):
                weight.copy_(weight[:1].expand_as(weight))
        if equal and name == "qwen2_moe":
            block.shared_expert_gate.weight.zero_()  # half of the shared expert for every token
    if router == "third":
        model.model.embed_tokens.weight[:, 0] = 20.0  # so that this channel is positive everywhere
    return LanguageModel(model, words(), name)


def assert_same_logits(a: LanguageModel, b: LanguageModel) -> None:
    batch = packed(seed=3)
    torch.testing.assert_close(a(batch).logits(), b(batch).logits(), rtol=1e-4, atol=1e-4)


def experts_of(model: LanguageModel) -> dict[str, Any]:
    """What a model's lineage says of its experts."""
    return lineage_of_experts(model)[LINEAGE]


def test_every_mixture_has_a_test():
    assert set(MIXTURES) == set(DENSE)


@pytest.mark.parametrize("method", EXPERTS)
@pytest.mark.parametrize("name", MIXTURES)
def test_equal_experts_give_the_teachers_logits(name, method):
    teacher = mixture(name, equal=True)
    dense = make_dense(teacher, [packed()], method=method)
    assert dense.config.model_type == DENSE[name]
    assert_same_logits(dense, teacher)


@pytest.mark.parametrize("name", ["qwen2_moe", "qwen3_moe"])
def test_weights_that_do_not_add_up_to_one_stay_so(name):
    teacher = mixture(name, equal=True, router="zero", norm_topk_prob=False)
    assert_same_logits(make_dense(teacher, [packed()]), teacher)  # 2 of 5 equal experts: 0.4 of one


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("mixtral", {"sliding_window": 3}),
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
        ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 3}),
        ("qwen3_moe", {"attention_bias": True, "tie_word_embeddings": True}),
    ],
)
def test_windows_biases_and_ties_are_those_of_the_mixture(name, keys):
    teacher = mixture(name, equal=True, **keys)
    assert_same_logits(make_dense(teacher, [packed()]), teacher)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_the_only_expert_that_is_used_is_the_dense_ffn(name):
    teacher = mixture(name, router="third", num_experts_per_tok=1)
    dense = make_dense(teacher, [packed()])
    assert experts_of(dense)["layers"] == [[[2]], [[2]]]
    assert experts_of(dense)["routed"] == pytest.approx(1)
    assert_same_logits(dense, teacher)


@pytest.mark.parametrize("norm", [True, False])
def test_routing_is_the_mean_of_transformers_own_router(norm):
    teacher, batch = mixture("qwen2_moe", norm_topk_prob=norm), packed(rows=3)
    expected, gates = [], []
    for layer in teacher.model.model.layers:

        def router(module, inputs, output):
            _, values, chosen = output
            expected.append(torch.zeros(len(values), 5).scatter_(1, chosen, values))

        layer.mlp.gate.register_forward_hook(router)
        layer.mlp.shared_expert_gate.register_forward_hook(lambda _, __, gate: gates.append(gate.sigmoid()[:, 0]))
    routing = routing_of(teacher, [batch.rows(slice(0, 1)), batch.rows(slice(1, 3))])
    expected.clear()
    gates.clear()
    teacher(batch)
    share = batch.weight.flatten() / batch.weight.sum()
    torch.testing.assert_close(routing.weight.float(), torch.stack([share @ weights for weights in expected]))
    torch.testing.assert_close(routing.shared.float(), torch.stack([share @ gate for gate in gates]))


def test_merged_experts_are_means_by_routing_weight():
    teacher = mixture("qwen3_moe")
    routing, dense = routing_of(teacher, [packed()]), make_dense(teacher, [packed()], method="merged")
    for layer, groups in enumerate(experts_of(dense)["layers"]):
        assert sorted(expert for group in groups for expert in group) == [0, 1, 2, 3, 4]
        assert len(groups) == 2
        weight = routing.weight[layer].float()
        experts = teacher.model.model.layers[layer].mlp.experts
        for place, group in enumerate(groups):
            part = slice(12 * place, 12 * place + 12)
            shares = (weight[group] / weight[group].sum())[:, None, None]
            up = (shares * experts.gate_up_proj[group, 12:]).sum(0)
            down = weight[group].sum() * (shares * experts.down_proj[group]).sum(0)
            ours = dense.model.model.layers[layer].mlp
            torch.testing.assert_close(ours.up_proj.weight[part], up)
            torch.testing.assert_close(ours.down_proj.weight[:, part], down)
    assert experts_of(dense)["routed"] == pytest.approx(1)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_student_is_an_ordinary_model_of_the_dense_family(name, tmp_path):
    teacher = mixture(name)
    full = Shape.of(teacher.config)
    assert full.ffn == 2 * 12 + (20 if name == "qwen2_moe" else 0)
    dense = make_dense(teacher, [packed()])
    assert Shape.of(dense.config) == full
    assert Anatomy.of(dense.config) == Anatomy.of_students(teacher.config)
    shape = Shape(layers=1, hidden=24, heads=2, kv_heads=1, ffn=16)
    student = prune(dense, shape=shape, scores=score(dense, [packed()]))
    save(student, tmp_path / "student")
    plain, report = AutoModelForCausalLM.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert not any(report.values())
    assert plain.config.model_type == DENSE[name]
    assert sum(p.numel() for p in plain.parameters()) == parameters(teacher.config, shape)
    assert student.lineage is not None
    assert student.lineage["teacher"] == name
    assert experts_of(student)["experts"] == [2, 5]


def test_what_cannot_become_dense_is_refused_with_a_reason():
    teacher = mixture("qwen3_moe")
    with pytest.raises(BadSetting, match="one of chosen, merged; got 'mean'"):
        make_dense(teacher, [packed()], method="mean")
    empty = packed()
    empty.weight.zero_()
    with pytest.raises(BadCorpus, match="no row with a token of weight > 0"):
        make_dense(teacher, [empty])
    with pytest.raises(BadModel, match="layer 0 is dense with 40 FFN neurons, beside experts of 24"):
        Anatomy.of_students(MIXTURES["qwen3_moe"](mlp_only_layers=[0], intermediate_size=40))
    with pytest.raises(BadModel, match="without biases of queries and keys has no place among qwen2"):
        Anatomy.of_students(MIXTURES["qwen2_moe"](qkv_bias=False))
    assert_same_logits(
        make_dense(mixture_with_a_dense_layer := mixture_of_both(), [packed()]), mixture_with_a_dense_layer
    )


def mixture_of_both() -> LanguageModel:
    """A mixture whose first layer is dense, as wide as two experts."""
    torch.manual_seed(0)
    model = build(MIXTURES["qwen3_moe"](mlp_only_layers=[0])).eval().requires_grad_(False)
    experts = model.model.layers[1].mlp.experts
    for weight in (experts.gate_up_proj, experts.down_proj):
        weight.copy_(weight[:1].expand_as(weight))
    return LanguageModel(model, words(), "both")
