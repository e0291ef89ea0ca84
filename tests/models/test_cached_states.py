"""Generation with caches that hold a state, none, or keys that were turned by other factors."""

import inspect
from itertools import islice

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from limbeck.errors import BadModel, Mismatch
from limbeck.generation.greedy import generate_greedy
from limbeck.generation.local import generate
from limbeck.models.cached import original_length
from limbeck.models.language_model import LanguageModel
from tests.helpers.models import frozen, new_model, tokenizer

_TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
RECURRENT = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba": {"state_size": 4},
    "falcon_h1": {
        "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8,
    },
}  # fmt: skip


def tiny(kind: str, **more) -> LanguageModel:
    tok = tokenizer()
    config = AutoConfig.for_model(
        kind, **{"vocab_size": len(tok), "eos_token_id": None, "pad_token_id": 0} | _TINY | more
    )
    return frozen(new_model(config, tok, 0, name=kind))


@pytest.mark.parametrize("kind", RECURRENT)
def test_rows_end_at_different_times_in_models_with_a_state(kind):
    """Each row goes on as it does alone."""
    model = tiny(kind, **RECURRENT[kind])
    if "cache_params" in inspect.signature(type(model.model).forward).parameters:
        pytest.skip("this Transformers has a cache of its own for the model, which it is named for")
    prompts, numbers = [[5, 6, 7], [9, 8, 11], [17, 3, 25]], np.random.default_rng(0).random((3, 12))
    how = {"max_new_tokens": 12, "temperature": 1.0}
    alone = [generate(model, [p], uniforms=numbers[i : i + 1], **how)[0].tokens for i, p in enumerate(prompts)]
    model.model.generation_config.eos_token_id = [alone[0][3], alone[1][7]]
    ended = [generate(model, [p], uniforms=numbers[i : i + 1], **how)[0] for i, p in enumerate(prompts)]
    assert len({len(one.tokens) for one in ended}) > 1
    assert generate(model, prompts, uniforms=numbers, **how) == ended


def test_a_model_that_gives_no_cache_is_named():
    model = tiny("rwkv", context_length=128, attention_hidden_size=32)
    with pytest.raises(BadModel, match="expected a forward pass that gives its cache"):
        generate(model, [[5, 6]], max_new_tokens=4, uniforms=np.zeros((1, 4)))


LONG = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 16,
}  # fmt: skip


def test_a_text_does_not_go_on_under_other_rotations():
    """Phi-3's 17th token turns all positions by other factors, also of what the cache holds."""
    model = tiny("phi3", rope_parameters=LONG, original_max_position_embeddings=16)
    assert original_length(model.config) == 16
    assert original_length(tiny("llama").config) is None
    below, above = list(range(5, 15)), list(range(5, 25))

    def generated(*prompts: list[int], new: int):
        return generate(model, prompts, max_new_tokens=new, temperature=0.0, uniforms=np.zeros((len(prompts), new)))

    assert len(generated(below, new=6)[0].tokens) == 6
    for prompt in (below, above):
        whole = list(prompt)
        for token in generated(prompt, new=6)[0].tokens:
            logits = model.model(input_ids=torch.tensor([whole]), use_cache=False).logits[0, -1, : model.vocab]
            assert token == int(logits.argmax())
            whole.append(token)
    with pytest.raises(Mismatch, match="beyond 16 tokens this model turns positions by other factors"):
        generated(below, new=8)
    with pytest.raises(Mismatch, match="texts of both sides not be read together"):
        generated(below, above, new=2)
    greedy = generate_greedy(model, below)
    with pytest.raises(Mismatch, match="LongRoPE"):
        list(islice(greedy, 8))
