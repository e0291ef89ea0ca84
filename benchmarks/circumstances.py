"""What the numbers of a benchmark depend on, as every file of results keeps it."""

import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def made_by(*packages: str) -> dict[str, Any]:
    """The command, its time, the processor, and the versions of Python, limbeck, torch and other packages that are installed."""
    versions = {"python": platform.python_version()}
    for name in ("limbeck", "torch", *packages):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # a peer that is not installed
            continue
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "versions": versions,
    }


def processor() -> str:
    """The name of the processor, as Linux has it where there is one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    known = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(known, platform.processor() or platform.machine())
