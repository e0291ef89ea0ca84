"""Packages that not everybody needs: looked for where they are used, and named with the extra that installs them."""

from __future__ import annotations

from importlib.util import find_spec

from limbeck.errors import LimbeckError


def require_packages(use: str, *names: str, extra: str, error: type[LimbeckError]) -> None:
    """Raises ``error`` unless these packages are installed; ``use``: a clause that the message begins with."""
    if missing := [name for name in names if find_spec(name) is None]:
        these = (
            f"package {missing[0]}, which is" if len(missing) == 1 else f"packages {' and '.join(missing)}, which are"
        )
        raise error(f"{use} the {these} not installed: pip install 'limbeck[{extra}]'")
