"""Rotary position embedding: queries and keys are rotated by an angle that grows with their position.

Su et al., arXiv 2104.09864, eq. 34. As in Llama, channel i is paired with channel i + K/2.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotate(x: Float[Tensor, "B H T K"], position: Int[Tensor, "B T"], theta: float) -> Float[Tensor, "B H T K"]:
    """``x`` rotated by the angle position / theta^(2i/K) in the plane of channels i and i + K/2 (arXiv 2104.09864)."""
    half = x.shape[-1] // 2
    place = torch.arange(half, device=x.device, dtype=torch.float32)
    angle = position[:, None, :, None].float() * theta ** (-place / half)  # (B, 1, T, K / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
