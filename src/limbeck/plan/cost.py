"""What a distillation will cost, from configurations alone: parameters, FLOPs, bytes by part, and roughly how long.

Sizes come from the architecture itself, built on the meta device, where tensors have shapes and no storage. A parameter
is counted once, but a head tied to the embedding is multiplied out all the same: the 2 N + 6 N rule (Kaplan et al.,
arXiv 2001.08361, sec. 2.1) wants the weights a token is *multiplied* with, which for small models is another number.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from limbeck.models.load import build

# Tokens of a micro-batch, by which run/run.py cuts too: enough for efficient products, few enough for small memory. And what
# objectives/fused.py gives a buffer of logits; a test holds them equal.
MICRO_TOKENS = {"cpu": 1024, "cuda": 16384}
LOGITS_BUFFER = {"cpu": (128, 512, 2**23), "cuda": (256, 8192, 2**26)}

# How much element-wise work goes with each byte that the forward pass keeps, as bytes written by a plain product of
# large vectors. Ours: on one thread a step took, beyond its matrix products, 3.9 to 5.5 ns for each such byte (0.1M to
# 10M parameters, 5 shapes) where such a product wrote 5.1 GB/s.
_PASSES = 24

# Python, torch, Transformers and Arrow themselves (480 MiB) and what a first step loads; on a GPU the context and its kernels.
_LIBRARIES = 530 * 2**20

# What glibc's allocator keeps between the blocks that come and go, as a share of them: freed memory that is not given back, which
# would cost a third more time. Ours, over the first 14 shapes of benchmarks/cost.py; the others there check it. CUDA's
# allocator splits and merges its blocks.
_KEPT_BY_ALLOCATOR = {"cpu": 1 / 3, "cuda": 0.0}


@dataclass(frozen=True)
class Size:
    """What a configuration amounts to.

    ``parameters`` counts a tied tensor once. ``embedding`` are those that are looked up (tokens, positions), a tied
    head among them. ``multiplied`` are the weights one token is multiplied with: the head even where it is tied, of a
    mixture only the experts it is sent to. ``head`` are those of a head that is not tied. The rest are widths:
    ``attention`` of all query heads together, ``kv`` of all key heads, ``rows`` of the head.
    """

    parameters: int
    embedding: int
    multiplied: int
    layers: int
    hidden: int
    attention: int
    ffn: int
    rows: int
    head: int
    kv: int

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Size:
        """The size of a model of this configuration. Nothing is allocated."""
        with torch.device("meta"):
            model = build(copy.deepcopy(config))
        embedding = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
        text = config.get_text_config()
        heads = getattr(text, "num_attention_heads", None) or 0
        head_dim = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
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
            head=0 if id(head) in embedding else head.numel(),
            kv=kv_heads * head_dim,
        )

    @property
    def body(self) -> int:
        """Parameters without embeddings and head: what scaling laws call N."""
        return self.parameters - self.embedding - self.head

    @property
    def active(self) -> int:
        """Parameters of matrices that take part in a token: of a mixture only the experts it is sent to; a tied head once."""
        return self.multiplied + self.embedding - (self.rows * self.hidden if self.head == 0 else 0)

    def forward_flops(self, length: int) -> float:
        """FLOPs of a forward pass per token, in rows of this length: 2 per weight, and causal attention's two products.

        Packed documents attend to less, sliding windows too, so this is an upper bound where there are such.
        """
        return 2.0 * self.multiplied + 2.0 * (length + 1) * self.layers * self.attention

    def backward_flops(self, length: int) -> float:
        """FLOPs of a backward pass per token: two products for each of the forward pass."""
        return 2.0 * self.forward_flops(length)

    def kv_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of keys and values per token of context. Layers with a sliding window keep less of a long context."""
        return 2 * self.layers * self.kv * dtype.itemsize

    def inference_bytes(self, length: int, dtype: torch.dtype) -> int:
        """Bytes to generate a text of this length, one at a time: weights, and keys and values."""
        return dtype.itemsize * self.parameters + length * self.kv_bytes(dtype)

    def bytes_read(self, length: int, dtype: torch.dtype) -> int:
        """Bytes that are read to generate the token at this length, one text at a time: weights, keys and values."""
        return dtype.itemsize * self.multiplied + length * self.kv_bytes(dtype)

    def cached_bytes(self, outcomes: int | None = None) -> int:
        """Bytes on disk per token of what a teacher says: of its likeliest ``outcomes`` and the rest, or of all its rows.

        A log-probability is a 16-bit float; the id of an outcome takes 2 bytes where the head has no more rows than that.
        """
        if outcomes is None:
            return 2 * self.rows
        return outcomes * (2 + (2 if self.rows <= 2**16 else 4)) + 2


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
class Rates:
    """What a device reaches here and now: FLOP/s of matrix products, bytes/s that element-wise work writes."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Cost:
    """What a training will cost. ``bytes`` is the peak by part."""

    student: Size
    teacher: Size | None
    tokens: int
    flops_per_token: float
    kept_per_token: int
    bytes: Mapping[str, int]

    @property
    def flops(self) -> float:
        """FLOPs of the whole training."""
        return self.flops_per_token * self.tokens

    @property
    def peak_bytes(self) -> int:
        """All parts together."""
        return sum(self.bytes.values())

    def seconds(self, rates: Rates) -> float:
        """Seconds of training, within a factor of 2 or so: its products and, often as much, everything between them.

        What a run really took is printed at its end.
        """
        return self.flops / rates.flops + _PASSES * self.kept_per_token * self.tokens / rates.bytes


def estimate(
    student: PreTrainedConfig,
    teacher: PreTrainedConfig | None,
    *,
    length: int,
    tokens: int,
    batch_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Cost:
    """What it costs to train a student on ``tokens`` tokens, listening to a teacher unless it is None.

    ``dtype`` is the teacher's and that of the student's arithmetic; the student's own weights are float32. FLOPs per
    token are 3 forward passes of the student and 1 of the teacher: 6 N_S + 2 N_T and attention.
    """
    learns, speaks = Size.of(student), None if teacher is None else Size.of(teacher)
    kind = "cuda" if device.type == "cuda" else "cpu"
    micro = max(length, min(batch_tokens, MICRO_TOKENS[kind]) // length * length)
    flops = 3 * learns.forward_flops(length) + (0.0 if speaks is None else speaks.forward_flops(length))
    parts = _training_bytes(learns, length=length, micro=micro, dtype=dtype)
    if speaks is not None:
        parts |= _teacher_bytes(speaks, length=length, micro=micro, dtype=dtype)
    parts["chunks of logits"] = _chunk_bytes(learns, speaks, micro=micro, kind=kind)
    passing = ("activations", "teacher's forward pass", "chunks of logits")
    parts["kept by the allocator"] = round(_KEPT_BY_ALLOCATOR[kind] * sum(parts.get(name, 0) for name in passing))
    parts["Python and libraries"] = _LIBRARIES
    return Cost(learns, speaks, tokens, flops, activation_bytes(learns, length=length, dtype=dtype), parts)


def activation_bytes(size: Size, *, length: int, dtype: torch.dtype) -> int:
    """Bytes per token that the student's forward pass keeps for its backward pass, roughly.

    Counted on Transformers' Llama (a test counts again): of each layer 6 D (norms and residuals, in float32 always), 4
    of all query heads (keys and values are repeated to them) and 4 F, and a row of the packed mask.
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
        # autocast keeps what it casts until the end of the step
        parts["student's weights in half precision"] = dtype.itemsize * size.multiplied
    return parts


