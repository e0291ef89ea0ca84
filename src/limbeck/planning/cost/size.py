"""The size of a model from its configuration: parameters, weights multiplied per token, widths, and the bytes and FLOPs.

A tied head is one tensor with the embedding, but its product is computed all the same: the 2 N and 6 N rules (Kaplan et al.,
arXiv 2001.08361, sec. 2.1) need the weights a token is *multiplied* with, which differ from the parameters of small models. Torch
is loaded only for architectures whose axes are not known (`Size.of`).
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
    """The size of a model.

    ``parameters`` counts a tied tensor once. ``embedding`` counts embeddings (tokens, positions), a tied head included, ``head``
    an untied head. ``multiplied`` are the weights that one token is multiplied with: the head, tied or not; of a mixture of
    experts only those it is routed to. The others are widths: ``attention`` of all query heads, ``kv`` of all key heads (half of
    what the cache has of a token in a layer), ``rows`` of the head. All layers have attention, unless ``mixture`` names their
    mixers (limbeck's own decoder).
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
        """The size of any model of this configuration, which is built without storage (torch's meta device)."""
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
        if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):  # Falcon 7B
            kv_heads = 1
        attention, kv = heads * head_dim, kv_heads * head_dim
        if getattr(text, "qk_nope_head_dim", None):  # DeepSeek: keys and values of different widths, here their mean
            attention = heads * (text.qk_nope_head_dim + text.qk_rope_head_dim + text.v_head_dim) // 2
            kv = (text.kv_lora_rank + text.qk_rope_head_dim) // 2  # the cache has what both are made of, once
        ffn = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size
        head = model.get_output_embeddings().weight
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            embedding=sum(embedding.values()),
            multiplied=_multiplied(model, text, embedding.keys() | filters)
            + (head.numel() if id(head) in embedding else 0),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            attention=attention,
            ffn=ffn,
            rows=head.shape[0],
            head=0 if id(head) in embedding else head.numel(),
            kv=kv,
            mixture=Mixture.of(config) if isinstance(config, LimbeckConfig) else None,
        )

    @classmethod
    def of_anatomy(cls, anatomy: Anatomy) -> Size:
        """The size of a decoder from its axes, without torch."""
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
        """Parameters without embeddings and head: N in scaling laws."""
        return self.parameters - self.embedding - self.head

    @property
    def active(self) -> int:
        """Parameters used for one token: of a mixture of experts only those it is routed to; a tied head once."""
        return self.multiplied + self.embedding - (self.rows * self.hidden if self.head == 0 else 0)

    def forward_flops(self, length: int) -> float:
        """FLOPs of a forward pass per token, in rows of ``length`` tokens: 2 per weight, and causal attention's two products.

        It is an upper bound for packed documents and for sliding windows of Transformers' models. Mixers other than attention
        declare their own FLOPs.
        """
        attending = 2.0 * (length + 1) * self.layers * self.attention
        return 2.0 * self.multiplied + (attending if self.mixture is None else self.mixture.mixing_flops(length))

    def backward_flops(self, length: int) -> float:
        """FLOPs of a backward pass per token: twice the forward pass."""
        return 2.0 * self.forward_flops(length)

    def kv_bytes(self, itemsize: int) -> int:
        """Bytes of keys and values per token of context if all layers are attention; an upper bound for sliding windows."""
        return 2 * self.layers * self.kv * itemsize

    def state_bytes(self, length: int, itemsize: int) -> int:
        """Bytes of the state of one sequence of ``length`` tokens: keys and values, or the states of other mixers."""
        return length * self.kv_bytes(itemsize) if self.mixture is None else self.mixture.state_bytes(length, itemsize)

    def inference_bytes(self, length: int, itemsize: int) -> int:
        """Bytes of memory to generate one sequence of ``length`` tokens: weights and its state."""
        return itemsize * self.parameters + self.state_bytes(length, itemsize)

    def bytes_read(self, length: int, itemsize: int) -> int:
        """Bytes read to generate the token after ``length`` tokens at batch size 1: weights and the sequence's state."""
        return itemsize * self.multiplied + self.state_bytes(length, itemsize)

    def cached_bytes(self, outcomes: int | None = None) -> int:
        """Bytes on disk per token of captured logits: of the top-k ``outcomes`` and the rest, or of the whole vocabulary.

        A log-probability takes 2 bytes, the id of an outcome 2 bytes for up to 65,536 rows, else 4.
        """
        if outcomes is None:
            return 2 * self.rows
        return outcomes * (2 + (2 if self.rows <= 2**16 else 4)) + 2


def _multiplied(model: PreTrainedModel, text: PreTrainedConfig, others: Collection[int]) -> int:
    """Elements of all matrices except ``others``: embeddings, and long filters, which are computed once for all rows."""
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
