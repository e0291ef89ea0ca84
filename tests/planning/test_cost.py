"""The cost estimate against models that were built, run and counted."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig, Qwen3Config

from limbeck.models.build import build
from limbeck.models.cached import CACHE
from limbeck.models.configuration import load_config
from limbeck.objectives import fused
from limbeck.planning.cost.machine import measure_rates
from limbeck.planning.cost.memory import LOGITS_BUFFER, MemoryUse, Step, activation_bytes
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.training import (
    Cost,
    Rates,
    estimate,
    matching_bytes,
    peak_lockstep,
)

CPU = torch.device("cpu")
ENDS = {"bos_token_id": 1, "eos_token_id": 2}


def llama(**changes):
    usual = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 88,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return LlamaConfig(**(usual | {"num_key_value_heads": 2, "tie_word_embeddings": False} | ENDS | changes))


def qwen3():
    return Qwen3Config(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        **ENDS,
    )


def gpt2():
    return GPT2Config(vocab_size=96, n_positions=64, n_embd=32, n_layer=2, n_head=4, **ENDS)


def mixture():
    return MixtralConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=1,
        **ENDS,
    )


def step_of(length: int, *, itemsize: int = 4) -> Step:
    return Step(length, 2048, itemsize, "cpu", MemoryUse())


def cost_of(student, teacher, **changes) -> Cost:
    usual = {"length": 64, "tokens": 10_000, "batch_tokens": 2048, "itemsize": 4, "device": "cpu"}
    return estimate(Size.of(student), None if teacher is None else Size.of(teacher), **(usual | changes))


@pytest.mark.parametrize("config", [llama(), llama(tie_word_embeddings=True), qwen3(), gpt2(), mixture()])
def test_parameters_are_those_of_the_built_model(config):
    model = build(config)
    size = Size.of(config)
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert size.rows == model.get_output_embeddings().weight.shape[0]


def test_sizing_a_configuration_leaves_it_alone_and_allocates_nothing():
    config = llama(hidden_size=32768, intermediate_size=131072, num_hidden_layers=20, vocab_size=300_000)
    before = config.to_dict()
    assert Size.of(config).parameters > 3e11
    assert config.to_dict() == before


def test_a_tied_head_is_stored_once_and_multiplied_all_the_same():
    tied, untied = Size.of(llama(tie_word_embeddings=True)), Size.of(llama())
    assert untied.parameters - tied.parameters == 96 * 32
    assert untied.multiplied == tied.multiplied
    assert tied.embedding == untied.embedding == 96 * 32


def test_positions_are_looked_up_not_multiplied():
    assert Size.of(gpt2()).embedding == (96 + 64) * 32


def test_a_mixture_multiplies_only_the_chosen_experts():
    size = Size.of(mixture())
    experts = 2 * 4 * 3 * 32 * 64
    assert size.parameters - size.multiplied == pytest.approx(experts * 3 / 4 + size.embedding, rel=0.01)


@pytest.mark.parametrize("config", [llama(), llama(tie_word_embeddings=True), qwen3(), gpt2()])
@pytest.mark.parametrize("length", [16, 48])
def test_forward_flops_are_those_torch_counts(config, length):
    # eager attention, since the counter has no formula of the fused one with grouped heads
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(1, length, dtype=torch.long))
    size = Size.of(config)
    # torch counts attention's products over the whole square; a causal mask needs the lower half
    whole_square = 2.0 * size.multiplied + 4.0 * length * size.layers * size.attention
    assert counter.get_total_flops() / length == pytest.approx(whole_square, rel=0.01)
    assert size.forward_flops(length) == pytest.approx(
        2.0 * size.multiplied + (whole_square - 2.0 * size.multiplied) / 2, rel=0.1
    )


def test_matching_holds_three_models_and_the_graph_of_one_layer():
    student, reference, teacher = (Size.of(llama(num_hidden_layers=layers)) for layers in (4, 3, 5))
    run = {"length": 64, "batch_tokens": 256, "itemsize": 4, "device": "cpu"}
    parts = matching_bytes(student, reference, teacher, **run)
    alone = estimate(student, teacher, tokens=1000, **run).bytes
    assert parts["model with attention"] == 4 * reference.parameters
    assert parts["teacher's weights"] == 4 * teacher.parameters
    assert parts["activations"] == alone["activations"] // 4
    for held in ("student's weights", "gradients", "AdamW's moments"):
        assert parts[held] == alone[held] > 0
    assert not {"chunks of logits", "teacher's forward pass"} & set(parts)


def test_training_costs_three_forward_passes_of_the_student_and_one_of_the_teacher():
    small, large = llama(), llama(num_hidden_layers=4, hidden_size=64)
    alone, distilled = cost_of(small, None), cost_of(small, large)
    assert alone.flops_per_token == 3 * Size.of(small).forward_flops(64)
    assert distilled.flops_per_token - alone.flops_per_token == Size.of(large).forward_flops(64)
    assert distilled.flops == distilled.flops_per_token * 10_000


def _kept_bytes(config, *, rows: int, length: int, bf16: bool) -> int:
    """Bytes of all storages that autograd keeps of a packed forward pass of the decoder, without weights."""
    model = build(config).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shapes = {p.shape for p in model.parameters()} | {p.T.shape for p in model.parameters() if p.ndim == 2}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.shape not in shapes:  # nor half-precision copies of weights
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.ones(rows, length, dtype=torch.long)
    position = torch.arange(length // 2).repeat(2).expand(rows, length)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        model.base_model(input_ids=ids, position_ids=position, attention_mask=None, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        llama(hidden_size=64, intermediate_size=176, num_hidden_layers=4),
        llama(hidden_size=128, intermediate_size=96, num_hidden_layers=4, num_attention_heads=8, head_dim=8),
        llama(hidden_size=64, intermediate_size=512, num_hidden_layers=4, num_key_value_heads=4),
        GPT2Config(vocab_size=96, n_positions=96, n_embd=64, n_layer=4, n_head=4, **ENDS),
    ],
)
def test_activations_are_within_a_quarter_of_what_autograd_keeps(config, bf16):
    for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    rows, length = 6, 72
    stated = rows * length * activation_bytes(Size.of(config), step_of(length, itemsize=2 if bf16 else 4))
    assert stated == pytest.approx(_kept_bytes(config, rows=rows, length=length, bf16=bf16), rel=0.25)


def test_bytes_by_part_are_what_adamw_in_float32_and_a_teacher_in_its_format_need():
    small, large = llama(), llama(num_hidden_layers=4)
    n, m = Size.of(small).parameters, Size.of(large).parameters
    parts = cost_of(small, large, itemsize=2).bytes
    assert (parts["student's weights"], parts["gradients"], parts["AdamW's moments"]) == (4 * n, 4 * n, 8 * n)
    assert parts["teacher's weights"] == 2 * m
    assert cost_of(small, large).bytes["teacher's weights"] == 4 * m
    assert "teacher's weights" not in cost_of(small, None).bytes


def test_peak_is_the_sum_of_its_parts_and_bounded_however_large_the_batch():
    one_row, usual, huge = (cost_of(llama(), llama(), batch_tokens=n) for n in (1, 1024, 10**9))
    assert one_row.peak_bytes == sum(one_row.bytes.values())
    assert one_row.bytes["activations"] == 64 * activation_bytes(one_row.student, step_of(64))
    assert one_row.peak_bytes < usual.peak_bytes == huge.peak_bytes


def test_students_trained_in_step_are_all_held_and_one_computes():
    small, large = cost_of(llama(), llama()), cost_of(llama(num_hidden_layers=4), llama())
    held = [16 * cost.student.parameters for cost in (small, large)]
    assert [small.held_bytes, large.held_bytes] == held
    assert peak_lockstep([small]) == small.peak_bytes
    stated = 4 * 32 * 2048  # the teacher's outputs of a step: its hidden states
    assert peak_lockstep([small, large]) == large.peak_bytes + held[0] + stated


def test_buffers_are_those_of_the_fused_head():
    for kind, theirs in (("cpu", "cpu"), ("cuda", "accelerator")):
        assert LOGITS_BUFFER[kind] == (*fused._CHUNK_POSITIONS[theirs], fused._CHUNK_ELEMENTS[theirs])


def test_seconds_add_what_is_multiplied_and_what_is_moved():
    cost = cost_of(llama(), llama())
    products = cost.seconds(Rates(flops=1e9, bytes=math.inf))
    moved = cost.seconds(Rates(flops=math.inf, bytes=1e9))
    assert products == pytest.approx(cost.flops / 1e9)
    assert moved > 0
    assert cost.seconds(Rates(flops=1e9, bytes=1e9)) == pytest.approx(products + moved)


def test_measured_rates_are_those_of_a_computer():
    rates = measure_rates(Size.of(llama()), dtype=torch.float32, device=CPU, seconds=0.02)
    assert 1e7 < rates.flops < 1e15
    assert 1e7 < rates.bytes < 1e14


def test_a_known_model_has_its_published_parameters(test_data):
    size = Size.of(load_config(test_data / "models" / "stories-llama-260k"))
    assert size.parameters == 260_032


def test_a_body_is_what_is_neither_embedding_nor_head():
    tied, untied = Size.of(llama(tie_word_embeddings=True)), Size.of(llama())
    assert tied.body == untied.body == untied.parameters - 2 * 96 * 32
    assert Size.of(mixture()).active < Size.of(mixture()).parameters


@pytest.mark.parametrize("config", [llama(), qwen3(), gpt2()])
def test_keys_and_values_are_what_a_cache_holds(config):
    model, length = build(config), 11
    cache = model(torch.ones(1, length, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    size = Size.of(config)
    assert size.kv_bytes(4) * length == held
    assert size.inference_bytes(length, 4) == held + 4 * size.parameters


def test_a_cached_token_is_its_outcomes_or_all_rows():
    size = Size.of(llama())
    assert size.cached_bytes(32) == 32 * 4 + 2
    assert size.cached_bytes() == 96 * 2
    assert Size.of(llama(vocab_size=70_000)).cached_bytes(32) == 32 * 6 + 2


def test_a_backward_pass_is_two_forward_passes():
    size = Size.of(llama())
    assert size.backward_flops(64) == 2 * size.forward_flops(64)


MLA = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 0,
    "kv_lora_rank": 16, "q_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "n_group": 1, "topk_group": 1, "head_dim": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("falcon", {"multi_query": True, "new_decoder_architecture": False}),
        ("falcon", {"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 2}),
        ("deepseek_v3", MLA),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
    ],
)
def test_bytes_of_the_cache_are_those_that_transformers_keeps(kind, more):
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"vocab_size": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(kind, **shape, **special, **more)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        outputs = model(torch.ones(1, 8, dtype=torch.long), use_cache=True)
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in outputs[CACHE].layers)
    assert Size.of(config).kv_bytes(1) * 8 == kept
