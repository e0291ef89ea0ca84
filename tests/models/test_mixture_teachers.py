"""Mixtures of experts with attention of their own (DeepSeek-V3, gpt-oss) teach: loaded, packed, sized by what a token uses."""

import pytest
import torch
from transformers import DeepseekV3Config, GptOssConfig

from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.planning.cost.size import Size
from tests.helpers.zoo import packed
from tests.models.test_unpacked import alone, random_model

_BODY = {
    "vocab_size": 48,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LATENT = {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 4, "v_head_dim": 16}
_ROUTED = {
    "n_routed_experts": 4,
    "moe_intermediate_size": 12,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
_PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
_DEEPSEEK = {"num_key_value_heads": 4, **_LATENT, **_ROUTED}
TEACHERS = {
    "deepseek_v3": DeepseekV3Config(**_BODY, **_DEEPSEEK, q_lora_rank=16),
    "deepseek_v3-whole-queries": DeepseekV3Config(**_BODY, **_DEEPSEEK, q_lora_rank=None),
    "gpt_oss": GptOssConfig(
        **_BODY, num_key_value_heads=2, head_dim=8, num_local_experts=4, sliding_window=3, rope_parameters=_PLAIN
    ),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_packed_documents_have_the_logits_that_transformers_gives_each_alone(name, tmp_path):
    save(random_model(TEACHERS[name], name), tmp_path / name)
    model = load(tmp_path / name)
    assert model.packs
    batch = packed(rows=2)
    logits = model(batch).logits().view(2, 12, -1)
    for row in range(2):
        for document in (0, 1):
            inside = batch.document[row] == document
            theirs = alone(TEACHERS[name], name, batch.tokens[row, inside])
            torch.testing.assert_close(logits[row, inside], theirs, rtol=1e-4, atol=1e-4)


def test_latent_attention_is_counted_by_its_keys_and_values():
    config = TEACHERS["deepseek_v3"]
    size = Size.of(config)
    length, keys, values = 7, 4 * (8 + 4), 4 * 16
    scores = 2 * (length + 1) / 2 * size.layers * (keys + values)  # a token attends to (length + 1) / 2 on average
    assert size.forward_flops(length) - 2 * size.multiplied == scores
    assert size.kv_bytes(2) == 2 * size.layers * (
        config.kv_lora_rank + config.qk_rope_head_dim
    )  # what both are made of
    routed = 3 * 12 * 32 * 2  # of the experts, two a token
    rest = [p for n, p in random_model(TEACHERS["deepseek_v3"], "x").model.named_parameters() if ".experts." not in n]
    assert size.multiplied == routed + sum(p.numel() for p in rest if p.ndim == 2) - 48 * 32
