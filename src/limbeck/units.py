"""Sizes written with binary units."""


def binary_size(size: float, *, up: bool = False) -> str:
    """A number of bytes with two decimals and its unit: ``1.50 MiB``. It is rounded ``up`` where it is a minimum."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            value = size / scale
            return f"{-(-value * 100 // 1) / 100 if up else value:.2f} {unit}"
    return f"{size:.0f} B"
