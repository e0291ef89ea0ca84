"""Work on a device that computes in the background, without waiting for it.

A GPU computes what the host has queued. Reading a number of a tensor there waits for all of it, and the device then waits for the
host. What the host must know (which positions count, where documents begin, the numbers of rows) is known before rows are sent.
So their tensors are kept on the host too, and read there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_KEPT: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # tensors on the host, by their copy on a device


def queues(device: torch.device) -> bool:
    """Whether a device computes in the background, so that reading a number there waits for it."""
    return device.type != "cpu"


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on another device. From the host to a device the copy is not waited for, and `on_host` knows the original.

    The original must not be changed afterwards.
    """
    device = torch.device(device)
    if tensor.device.type != "cpu" or not queues(device):
        return tensor.to(device)
    # Only from pinned memory the copy is in the background. Pinning keeps strides, and refuses those of an expanded tensor.
    pinned = tensor.contiguous().pin_memory() if device.type == "cuda" else tensor
    found = pinned.to(device, non_blocking=True)
    _KEPT[found] = tensor
    return found


def part_of(tensor: Tensor, part: slice | Tensor) -> Tensor:
    """``tensor[part]``, known to `on_host` if the tensor is. ``part``: a slice, or indices on the host."""
    kept = _KEPT.get(tensor)
    if kept is None or not (isinstance(part, slice) or part.device.type == "cpu"):
        return tensor[part]
    found = tensor[part if isinstance(part, slice) else sent(part, tensor.device)]
    _KEPT[found] = kept[part]
    return found


def joined_tensors(tensors: list[Tensor]) -> Tensor:
    """The tensors one after the other, known to `on_host` if all of them are."""
    found = torch.cat(tensors)
    kept = [_KEPT.get(tensor) for tensor in tensors]
    if all(one is not None for one in kept):
        _KEPT[found] = torch.cat([one for one in kept if one is not None])
    return found


def on_host(tensor: Tensor) -> Tensor:
    """A tensor's values on the host: as they were sent from there, else by waiting for the device."""
    if tensor.device.type == "cpu":
        return tensor
    kept: Tensor | None = _KEPT.get(tensor)
    return tensor.cpu() if kept is None else kept
