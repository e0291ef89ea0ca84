"""llama.cpp in a process of its own: reads a GGUF file, and computes all logits of given tokens.

The package `xllamacpp` carries llama.cpp as a library. Its server gives log-probabilities of one position a request; the
library's own C functions give those of all. Their settings are passed on as llama.cpp fills them in, in a block that is
larger than theirs, so no version's layout is assumed. llama.cpp ends its process where a file breaks an assumption, which is
why it has its own: run as ``python -m limbeck.exporters.gguf.llamacpp FILE``, it answers JSON lines on stdin with JSON
lines, and raw float32, on stdout. Source: llama.cpp, include/llama.h.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_uint32, c_void_p
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np


class _Settings(ctypes.Structure):
    """Any settings of llama.cpp; a block of more bytes than they have."""

    _fields_ = [("bytes", ctypes.c_byte * 1024)]


class _Batch(ctypes.Structure):
    """struct llama_batch."""

    _fields_ = [
        ("n", c_int32),
        ("tokens", POINTER(c_int32)),
        ("embeddings", c_void_p),
        ("positions", POINTER(c_int32)),
        ("n_sequences", POINTER(c_int32)),
        ("sequences", POINTER(POINTER(c_int32))),
        ("wanted", POINTER(c_int8)),
    ]


_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)
_silent = _Log(lambda level, text, data: None)


def library() -> Path | None:
    """The library of `xllamacpp`, None where the package is not installed."""
    spec = find_spec("xllamacpp")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    found = [file for folder in folders for kind in ("*.so", "*.dylib", "*.pyd") for file in Path(folder).glob(kind)]
    return found[0] if found else None


class Model:
    """A GGUF file in llama.cpp, on a CPU. ``context`` is how many tokens it reads at once, ``vocab`` how many tokens it knows."""

    def __init__(self, file: Path, found: Path) -> None:
        self._library = ctypes.CDLL(str(found))
        self._function("llama_log_set", None, _Log, c_void_p)(_silent, None)
        self._function("llama_backend_init", None)()
        settings = self._function("llama_model_default_params", _Settings)()
        self._model = self._function("llama_model_load_from_file", c_void_p, c_char_p, _Settings)(
            str(file).encode(), settings
        )
        if not self._model:
            raise ValueError("llama.cpp cannot load the file")
        settings = self._function("llama_context_default_params", _Settings)()
        self._context = self._function("llama_init_from_model", c_void_p, c_void_p, _Settings)(self._model, settings)
        if not self._context:
            raise ValueError("llama.cpp cannot make a context for the file")
        self._vocabulary = self._function("llama_model_get_vocab", c_void_p, c_void_p)(self._model)
        self.vocab = int(self._function("llama_vocab_n_tokens", c_int32, c_void_p)(self._vocabulary))
        self.context = int(self._function("llama_n_ctx", c_uint32, c_void_p)(self._context))
        self._batch = self._function("llama_batch_init", _Batch, c_int32, c_int32, c_int32)(self.context, 0, 1)
        self._decode = self._function("llama_decode", c_int32, c_void_p, _Batch)
        self._logits = self._function("llama_get_logits", POINTER(c_float), c_void_p)
        self._memory = self._function("llama_get_memory", c_void_p, c_void_p)(self._context)
        self._clear = self._function("llama_memory_clear", None, c_void_p, c_bool)
        self._tokenize = self._function(
            "llama_tokenize", c_int32, c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool
        )
        self._threads = self._function("llama_set_n_threads", None, c_void_p, c_int32, c_int32)

    def _function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        function = getattr(self._library, name)
        function.restype, function.argtypes = result, arguments
        return function

    def threads(self, number: int) -> None:
        """Sets the number of threads."""
        self._threads(self._context, number, number)

    def forget(self) -> None:
        """Begins a new text."""
        self._clear(self._memory, True)

    def read(self, tokens: Sequence[int], *, start: int = 0, all_logits: bool = True) -> np.ndarray:
        """Logits (n, V) in float32 after each of the tokens, or (1, V) after the last, which follow ``start`` others."""
        batch, last = self._batch, len(tokens) - 1
        batch.n = len(tokens)
        for place, token in enumerate(tokens):
            batch.tokens[place], batch.positions[place] = token, start + place
            batch.n_sequences[place], batch.sequences[place][0] = 1, 0
            batch.wanted[place] = all_logits or place == last
        status = self._decode(self._context, batch)
        if status:
            raise ValueError(f"llama_decode gives {status}")
        rows = len(tokens) if all_logits else 1
        return np.ctypeslib.as_array(self._logits(self._context), (rows, self.vocab)).copy()

    def tokenized(self, text: str) -> list[int]:
        """The tokens of a text alone, without those that begin or end it; control tokens in it are text."""
        encoded = text.encode()
        room = len(encoded) + 8
        found = (c_int32 * room)()
        number = self._tokenize(self._vocabulary, encoded, len(encoded), found, room, False, False)
        if number < 0:
            raise ValueError(f"llama_tokenize gives {number}")
        return list(found[:number])

    def seconds(self, prompt: Sequence[int], new: int) -> tuple[float, float]:
        """Seconds that a prompt takes, and ``new`` tokens after it, each the most probable one."""
        self.forget()
        start = time.perf_counter()
        logits = self.read(prompt, all_logits=False)
        read = time.perf_counter()
        for place in range(new):
            token = int(logits[-1].argmax())
            logits = self.read([token], start=len(prompt) + place, all_logits=False)
        return read - start, time.perf_counter() - read


def _answer(model: Model, asked: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
    if "threads" in asked:
        model.threads(asked["threads"])
    if "text" in asked:
        return {"tokens": model.tokenized(asked["text"])}, None
    if "new" in asked:
        prefill, generation = model.seconds(asked["tokens"], asked["new"])
        return {"prefill": prefill, "generation": generation}, None
    model.forget()
    logits = model.read(asked["tokens"])
    return {"shape": list(logits.shape)}, logits


def main() -> None:
    """Loads the file of the command line, says what it is, and answers what comes on stdin."""
    found = library()
    assert found is not None, "looked for by the process that starts this one"
    out = sys.stdout.buffer

    def say(row: dict[str, Any], numbers: np.ndarray | None = None) -> None:
        out.write(json.dumps(row).encode() + b"\n")
        if numbers is not None:
            out.write(np.ascontiguousarray(numbers, dtype="<f4").tobytes())
        out.flush()

    try:
        model = Model(Path(sys.argv[1]), found)
    except (ValueError, OSError, AttributeError) as error:
        say({"error": str(error)})
        return
    say({"vocab": model.vocab, "context": model.context})
    for line in sys.stdin.buffer:
        try:
            answer, numbers = _answer(model, json.loads(line))
        except ValueError as error:
            answer, numbers = {"error": str(error)}, None
        say(answer, numbers)


if __name__ == "__main__":
    main()
