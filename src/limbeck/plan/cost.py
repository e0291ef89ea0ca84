"""What a distillation will cost, from configurations alone: parameters, FLOPs, bytes by part, and roughly how long.

Sizes come from the architecture itself, built on the meta device, where tensors have shapes and no storage. A parameter is
counted once, but a head tied to the embedding is multiplied out all the same: the 2 N + 6 N rule (Kaplan et al.,
arXiv 2001.08361, sec. 2.1) wants the weights a token is *multiplied* with, which for small models is another number.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from limbeck.models.load import build

# What run/run.py gives a micro-batch and objectives/fused.py a buffer of logits; a test holds them equal.
MICRO_TOKENS = {"cpu": 1024, "cuda": 16384}
LOGITS_BUFFER = {"cpu": (128, 1024, 2**23), "cuda": (256, 8192, 2**26)}

# The part of the measured rate of large products that a training step reaches. Ours: 0.49 to 0.6 on a CPU with models of
# 3M to 14M parameters, a third of it below 1M, where element-wise work weighs more; on a GPU 0.3 to 0.45 is usual.
EFFICIENCY = {"cpu": 0.5, "cuda": 0.35}

# Python, torch, Transformers and Arrow themselves; on a GPU the context and its kernels.
_LIBRARIES = 450 * 2**20


@dataclass(frozen=True)
class Size:
    """What a configuration amounts to.

    ``parameters`` counts a tied tensor once. ``embedding`` are those of them that are looked up (tokens, positions), a tied
    head among them. ``multiplied`` are the weights one token is multiplied with: the head even where it is tied, of a
    mixture only the experts it is sent to. The rest are widths: ``attention`` of all query heads together.
    """

    parameters: int
    embedding: int
    multiplied: int
    layers: int
    hidden: int
    attention: int
    ffn: int
    rows: int

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Size:
        """The size of a model of this configuration. Nothing is allocated."""
        with torch.device("meta"):
            model = build(copy.deepcopy(config))
        embedding = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
        text = config.get_text_config()
        heads = getattr(text, "num_attention_heads", None) or 0
        head_dim = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
        ffn = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size
        head = model.get_output_embeddings().weight
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            embedding=sum(embedding.values()),
            multiplied=_multiplied(model, text, embedding) + (head.numel() if id(head) in embedding else 0),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            attention=heads * head_dim,
            ffn=ffn,
            rows=head.shape[0],
        )

    def forward_flops(self, length: int) -> float:
        """FLOPs of a forward pass per token, in rows of this length: 2 per weight, and causal attention's two products.

        Packed documents attend to less, sliding windows too, so this is an upper bound where there are such.
        """
        return 2.0 * self.multiplied + 2.0 * (length + 1) * self.layers * self.attention


def _multiplied(model: PreTrainedModel, text: PreTrainedConfig, embedding: Mapping[int, int]) -> int:
    chosen = getattr(text, "num_experts_per_tok", None)
    experts = getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None)
    share = chosen / experts if chosen and experts else 1.0
    return round(
        sum(
            p.numel() * (share if ".experts." in name else 1.0)
            for name, p in model.named_parameters()
            if p.ndim >= 2 and id(p) not in embedding
        )
    )


@dataclass(frozen=True)
class Cost:
    """What a training will cost. ``bytes`` is the peak by part; ``rate`` the FLOP/s large products reach on this machine.

    The seconds are rough (within a factor of 2 to 3): what a run took is printed at its end.
    """

    student: Size
    teacher: Size | None
    tokens: int
    flops_per_token: float
    bytes: Mapping[str, int]
    rate: float
    efficiency: float

    @property
    def flops(self) -> float:
        """FLOPs of the whole training."""
        return self.flops_per_token * self.tokens

    @property
    def peak_bytes(self) -> int:
        """All parts together."""
        return sum(self.bytes.values())

    @property
    def seconds(self) -> float:
        """Seconds of training, roughly."""
        return self.flops / (self.rate * self.efficiency)


def estimate(
    student: PreTrainedConfig,
    teacher: PreTrainedConfig | None,
    *,
    length: int,
    tokens: int,
    batch_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
    rate: float,
) -> Cost:
    """What it costs to train a student on ``tokens`` tokens, listening to a teacher unless it is None.

    ``dtype`` is the teacher's and that of the student's arithmetic; the student's own weights are float32. ``rate`` is in
    FLOP/s (`gemm_rate`). FLOPs per token are 3 forward passes of the student and 1 of the teacher, 6 N_S + 2 N_T.
    """
    learns, speaks = Size.of(student), None if teacher is None else Size.of(teacher)
    kind = "cuda" if device.type == "cuda" else "cpu"
    micro = max(length, min(batch_tokens, MICRO_TOKENS[kind]) // length * length)
    flops = 3 * learns.forward_flops(length) + (0.0 if speaks is None else speaks.forward_flops(length))
    parts = _training_bytes(learns, length=length, micro=micro, dtype=dtype)
    if speaks is not None:
        parts |= _teacher_bytes(speaks, length=length, micro=micro, dtype=dtype)
    parts["chunks of logits"] = _chunk_bytes(learns, speaks, micro=micro, kind=kind)
    parts["Python and libraries"] = _LIBRARIES
    return Cost(learns, speaks, tokens, flops, parts, rate, EFFICIENCY[kind])


def activation_bytes(size: Size, *, length: int, dtype: torch.dtype) -> int:
    """Bytes per token that the student's forward pass keeps for its backward pass, roughly.

    Counted on Transformers' Llama (a test counts again): of each layer 6 D (norms and residuals, in float32 always), 4 of
    all query heads (keys and values are repeated to them) and 4 F, and a row of the packed mask.
    """
    layer = 4 * 6 * size.hidden + dtype.itemsize * (4 * size.attention + 4 * size.ffn + length)
    return size.layers * layer + 4 * 2 * size.hidden


def _training_bytes(size: Size, *, length: int, micro: int, dtype: torch.dtype) -> dict[str, int]:
    parts = {
        "student's weights": 4 * size.parameters,
        "gradients": 4 * size.parameters,
        "AdamW's moments": 8 * size.parameters,
        "activations": micro * activation_bytes(size, length=length, dtype=dtype),
    }
    if dtype.itemsize < 4:
        parts["student's weights in half precision"] = dtype.itemsize * size.multiplied  # autocast keeps its casts of a step
    return parts


def _teacher_bytes(size: Size, *, length: int, micro: int, dtype: torch.dtype) -> dict[str, int]:
    layer = 4 * size.hidden + 4 * size.attention + 3 * size.ffn + length  # one layer at a time: nothing is kept
    return {
        "teacher's weights": dtype.itemsize * size.parameters,
        "teacher's forward pass": micro * dtype.itemsize * (layer + 2 * size.hidden),
    }


def _chunk_bytes(student: Size, teacher: Size | None, *, micro: int, kind: str) -> int:
    """One buffer of float32 logits a model; on a GPU the objective's temporaries are as large, on a CPU they stay in cache."""
    fewest, most, elements = LOGITS_BUFFER[kind]
    positions = min(micro, most, max(fewest, elements // student.rows))
    buffers = (1 if teacher is None else 2) + (3 if kind == "cuda" else 0)
    return 4 * buffers * positions * student.rows


def gemm_rate(size: Size, *, dtype: torch.dtype, device: torch.device, seconds: float = 0.3) -> float:
    """FLOP/s that products as a model of this size makes them reach here and now, the best of some that take ``seconds``."""
    m, k, n = (4096, size.hidden, size.ffn) if device.type == "cuda" else (1024, size.hidden, size.ffn)
    a, b = torch.ones(m, k, dtype=dtype, device=device), torch.ones(k, n, dtype=dtype, device=device)
    best, begun = 0.0, time.perf_counter()
    while best == 0.0 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        for _ in range(4):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 4 * 2.0 * m * k * n / (time.perf_counter() - start))
    return best
