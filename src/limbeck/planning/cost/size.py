"""What a configuration amounts to: parameters, what a token is multiplied with, widths, and the bytes and FLOPs that follow.

A parameter is counted once, but a head tied to the embedding is multiplied out all the same: the 2 N + 6 N rule (Kaplan et
al., arXiv 2001.08361, sec. 2.1) wants the weights a token is *multiplied* with, which for small models is another number.
Torch is loaded only to build an architecture whose axes are not known (`Size.of`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limbeck.models.anatomy import HEAD, Anatomy, elements

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.configuration_utils import PreTrainedConfig

    from limbeck.planning.cost.mixers import Mixture


@dataclass(frozen=True)
class Size:
    """What a configuration amounts to.

    ``parameters`` counts a tied tensor once. ``embedding`` are those that are looked up (tokens, positions), a tied
    head among them. ``multiplied`` are the weights one token is multiplied with: the head even where it is tied, of a
    mixture only the experts it is sent to. ``head`` are those of a head that is not tied. The rest are widths:
    ``attention`` of all query heads together, ``kv`` of all key heads, ``rows`` of the head. Every layer attends, unless
    ``mixture`` says how they mix (limbeck's own decoder).
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
    mixture: Mixture | None = None

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Size:
        """The size of any model of this configuration, built where tensors have shapes and no storage."""
        import torch
        from torch import nn

        from limbeck.models.auto import LimbeckConfig
        from limbeck.models.build import build
        from limbeck.models.mixers.filters import Filter
        from limbeck.planning.cost.mixers import Mixture

        with torch.device("meta"):
            model = build(copy.deepcopy(config))
        embedding = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
        filters = {id(p) for m in model.modules() if isinstance(m, Filter) for p in m.parameters()}
        text = config.get_text_config()
        heads = getattr(text, "num_attention_heads", None) or 0
        head_dim = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        ffn = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size
        head = model.get_output_embeddings().weight
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            embedding=sum(embedding.values()),
            multiplied=_multiplied(model, text, embedding.keys() | filters)
            + (head.numel() if id(head) in embedding else 0),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            attention=heads * head_dim,
            ffn=ffn,
            rows=head.shape[0],
            head=0 if id(head) in embedding else head.numel(),
            kv=kv_heads * head_dim,
            mixture=Mixture.of(config) if isinstance(config, LimbeckConfig) else None,
        )

    @classmethod
    def of_anatomy(cls, anatomy: Anatomy) -> Size:
        """The size of a decoder whose axes are known, counted without torch."""
        sizes = anatomy.sizes
        looked_up = {n: a for n, a in anatomy.outside.items() if a[0] in ("vocab", "position") and n != HEAD}
        matrices = {n: a for n, a in anatomy.inside.items() if len(a) >= 2}
        head = sizes.vocab * sizes.hidden
        return cls(
            parameters=elements(anatomy.outside, sizes) + sizes.layers * elements(anatomy.inside, sizes),
            embedding=elements(looked_up, sizes),
            multiplied=sizes.layers * elements(matrices, sizes) + head,
            layers=sizes.layers,
            hidden=sizes.hidden,
            attention=sizes.heads * sizes.head_dim,
            ffn=sizes.ffn,
            rows=sizes.vocab,
            head=0 if anatomy.tied else head,
            kv=sizes.kv_heads * sizes.head_dim,
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

        Packed documents attend to less, and sliding windows of Transformers' models too, so this is an upper bound where there
        are such. A mixture of layers says itself what it does instead.
        """
        attending = 2.0 * (length + 1) * self.layers * self.attention
        return 2.0 * self.multiplied + (attending if self.mixture is None else self.mixture.mixing_flops(length))

    def backward_flops(self, length: int) -> float:
        """FLOPs of a backward pass per token: two products for each of the forward pass."""
        return 2.0 * self.forward_flops(length)

    def kv_bytes(self, itemsize: int) -> int:
        """Bytes of keys and values per token of context, were all layers attention. Those with a sliding window keep less."""
        return 2 * self.layers * self.kv * itemsize

    def state_bytes(self, length: int, itemsize: int) -> int:
        """Bytes that are kept of a text of this length: keys and values, or the states of a mixture."""
        return length * self.kv_bytes(itemsize) if self.mixture is None else self.mixture.state_bytes(length, itemsize)

    def inference_bytes(self, length: int, itemsize: int) -> int:
        """Bytes to generate a text of this length, one at a time: weights, and what is kept of it."""
        return itemsize * self.parameters + self.state_bytes(length, itemsize)

    def bytes_read(self, length: int, itemsize: int) -> int:
        """Bytes that are read to generate the token at this length, one text at a time: weights, and what is kept of it."""
        return itemsize * self.multiplied + self.state_bytes(length, itemsize)

    def cached_bytes(self, outcomes: int | None = None) -> int:
        """Bytes on disk per token of what a teacher says: of its likeliest ``outcomes`` and the rest, or of all its rows.

        A log-probability is a 16-bit float; the id of an outcome takes 2 bytes where the head has no more rows than that.
        """
        if outcomes is None:
            return 2 * self.rows
        return outcomes * (2 + (2 if self.rows <= 2**16 else 4)) + 2


def _multiplied(model: PreTrainedModel, text: PreTrainedConfig, others: Collection[int]) -> int:
    """Elements of matrices but these: what is looked up, and long filters, which are run once for all rows."""
    chosen = getattr(text, "num_experts_per_tok", None)
    experts = getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None)
    share = chosen / experts if chosen and experts else 1.0
    return round(
        sum(
            p.numel() * (share if ".experts." in name else 1.0)
            for name, p in model.named_parameters()
            if p.ndim >= 2 and id(p) not in others
        )
    )
