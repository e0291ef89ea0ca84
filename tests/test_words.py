"""Users read the field's words: no retired word or phrase in messages, command help, documents or report templates.

A message is any string constant of two words or more that is no docstring: of errors, findings, tables and what is printed.
`RETIRED` has each phrase with what to write instead, `ALLOWED` where a phrase is right, and why.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.test_public import shown

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "limbeck"

_MODEL = r"(?:teacher|student|model|server)s?(?:'s)?"
RETIRED = {
    rf"\b{_MODEL} (?:that )?(?:says?|said|tells?|told|hears?|heard|listens?|listened)\b": "gives, returns, has; logits, targets",
    rf"\b{_MODEL} (?:is|are|was|were) (?:told|asked|heard|taught)\b": "queried",
    rf"\b(?:ask|asks|asked|asking) (?:a|the|its|one) {_MODEL}\b": "query",
    rf"\bwhat (?:a|the|its) {_MODEL} (?:says|said|told|tells|answers|answered)\b": "logits, log-probabilities, targets",
    r"\b(?:teacher's|captured|stored|drawn|coarse) answers?\b": "captured logits",
    r"\banswers? (?:to|of) (?:row|rows|position|positions)\b": "logits of rows",
    r"\b(?:is|are|was|were) asked (?:again|anew)\b": "queried, captured or measured again",
    r"\bspeaks? (?:[\d{]|.*tokens|.*vocabular)": "has a vocabulary of",
    r"\bspoken\b": "generated",
    r"\bforet(?:ell|ells|old)\b": "estimate",
    r"\bgone on with\b": "continued by",
    r"\bwhat lies between the products\b": "everything but the matrix products",
    r"\bnobody (?:minds|would mind)\b": "tolerance",
    r"\bthe way (?:back|forward)\b": "the backward pass, the forward pass",
    r"\bspeed of writing\b": "generation speed",
    r"\bwho (?:learns|teaches|listens)\b": "student, teacher",
    r"\blikeliest outcomes?\b": "top-k, most probable",
    r"\bdrawn (?:outcomes?|tokens?)\b": "sampled",
    r"\bcoarse (?:outcomes?|signal|kind)\b": "top-k with the rest",
    r"\bsurprises\b": "largest KL",
    r"\bmends? (?:it|one|them)\b": "fix",
    r"\bby luck\b": "by chance",
    r"\bhand(?:s|ed)? on\b": "share",
    r"\bat fault\b": "the cause",
}
# (file or command, phrase): why it is right there
ALLOWED = {
    ("docs/how-to/all-jobs.md", "teacher's answers"): "completions of prompts, which are answers to messages",
    ("docs/reference/files.md", "surprises"): "the name of a file on disk",
}


class Text(NamedTuple):
    where: str  # file or command
    line: int
    text: str


def messages(file: Path) -> Iterator[Text]:
    """The strings that a module may show to its user."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in alone:
            continue
        if len(node.value.split()) > 1:
            yield Text(str(file.relative_to(ROOT)), node.lineno, node.value)


def faults(texts: Iterator[Text]) -> list[str]:
    return [
        f"{where}:{line}: {found[0]!r}: write {instead}"
        for where, line, text in texts
        for phrase, instead in RETIRED.items()
        if (found := re.search(phrase, text, re.IGNORECASE)) and (where, found[0].lower()) not in ALLOWED
    ]


def files_of(part: str) -> list[Path]:
    path = PACKAGE / part
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def lines(file: Path) -> Iterator[Text]:
    """The lines of a document or template, without the expressions and attributes of a template."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        shown = re.sub(r"\{[{%#].*?[}%#]\}|<[^>]*>", " ", line) if file.suffix == ".html" else line
        yield Text(str(file.relative_to(ROOT)), number, shown)


PARTS = sorted(path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py")))
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(file for file in (ROOT / "docs").rglob("*.md") if "results" not in file.parts),
    *sorted((PACKAGE / "report").glob("*.html")),
]
COMMANDS = (
    "",
    "plan",
    "pilot",
    "capture",
    "pretrain",
    "shrink",
    "grow",
    "distil",
    "doctor",
    "probe",
    "predict",
    "reproduce",
)


@pytest.mark.parametrize("part", PARTS)
def test_messages_have_no_retired_words(part):
    found = [fault for file in files_of(part) for fault in faults(messages(file))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_documents_and_templates_have_no_retired_words(file):
    found = faults(lines(file))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_help_has_no_retired_words(command):
    status, text = shown(*filter(None, [command, "--help"]), COLUMNS="150")
    assert status == 0
    where = f"limbeck {command} --help"
    found = faults(Text(where, number, line) for number, line in enumerate(text.splitlines(), start=1))
    assert not found, "\n".join(found)


def test_each_allowed_phrase_is_still_there():
    assert all((ROOT / where).is_file() and why for (where, _), why in ALLOWED.items())


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("what the teacher told is missing", "the teacher told"),
        ("the teacher speaks 38 tokens", "speaks"),
        ("Remove it, and the teacher is asked again", "is asked again"),
        ("32 likeliest outcomes", "likeliest"),
        ("the answers to row 7 are damaged", "answers to row"),
    ],
)
def test_retired_phrases_are_found_with_file_and_line(tmp_path, monkeypatch, text, phrase):
    monkeypatch.setattr("tests.test_words.ROOT", tmp_path)
    file = tmp_path / "made_up.py"
    file.write_text(f'def f(x):\n    raise ValueError(f"{{x}}: {text}")\n')
    assert any(f.startswith("made_up.py:2: ") and phrase in f for f in faults(messages(file)))


def test_docstrings_comments_and_keys_are_no_messages(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_words.ROOT", tmp_path)
    file = tmp_path / "made_up.py"
    file.write_text(
        'KEY = "spoken"  # what the teacher said\n\ndef f():\n    """What the teacher said."""\n    return KEY\n'
    )
    assert not list(messages(file))
