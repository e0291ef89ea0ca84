"""Peak rates and memory of known GPUs, from their makers' data sheets, and the share of the peak that a run is assumed to reach.

The largest numbers on the sheets assume that half of the weights are zero; the numbers here are for dense products. Bytes are
decimal, as on the sheets. A rate measured on the device itself (`machine.measure_rates`) is more accurate than all of these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from limbeck.config import nearest
from limbeck.errors import BadSetting

# Assumptions, named in every output that uses them. Training runs of dense models report 30 to 55 % of the dense peak (PaLM,
# arXiv 2204.02311, sec. 4.1: 46 %; Llama 3, arXiv 2407.21783, table 4: 38 to 43 %). Memory reads reach a larger share.
UTILISATION = 0.4
BANDWIDTH_SHARE = 0.6


@dataclass(frozen=True)
class GPU:
    """A GPU: dense bfloat16 FLOP/s with float32 sums, memory in bytes, memory bandwidth in bytes/s, and their data sheet."""

    name: str
    flops: float
    memory: int
    bandwidth: float
    source: str

    def training_seconds(self, flops: float) -> float:
        """Seconds for ``flops`` FLOPs of training at the assumed utilisation."""
        return flops / (UTILISATION * self.flops)

    def token_seconds(self, bytes_read: float) -> float:
        """Seconds per generated token at batch size 1, where memory bandwidth is the limit. Each token reads ``bytes_read``."""
        return bytes_read / (BANDWIDTH_SHARE * self.bandwidth)


_A100 = "NVIDIA A100 Tensor Core GPU datasheet, https://www.nvidia.com/en-us/data-center/a100/"
_H100 = "NVIDIA H100 Tensor Core GPU datasheet, https://www.nvidia.com/en-us/data-center/h100/"

GPUS = (
    GPU("A100-40", 312e12, 40 * 10**9, 1.555e12, _A100),
    GPU("A100-80", 312e12, 80 * 10**9, 2.039e12, _A100),
    GPU("H100-SXM", 989e12, 80 * 10**9, 3.35e12, _H100),
    GPU("H100-PCIe", 756e12, 80 * 10**9, 2.0e12, _H100),
    GPU("H200", 989e12, 141 * 10**9, 4.8e12, "NVIDIA H200 datasheet, https://www.nvidia.com/en-us/data-center/h200/"),
    GPU("L4", 121e12, 24 * 10**9, 0.3e12, "NVIDIA L4 datasheet, https://www.nvidia.com/en-us/data-center/l4/"),
    GPU("L40S", 362e12, 48 * 10**9, 0.864e12, "NVIDIA L40S datasheet, https://www.nvidia.com/en-us/data-center/l40s/"),
    GPU(
        "A10",
        125e12,
        24 * 10**9,
        0.6e12,
        "NVIDIA A10 datasheet, https://www.nvidia.com/en-us/data-center/products/a10-gpu/",
    ),
    GPU("RTX-4090", 165.2e12, 24 * 10**9, 1.008e12, "NVIDIA Ada GPU Architecture whitepaper, appendix A"),
    GPU("RTX-3090", 71e12, 24 * 10**9, 0.936e12, "NVIDIA Ampere GA102 GPU Architecture whitepaper, appendix A"),
    GPU("MI300X", 1307.4e12, 192 * 10**9, 5.3e12, "AMD Instinct MI300X data sheet"),
)


def gpu(name: str) -> GPU:
    """The GPU with a name. Case, hyphens and blanks do not matter. Raises BadSetting, with the nearest name, if unknown."""

    def plain(text: str) -> str:
        return "".join(c for c in text.lower().removeprefix("nvidia") if c.isalnum())

    for device in GPUS:
        if plain(device.name) == plain(name):
            return device
    # A part of a name does not match, since an L40 is not an L40S.
    alike = [device for device in GPUS if plain(name) and plain(device.name).startswith(plain(name))]
    known = [device.name for device in GPUS]
    hint = f"; it may be {' or '.join(d.name for d in alike)}." if alike else nearest(name.upper(), known)
    raise BadSetting(f"--gpu: unknown GPU {name!r}{hint} There are: {', '.join(known)}")


def stand_in(memory: float) -> GPU:
    """The GPU to assume if only ``memory`` in bytes is known: nearest in memory, and among those of lowest bandwidth."""
    return min(GPUS, key=lambda d: (round(abs(math.log(d.memory / memory)), 3), d.bandwidth))
