"""`--to gguf`: a GGUF file, a Modelfile where Ollama can chat with it, and how to run it."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from limbeck.errors import BadModel, BadSetting
from limbeck.exporters.gguf.chat import llama_cpp_command, modelfile
from limbeck.exporters.gguf.runtime import LlamaCpp
from limbeck.exporters.gguf.tokens import MARK
from limbeck.exporters.gguf.writer import write_gguf
from limbeck.exporters.named import CannotRun, exporter
from limbeck.models.gguf.numbers import KINDS
from limbeck.models.gguf.quantiser import LINEAGE
from limbeck.models.gguf.tokenizer import PROBES
from limbeck.models.language_model import LanguageModel

_OF_DTYPE = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


@exporter("gguf")
class GgufExporter:
    """A GGUF file for llama.cpp and what stands on it: Ollama, LM Studio, and others."""

    variants = KINDS

    def __init__(self, variant: str | None = None) -> None:
        self._variant = variant

    def write(self, model: LanguageModel, folder: Path, *, dtype: torch.dtype | None) -> list[str]:
        """Writes NAME-KIND.gguf and a Modelfile. Gives what a user has to know."""
        if dtype is not None and self._variant:
            raise BadSetting(f"--to gguf:{self._variant} names the number format already: leave --dtype out")
        kind = self._variant or _OF_DTYPE[dtype or model.stored or torch.float32]
        name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model.name).strip('.-') or 'model'}-{kind}.gguf"
        tokens = write_gguf(model, folder / name, kind)
        notes = [*tokens.notes, *_rounded_again(model, kind)]
        text, reason = modelfile(model, name)
        if text is None:
            notes.append(reason)
        else:
            (folder / "Modelfile").write_text(text, encoding="utf-8")
        return [*notes, f"run it: {llama_cpp_command(model, name)}"]

    def read(self, folder: Path, like: LanguageModel) -> LlamaCpp:
        """The file in llama.cpp. Raises BadModel where it makes other tokens of text than the model's tokenizer does."""
        found = LlamaCpp(next(folder.glob("*.gguf")))
        _require_same_tokens(found, like)
        return found


def _require_same_tokens(found: LlamaCpp, like: LanguageModel) -> None:
    """Reads texts that tell the known ways to split apart."""
    if found.vocab < like.vocab:
        raise CannotRun(f"llama.cpp finds {found.vocab} tokens in the file, expected {like.vocab}")
    for text in filter(lambda text: _is_read_as_it_is(like, text), PROBES):
        ours, theirs = like.tokenizer.encode(text, add_special_tokens=False), found.tokenized(text)
        if ours != theirs:
            raise BadModel(
                f"{like.name}: llama.cpp makes other tokens of {text[:40]!r} ({theirs[:8]}, expected {ours[:8]}): its "
                f"tokenizer has "
                "no place in a GGUF file; export another format"
            )


def _is_read_as_it_is(model: LanguageModel, text: str) -> bool:
    """Whether the tokenizer's normalizer does no more to a text than mark its blanks. What else it does, notes say."""
    normalizer = model.tokenizer.backend_tokenizer.normalizer
    marked = text.replace(" ", MARK)
    return normalizer is None or normalizer.normalize_str(text) in (text, marked, MARK + marked)


def _rounded_again(model: LanguageModel, kind: str) -> list[str]:
    """What to know where a student was trained for another number format than that of the file; f32 keeps its numbers."""
    trained = (model.lineage or {}).get(LINEAGE, {}).get("kind")
    if trained is None or kind in (trained, "f32"):
        return []
    return [
        f"the student was trained for {trained} (--qat): gguf:{kind} rounds its numbers once more; gguf:{trained} does not"
    ]
