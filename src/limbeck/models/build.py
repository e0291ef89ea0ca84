"""A model with random weights, built from its configuration."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.initialization import guard_torch_init_functions
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from limbeck.errors import BadModel, LimbeckError, first_line
from limbeck.models.configuration import attention_of, is_quantised
from limbeck.models.language_model import LanguageModel
from limbeck.models.quiet import quiet_transformers

_ONE_AT_A_TIME = threading.RLock()  # of what patches PyTorch meanwhile


def new_model(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, seed: int, *, name: str = "fresh"
) -> LanguageModel:
    """A model of the given shape with random weights, in training mode. One seed gives the same weights on every device.

    Raises BadModel where the configuration cannot be built, and Mismatch for a tokenizer that does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LanguageModel(build(config).train(), tokenizer, name)


def build(config: PreTrainedConfig, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of this configuration on the default device, with weights from the current random state.

    From a quantised configuration the unquantised model is built. Raises BadModel where the configuration's values do not
    fit together.
    """
    if is_quantised(config):
        config = type(config).from_dict({k: v for k, v in config.to_dict().items() if k != "quantization_config"})
    with quiet_transformers():
        try:
            return AutoModelForCausalLM.from_config(
                config, trust_remote_code=False, dtype=dtype, attn_implementation=attention_of(config)
            )
        except LimbeckError:
            raise
        except Exception as error:  # unknown activations, sizes that do not divide: each class raises something else
            raise _cannot_build(config, error) from error


@contextmanager
def unfilled(turn: Callable[[nn.Parameter], nn.Parameter] = lambda parameter: parameter) -> Iterator[None]:
    """Models built meanwhile draw no weights, since only their shapes are asked for; ``turn`` replaces each new parameter.

    Without storage, drawing has no use, and takes longer than anything else. Models that other threads build are as ever.
    """
    owner = threading.get_ident()
    with _ONE_AT_A_TIME:
        register = nn.Module.register_parameter

        def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
            if parameter is not None and threading.get_ident() == owner:
                parameter = turn(parameter)
                parameter._is_hf_initialized = True  # type: ignore[attr-defined]  # what Transformers leaves as it is
            register(module, name, parameter)

        nn.Module.register_parameter = registered  # type: ignore[method-assign, assignment]
        try:
            with guard_torch_init_functions():
                yield
        finally:
            nn.Module.register_parameter = register  # type: ignore[method-assign]


def _cannot_build(config: PreTrainedConfig, error: Exception) -> BadModel:
    return BadModel(
        f"a {config.model_type} model cannot be built from its configuration ({type(error).__name__}: {first_line(error)}); "
        "correct its config.json"
    )
