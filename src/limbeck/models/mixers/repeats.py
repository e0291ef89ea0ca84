"""Attention at repeated tokens only: the input-dependent positions of Zoology's sparse hybrids.

y_t = f_t Attention(x)_t, where f_t is 1 if the token's id occurred before in its document, else 0. This is the *programmatic*
selection of Arora et al., arXiv 2312.04927, sec. 5. Tokens that a convolution fails to recall follow such repeats. In models
whose other layers are convolutions, attention at these few tokens closes most of the gap to full attention. The state holds
token ids besides keys and values.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import BadModel
from limbeck.models.mixers.attention import Attention, seen
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mixer import State, mixer


@mixer("repeats")
class RepeatAttention(Attention):
    """Softmax attention over the whole document, at tokens whose id occurred before; other outputs are 0.

    Raises BadModel if the rows come without token ids.
    """

    OPTIONS: ClassVar = {"rope": True}

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        if documents.tokens is None:
            raise BadModel("the mixer repeats looks at which tokens occurred before: give input_ids, not inputs_embeds")
        y, after = super().mix(x, documents, state, size)
        known = documents.tokens if state is None else torch.cat([state["tokens"], documents.tokens], 1)
        alike = documents.tokens[:, :, None] == known[:, None]
        again = (alike & seen(documents, known.shape[1], None)).sum(-1) > 1  # each token equals itself
        return y * again[..., None], None if after is None else after | {"tokens": known}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        return super().fresh(x) | {"tokens": torch.zeros(x.shape[0], 0, dtype=torch.long, device=x.device)}

    def state_bytes(self, length: int) -> int:
        """Bytes of keys and values, plus 8 for each token id."""
        return super().state_bytes(length) + 8 * length
