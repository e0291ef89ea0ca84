"""What the scripts of this folder have in common: a small student, and how numbers, arguments and versions are written."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from transformers import LlamaConfig


def small_llama(tokenizer, *, context):
    """The configuration of a student of three layers and 64 channels with this tokenizer."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def as_json(interval):
    """An interval as it is kept."""
    return {"value": interval.value, "low": interval.low, "high": interval.high, "documents": interval.n}


def shown(text):
    """An argument as whoever has the data elsewhere would write it."""
    return text.replace(os.environ.get("LIMBECK_TEST_DATA", "\n"), "$LIMBECK_TEST_DATA")


def made_by(script, *arguments):
    """The command that made a result, and when."""
    command = ["python", f"docs/results/{script}", *map(shown, arguments)]
    return {"command": command, "date": datetime.now(UTC).isoformat(timespec="seconds")}


def versions(*packages):
    """The versions of limbeck, Python and some packages."""
    return {"python": platform.python_version()} | {
        name: import_module(name).__version__ for name in ("limbeck", *packages)
    }


def held_out_split(sources, *, every):
    """(texts that are held out, texts that are trained on) of JSONL files, each text once; one of ``every`` is held out."""
    texts = [json.loads(line)["text"] for source in sources for line in Path(source).read_text("utf-8").splitlines()]
    texts = list(dict.fromkeys(texts))
    return texts[::every], [text for number, text in enumerate(texts) if number % every]


def write_texts(out, texts):
    """Writes lists of texts as JSONL files of these names."""
    for name, some in texts.items():
        write_records(out / f"{name}.jsonl", [{"text": text} for text in some])


def records(file):
    """The records of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_records(file, rows):
    """Writes records as a file of JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
