"""Tiny configurations of every architecture that can be cut, shared by the tests of models and students."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    StableLmConfig,
)

from limbeck.models.build import build
from limbeck.models.language_model import LanguageModel
from limbeck.types import Batch

VOCAB = 40
_IDS = {"vocab_size": 48, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_BODY = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "initializer_range": 0.2,  # large weights, so that a wrong index shows
}
_ALTERNATING = ["sliding_attention", "full_attention"] * 2
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_IDS, **_BODY, tie_word_embeddings=True),
    "llama-bias-untied": LlamaConfig(**_IDS, **_BODY, head_dim=16, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**_IDS, **_BODY, sliding_window=5),
    "qwen2": Qwen2Config(**_IDS, **_BODY, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_IDS, **_BODY, head_dim=16, use_sliding_window=True, sliding_window=4, max_window_layers=2),
    "phi3": Phi3Config(**_IDS, **_BODY),
    "gemma": GemmaConfig(**_IDS, **_BODY, head_dim=16),
    "gemma2": Gemma2Config(**_IDS, **_BODY, head_dim=16, sliding_window=4, final_logit_softcapping=5.0),
    "gemma3_text": Gemma3TextConfig(**_IDS, **_BODY, head_dim=16, sliding_window=4, sliding_window_pattern=2),
    "gpt2": GPT2Config(
        vocab_size=48,
        n_positions=32,
        n_embd=32,
        n_layer=4,
        n_head=4,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    ),
    "gpt2-untied": GPT2Config(
        vocab_size=48,
        n_positions=32,
        n_embd=32,
        n_layer=4,
        n_head=4,
        n_inner=40,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
        tie_word_embeddings=False,
    ),
    "gpt_neox": GPTNeoXConfig(**_IDS, **{k: v for k, v in _BODY.items() if k != "num_key_value_heads"}),
    "gpt_neox-sequential": GPTNeoXConfig(
        **_IDS, **{k: v for k, v in _BODY.items() if k != "num_key_value_heads"}, use_parallel_residual=False
    ),
    "olmo2": Olmo2Config(**_IDS, **_BODY),
    "olmo3": Olmo3Config(**_IDS, **_BODY, sliding_window=4, layer_types=_ALTERNATING),
    "smollm3": SmolLM3Config(
        **_IDS,
        **_BODY,
        no_rope_layers=[1, 0, 0, 1],
        layer_types=_ALTERNATING,
        use_sliding_window=True,
        sliding_window=4,
    ),
    "granite": GraniteConfig(
        **_IDS,
        **_BODY,
        embedding_multiplier=2.0,
        logits_scaling=4.0,
        residual_multiplier=0.5,
        attention_multiplier=0.2,
        tie_word_embeddings=True,
    ),
    "glm4": Glm4Config(**_IDS, **_BODY, head_dim=16),
    "stablelm": StableLmConfig(**_IDS, **_BODY, use_qkv_bias=True),
    "stablelm-parallel": StableLmConfig(**_IDS, **_BODY, use_parallel_residual=True),
}


def words(vocab: int = VOCAB) -> PreTrainedTokenizerFast:
    """A tokenizer of ``vocab`` words, without training one."""
    tokens = ["<pad>", "<s>", "</s>", "<unk>"] + [f"w{i}" for i in range(vocab - 4)]
    inner = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def animal(name: str, *, seed: int = 0) -> LanguageModel:
    """A random frozen model. Its norms and biases are random too, else a wrong cut of them would not show."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(CONFIGS[name])
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return LanguageModel(model.eval().requires_grad_(False), words(), name)


def packed(rows: int = 2, length: int = 12, *, seed: int = 0, vocab: int = VOCAB) -> Batch:
    """Random rows of two documents each; about a third of the positions has weight 0."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocab, (rows, length + 1), generator=generator)
    border = torch.randint(2, length - 1, (rows, 1), generator=generator)
    t = torch.arange(length)[None]
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        weight=(torch.rand(rows, length, generator=generator) > 0.3).float(),
        position=torch.where(t < border, t, t - border),
        document=(t >= border).long().expand(rows, length),
        row=torch.arange(rows),
    )
