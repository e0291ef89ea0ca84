"""Decoders that cannot be packed, and rotary positions that depend on lengths: documents do not affect each other."""

import pytest
import torch
from transformers import (
    BloomConfig,
    FalconH1Config,
    LlamaConfig,
    Mamba2Config,
    Phi3Config,
    PhimoeConfig,
    Qwen3NextConfig,
)

from limbeck.jobs.distil.diagnose import _packing
from limbeck.jobs.pair.unpacked import rows_of_documents, unpacked_cost
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.rope import document_lengths
from limbeck.models.save import save
from limbeck.models.unpacked import one_document_a_row, padded_share
from limbeck.models.verify import differ, verify
from limbeck.types import Batch
from tests.helpers.zoo import packed, words

_IDS = {"vocab_size": 48, "hidden_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_BODY = _IDS | {"intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
_MIXED = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
LONE = {
    "mamba2": Mamba2Config(
        vocab_size=48, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8, n_groups=2
    ),
    "falcon_h1": FalconH1Config(**_BODY, **_MAMBA, mamba_chunk_size=4, lm_head_multiplier=0.3),
    "qwen3_next": Qwen3NextConfig(
        **_BODY | {"num_hidden_layers": 4}, head_dim=8, **_MIXED, **_EXPERTS, shared_expert_intermediate_size=16
    ),
    "bloom": BloomConfig(vocab_size=48, hidden_size=32, n_layer=2, n_head=4),
}
_FACTORS = {"short_factor": [1.0] * 4, "long_factor": [4.0, 8.0, 16.0, 32.0], "original_max_position_embeddings": 16}
_LONG = {"rope_type": "longrope", "rope_theta": 10000.0, **_FACTORS}
ROTARY = {
    "phi3": Phi3Config(**_BODY, max_position_embeddings=64, original_max_position_embeddings=16, rope_parameters=_LONG),
    "phimoe": PhimoeConfig(
        **_BODY,
        num_local_experts=2,
        max_position_embeddings=64,
        rope_parameters=_LONG | {"short_mscale": 1.1, "long_mscale": 1.3},
    ),
    "dynamic": LlamaConfig(
        **_BODY,
        max_position_embeddings=16,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    ),
}


def random_model(config, name: str) -> LanguageModel:
    """A frozen model with large random weights, as after loading."""
    model = new_model(config, words(), 0, name=name)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.model.parameters():
        if parameter.ndim >= 2:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    model.model.eval().requires_grad_(False)
    return model


def alone(config, name: str, tokens: torch.Tensor) -> torch.Tensor:
    """The output of Transformers for one document, from a new model."""
    model = random_model(config, name)
    theirs = type(model.model)(model.config).eval()
    theirs.load_state_dict(model.model.state_dict())
    with torch.no_grad():
        return theirs(input_ids=tokens[None], use_cache=False).logits[0, :, : model.vocab]


def _batch(tokens: torch.Tensor, lengths: list[int]) -> Batch:
    position = torch.cat([torch.arange(length) for length in lengths])[None]
    nowhere = torch.full_like(tokens[None], -1)
    return Batch(tokens[None], tokens[None], torch.ones(1, len(tokens)), position, nowhere, nowhere[:, 0])


@pytest.mark.parametrize("name", LONE)
def test_a_decoder_that_cannot_be_packed_runs_each_document_alone(name, tmp_path):
    save(random_model(LONE[name], name), tmp_path / name)
    model = load(tmp_path / name)
    assert not model.packs
    batch = packed(rows=2)
    logits = model(batch).logits().view(2, 12, -1)
    for row in range(2):
        for document in (0, 1):
            inside = batch.document[row] == document
            theirs = alone(LONE[name], name, batch.tokens[row, inside])
            torch.testing.assert_close(logits[row, inside], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ROTARY)
def test_documents_choose_rotary_frequencies_by_their_own_length(name):
    model = random_model(ROTARY[name], name)
    verify(model)
    assert model.packs
    tokens = torch.randint(40, (60,), generator=torch.Generator().manual_seed(2))
    lengths = [10, 24, 16, 10]  # on both sides of 16, and at it
    logits = model(_batch(tokens, lengths)).logits()
    for part, ours in zip(tokens.split(lengths), logits.split(lengths), strict=True):
        torch.testing.assert_close(ours, alone(ROTARY[name], name, part), rtol=1e-4, atol=1e-4)
    short = model(_batch(tokens[:16], [16])).logits()  # after longer texts, as before them
    torch.testing.assert_close(short, alone(ROTARY[name], name, tokens[:16]), rtol=1e-4, atol=1e-4)


def test_a_rotary_module_of_an_unknown_rule_is_noticed(monkeypatch):
    monkeypatch.setattr("limbeck.models.language_model.choose_by_document", lambda model: None)
    model = random_model(ROTARY["phi3"], "phi3")
    verify(model)
    assert not model.packs


def test_lengths_of_documents_and_what_padding_costs():
    position = torch.tensor([[0, 1, 2, 0, 1, 0], [4, 5, 0, 1, 2, 3]])
    assert document_lengths(position).tolist() == [[3, 3, 3, 2, 2, 1], [6, 6, 4, 4, 4, 4]]
    # lengths 4, 3 and 2 run together, which is all the tokens there may be, then 2 and 1
    assert padded_share(position) == (3 * 4 + 2 * 2) / 12
    assert padded_share(torch.arange(6)[None]) == 1


def test_documents_run_alone_are_back_in_their_places_and_carry_gradients():
    position = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 0, 1, 2, 3]])
    tokens = torch.arange(12).view(2, 6)
    weight = torch.ones(1, requires_grad=True)

    def decoder(tokens, position):
        assert tokens.numel() <= 12
        return torch.stack([tokens * weight, tokens.cumsum(1).float()], -1)

    found = one_document_a_row(decoder, tokens, position)
    assert torch.equal(found[..., 0], tokens.float())
    assert found[..., 1].tolist() == [[0, 1, 3, 3, 7, 5], [6, 13, 8, 17, 27, 38]]
    found[..., 0].sum().backward()
    assert float(weight.grad) == 66


def test_logits_that_are_no_numbers_are_refused():
    for value in (float("inf"), float("nan")):
        model = random_model(ROTARY["dynamic"], "wild")
        model.model.lm_head.weight[3] = value
        with pytest.raises(Exception, match="wild: architecture llama is refused: its logits are NaN or infinite"):
            verify(model)
    assert differ(model, torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]))
    assert differ(model, torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("inf")]))


def test_the_cost_of_documents_in_rows_of_their_own_is_printed(tmp_path):
    lone = random_model(LONE["mamba2"], "mamba")
    verify(lone)
    findings = _packing(lone, ["w1"], 6)
    # rows of 6 out of documents of 4: 4 + 2 and 2 + 4, run as three of 4 (one of which is 2, padded), and one of 2: 14 of 12
    assert rows_of_documents([4, 4, 4], 6).tolist() == [[0, 1, 2, 3, 0, 1], [2, 3, 0, 1, 2, 3]]
    assert [f.level for f in findings] == ["warning"]
    assert findings[0].message.endswith(
        "padded to the longest of its batch: at most twice as many tokens"
    )  # too little text for more
    assert "1.17 times as many tokens of this text" in unpacked_cost("x", rows_of_documents([4, 4, 4], 6))
    assert _packing(random_model(ROTARY["dynamic"], "packs"), ["w1"], 6) == []
