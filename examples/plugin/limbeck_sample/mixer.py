"""The mean of what was read so far, as a sequence mixer (Zhang et al., arXiv 1805.00631, eq. 1)."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mixer import Dims, Mixer, State, linear


class Average(Mixer):
    """W_o of the mean of W_v x over the tokens of a document up to each. The state is their sum and their number."""

    OPTIONS: ClassVar = {"gated": False}

    def __init__(self, dims: Dims, *, gated: bool) -> None:
        super().__init__(dims)
        self.v_proj, self.o_proj = linear(dims.width, dims.width), linear(dims.width, dims.width)
        self.gate = linear(dims.width, dims.width) if gated else None

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        before = self.fresh(x) if state is None else state
        sums = torch.nn.functional.pad(self.v_proj(x).cumsum(1), (0, 0, 1, 0))
        place = torch.arange(x.shape[1], device=x.device)
        inside = torch.minimum(documents.reach, place)  # tokens of the document that stand before this one in the row
        first = (place - inside)[..., None].expand_as(x)
        goes_on = documents.continues[..., None].to(x.dtype)
        total = sums[:, 1:] - sums.gather(1, first) + goes_on * before["sum"][:, None]
        count = inside[..., None] + 1 + goes_on * before["count"][:, None]
        mean = total / count
        y = self.o_proj(mean if self.gate is None else mean * torch.sigmoid(self.gate(x)))
        return y, None if state is None else {"sum": total[:, -1], "count": count[:, -1]}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        return {"sum": x.new_zeros(x.shape[0], x.shape[2]), "count": x.new_zeros(x.shape[0], 1)}

    def mixing_flops(self, length: int) -> float:
        return 2.0 * self.dims.width  # a sum and a quotient for each channel
