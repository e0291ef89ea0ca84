"""A GGUF file as a `CausalLM`: llama.cpp in another process computes its logits."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.exporters.gguf.llamacpp import library
from limbeck.exporters.given import given
from limbeck.exporters.named import CannotRun, Seconds
from limbeck.models.unpacked import one_document_a_row
from limbeck.types import Batch, Outputs


class LlamaCpp:
    """A GGUF file that llama.cpp runs. ``vocab`` counts its tokens, ``context`` is how many it reads at once.

    Raises CannotRun where the package `xllamacpp` is not installed, or llama.cpp does not take the file.
    """

    def __init__(self, file: Path) -> None:
        self.name, self._file = "llama.cpp", file
        if library() is None:
            raise CannotRun("llama.cpp is not installed: pip install 'limbeck[llamacpp]'")
        command = [sys.executable, "-m", "limbeck.exporters.gguf.llamacpp", str(file)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._process = process
        self.close = weakref.finalize(self, _end, process)
        about = self._line()
        self.vocab, self.context = int(about["vocab"]), int(about["context"])

    def __call__(self, batch: Batch) -> Outputs:
        """Logits of packed rows; each document is read by itself."""
        logits = one_document_a_row(self._rows, batch.tokens, batch.position)
        return given(logits, self.vocab)

    def _rows(self, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        return torch.stack([torch.from_numpy(self.logits(row)) for row in tokens.tolist()]).to(tokens.device)

    def logits(self, tokens: Sequence[int]) -> Float[np.ndarray, "n V"]:
        """Logits after each of the tokens of a text."""
        rows, vocab = self._ask(tokens=list(tokens))["shape"]
        size = rows * vocab * 4
        assert self._process.stdout is not None
        found = self._process.stdout.read(size)
        if len(found) != size:
            raise CannotRun(self._ended())
        return np.frombuffer(bytearray(found), dtype="<f4").reshape(rows, vocab)

    def tokenized(self, text: str) -> list[int]:
        """The tokens that llama.cpp makes of a text, without those that begin or end it."""
        found: list[int] = self._ask(text=text)["tokens"]
        return found

    def seconds(self, prompt: Sequence[int], new: int, threads: int) -> Seconds:
        """How long it takes to read a prompt, and to write ``new`` tokens after it."""
        found = self._ask(tokens=list(prompt), new=new, threads=threads)
        return Seconds(found["prefill"], found["generation"])

    def _ask(self, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise CannotRun(self._ended()) from None
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CannotRun(self._ended())
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise CannotRun(str(found["error"]))
        return found

    def _ended(self) -> str:
        return f"llama.cpp ended with status {self._process.wait()}; `llama-cli -m {self._file.name}` shows why"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
