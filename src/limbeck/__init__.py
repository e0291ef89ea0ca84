"""limbeck makes a large language model small: plan, shrink, distil, prove, export."""

import os

# Fresh memory costs more than arithmetic on a CPU: 1.8 GB/s to fault pages in, 8.2 GB/s to reuse them. Huge pages take a
# fifth off a training step. Torch reads this once, so it must stand before torch is imported.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"
