"""An ONNX graph with a past as a `CausalLM`, in onnxruntime on a CPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.errors import first_line
from limbeck.exporters.given import given
from limbeck.exporters.named import CannotRun, Seconds
from limbeck.exporters.onnx.graph import GRAPH
from limbeck.models.unpacked import one_document_a_row
from limbeck.types import Batch, Outputs

Past = list[np.ndarray]


class OnnxRuntime:
    """A folder with model.onnx, run by onnxruntime. Raises CannotRun where that is not installed, or does not take the graph.

    Documents are read in two parts, the second with what was kept of the first, so that what is measured is of the past too.
    """

    def __init__(self, folder: Path, *, vocab: int, shapes: Sequence[tuple[int, int]]) -> None:
        if find_spec("onnxruntime") is None:
            raise CannotRun("onnxruntime is not installed: pip install 'limbeck[onnx]'")
        self.name, self.vocab = "onnxruntime", vocab
        self._file, self._shapes = folder / GRAPH, shapes
        self._session = self._opened(None)

    def _opened(self, threads: int | None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            return onnxruntime.InferenceSession(str(self._file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of whatever kind onnxruntime raises
            raise CannotRun(f"onnxruntime does not take the graph ({first_line(error)})") from error

    def __call__(self, batch: Batch) -> Outputs:
        """Logits of packed rows; each document is read by itself."""
        return given(one_document_a_row(self._rows, batch.tokens, batch.position), self.vocab)

    def _rows(self, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        ids = tokens.cpu().numpy()
        half = (ids.shape[1] + 1) // 2
        logits, past = self._step(self._session, ids[:, :half], self._empty(len(ids)))
        parts = [logits]
        if half < ids.shape[1]:
            parts.append(self._step(self._session, ids[:, half:], past)[0])
        return torch.from_numpy(np.concatenate(parts, axis=1)).to(tokens.device)

    def seconds(self, prompt: Sequence[int], new: int, threads: int) -> Seconds:
        """How long it takes to read a prompt, and to write ``new`` tokens after it."""
        session = self._opened(threads)
        self._step(session, np.array([list(prompt)]), self._empty(1))  # the first pass plans memory
        start = time.perf_counter()
        logits, past = self._step(session, np.array([list(prompt)]), self._empty(1))
        read = time.perf_counter()
        for _ in range(new):
            logits, past = self._step(session, logits[:, -1:].argmax(-1), past)
        return Seconds(read - start, time.perf_counter() - read)

    def _empty(self, rows: int) -> Past:
        return [np.zeros((rows, heads, 0, size), np.float32) for heads, size in self._shapes for _ in range(2)]

    def _step(self, session: Any, ids: np.ndarray, past: Past) -> tuple[np.ndarray, Past]:
        """Logits after each of the tokens, and what is kept with them."""
        (rows, length), before = ids.shape, past[0].shape[2]
        given_inputs = {
            "input_ids": ids.astype(np.int64),
            "attention_mask": np.ones((rows, before + length), np.int64),
            "position_ids": np.broadcast_to(np.arange(before, before + length), (rows, length)).astype(np.int64),
        }
        names = [f"past_key_values.{layer}.{kind}" for layer in range(len(self._shapes)) for kind in ("key", "value")]
        taken = {one.name for one in session.get_inputs()}
        feeds = {k: v for k, v in (given_inputs | dict(zip(names, past, strict=True))).items() if k in taken}
        logits, *kept = session.run(None, feeds)
        return logits, kept