def _teacher_bytes(size: Size, *, length: int, micro: int, dtype: torch.dtype) -> dict[str, int]:
    layer = 4 * size.hidden + 4 * size.attention + 3 * size.ffn + length  # one layer at a time: nothing is kept
    return {
        "teacher's weights": dtype.itemsize * size.parameters,
        "teacher's forward pass": micro * dtype.itemsize * (layer + 2 * size.hidden),
    }


def _chunk_bytes(student: Size, teacher: Size | None, *, micro: int, kind: str) -> int:
    """A buffer of float32 logits a model, and on a GPU the objective's temporaries; on a CPU those stay in cache."""
    fewest, most, elements = LOGITS_BUFFER[kind]
    positions = min(micro, most, max(fewest, elements // student.rows))
    buffers = (1 if teacher is None else 2) + (3 if kind == "cuda" else 0)
    return 4 * buffers * positions * student.rows


def measure_rates(size: Size, *, dtype: torch.dtype, device: torch.device, seconds: float = 0.2) -> Rates:
    """The rates of this device for a model of this size, measured for ``seconds`` each: the best of what was seen."""
    m, k, n = 4096, size.hidden, size.ffn
    if device.type != "cuda":  # nothing is gained by products that take seconds
        m, k, n = 512, min(k, 1024), min(n, 2048)
    a, b = torch.ones(m, k, dtype=dtype, device=device), torch.ones(k, n, dtype=dtype, device=device)
    # Too large for the caches. Into memory that is there: fresh pages cost what the allocator's mood makes them cost.
    x = torch.ones(2**26 if device.type == "cuda" else 2**22, dtype=dtype, device=device)
    y = torch.empty_like(x)
    flops = 2.0 * m * k * n * _best_rate(lambda: a @ b, device, seconds)
    return Rates(flops, x.numel() * x.element_size() * _best_rate(lambda: torch.mul(x, x, out=y), device, seconds))


def _best_rate(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Calls a second: of the fastest call, since what else runs on the machine only slows."""
    work()  # the first call pays for pages and kernels
    best, calls, begun = 0.0, 0, time.perf_counter()
    while calls < 5 or time.perf_counter() - begun < seconds:
        calls, start = calls + 1, time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 1 / (time.perf_counter() - start))
    return best
