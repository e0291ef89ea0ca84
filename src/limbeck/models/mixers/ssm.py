"""A linear state space for each channel, with a diagonal complex matrix: the part that S4D and H3 share.

x' = A x + B u, y = 2 Re(C x) + D u with N / 2 of the N conjugate eigenvalues stored and B = 1 (Gu et al., arXiv 2206.11893,
sec. 3). Over T tokens it is a convolution with the filter K_l = 2 Re sum_n C_n B̄_n Ā_n^l, one token at a time a recurrence.
Numbers are float32 (complex64) at least. A, C and the step are vectors here, whatever their shape is when they are used: what
decays in training are matrices, and these must not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from transformers import initialization as init

from limbeck.errors import BadModel
from limbeck.models.mixers.convolution import convolve
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mixer import exact, wide


class DiagonalSSM(nn.Module):
    """One state space of N real dimensions (an even number) for each of D channels."""

    def __init__(self, channels: int, size: int, *, spectrum: str, method: str) -> None:
        super().__init__()
        if size % 2:
            raise BadModel(
                f"a diagonal state space has pairs of conjugate states, so expected an even state=, got {size}"
            )
        self.pairs, self.spectrum, self.method = size // 2, spectrum, method
        self.log_step = nn.Parameter(torch.empty(channels))
        self.A_log = nn.Parameter(torch.empty(channels * self.pairs))  # log of -Re A, which stays below 0 so
        self.A_imag = nn.Parameter(torch.empty(channels * self.pairs))
        self.C_real = nn.Parameter(torch.empty(channels * self.pairs))
        self.C_imag = nn.Parameter(torch.empty(channels * self.pairs))
        self.D = nn.Parameter(torch.empty(channels))
        self.initialise()

    def initialise(self) -> None:
        """A by its spectrum, C of CN(0, 1), the step log-uniform in [0.001, 0.1], D of N(0, 1) (sec. 4)."""
        channels = self.D.shape[0]
        init.copy_(self.log_step, torch.empty_like(self.log_step).uniform_(math.log(1e-3), math.log(1e-1)))
        init.constant_(self.A_log, math.log(0.5))
        init.copy_(self.A_imag, SPECTRA[self.spectrum](2 * self.pairs).repeat(channels).to(self.A_imag.dtype))
        for part in (self.C_real, self.C_imag):
            init.normal_(part, std=0.5**0.5)
        init.normal_(self.D)

    def forward(
        self, u: Float[Tensor, "B T D"], documents: Documents, before: Complex[Tensor, "B D P"] | None
    ) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D P"] | None]:
        """The outputs, and the state after the last token if there was one before the first."""
        with exact(u):
            return self._run(wide(u), documents, before)

    def _run(self, u: Tensor, documents: Documents, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
        log_a, b, c = self._discrete()
        if before is None:
            return self._filtered(u, log_a, b * c, documents), None
        if u.shape[1] == 1:
            state = log_a.exp() * before * documents.continues[..., None] + b * u.mT
            return 2 * (c * state).sum(-1).real[:, None] + self.D * u, state
        length = u.shape[1]
        heard = _response(log_a, c * before * log_a.exp(), length).mT
        y = self._filtered(u, log_a, b * c, documents) + heard * documents.continues[..., None]
        place = torch.arange(length - 1, -1, -1, device=u.device)
        left = u * (place <= documents.reach[:, -1:])[..., None]  # what the last token's document has put in
        state = torch.einsum("btd,dpt->bdp", left.to(b.dtype), (log_a[..., None] * place).exp()) * b
        return y, state + (log_a * length).exp() * before * documents.continues[:, -1, None, None]

    def fresh(self, u: Float[Tensor, "B T D"]) -> Complex[Tensor, "B D P"]:
        """The state before the first token."""
        kind = torch.complex128 if u.dtype == torch.float64 else torch.complex64
        return u.new_zeros(u.shape[0], self.D.shape[0], self.pairs, dtype=kind)

    def _discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """log Ā, B̄ and C, each (D, P), by zero-order hold or the bilinear rule (eq. 4)."""
        a_log, a_imag, real, imag = (
            wide(part).unflatten(0, (-1, self.pairs)) for part in (self.A_log, self.A_imag, self.C_real, self.C_imag)
        )
        a, c = torch.complex(-a_log.exp(), a_imag), torch.complex(real, imag)
        step = wide(self.log_step).exp()[:, None]
        if self.method == "zoh":
            return a * step, torch.expm1(a * step) / a, c
        half = a * step / 2
        return torch.log((1 + half) / (1 - half)), step / (1 - half), c

    def _filtered(self, u: Tensor, log_a: Tensor, weight: Tensor, documents: Documents) -> Tensor:
        return convolve(u, _response(log_a, weight, u.shape[1]).mT, documents) + self.D * u


def _response(
    log_a: Complex[Tensor, "D P"], weight: Complex[Tensor, "*rows D P"], length: int
) -> Float[Tensor, "*rows D T"]:
    """2 Re sum_p w_p Ā_p^t for every t < T. With t = i + c j it is one product of real matrices, of 2 sqrt(T) powers of Ā."""
    size = max(1, math.isqrt(length))
    place = torch.arange(size, device=log_a.device)
    blocks = size * torch.arange(-(-length // size), device=log_a.device)
    inner = (log_a[..., None] * place).exp()  # (D, P, c)
    outer = weight[..., None] * (log_a[..., None] * blocks).exp()  # (..., D, P, n)
    product = torch.cat([outer.real, -outer.imag], -2).mT @ torch.cat([inner.real, inner.imag], -2)
    return 2 * product.flatten(-2)[..., :length]


def linear_spectrum(size: int) -> Float[Tensor, "P"]:
    """Imaginary parts of S4D-Lin: π n (eq. 9)."""
    return math.pi * torch.arange(size // 2, dtype=torch.float64, device="cpu")


def inverse_spectrum(size: int) -> Float[Tensor, "P"]:
    """Imaginary parts of S4D-Inv: N / π (N / (2n + 1) - 1) (eq. 8)."""
    n = torch.arange(size // 2, dtype=torch.float64, device="cpu")
    return size / math.pi * (size / (2 * n + 1) - 1)


def legs_spectrum(size: int) -> Float[Tensor, "P"]:
    """Imaginary parts of S4D-LegS: those of the normal part of HiPPO-LegS, A + P Pᵀ / 2 with P_n = sqrt(2n + 1) (eq. 6)."""
    n = torch.arange(size, dtype=torch.float64, device="cpu")
    root = (2 * n + 1).sqrt()
    outer = root[:, None] * root
    hippo = -outer.tril(-1) - torch.diag(n + 1)
    skew = hippo + outer / 2 + 0.5 * torch.eye(size, dtype=torch.float64, device="cpu")  # its real parts are all -1/2
    return torch.linalg.eigvalsh(-1j * skew.to(torch.complex128))[size // 2 :]


SPECTRA: Mapping[str, Callable[[int], Tensor]] = {
    "legs": legs_spectrum,
    "inv": inverse_spectrum,
    "lin": linear_spectrum,
}
