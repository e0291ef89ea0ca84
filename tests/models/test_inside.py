"""Attention inside documents equals PyTorch's attention under a mask of documents, for every family that takes it."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from limbeck.models import inside
from limbeck.models.build import build
from limbeck.models.configuration import attention_of
from limbeck.models.mixers.documents import Documents

POSITION = torch.tensor(
    [
        [0, 1, 2, 3, 4, 0, 1, 2, 0, 0, 0, 0],  # a document of 5, one of 3, padding
        [7, 8, 9, 0, 1, 2, 3, 4, 0, 1, 2, 3],  # the end of a document, and two more
    ]
)
LENGTHS = [5, 3, 1, 1, 1, 1, 3, 5, 4]


def config_of(family, **changes):
    sizes = {
        "vocab_size": 31,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sliding_window": None,
    }
    return AutoConfig.for_model(family, **{**sizes, **changes})


def mask_of(lengths, rows):
    number = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).view(rows, 1, -1)
    return (number[..., None] == number[..., None, :]) & torch.ones(number.shape[-1], number.shape[-1]).tril().bool()


def test_lengths_end_with_rows_and_where_positions_restart():
    assert inside.lengths(POSITION).tolist() == LENGTHS
    assert Documents.of(POSITION).lengths == LENGTHS


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_and_gradients_are_those_under_a_mask(groups):
    torch.manual_seed(0)
    made = [torch.randn(2, heads, 12, 8, dtype=torch.float64) for heads in (4, groups, groups)]
    results = []
    for attend in (
        lambda q, k, v: inside.attend_inside(q, k, v, LENGTHS, scale=0.3).transpose(1, 2),
        lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask_of(LENGTHS, 2), scale=0.3, enable_gqa=True
        ),
    ):
        parts = [part.clone().requires_grad_() for part in made]
        out = attend(*parts)
        (out * torch.arange(out.numel(), dtype=out.dtype).view_as(out).sin()).sum().backward()
        results.append([out.detach(), *(part.grad for part in parts)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def by_both(model):
    """Hidden states of packed rows and gradients in all weights, inside documents and under a mask."""
    tokens, results = torch.randint(31, POSITION.shape), []
    for name in (inside.NAME, "sdpa"):
        model.set_attn_implementation(name)
        model.zero_grad()
        with inside.packed(POSITION):
            hidden = model.base_model(input_ids=tokens, position_ids=POSITION, use_cache=False).last_hidden_state
        hidden.square().mean().backward()
        results.append([hidden.detach(), *(p.grad for p in model.base_model.parameters() if p.grad is not None)])
    return results


@pytest.mark.parametrize("family", sorted(inside.FAMILIES - {"gemma3_text", "gpt_oss", "olmo3"}))
def test_a_packed_row_has_the_hidden_states_and_gradients_under_a_mask(family):
    config = config_of(family)
    assert attention_of(config) == inside.NAME
    torch.manual_seed(0)
    model = build(config, dtype=torch.float64)
    results = by_both(model)
    assert len(results[0]) > 10
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_document_has_the_same_bits_as_alone():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 12, 16) for _ in range(3))
    packed, start = inside.attend_inside(q, k, v, LENGTHS).flatten(0, 1), 0
    for length in LENGTHS:
        row, first = divmod(start, 12)
        alone = [part[row : row + 1, :, first : first + length] for part in (q, k, v)]
        assert torch.equal(packed[start : start + length], inside.attend_inside(*alone, [length])[0])
        start += length


def test_layers_computed_twice_know_their_documents():
    torch.manual_seed(0)
    model = build(config_of("llama")).train()
    tokens = torch.randint(31, POSITION.shape)
    grads = []
    for twice in (False, True):
        model.zero_grad()
        if twice:
            newer = getattr(model, "activation_checkpointing_enable", None)  # the name from Transformers 5.20 on
            (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
        with inside.packed(POSITION):
            hidden = model.base_model(input_ids=tokens, position_ids=POSITION, use_cache=False).last_hidden_state
        hidden.square().mean().backward()
        grads.append([p.grad.clone() for p in model.base_model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_outside_packed_it_is_sdpa_with_padding_and_with_a_cache():
    torch.manual_seed(0)
    model = build(config_of("llama")).eval()
    tokens, mask = torch.randint(3, 31, (2, 6)), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    found = []
    for name in (inside.NAME, "sdpa"):
        model.set_attn_implementation(name)
        answer = model.generate(tokens, attention_mask=mask, max_new_tokens=5, do_sample=False)
        found.append((model(tokens, attention_mask=mask).logits, answer))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


WINDOWED = [
    {"family": "mistral", "sliding_window": 3},
    {"family": "qwen2", "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    {"family": "gemma3_text", "sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]},
    {"family": "olmo3", "sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]},
]


@pytest.mark.parametrize("changes", WINDOWED)
def test_windows_are_kept_inside_documents(changes):
    config = config_of(**changes)
    assert attention_of(config) == inside.NAME
    torch.manual_seed(0)
    model = build(config, dtype=torch.float64)
    results = by_both(model)
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


def test_capped_scores_keep_their_masks():
    assert attention_of(config_of("gemma2")) != inside.NAME


def test_sinks_take_their_share_of_each_document_alone():
    config = config_of(
        "gpt_oss",
        sliding_window=3,
        layer_types=["sliding_attention", "full_attention"],
        num_local_experts=2,
        num_experts_per_tok=1,
    )
    assert attention_of(config) == inside.NAME
    torch.manual_seed(0)
    model = build(config)  # experts compute in no wider format
    for layer in model.base_model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks)
    tokens, position = torch.randint(31, (1, 12)), torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]])
    with torch.no_grad():
        with inside.packed(position):
            packed = model.base_model(input_ids=tokens, position_ids=position, use_cache=False).last_hidden_state
        model.set_attn_implementation("eager")
        for start, stop in ((0, 5), (5, 12)):
            alone = model.base_model(input_ids=tokens[:, start:stop], use_cache=False).last_hidden_state
            torch.testing.assert_close(packed[:, start:stop], alone, rtol=1e-4, atol=1e-5)
        whole = model(tokens).logits
        model.set_attn_implementation(inside.NAME)  # outside packed it is causal attention with sinks
        torch.testing.assert_close(model(tokens).logits, whole, rtol=1e-4, atol=1e-5)


def test_a_saved_model_does_not_name_the_attention(tmp_path):
    build(config_of("llama")).save_pretrained(tmp_path)
    assert inside.NAME not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_bfloat16_is_near_the_exact_attention_and_its_gradients():
    torch.manual_seed(0)
    lengths = [
        40,
        3,
        300,
        17,
        1,
        1,
        22,
        1100,
        40,
    ]  # several sizes and blocks, documents alike, one too long to be short
    parts = [torch.randn(1, heads, sum(lengths), 16, dtype=torch.float64) for heads in (4, 2, 2)]
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        own = [part.bfloat16().to(dtype).requires_grad_() for part in parts]
        out = inside.attend_inside(*own, lengths)
        assert out.dtype == dtype
        (out.double() * torch.arange(out.numel()).view_as(out).sin()).sum().backward()
        results.append([out.detach().double(), *(part.grad.double() for part in own)])
    for ours, exact in zip(*results, strict=True):
        assert (ours - exact).norm() < 0.01 * exact.norm()


def test_autocast_decides_the_number_format():
    torch.manual_seed(0)
    parts = [torch.randn(2, 4, 12, 16) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        out = inside.attend_inside(*parts, LENGTHS)
    assert torch.equal(out, inside.attend_inside(*(part.bfloat16() for part in parts), LENGTHS))
