"""Parses objectives: ``0.5*CrossEntropy + 0.5*TAID(start=0.2)``, ``my_loss:MyLoss(alpha=1)``.

The grammar; the text is never evaluated as code:
    sum    = term { "+" term }
    term   = [ number "*" ] call
    call   = name [ "(" [ key "=" value { "," key "=" value } ] ")" ]
    name   = one of ours, in any case, or FILE.py:CLASS, or MODULE:CLASS
    value  = number | 'text' | word | a call with its brackets: Ramp(of=ForwardKL())
A file or module that is named is imported, which runs its code.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from limbeck.errors import BadObjective
from limbeck.objectives.base import Objective, Sum, parameter_names
from limbeck.objectives.named import OBJECTIVES, is_objective

OURS = tuple(OBJECTIVES.own)
_ALIASES = {"ce": "CrossEntropy", "kl": "ForwardKL", "fkl": "ForwardKL", "rkl": "ReverseKL", "jsd": "JensenShannon"}
_ALIASES |= {"apo_zero": "APOZero", "apo_down": "APODown"}  # as TRL spells them
# Names that papers and other tools use for these objectives, or for a setting of one.
_SYNONYMS = {
    "kd": "ForwardKL",
    "kld": "ForwardKL",
    "kldiv": "ForwardKL",
    "hinton": "ForwardKL",
    "distillation": "ForwardKL",
    "gkd": "JensenShannon",
    "generalizedjsd": "JensenShannon",
    "minillm": "ReverseKL",
    "distillm": "SkewKL",
    "sft": "CrossEntropy",
    "nll": "CrossEntropy",
    "lm": "CrossEntropy",
    "tvd": "TotalVariation",
    "akl": "AdaptiveKL",
    "rpo": "DPO",
    "ipo": "DPO",
    "apo": "APOZero",
}

_TOKENS = re.compile(
    r"""\s*(?:
    (?P<user>[^\s()+*,='"]+:[A-Za-z_]\w*)
  | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
  | (?P<word>[A-Za-z_]\w*)
  | (?P<quoted>'[^']*'|"[^"]*")
  | (?P<sign>[-+*(),=])
    )""",
    re.VERBOSE,
)

Value = float | int | str | bool | Objective
_LONGEST = 2_000  # characters of an objective, which appears in messages, tables and figures


def parse(text: str) -> Objective:
    """The objective that a text names, such as ``"0.5*CrossEntropy + 0.5*TAID(start=0.2)"``.

    Imports the file or module of a user's class. Raises BadObjective, with what was expected at which column.
    """
    if len(text) > _LONGEST:
        raise BadObjective(f"objective {text[:40]!r}...: expected at most {_LONGEST:,} characters, got {len(text):,}")
    return _Reader(text).read()


class _Reader:
    """Reads one text from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._split())
        self.next = 0

    def read(self) -> Objective:
        """sum"""
        terms = [self._term()]
        while self._take("sign", "+"):
            terms.append(self._term())
        if self.next < len(self.tokens):
            raise self._wrong("'+' and another term, or the end")
        return terms[0][1] if len(terms) == 1 and terms[0][0] is None else Sum([(w or 1.0, t) for w, t in terms])

    def _split(self) -> Iterable[tuple[str, str, int]]:
        """(kind, text, column) of each piece."""
        end = len(self.text.rstrip())
        at = 0
        while at < end:
            match = _TOKENS.match(self.text, at)
            if match is None or match.lastgroup is None:
                column = at + len(self.text[at:]) - len(self.text[at:].lstrip())
                raise BadObjective(
                    f"objective {self.text!r}: unexpected {self.text[column]!r} at column {column + 1}; write for example "
                    "0.5*CrossEntropy + 0.5*TAID(start=0.2)"
                )
            kind = match.lastgroup
            yield kind, match[kind], match.start(kind)
            at = match.end()

    def _term(self) -> tuple[float | None, Objective]:
        negative = self._take("sign", "-") or ""
        number = self._take("number")
        if number is None and not negative:
            return None, self._call()
        weight = float(number or "nan")
        if negative or not 0 < weight < math.inf:
            raise BadObjective(
                f"objective {self.text!r}: a weight must be a number > 0, got {negative}{number or ''}; leave out "
                "a term of weight 0"
            )
        if not self._take("sign", "*"):
            raise self._wrong(f"'*' and an objective after the weight {number}")
        return weight, self._call()

    def _call(self) -> Objective:
        user = self._take("user")
        name = user or self._take("word")
        if name is None:
            raise self._wrong("the name of an objective")
        values: dict[str, Value] = {}
        if self._take("sign", "(") and not self._take("sign", ")"):
            while True:
                key, value = self._argument(name)
                if key in values:
                    raise BadObjective(f"objective {self.text!r}: {name} is given {key} twice; keep one")
                values[key] = value
                if self._take("sign", ")"):
                    break
                if not self._take("sign", ","):
                    raise self._wrong("',' or ')'")
        return _make(self._users(user) if user else self._ours(name), values, user)

    def _argument(self, name: str) -> tuple[str, Value]:
        key = self._take("word")
        if key is None or not self._take("sign", "="):
            raise self._wrong(f"a parameter of {name} by name, as in {name}(temperature=2.0)")
        sign = -1 if self._take("sign", "-") else 1
        number = self._take("number")
        if number is not None:
            value = int(number) if number.isdigit() and len(number) < 16 else float(number)
            if not math.isfinite(value):
                raise BadObjective(f"objective {self.text[:80]!r}: {name}({key}=...) is not a finite number")
            return key, sign * value
        quoted = self._take("quoted")
        if quoted is not None:
            return key, quoted[1:-1]
        if sign > 0 and self._calls():
            return key, self._call()
        word = self._take("word")
        if word is None or sign < 0:
            raise self._wrong(f"a number, a word or a quoted text for {key}")
        return key, {"true": True, "false": False}.get(word.lower(), word)

    def _calls(self) -> bool:
        """Whether the next pieces are a name and a bracket."""
        pieces = self.tokens[self.next : self.next + 2]
        return len(pieces) == 2 and pieces[0][0] in {"word", "user"} and pieces[1][:2] == ("sign", "(")

    def _ours(self, name: str) -> type[Objective]:
        names = {known.lower(): known for known in OBJECTIVES} | _ALIASES
        if name.lower() not in names:
            near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
            meant = _SYNONYMS.get(name.lower()) or (names[near[0]] if near else None)
            hint = f"did you mean {meant}? There" if meant else "there"
            raise BadObjective(
                f"objective {self.text!r}: there is no {name}; {hint} are {', '.join(OBJECTIVES)}; "
                "your own is FILE.py:CLASS, or has a name from a package that is installed"
            )
        return OBJECTIVES[names[name.lower()]]

    def _users(self, name: str) -> type[Objective]:
        where, _, wanted = name.rpartition(":")
        module = _load(where, self.text)
        kind = getattr(module, wanted, None)
        if kind is None:
            classes = [n for n, c in vars(module).items() if is_objective(c) and c.__module__ == module.__name__]
            raise BadObjective(
                f"objective {self.text!r}: {where} has no {wanted}; its objectives are {', '.join(classes) or 'none'}"
            )
        if not is_objective(kind):
            raise BadObjective(
                f"objective {self.text!r}: {name} is not an objective; make it a class that inherits from "
                "limbeck.objectives.Objective and defines forward(logits, signal, chunk)"
            )
        return kind

    def _take(self, kind: str, text: str | None = None) -> str | None:
        """The next piece if it is of this kind (and text), which is then read; None otherwise."""
        if self.next < len(self.tokens):
            found, piece, _ = self.tokens[self.next]
            if found == kind and text in (None, piece):
                self.next += 1
                return piece
        return None

    def _wrong(self, expected: str) -> BadObjective:
        if self.next < len(self.tokens):
            _, piece, column = self.tokens[self.next]
            came = f"{piece!r} at column {column + 1}"
        else:
            came = "the end of the text"
        return BadObjective(
            f"objective {self.text!r}: expected {expected}, got {came}; write for example "
            "0.5*CrossEntropy + 0.5*TAID(start=0.2)"
        )


def code_of(objective: Objective) -> dict[str, str]:
    """SHA-256 of the files of user-defined classes in an objective, by class name: their code is part of the run's identity."""
    parts = [part for part in objective.modules() if isinstance(part, Objective)]
    users = [type(part) for part in parts if not type(part).__module__.startswith("limbeck.")]
    return {kind.__name__: hashlib.sha256(_file_of(kind).read_bytes()).hexdigest() for kind in users}


def _file_of(kind: type[Objective]) -> Path:
    return Path(kind.forward.__code__.co_filename)


def _make(kind: type[Objective], values: dict[str, Value], source: str | None) -> Objective:
    """An objective of a class. Raises BadObjective for an unknown parameter, with the nearest name, or a wrong value."""
    known = parameter_names(kind)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            takes = f"it takes {', '.join(known)}" if known else "it takes no parameters"
            raise BadObjective(f"{kind.__name__} has no parameter {key}; {hint}{takes}")
    try:
        objective = kind(**values)
    except (TypeError, ValueError) as error:
        raise BadObjective(f"{kind.__name__} cannot be made with {values}: {error}") from error
    if source is not None:
        objective.source = source.rpartition(":")[0]
    return objective


def _load(where: str, text: str) -> ModuleType:
    """The user's module, from a file or by its name. Raises BadObjective if it cannot be imported."""
    try:
        return _from_file(Path(where).expanduser()) if where.endswith(".py") else _from_name(where)
    except FileNotFoundError as error:
        raise BadObjective(f"objective {text!r}: {error}") from error
    except Exception as error:
        raise BadObjective(
            f"objective {text!r}: importing {where} failed with {type(error).__name__}: {error}"
        ) from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path} (looked in {Path.cwd()}); give the path of the file with your class"
        )
    spec = importlib.util.spec_from_file_location(f"limbeck_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_name(name: str) -> ModuleType:
    """A module by its name, searched in the current folder first."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise  # the user's module is there, but imports one that is not
        raise FileNotFoundError(
            f"there is no module {name} (looked in {here} and on Python's path); give FILE.py:CLASS, or run from the folder "
            "of the module"
        ) from error
    finally:
        sys.path.remove(here)
