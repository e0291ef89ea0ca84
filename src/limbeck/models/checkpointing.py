"""Gradient checkpointing of decoder layers: what a layer computes is computed again in the backward pass instead of kept.

Transformers' own mechanism is used (its non-reentrant form, Chen et al., arXiv 1604.06174). Of each layer only the input is kept,
at the price of one more forward pass. The head is not part of it: its logits are never kept (`objectives.fused`). Random numbers
and mixed precision are those of the first pass, so gradients have the same bits on a CPU.
"""

from __future__ import annotations

from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

_HOW = {"use_reentrant": False}  # with which gradients of what is outside of a layer's arguments are right too


def can_checkpoint(model: PreTrainedModel) -> bool:
    """Whether the layers of a model's class can be checkpointed."""
    return bool(model.supports_gradient_checkpointing)


def could_checkpoint(config: PreTrainedConfig) -> bool:
    """The same of the models of a configuration."""
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return bool(getattr(kind, "supports_gradient_checkpointing", False))


def checkpoint_layers(model: PreTrainedModel, on: bool = True) -> None:
    """Switches the checkpointing of all decoder layers on or off. It acts in training mode alone.

    Raises ValueError for a model that cannot be checkpointed (`can_checkpoint`), unless it is switched off.
    """
    if not on:
        if can_checkpoint(model):
            disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
            disable()
        return
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=_HOW)
    else:  # its older name
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=_HOW)
    model.disable_input_require_grads()  # hooks for frozen embeddings, which stay when checkpointing is switched off
