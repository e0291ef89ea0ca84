"""Peak memory by part: activations as autograd keeps them, ways that need less, and remedies that are true."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen3Config

from limbeck.models.build import build
from limbeck.models.decoder import LimbeckConfig
from limbeck.models.inside import packed
from limbeck.objectives import fused
from limbeck.planning.checks.resources import what_fits
from limbeck.planning.cost.activations import kept_of
from limbeck.planning.cost.fitting import Asked, chosen, flags, halves, needed, remedy
from limbeck.planning.cost.memory import MOMENTS, MemoryUse
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.training import estimate

ENDS = {"bos_token_id": 1, "eos_token_id": 2}
BODY = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4}
OFF = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
CONFIGS = {
    "llama": LlamaConfig(**BODY, num_key_value_heads=2, **ENDS),
    "qwen3": Qwen3Config(**BODY, num_key_value_heads=2, head_dim=16, **ENDS),
    "gpt_neox": GPTNeoXConfig(**BODY, **ENDS),
    "gpt2": GPT2Config(vocab_size=96, n_embd=64, n_layer=3, n_head=4, n_inner=176, **OFF, **ENDS),
    "gdn": LimbeckConfig(**BODY, mixers=["gdn"]),
    "conv": LimbeckConfig(**BODY, mixers=["conv"]),
}


def kept_by_autograd(config, *, rows, length, document, bf16):
    """Bytes per token of all storages that autograd keeps of a real forward pass of the decoder, without weights."""
    model = build(copy.deepcopy(config)).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shapes = {p.shape for p in model.parameters()} | {p.T.shape for p in model.parameters() if p.ndim == 2}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.shape not in shapes:
            kept[storage.data_ptr()] = storage
        return tensor

    position = (torch.arange(length) % document).expand(rows, length)
    arguments = {"input_ids": torch.ones(rows, length, dtype=torch.long), "position_ids": position}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        packed(position),
    ):
        model.base_model(**arguments, attention_mask=None, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values()) / (rows * length)


@pytest.mark.long
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_activations_are_counted_as_autograd_keeps_them(name, bf16):
    config, length, document = CONFIGS[name], 150, 75
    kept = kept_of(config, length=length, document=document, itemsize=2 if bf16 else 4, device="cpu")
    found = kept_by_autograd(config, rows=3, length=length, document=document, bf16=bf16)
    assert kept.per_token(3, checkpointed=False) == pytest.approx(found, rel=0.05)
    assert kept.per_token(3, checkpointed=True) < 0.6 * found


@pytest.mark.long
def test_attention_weights_that_bfloat16_keeps_grow_with_documents():
    """2 bytes of 4 heads for each earlier token of a block: of 256 tokens 128, then 256; of 128 tokens 128."""
    long, short = (
        kept_of(CONFIGS["llama"], length=256, document=document, itemsize=2, device="cpu").layer
        for document in (256, 128)
    )
    assert long - short == 2 * 4 * ((128 + 256) / 2 - 128)


def test_what_cannot_be_counted_is_estimated_as_a_llama():
    with_numbers = LimbeckConfig(**BODY, mixers=["mamba:4"])  # whose scan looks at values
    assert kept_of(with_numbers, length=64, document=None, itemsize=4, device="cpu") is None
    size = Size.of(with_numbers)
    how = {"length": 64, "tokens": 64, "batch_tokens": 64, "itemsize": 4, "device": "cpu"}
    assert estimate(size, None, **how, config=with_numbers).bytes == estimate(size, None, **how).bytes


def test_counting_leaves_the_configuration_and_the_random_state():
    config = CONFIGS["llama"]
    before, state = config.to_dict(), torch.get_rng_state()
    kept_of(config, length=77, document=None, itemsize=4, device="cpu")
    assert config.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)


def parts(**how):
    usual = {"length": 64, "tokens": 10_000, "batch_tokens": 4096, "itemsize": 2, "device": "cpu"}
    size = Size.of(CONFIGS["llama"])
    use = MemoryUse(**{key: how.pop(key) for key in ("rows", "checkpointed", "optimizer", "weights") if key in how})
    return size, estimate(size, size, **usual | how, use=use, config=CONFIGS["llama"])


@pytest.mark.long
def test_micro_batches_and_checkpointing_take_from_activations_alone():
    (_, usual), (_, one), (_, twice) = parts(), parts(rows=1), parts(checkpointed=True)
    assert one.bytes["activations"] == pytest.approx(usual.bytes["activations"] / 16)  # of 1,024 tokens 64
    assert twice.bytes["activations"] < usual.bytes["activations"]
    for part in ("student's weights", "gradients", "AdamW's moments", "teacher's weights"):
        assert usual.bytes[part] == one.bytes[part] == twice.bytes[part]
    assert parts(rows=64)[1].bytes["activations"] == pytest.approx(4 * usual.bytes["activations"])
    assert parts(rows=1000)[1].bytes == parts(rows=64)[1].bytes  # a step has no more


def test_checkpointing_costs_the_forward_pass_of_the_layers_once_more():
    (size, usual), (_, twice) = parts(), parts(checkpointed=True)
    head = 2 * size.rows * size.hidden
    assert twice.flops_per_token - usual.flops_per_token == size.forward_flops(64) - head


def test_states_of_optimisers_and_weights_have_their_bytes():
    size, usual = parts()
    assert usual.bytes["AdamW's moments"] == 8 * size.parameters
    assert parts(optimizer="adamw-bf16")[1].bytes["AdamW's moments"] == 4 * size.parameters
    assert parts(optimizer="adamw-8bit")[1].bytes["AdamW's moments"] == round(2.03125 * size.parameters)
    half = parts(optimizer="adamw-bf16", weights="bfloat16")[1].bytes
    assert half["student's weights"] == half["gradients"] == 2 * size.parameters
    assert "student's weights in half precision" not in half
    assert usual.bytes["student's weights in half precision"] == 2 * size.multiplied
    assert set(MOMENTS) == {"adamw", "adamw-bf16", "adamw-8bit"}


def test_a_tied_embedding_has_its_gradient_twice_where_a_cpu_trains_all_weights():
    untied, _ = parts()
    tied = replace(untied, head=0)
    part, how = "gradient of the embedding", {"length": 64, "tokens": 64, "batch_tokens": 64, "itemsize": 4}
    assert estimate(tied, None, **how, device="cpu").bytes[part] == 4 * tied.rows * tied.hidden
    for size, device, trained in ((untied, "cpu", 1.0), (tied, "cuda", 1.0), (tied, "cpu", 0.1)):
        assert part not in estimate(size, None, **how, device=device, trained=trained).bytes


def test_micro_batches_are_halved_as_a_step_halves_them():
    assert halves(13) == (13, 7, 4, 2, 1)
    assert halves(1) == (1,)


def peak(use: MemoryUse, length: int) -> dict[str, int]:
    """100 bytes a token that is computed at once, a third where layers are computed twice; 800, 400 or 200 of the optimiser."""
    moments = {"adamw": 800, "adamw-bf16": 400, "adamw-8bit": 200}[use.optimizer]
    weights = 400 if use.weights == "float32" else 200
    return {"a": (use.rows or 8) * length * (33 if use.checkpointed else 100), "o": moments, "w": 2 * weights}


def asked(**how):
    return Asked(**{"usual": 8, "length": 10, "forward": 0.25} | how)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (9_600, ""),  # 8 rows of 10 tokens, 100 bytes each, and 1,600
        (9_599, "--checkpointing layers"),
        (4_239, "--micro-batch 4 --checkpointing layers"),
        (2_919, "--micro-batch 2 --checkpointing layers"),
        (2_259, "--micro-batch 1 --checkpointing layers"),
        (10, "--micro-batch 1 --checkpointing layers"),
    ],
)
def test_the_fastest_way_that_fits_is_chosen(limit, expected):
    """A step on 40 tokens at once takes 1.29 times as long as on 80, one that computes layers twice 1.25 times."""
    assert flags(chosen(asked(), peak, limit), asked()) == expected
    assert asked().slowdown(MemoryUse(rows=4)) == pytest.approx(1.8 / 1.4)
    assert asked().slowdown(MemoryUse(checkpointed=True)) == 1.25


def test_layers_that_cannot_be_computed_twice_leave_smaller_micro_batches():
    without = asked(forward=None)
    assert flags(chosen(without, peak, 5_600), without) == "--micro-batch 4"
    assert flags(chosen(without, peak, 10), without) == "--micro-batch 1"


def test_what_a_user_fixed_is_not_chosen_otherwise():
    fixed = asked(rows=8, checkpointing="none")
    assert chosen(fixed, peak, 10) == fixed.use
    assert not flags(fixed.use, fixed)
    assert {use.checkpointed for use in asked(checkpointing="layers").open()} == {True}
    assert not any(use.checkpointed for use in asked(forward=None).open())


def test_a_remedy_keeps_the_result_if_one_does():
    fixed = asked(rows=8, checkpointing="none")
    found = remedy(fixed, peak, 2_700)
    assert flags(found, fixed) == "--micro-batch 2 --checkpointing layers"
    assert needed(peak, found, fixed) <= 2_700
    assert flags(remedy(fixed, peak, 1_600), fixed) == "--micro-batch 1 --checkpointing layers --optimizer adamw-bf16"
    assert remedy(fixed, peak, 500) is None


def test_remedies_are_said_with_what_they_need():
    fixed = asked(rows=8, checkpointing="none")
    assert what_fits(fixed, peak, 5_700).startswith(
        "use --checkpointing layers: it needs about 0 MiB, and takes about 25% longer"
    )
    assert "the result is another" in what_fits(fixed, peak, 1_600)
    assert "a shorter sequence length is not enough" in what_fits(fixed, peak, 100)

    def longer(use: MemoryUse, length: int) -> dict[str, int]:
        return {"a": length}

    assert "with --seq-len 256 also" in what_fits(asked(length=1024), longer, 300)


def test_the_buffers_of_logits_have_the_format_of_the_arithmetic():
    logits = 96 * 512
    head = 2 * 96 * 64
    assert parts()[1].bytes["chunks of logits"] == 2 * 2 * logits + head
    assert parts(itemsize=4)[1].bytes["chunks of logits"] == 2 * 4 * logits
    assert fused._CHUNK_POSITIONS["cpu"][1] == 512


@pytest.mark.parametrize("shards", [1, 4])
def test_an_average_of_the_weights_takes_four_bytes_a_parameter(shards):
    size = Size.of(CONFIGS["llama"])
    how = {"length": 64, "tokens": 64, "batch_tokens": 64, "itemsize": 4, "device": "cpu", "shards": shards}
    plain, averaged = (estimate(size, None, averaged=averaged, **how).bytes for averaged in (False, True))
    assert averaged == plain | {"average of the weights": 4 * size.parameters // shards}
