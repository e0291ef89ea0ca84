"""The configuration of a causal language model, checked before anything is built from it."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from limbeck.errors import BadModel, first_line
from limbeck.models import inside
from limbeck.models.auto import LimbeckForCausalLM
from limbeck.models.bounds import check_config
from limbeck.models.quiet import quiet_transformers
from limbeck.models.source import config_file
from limbeck.models.text_half import TEXT_HALF
from limbeck.models.tied import has_own_head


def load_config(name: str | Path) -> PreTrainedConfig:
    """The configuration of a model, without its weights.

    That of a multimodal model is the configuration of its text half (`models.text_half`). Some files declare head and embedding
    as tied although the weights beside them hold a head of its own; then the configuration is corrected (`models.tied`).

    Raises BadModel where the configuration cannot be read, or is not that of a causal language model.
    """
    folder = config_file(name).parent
    check_config(folder / "config.json")
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # each class checks its values in its own way
            raise BadModel(
                f"{folder}/config.json: expected a configuration that Transformers reads without running code of the folder, "
                f"got an error ({first_line(error)}); give a causal language model that Transformers itself contains"
            ) from error
    known = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), LimbeckForCausalLM.__name__}
    named = config.architectures if isinstance(getattr(config, "architectures", None), list) else []
    named = [name for name in named if isinstance(name, str)]
    if (
        type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
        or config.is_encoder_decoder
        or (named and not known & set(named))
    ):
        raise BadModel(
            f"{folder}: expected a causal language model, got {' '.join(named) or config.model_type}; "
            "give a decoder such as LlamaForCausalLM or GPT2LMHeadModel"
        )
    if config.model_type in TEXT_HALF:
        config = _text_half(config)
    if config.get_text_config().tie_word_embeddings and has_own_head(folder):
        set_tied(config, False)
    return config


def _text_half(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the text half, with what the whole declares for both."""
    text: PreTrainedConfig = config.get_text_config()
    text.tie_word_embeddings = config.tie_word_embeddings
    text.dtype = config.dtype if text.dtype is None else text.dtype
    if is_quantised(config):
        text.quantization_config = config.quantization_config
    return text


def set_tied(config: PreTrainedConfig, tied: bool) -> None:
    """Declares in place whether head and embedding share their weights."""
    for part in (config, config.get_text_config()):
        part.tie_word_embeddings = tied


def is_quantised(config: PreTrainedConfig) -> bool:
    """Whether a model's weights are quantised. Such a model can be a teacher; it is neither pruned nor trained."""
    return getattr(config, "quantization_config", None) is not None


def attention_of(config: PreTrainedConfig) -> str:
    """The attention implementation to use.

    It is `inside.NAME` where that fits, else PyTorch's fused one ("sdpa"), or "eager" where attention logits are capped.
    """
    if inside.fits(config):
        return inside.NAME
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return "sdpa" if MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._supports_sdpa and not capped else "eager"
