"""Models of which only shapes are asked draw no weights; all others do, whichever thread builds them."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn
from transformers import LlamaConfig

from limbeck.models.build import build, unfilled
from limbeck.models.skeleton import skeleton

CONFIG = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    tie_word_embeddings=True,
)


def spread_of(model: nn.Module) -> float:
    return model.get_input_embeddings().weight.std().item()


def test_a_skeleton_has_no_storage_and_the_tied_weights_and_buffers_of_a_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = torch.get_rng_state()
        bare = skeleton(CONFIG, dtype=torch.float32)
        assert torch.equal(torch.get_rng_state(), before), "nothing is drawn"
    assert all(parameter.is_meta for parameter in bare.parameters())
    assert bare.get_output_embeddings().weight is bare.get_input_embeddings().weight
    whole = dict(build(CONFIG).named_buffers())
    for name, buffer in bare.named_buffers():
        assert torch.equal(buffer, whole[name])


def test_models_of_other_threads_have_weights_meanwhile_and_all_have_them_afterwards():
    register = nn.Module.register_parameter
    with ThreadPoolExecutor(1) as other:
        with unfilled():
            theirs = other.submit(build, CONFIG).result()
        assert abs(spread_of(theirs) - CONFIG.initializer_range) < 0.005

    def ask(_: int) -> None:
        with unfilled(), torch.device("meta"):
            build(CONFIG)

    with ThreadPoolExecutor(4) as others:
        list(others.map(ask, range(12)))
    assert nn.Module.register_parameter is register
    assert abs(spread_of(build(CONFIG)) - CONFIG.initializer_range) < 0.005
