"""The setting of the end-to-end benchmark: documents, a tokenizer, a teacher and a student, made once and kept.

Nothing is downloaded: the documents are functions and docstrings of the running Python's standard library, the teacher
is trained on some of them for a minute, the student is random. The teacher only has to be non-trivial: speed does not
depend on what it knows, and held-out loss is compared between contenders that all learn from the same one.
"""

from __future__ import annotations

import ast
import json
import random
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

LENGTH = 256  # tokens of the longest document, and of a packed row
VOCAB = 8192
TEACHER = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6}  # 13.8M
STUDENT = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 3}  # 3.3M
KEPT_FOR_STUDENT = 4000  # documents the teacher has not seen
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data"}


@dataclass(frozen=True)
class Texts:
    """Where the texts of a setting lie. ``train`` and ``held_out`` are JSON lines with ``text``."""

    folder: Path

    @property
    def train(self) -> Path:
        return self.folder / "train.jsonl"

    @property
    def held_out(self) -> Path:
        return self.folder / "held_out.jsonl"


@dataclass(frozen=True)
class Setting(Texts):
    """Where the parts of the setting lie."""

    @property
    def teacher(self) -> Path:
        return self.folder / "teacher"

    @property
    def student(self) -> Path:
        return self.folder / "student"

    def texts(self, path: Path, count: int) -> list[str]:
        """The first documents of one of the two files."""
        with path.open(encoding="utf-8") as file:
            return [json.loads(line)["text"] for line, _ in zip(file, range(count), strict=False)]


def prepare(folder: Path, *, seconds: float) -> Setting:
    """The setting in ``folder``, made first if it is not there; its teacher is trained for ``seconds``."""
    setting = Setting(folder)
    if (setting.teacher / "config.json").exists():  # written last
        return setting
    folder.mkdir(parents=True, exist_ok=True)
    learned, held_out = documents()
    tokenizer = train_tokenizer(learned)
    learned, held_out = shorten(learned, tokenizer), shorten(held_out, tokenizer)
    write_texts(setting.train, learned[:KEPT_FOR_STUDENT])
    write_texts(setting.held_out, held_out)
    for path, shape in ((setting.student, STUDENT), (setting.teacher, TEACHER)):
        model = new_llama(shape)
        if path == setting.teacher:
            train_teacher(model, tokenizer, learned[KEPT_FOR_STUDENT:], seconds=seconds)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    return setting


def documents(*, held_out_one_in: int = 10) -> tuple[list[str], list[str]]:
    """(learned, held out) pieces of the standard library, shuffled; a whole file falls on one side."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(root.rglob("*.py")) if not _SKIPPED & set(path.parts)]
    sides: tuple[list[str], list[str]] = ([], [])
    for i, path in enumerate(files):
        sides[i % held_out_one_in == 0].extend(t for t in pieces(path) if 80 < len(t) < 6000)
    for side in sides:
        random.Random(0).shuffle(side)
    return sides


def pieces(path: Path) -> Iterator[str]:
    """The functions of a source file, and the docstrings of the file and its classes."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
        tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError):
        return
    lines = text.splitlines(keepends=True)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield "".join(lines[node.lineno - 1 : node.end_lineno])
        elif isinstance(node, ast.Module | ast.ClassDef):
            yield ast.get_docstring(node) or ""


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of VOCAB tokens, the first three of which frame and pad documents."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def shorten(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The texts without the last lines that would bring them over LENGTH tokens, counting the two that frame them."""
    spans = tokenizer(texts, return_offsets_mapping=True).offset_mapping
    short = []
    for text, span in zip(texts, spans, strict=True):
        fits = len(span) <= LENGTH - 2
        short.append(text if fits else text[: text.rfind("\n", 0, span[LENGTH - 3][0]) + 1])
    return [text for text in short if text]


def encode(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """Framed documents of at most LENGTH tokens."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [[begin, *ids, end][:LENGTH] for ids in tokenizer(list(texts)).input_ids]


def write_texts(path: Path, texts: Iterable[str]) -> None:
    """JSON lines with ``text``."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def new_llama(shape: dict[str, int]) -> PreTrainedModel:
    """A random Llama with tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        num_key_value_heads=shape["num_attention_heads"],
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **shape,
    )
    return LlamaForCausalLM(config).float()


def train_teacher(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: list[str], *, seconds: float
) -> None:
    """Cross-entropy on packed documents until this process has spent ``seconds`` of CPU on it."""
    import time

    import torch

    stream = torch.tensor([token for ids in encode(texts, tokenizer) for token in ids])
    rows = stream[: len(stream) // LENGTH * LENGTH].view(-1, LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(0)
    start = time.process_time()
    while (done := (time.process_time() - start) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, 20 * done + 0.02, 2 * (1 - done) + 0.02)
        row: Tensor = rows[torch.randint(len(rows), (8,), generator=generator)]
        loss = model(input_ids=row, labels=row).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    print(f"teacher: {loss.item():.2f} nats per token after {seconds:.0f} CPU s")
