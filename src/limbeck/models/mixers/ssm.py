"""A linear state space for each channel, with a diagonal complex matrix A. S4D and H3 share it.

x' = A x + B u, y = 2 Re(C x) + D u, with N / 2 of the N conjugate eigenvalues stored and B = 1 (Gu et al., arXiv 2206.11893,
sec. 3). A real spectrum stores all N eigenvalues, which is as many parameters, and stays real. Over T tokens, the output is a
convolution with the filter K_l = 2 Re sum_n C_n B̄_n Ā_n^l; token by token, it is a recurrence. Numbers are float32 (complex64)
or wider. A, C and the step are stored as vectors, because weight decay applies to matrices and must skip these parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from transformers import initialization as init

from limbeck.errors import BadModel
from limbeck.models.mixers.convolution import convolve
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.precision import exact, wide


class DiagonalSSM(nn.Module):
    """One diagonal state space of N = ``size`` real dimensions for each of D channels (Gu et al., arXiv 2206.11893).

    ``spectrum`` is a key of SPECTRA, and ``method`` is "zoh" or "bilinear". The state has shape (B, D, P), with P = N / 2
    complex numbers a channel, or P = N for a real spectrum. Raises BadModel if N is odd.
    """

    # Small changes of an eigenvalue cause large changes of the state hundreds of tokens later.
    SLOW: ClassVar[tuple[str, ...]] = ("log_step", "A_log", "A_imag")

    A_imag: nn.Parameter | None
    C_imag: nn.Parameter | None

    def __init__(self, channels: int, size: int, *, spectrum: str, method: str) -> None:
        super().__init__()
        if size % 2:
            raise BadModel(
                f"a diagonal state space has pairs of conjugate states, so expected an even state=, got {size}"
            )
        self.spectrum, self.method, self.real = spectrum, method, spectrum == "real"
        self.kept = size if self.real else size // 2  # stored eigenvalues of a channel
        self.log_step = nn.Parameter(torch.empty(channels))
        self.A_log = nn.Parameter(torch.empty(channels * self.kept))  # log of -Re A, so that Re A stays negative
        self.C_real = nn.Parameter(torch.empty(channels * self.kept))
        self.register_parameter("A_imag", None if self.real else nn.Parameter(torch.empty(channels * self.kept)))
        self.register_parameter("C_imag", None if self.real else nn.Parameter(torch.empty(channels * self.kept)))
        self.D = nn.Parameter(torch.empty(channels))
        self.initialise()

    def initialise(self) -> None:
        """Sets A to its spectrum. Draws C from CN(0, 1), D from N(0, 1) and the step log-uniformly from [0.001, 0.1].

        Source: Gu et al., arXiv 2206.11893, sec. 4.
        """
        channels = self.D.shape[0]
        init.copy_(self.log_step, torch.empty_like(self.log_step).uniform_(math.log(1e-3), math.log(1e-1)))
        a = SPECTRA[self.spectrum](self.kept if self.real else 2 * self.kept, channels).flatten()
        init.copy_(self.A_log, (-a.real).log().to(self.A_log.dtype))
        init.normal_(self.C_real, std=0.5**0.5)
        if self.A_imag is not None:
            init.copy_(self.A_imag, a.imag.to(self.A_imag.dtype))
            init.normal_(self.C_imag, std=0.5**0.5)
        init.normal_(self.D)

    def forward(
        self, u: Float[Tensor, "B T D"], documents: Documents, before: Complex[Tensor, "B D P"] | None
    ) -> tuple[Float[Tensor, "B T D"], Complex[Tensor, "B D P"] | None]:
        """The outputs, and the state after the last token. The state is None if ``before`` is None."""
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
        carried = _response(log_a, c * before * log_a.exp(), length).mT
        y = self._filtered(u, log_a, b * c, documents) + carried * documents.continues[..., None]
        place = torch.arange(length - 1, -1, -1, device=u.device)
        left = u * (place <= documents.reach[:, -1:])[..., None]  # the inputs of the last token's document
        state = torch.einsum("btd,dpt->bdp", left.to(b.dtype), (log_a[..., None] * place).exp()) * b
        return y, state + (log_a * length).exp() * before * documents.continues[:, -1, None, None]

    def fresh(self, u: Float[Tensor, "B T D"]) -> Complex[Tensor, "B D P"]:
        """The state before the first token of rows ``u``: zeros of shape (B, D, P)."""
        kind = torch.complex128 if u.dtype == torch.float64 else torch.complex64
        return u.new_zeros(u.shape[0], self.D.shape[0], self.kept, dtype=kind)

    def _discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """log Ā, B̄ and C, each (D, P), by zero-order hold or the bilinear rule (arXiv 2206.11893, eq. 4)."""
        a_log, real = (wide(part).unflatten(0, (-1, self.kept)) for part in (self.A_log, self.C_real))
        if (
            self.A_imag is None or self.C_imag is None
        ):  # complex even so: the bilinear rule may turn a fast decay into a pole below 0
            a_imag, imag = torch.zeros_like(a_log), torch.zeros_like(real)
        else:
            a_imag, imag = (wide(part).unflatten(0, (-1, self.kept)) for part in (self.A_imag, self.C_imag))
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
    """2 Re sum_p w_p Ā_p^t for every t < T. With t = i + c j, it is one real matrix product of 2 sqrt(T) powers of Ā."""
    size = max(1, math.isqrt(length))
    place = torch.arange(size, device=log_a.device)
    blocks = size * torch.arange(-(-length // size), device=log_a.device)
    inner = (log_a[..., None] * place).exp()  # (D, P, c)
    outer = weight[..., None] * (log_a[..., None] * blocks).exp()  # (..., D, P, n)
    product = torch.cat([outer.real, -outer.imag], -2).mT @ torch.cat([inner.real, inner.imag], -2)
    return 2 * product.flatten(-2)[..., :length]


def linear_spectrum(size: int, channels: int) -> Complex[Tensor, "D P"]:
    """The spectrum S4D-Lin, -1/2 + i π n, of N = ``size`` states (Gu et al., arXiv 2206.11893, eq. 9)."""
    return _with_half(math.pi * _counted(size // 2), channels)


def inverse_spectrum(size: int, channels: int) -> Complex[Tensor, "D P"]:
    """The spectrum S4D-Inv, -1/2 + i N / π (N / (2n + 1) - 1), with N = ``size`` (Gu et al., arXiv 2206.11893, eq. 8)."""
    return _with_half(size / math.pi * (size / (2 * _counted(size // 2) + 1) - 1), channels)


def legs_spectrum(size: int, channels: int) -> Complex[Tensor, "D P"]:
    """The spectrum S4D-LegS: eigenvalues of the normal part of HiPPO-LegS (Gu et al., arXiv 2206.11893, eq. 6).

    The normal part is A + P Pᵀ / 2 with P_n = sqrt(2n + 1).
    """
    n = _counted(size)
    root = (2 * n + 1).sqrt()
    outer = root[:, None] * root
    hippo = -outer.tril(-1) - torch.diag(n + 1)
    skew = hippo + outer / 2 + 0.5 * torch.eye(size, dtype=torch.float64, device="cpu")  # all real parts are -1/2
    return _with_half(torch.linalg.eigvalsh(-1j * skew.to(torch.complex128))[size // 2 :], channels)


def real_spectrum(size: int, channels: int) -> Complex[Tensor, "D P"]:
    """The spectrum S4D-Real, -(n + 1). All N = ``size`` eigenvalues are given (P = N), since they have no conjugates."""
    found = -(_counted(size) + 1)
    return torch.complex(found, torch.zeros_like(found)).repeat(channels, 1)


def random_spectrum(size: int, channels: int) -> Complex[Tensor, "D P"]:
    """A random spectrum: -exp(N(0, 1)) / 2 + i N(0, 1), drawn independently for each state of each channel.

    This spectrum is limbeck's own. The real parts have the median -1/2 of the other spectra. The imaginary parts have unit
    scale, as for a random matrix, and do not cover the hundreds of frequencies of the named spectra.
    """
    real, imaginary = torch.randn(2, channels, size // 2, dtype=torch.float64, device="cpu")
    return torch.complex(-real.exp() / 2, imaginary)


def _with_half(imaginary: Float[Tensor, " P"], channels: int) -> Complex[Tensor, "D P"]:
    return torch.complex(torch.full_like(imaginary, -0.5), imaginary).repeat(channels, 1)


def _counted(size: int) -> Float[Tensor, " P"]:
    return torch.arange(size, dtype=torch.float64, device="cpu")


# Functions of N (states) and D (channels) that give one eigenvalue of each conjugate pair, (D, P).
SPECTRA: Mapping[str, Callable[[int, int], Tensor]] = {
    "legs": legs_spectrum,
    "inv": inverse_spectrum,
    "lin": linear_spectrum,
    "real": real_spectrum,
    "random": random_spectrum,
}
