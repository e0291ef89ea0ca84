"""Instruction data without a download: questions about the standard library, with its docstrings and signatures as answers.

The source files are parsed, not executed, so that the conversations are equal on every machine with the same Python. Modules
that `python:stdlib` holds out are held out here too.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from limbeck.corpora.document import Document, is_held_out
from limbeck.corpora.source import standard_library
from limbeck.disk import write_text

# An answer ends with the end-of-text token, so that a student learns to stop.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}Q: {{ message.content }}\nA:"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
_LONGEST = 160  # limit of the characters of an answer
_SENTENCE = re.compile(r"(.*?[.!?])(?:\s|$)")


def write_instructions(folder: Path, *, modules: int | None = None) -> tuple[Path, Path]:
    """Writes conversations to learn and conversations held out, as JSON lines with the module of each, if they are not there.

    ``modules`` is the number of modules of the library, None for all. Gives both paths.
    """
    files = folder / "learn.jsonl", folder / "held_out.jsonl"
    if not all(file.exists() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        sides: tuple[list[str], list[str]] = ([], [])
        for document in islice(standard_library(), modules):
            sides[is_held_out(document)].extend(json.dumps(row) + "\n" for row in conversations(document))
        for file, rows in zip(files, sides, strict=True):
            write_text(file, "".join(rows))
    return files


def conversations(document: Document) -> Iterator[dict[str, Any]]:
    """The conversations about a module: the purpose of each public class and function with a docstring, and its signature."""
    assert document.text is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about old syntax in the library
        tree = ast.parse(document.text)
    for name, node in _public(tree.body, document.name):
        purpose = _first_sentence(ast.get_docstring(node))
        if " " not in purpose:
            continue  # no docstring, or a single word
        yield _turn(document.name, f"What does {name} do?", purpose)
        if isinstance(node, ast.FunctionDef):
            call = f"{node.name}({ast.unparse(node.args)})"
            yield _turn(document.name, f"How is {name} called?", call[:_LONGEST])


def _public(body: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Functions, classes and methods with their full names, except those that begin with an underscore."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            name = f"{prefix}.{node.name}"
            yield name, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, name)


def _first_sentence(docstring: str | None) -> str:
    text = " ".join((docstring or "").split("\n\n")[0].split())
    found = _SENTENCE.match(text)
    return (found[1] if found else text)[:_LONGEST]


def _turn(module: str, question: str, answer: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"module": module, "messages": messages}
