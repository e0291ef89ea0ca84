"""Layers that are computed twice give the gradients of those that keep their activations, bit for bit."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from limbeck.models.build import new_model
from limbeck.models.checkpointing import can_checkpoint, checkpoint_layers
from limbeck.models.decoder import LimbeckConfig
from limbeck.models.mixers.named import MIXERS
from limbeck.objectives import CrossEntropy
from limbeck.objectives.fused import fused_backward
from tests.helpers.models import batch
from tests.helpers.zoo import CONFIGS, VOCAB, words

WITHOUT_TEXT = {"mamba": "mamba:4", "h3": "h3:8", "s4d": "s4d:real,state=6", "swa": "swa:5", "topk": "topk:8"}


def mixed(mixer):
    """A decoder of two layers of a mixer."""
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LimbeckConfig(vocab_size=48, mixers=[WITHOUT_TEXT.get(mixer, mixer)], max_position_embeddings=32, **sizes)


def gradients(student, *, bf16=False):
    """Gradients of one step on packed rows, with dropout drawn alike, and how often the linear maps of layers were computed."""
    calls = []
    inside = [
        m for name, m in student.model.named_modules() if isinstance(m, nn.Linear | nn.LayerNorm) and "0." in name
    ]
    hooks = [module.register_forward_hook(lambda *_: calls.append(1)) for module in inside]
    rows = batch(3, 16, vocab=VOCAB)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        fused_backward(CrossEntropy(), student(rows), None, rows, scale=0.1)
    for hook in hooks:
        hook.remove()
    found = {name: parameter.grad for name, parameter in student.model.named_parameters()}
    student.model.zero_grad(set_to_none=True)
    return found, len(calls)


def check(config, **how):
    student = new_model(copy.deepcopy(config), words(), 0)
    assert can_checkpoint(student.model)
    plain, calls = gradients(student, **how)
    checkpoint_layers(student.model)
    twice, recomputed = gradients(student, **how)
    assert calls < recomputed <= 2 * calls  # the last product of a layer is not needed again
    assert all(torch.equal(plain[name], gradient) for name, gradient in twice.items())
    assert sum(float(gradient.abs().sum()) for gradient in plain.values()) > 0
    checkpoint_layers(student.model, False)
    assert gradients(student, **how)[1] == calls
    assert not student.model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("name", CONFIGS)
def test_a_family_has_the_same_gradients(name):
    check(CONFIGS[name])


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_a_family_has_the_same_gradients_in_mixed_precision(name):
    check(CONFIGS[name], bf16=True)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_mixer_has_the_same_gradients(mixer):
    check(mixed(mixer))


def test_dropout_is_drawn_once():
    config = copy.deepcopy(CONFIGS["gpt2"])
    config.resid_pdrop = config.attn_pdrop = 0.2
    check(config)
