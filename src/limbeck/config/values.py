"""Values as people write them: counts, bytes, seconds, pairs and lists, each read into one plain value.

Each type here carries an `Accepts`, which says what a Python caller may give and how the command line's help calls it.
"""

from __future__ import annotations

import math
import os.path
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from limbeck.config.defaults import MASK_WARMUP
from limbeck.config.names import nearest
from limbeck.errors import BadSetting
from limbeck.plugins import PROBES

LARGEST = (
    10**18
)  # of a count: tokens or parameters beyond it are a slip, and would not fit what they are multiplied with
_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
Number = TypeVar("Number", int, float)
BASELINES = ("cut", "cut+ce", "cut+ce@flops", "fresh+kd")
ATTENTION = "attention"  # a baseline of a student of other mixers
PTQ = "ptq"  # a baseline of a student that is trained with quantised weights
LAYERS = "layers+kd"  # a baseline of a student that is expanded from shared layers
UNMASKED = "unmasked"  # a baseline of a student that reads corrupted tokens: the same training on the plain ones
FULL = ("full", "full@flops")  # baselines of a model that is trained by adapters: all its weights
ALL_TOKENS = "ce"  # a baseline of a model that is tuned by another objective: cross-entropy of all tokens
ANSWERS = "answers"  # a baseline of a model that is tuned by a reward: cross-entropy on known answers
# Baselines of a tuned model: all its weights, no other text, no pairs, no corrupted tokens, no other objective, known answers
# without a reward.
TUNED = (*FULL, "data-alone", "chosen", UNMASKED, ALL_TOKENS, ANSWERS)
STOPS = ("overlap", "entropy", "ended", "tokens")  # what is limited of texts that a student generates itself
OFF_POLICY = ("off-policy", "off-policy@flops")  # baselines of a student that generates a part of its text itself
UNCORRECTED = ("uncorrected", "uncorrected@flops")  # baselines of a student whose teacher is tuned first
ONE_TEACHER = ("one-teacher", "one-teacher@flops")  # baselines of a student of several teachers: the first for all rows
Stage = Literal["mixers", "blocks"]
STAGES: tuple[Stage, ...] = get_args(Stage)
# Number formats in which weights are counted: those of a folder, then those of a GGUF file.
STORED_AS = ("float32", "bfloat16", "float16", "f32", "f16", "bf16", "q8_0", "q4_0")
OF_TASK = "pass-until"  # the probe whose results are files of their own, to predict from


@dataclass(frozen=True)
class Accepts:
    """The form of a value: the annotation of a Python parameter, and its name in the help of the command line."""

    python: str
    shown: str


def count(text: str | int) -> int:
    """A number from text with a suffix: 6M is 6,000,000, and also 1.3B, 250k, 2_000_000. Raises ValueError for other text."""
    if isinstance(text, int) and not isinstance(text, bool):
        return _bounded(text, text)
    found = re.fullmatch(r"\s*(\d[\d_,]*\.?\d*(?:e\d{1,2})?)\s*([kmbt]?)\s*", str(text), re.IGNORECASE)
    if not found:
        raise ValueError(f"expected a count such as 250k, 6M or 1.3B, got {text!r}")
    value = float(found[1].replace(",", "").replace("_", "")) * _SUFFIX[found[2].lower()]
    return round(_bounded(value, text))


def shown_count(value: int) -> str:
    """A count as `count` reads it, with the largest suffix that loses nothing: 500000 is 500k."""
    for suffix, size in reversed(_SUFFIX.items()):
        if value >= size > 1 and value % size == 0:
            return f"{value // size}{suffix.upper() if suffix != 'k' else suffix}"
    return str(value)


def _bounded(value: Number, text: str | float) -> Number:
    if value > LARGEST:
        raise ValueError(f"expected a count of at most {LARGEST:.0e}, got {str(text)[:24]}")
    return value


def _counts(value: Any) -> Any:
    """One count, or several that differ, the largest first."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return count(value)
    found = sorted({count(part) for part in parts}, reverse=True)
    return found[0] if len(found) == 1 else tuple(found)


def _sizes(value: Any) -> Any:
    """The same, always as several."""
    found = _counts(value)
    return found if isinstance(found, tuple) else (found,)


def _depths(value: Any) -> Any:
    """Numbers of layers, each once, the deepest first; None for none."""
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    if not parts or not all(re.fullmatch(r"\s*[1-9]\d{0,5}\s*", str(part)) for part in parts):
        raise ValueError(f"expected numbers of layers between commas, such as 3,4,6, got {value!r}")
    return tuple(sorted({int(part) for part in parts}, reverse=True))


def _learngene(value: Any) -> Any:
    """ "stages=N" or "linear"; None for none."""
    found = None if value is None else re.fullmatch(r"\s*(?:stages\s*=\s*([1-9]\d{0,5})|linear)\s*", str(value))
    if value is not None and not found:
        raise ValueError(f"expected stages=3 (layers of a stage share their weights) or linear, got {value!r}")
    return None if found is None else f"stages={found[1]}" if found[1] else "linear"


def _difficulty(value: Any) -> Any:
    """ "N", or "LEAST..MOST" of whole numbers from 1."""
    found = re.fullmatch(r"\s*([1-9]\d{0,2})\s*(?:\.\.\s*([1-9]\d{0,2})\s*)?", str(value))
    if not found or (found[2] and int(found[2]) < int(found[1])):
        raise ValueError(f"expected a number of constraints, such as 2, or a range such as 1..3, got {value!r}")
    return f"{found[1]}..{found[2]}" if found[2] else found[1]


_BYTES = {
    "": 1,
    "b": 1,
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "tb": 1e12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


def _measured(units: Mapping[str, float], example: str) -> BeforeValidator:
    """Turns a number with its unit into the number in the base unit."""
    return BeforeValidator(lambda text: _in_base(text, units, example))


def _in_base(text: str | float, units: Mapping[str, float], example: str) -> float:
    found = re.fullmatch(r"\s*(\d+\.?\d*)\s*([a-zµ]*)\s*", str(text), re.IGNORECASE)
    if not found or found[2].lower() not in units:
        raise ValueError(f"expected a number with its unit, such as {example}, got {text!r}")
    return _bounded(float(found[1]) * units[found[2].lower()], text)


def _weight_bytes(value: Any) -> Any:
    """Whole bytes, and after a colon the number format in which they are counted, where one is given: 25000000:q8_0."""
    if value is None:
        return None
    amount, colon, kind = (part.strip() for part in str(value).partition(":"))
    if colon and kind not in STORED_AS:
        raise ValueError(f"unknown number format {kind!r}{nearest(kind, STORED_AS)} There are: {', '.join(STORED_AS)}")
    most = int(_in_base(amount, _BYTES, "25MB or 25MB:q8_0"))
    if most < 1:
        raise ValueError(f"expected at least 1 byte, got {value!r}")
    return f"{most}:{kind}" if colon else str(most)


def byte_budget(text: str) -> tuple[int, str | None]:
    """The bytes of a setting ``weight_bytes``, and the number format in which they are counted, None where it names none."""
    most, _, kind = text.partition(":")
    return int(most), kind or None


def _baselines(value: Any) -> Any:
    """Names of baselines, each once; "none" is none. ``pruned`` is another word for ``cut``."""
    parts = value.split(",") if isinstance(value, str) else list(value)
    plain = (re.sub(r"^pruned(?=$|\+)", "cut", part.strip()) for part in parts)
    names = list(dict.fromkeys(part for part in plain if part.lower() not in {"", "none"}))
    for name in names:
        known = (*BASELINES, ATTENTION, PTQ, LAYERS, *OFF_POLICY, UNMASKED, *FULL, *UNCORRECTED, *ONE_TEACHER)
        if name not in known:
            raise ValueError(
                f"unknown baseline {name!r}{nearest(name, known)} There are: {', '.join(BASELINES)}, with --mixers also "
                f"{ATTENTION}, with --qat also {PTQ}, with --learngene also {LAYERS}, with --rollouts also "
                f"{' and '.join(OFF_POLICY)}, with --mask-input also {UNMASKED}, with --trained lora also {' and '.join(FULL)}, "
                f"with --adapt-teacher also {' and '.join(UNCORRECTED)}, with several teachers also "
                f"{' and '.join(ONE_TEACHER)}, or none."
            )
    return names


_DOMAIN = re.compile(r"\s*([A-Za-z][\w-]*)=(.*)", re.DOTALL)


def by_domain(teacher: str) -> tuple[tuple[str, str], ...]:
    """(domain, teacher) of each piece of ``math=A,code=B``, as written; empty for one teacher, such as a folder of that name.

    A piece without a domain has the domain "".
    """
    if os.path.lexists(teacher) or not _DOMAIN.fullmatch(teacher):
        return ()
    found = [(_DOMAIN.fullmatch(piece), piece) for piece in teacher.split(",")]
    return tuple(("", piece.strip()) if match is None else (match[1], match[2].strip()) for match, piece in found)


def require_one_teacher(text: str, *, flag: str = "--teacher", what: str = "teacher") -> None:
    """Raises BadSetting for several teachers, where the ``flag`` of a job takes one ``what``."""
    if by_domain(text):
        raise BadSetting(
            f"{flag} {text}: teachers by domain are for limbeck distil and doctor, with a model on this machine for each: "
            f"give one {what} here"
        )


def _tuned_baselines(value: Any) -> Any:
    """Names with commas between them, a list of names, or none; None stays."""
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else list(value)
    names = list(dict.fromkeys(part.strip() for part in map(str, parts) if part.strip().lower() not in {"", "none"}))
    for name in names:
        if name not in TUNED:
            raise ValueError(f"unknown baseline {name!r}{nearest(name, TUNED)} There are: {', '.join(TUNED)}, or none.")
    return names


def _replay(value: Any) -> Any:
    """A source and its share of the rows, as SOURCE:SHARE."""
    if value is None:
        return None
    source, colon, number = str(value).strip().rpartition(":")
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not (colon and source and 0 < share < 1):
        raise ValueError(
            f"expected a source and its share of the rows, between 0 and 1, such as hf:HuggingFaceTB/smoltalk:0.1, got {value!r}"
        )
    return f"{source}:{share:g}"


def _rates(value: Any) -> Any:
    """A learning rate, or several that differ, the smallest first; None stays."""
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        found = sorted({float(part) for part in parts})
    except (TypeError, ValueError):
        found = []
    if not found or not all(0 < rate <= 1 for rate in found):
        raise ValueError(
            f"expected a learning rate above 0 and up to 1, or several such as 1e-4,3e-4,1e-3, got {value!r}"
        )
    return found[0] if len(found) == 1 else tuple(found)


def _rollouts(value: Any) -> Any:
    """A share of rows, or a first and a last one with a colon between them, as text; None for no share."""
    if value is None:
        return None
    try:
        shares = [float(part) for part in str(value).split(":")]
    except ValueError:
        shares = []
    if len(shares) not in (1, 2) or not all(0 <= share <= 1 for share in shares):
        raise ValueError(
            f"expected a share of the rows from 0 to 1 such as 0.5, or a first and a last one such as 0:0.5, got {value!r}"
        )
    return ":".join(f"{share:g}" for share in shares) if any(shares) else None


def _stop_when(value: Any) -> Any:
    """Names with their limits, as in overlap:0.6,tokens:200, as text in the order of STOPS; None for none."""
    if value is None:
        return None
    named = {name.strip(): limit for name, _, limit in (part.partition(":") for part in str(value).split(","))}
    try:
        limits = {name: float(limit) for name, limit in named.items()}
    except ValueError:
        limits = {}
    shares = [limits.get(name, 0.5) for name in ("overlap", "ended")]
    if not limits or set(limits) - set(STOPS) or not all(0 < limit < math.inf for limit in limits.values()):
        limits = {}
    if not limits or max(shares) > 1 or len(named) != str(value).count(",") + 1:
        raise ValueError(
            f"expected limits of {', '.join(STOPS[:-1])} and {STOPS[-1]}, each once and above 0, with commas between them, such "
            "as overlap:0.6,tokens:100 (shares up to 1: end a training once less than 60 % of the most probable tokens are the "
            f"teacher's, or a text has more than 100 tokens), got {value!r}"
        )
    return ",".join(f"{name}:{limits[name]:g}" for name in STOPS if name in limits)


def _mask_input(value: Any) -> Any:
    """A share, and after commas token=random or token=ID and warmup=SHARE, as the shortest text; None for no share."""
    if value is None:
        return None
    share, *options = (part.strip() for part in str(value).split(","))
    named = {name.strip(): given.strip() for name, _, given in (option.partition("=") for option in options)}
    token, warmup = named.pop("token", "random"), named.pop("warmup", str(MASK_WARMUP))
    try:
        numbers = float(share), float(warmup)
    except ValueError:
        numbers = math.nan, math.nan
    known = not named and re.fullmatch(r"random|\d{1,9}", token)
    if not known or not all(0 <= number <= 1 for number in numbers) or numbers[0] == 1:
        raise ValueError(
            "expected a share of the learned tokens from 0 to below 1, such as 0.4 (with all of them masked nothing would be "
            "left to reason from), and after commas token=random or the ID of a token, and warmup=0.67 (the part of the "
            f"training in which the share rises), got {value!r}"
        )
    if not numbers[0]:
        return None
    shown = [] if token == "random" else [f"token={int(token)}"]
    return ",".join([f"{numbers[0]:g}", *shown, *([] if numbers[1] == MASK_WARMUP else [f"warmup={numbers[1]:g}"])])


# Rewards, and the defaults of their options.
LATENT = "latent"  # the reward of a rationale: the log-probability of the known answer after it
REWARDS: dict[str, dict[str, float | bool | str]] = {
    "checks": {"beta": 0.05, "all": False},
    LATENT: {"beta": 0.05, "answer": 1.0, "mark": "The answer is"},
}


def reward_options(text: str) -> tuple[str, dict[str, Any]]:
    """The name of a reward, and all its options, of text such as ``checks(beta=0.1,all=true)``. Raises ValueError for other."""
    found = re.fullmatch(r"\s*([A-Za-z]\w*)\s*(?:\(([^()]*)\))?\s*", text)
    if not found or found[1] not in REWARDS:
        example = "checks or 'latent(beta=0.1)'"
        raise ValueError(f"expected a reward, such as {example}, got {text!r}. There are: {', '.join(REWARDS)}")
    options = dict(REWARDS[found[1]])
    given = [part.strip() for part in (found[2] or "").split(",") if part.strip()]
    for part in given:
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in options:
            raise ValueError(f"{found[1]} has no option {key!r}{nearest(key, options)} It takes: {', '.join(options)}.")
        options[key] = _option(key, value, options[key])
    return found[1], options


def _option(key: str, value: str, usual: float | bool | str) -> float | bool | str:
    """The value of an option of the kind of its usual one: true or false, a text, or a number of at least 0."""
    if isinstance(usual, str):
        if not (text := value.strip("'\"").strip()):
            raise ValueError(f"expected {key} to be a text, such as {key}={usual}, got none")
        return text
    if isinstance(usual, bool):
        if value not in ("true", "false"):
            raise ValueError(f"expected {key}=true or {key}=false, got {value!r}")
        return value == "true"
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"expected {key} to be a number of at least 0, such as {key}={usual:g}, got {value!r}")
    return number


def _reward(value: Any) -> Any:
    """A reward as the shortest text, with the options that are not the usual ones; None for none."""
    if value is None:
        return None
    name, options = reward_options(str(value))
    usual = REWARDS[name]
    shown = {key: f"{one:g}" if type(one) is float else str(one) for key, one in options.items()}
    shown |= {key: str(one).lower() for key, one in options.items() if isinstance(one, bool)}
    differ = [f"{key}={shown[key]}" for key in options if options[key] != usual[key]]
    return f"{name}({','.join(differ)})" if differ else name


def _joined(value: Any) -> Any:
    """Several objectives or mixers as one text, with commas between them."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _objectives(value: Any) -> Any:
    """Objectives as one text; those made in Python print themselves as text is read."""
    parts = value if isinstance(value, list | tuple) else [value]
    return _joined([str(part) if hasattr(part, "needs_teacher") else part for part in parts]) if parts else value


def split_objectives(text: str) -> tuple[str, ...]:
    """The objectives of a text, which stand between commas; those in brackets or quotes belong to one of them."""
    pieces, depth, quote = [""], 0, ""
    for sign in text:
        if quote or sign in "'\"":
            quote = "" if sign == quote else quote or sign
        depth += 0 if quote else (sign == "(") - (sign == ")")
        if sign == "," and not depth and not quote:
            pieces.append("")
        else:
            pieces[-1] += sign
    return tuple(piece.strip() for piece in pieces)


def _columns(value: Any) -> Any:
    """(usual name, name in the data) pairs of text such as ``text=body``."""
    parts = value.split(",") if isinstance(value, str) else value.items() if isinstance(value, Mapping) else value
    pairs = [tuple(part.split("=", 1)) if isinstance(part, str) else tuple(part) for part in parts or ()]
    if any(len(pair) != 2 or not all(isinstance(name, str) and name.strip() for name in pair) for pair in pairs):
        raise ValueError(
            "expected usual names and those of the data, such as text=body or prompt=question,completion=answer"
        )
    return tuple((ours.strip(), there.strip()) for ours, there in pairs) or None


def _stages(value: Any) -> Any:
    """The stages in their order, each at most once; "none" is none."""
    parts = [part.strip() for part in (value.split(",") if isinstance(value, str) else value)]
    for part in parts:
        if part not in (*STAGES, "none"):
            raise ValueError(f"unknown stage {part!r}{nearest(part, STAGES)} There are: {', '.join(STAGES)}, none.")
    return tuple(stage for stage in STAGES if stage in parts)


def _shard(value: Any) -> Any:
    if isinstance(value, tuple):
        return value
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", str(value))
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError("expected which of how many machines this is, such as 3/16")
    return int(found[1]), int(found[2])


def _price(value: Any) -> Any:
    """Dollars for a million tokens of prompts, and for a million generated tokens."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        prompt, generated = (float(part) for part in parts)
    except (TypeError, ValueError):
        prompt, generated = -1.0, -1.0
    if not (0 <= prompt < math.inf and 0 <= generated < math.inf):
        raise ValueError(
            "expected dollars for a million prompt tokens and a million generated tokens, such as 0.15,0.60"
        )
    return prompt, generated


def _warmup(value: Any) -> Any:
    """A share of the steps below 1, or a whole number of steps."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= LARGEST or (number >= 1 and number != int(number)):
        raise ValueError(f"expected a share of the steps below 1, such as 0.01, or a number of steps, got {value!r}")
    return number


def _betas(value: Any) -> Any:
    """Two decay rates, each at least 0 and below 1."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        first, second = (float(part) for part in parts)
    except (TypeError, ValueError):
        first, second = math.nan, math.nan
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError(f"expected two numbers from 0 to below 1, such as 0.9,0.95, got {value!r}")
    return first, second


def _average(value: Any) -> Any:
    """ "ema:DECAY" or "last:SHARE", with the usual number where none is given; None for no average."""
    if value is None:
        return None
    kind, colon, number = str(value).strip().partition(":")
    usual = {"ema": 0.999, "last": 0.2}
    try:
        found = float(number) if colon else usual.get(kind, math.nan)
    except ValueError:
        found = math.nan
    if kind not in usual or not 0 < found < 1:
        raise ValueError(
            "expected ema:0.999 (an exponential average with its decay) or last:0.2 (the mean over the last fifth of the "
            f"steps), with a number between 0 and 1, got {value!r}"
        )
    return f"{kind}:{found:g}"


_MINUTES = {"min": 1.0, "m": 1.0, "h": 60.0}


def _save_interval(value: Any) -> Any:
    """A number of steps, or minutes as text: 30min, or 2h, which is 120min."""
    found = re.fullmatch(r"\s*(\d{1,6}\.?\d*)\s*(min|m|h)\s*", str(value))
    minutes = float(found[1]) * _MINUTES[found[2]] if found else 0.0
    if minutes > 0:
        return f"{minutes:g}min"
    if isinstance(value, bool) or not re.fullmatch(r"\s*[1-9]\d{0,17}\s*", str(value)):
        raise ValueError(f"expected a number of steps such as 500, or a time such as 30min, got {value!r}")
    return int(value)


# How files on disk and the code call a codec, by its word.
_CODECS = {"auto": "auto", "sampled": "drawn", "top-k": "coarse", "drawn": "drawn", "coarse": "coarse"}


def _codec(value: Any) -> Any:
    if value not in _CODECS:
        raise ValueError(f"unknown codec {value!r}{nearest(str(value), _CODECS)} There are: auto, sampled, top-k")
    return _CODECS[value]


def _names(value: Any) -> Any:
    """Names between commas, each once."""
    parts = value.split(",") if isinstance(value, str) else list(value)
    return tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))


def _task_names(value: Any) -> Any:
    """Names between commas, each once; None for none."""
    return None if value is None else _names(value) or None


def _vocabulary(value: Any) -> Any:
    """A word such as "auto" or "auto:5" (of what occurs at least 5 times), or a number of tokens; None trims nothing."""
    if value is None:
        return None
    if isinstance(value, str) and (found := re.fullmatch(r"\s*auto\s*(?::\s*([1-9]\d{0,8}))?\s*", value)):
        return "auto" if found[1] in (None, "1") else f"auto:{found[1]}"
    try:
        return count(value)
    except ValueError:
        raise ValueError(
            f"expected auto (all tokens that the text uses), auto:5 (those used at least 5 times), or a number of tokens such as "
            f"8k, got {value!r}"
        ) from None


def _vocabularies(value: Any) -> Any:
    """The same, or several numbers of tokens between commas, the largest first."""
    several = isinstance(value, list | tuple) or (isinstance(value, str) and "," in value)
    return _counts(value) if several else _vocabulary(value)


def _successes(value: int) -> int:
    if value < 1:
        raise ValueError(
            "expected at least 1 success; the unbiased estimate (r - 1)/(K - 1) needs 2, the usual number is 4"
        )
    return value


def _probes(value: Any) -> Any:
    """One probe, or several; pass-until, which has results of its own, only alone."""
    names = _names(value)
    for name in names:
        if name != OF_TASK and name not in PROBES:
            known = (*PROBES, OF_TASK)
            raise ValueError(f"unknown probe {name!r}{nearest(name, known)} There are: {', '.join(known)}.")
    if not names or (OF_TASK in names and len(names) > 1):
        raise ValueError(f"expected one probe or several between commas, {OF_TASK} alone")
    return names


_COUNT = Accepts("int | str", "COUNT")
_SEVERAL_COUNTS = Accepts("int | str | Sequence[int | str]", "COUNT,...")
_SEVERAL = Accepts("str | Sequence[str]", "NAME,...")

Count = Annotated[int, BeforeValidator(count), Field(gt=0), _COUNT]
Counts = Annotated[int | tuple[int, ...] | None, BeforeValidator(_counts), _SEVERAL_COUNTS]
Sizes = Annotated[tuple[int, ...], BeforeValidator(_sizes), _SEVERAL_COUNTS]
Depths = Annotated[tuple[int, ...] | None, BeforeValidator(_depths), Accepts("int | str | Sequence[int]", "LAYERS,...")]
Learngene = Annotated[str | None, BeforeValidator(_learngene), Accepts("str", "stages=N|linear")]
Difficulty = Annotated[str | None, BeforeValidator(_difficulty), Accepts("int | str", "N|LEAST..MOST")]
Bytes = Annotated[float, _measured(_BYTES, "24GiB"), Field(gt=0), Accepts("float | str", "BYTES")]
Seconds = Annotated[float, _measured(_SECONDS, "20ms"), Field(gt=0), Accepts("float | str", "TIME")]
Columns = Annotated[
    tuple[tuple[str, str], ...] | None,
    BeforeValidator(_columns),
    Accepts("str | Sequence[str] | Mapping[str, str]", "NAME=NAME,..."),
]
Context = Annotated[int, BeforeValidator(count), Field(ge=2), _COUNT]
Names = Annotated[tuple[str, ...], BeforeValidator(_names), _SEVERAL]
TaskNames = Annotated[tuple[str, ...] | None, BeforeValidator(_task_names), _SEVERAL]
MixerNames = Annotated[str | None, BeforeValidator(_joined), Accepts("str | Sequence[str]", "PATTERN")]
ObjectiveText = Annotated[
    str, BeforeValidator(_objectives), Accepts("str | Objective | Sequence[str | Objective]", "OBJECTIVE")
]
Baselines = Annotated[tuple[str, ...], BeforeValidator(_baselines), _SEVERAL]
TunedBaselines = Annotated[tuple[str, ...] | None, BeforeValidator(_tuned_baselines), _SEVERAL]
LearningRates = Annotated[
    float | tuple[float, ...] | None, BeforeValidator(_rates), Accepts("float | str | Sequence[float]", "RATE,...")
]
Replay = Annotated[str | None, BeforeValidator(_replay), Accepts("str", "SOURCE:SHARE")]
Rollouts = Annotated[str | None, BeforeValidator(_rollouts), Accepts("float | str", "SHARE[:SHARE]")]
StopWhen = Annotated[str | None, BeforeValidator(_stop_when), Accepts("str", "NAME:LIMIT,...")]
MaskInput = Annotated[
    str | None, BeforeValidator(_mask_input), Accepts("float | str", "SHARE[,token=ID][,warmup=SHARE]")
]
RewardText = Annotated[str | None, BeforeValidator(_reward), Accepts("str", "NAME[(OPTION=VALUE,...)]")]
Stages = Annotated[tuple[Stage, ...] | None, BeforeValidator(_stages), _SEVERAL]
Shard = Annotated[tuple[int, int], BeforeValidator(_shard), Accepts("str | tuple[int, int]", "I/N")]
Price = Annotated[
    tuple[float, float] | None,
    BeforeValidator(_price),
    Accepts("str | tuple[float, float]", "DOLLARS,DOLLARS"),
]
Warmup = Annotated[float, BeforeValidator(_warmup)]
Betas = Annotated[tuple[float, float], BeforeValidator(_betas), Accepts("str | tuple[float, float]", "FLOAT,FLOAT")]
Average = Annotated[str | None, BeforeValidator(_average), Accepts("str", "ema|last[:FLOAT]")]
SaveInterval = Annotated[int | str, BeforeValidator(_save_interval), Accepts("int | str", "STEPS|TIME")]
CodecName = Annotated[
    Literal["auto", "drawn", "coarse"],
    BeforeValidator(_codec),
    Accepts('Literal["auto", "sampled", "top-k"]', "[auto|sampled|top-k]"),
]
ProbeNames = Annotated[tuple[str, ...], BeforeValidator(_probes), _SEVERAL]
Vocabulary = Annotated[str | int | None, BeforeValidator(_vocabulary), Accepts("int | str", "auto|COUNT")]
Vocabularies = Annotated[
    str | int | tuple[int, ...] | None,
    BeforeValidator(_vocabularies),
    Accepts("int | str | Sequence[int | str]", "COUNT,..."),
]
ByteBudget = Annotated[str | None, BeforeValidator(_weight_bytes), Accepts("int | str", "BYTES[:FORMAT]")]
Successes = Annotated[int, AfterValidator(_successes)]


def annotation(kind: Any, metadata: Iterable[Any] = ()) -> str:
    """The annotation of a Python parameter that takes values of a type, without None."""
    return _accepted(kind, metadata).python


def metavar(kind: Any, metadata: Iterable[Any] = ()) -> str:
    """The name of a value of a type in the help of the command line."""
    return _accepted(kind, metadata).shown


_PLAIN = {
    "str": Accepts("str", "TEXT"),
    "int": Accepts("int", "INT"),
    "float": Accepts("float", "FLOAT"),
    "bool": Accepts("bool", ""),
    "Path": Accepts("str | PathLike[str]", "PATH"),
}


def _accepted(kind: Any, metadata: Iterable[Any]) -> Accepts:
    declared = next((item for item in metadata if isinstance(item, Accepts)), None)
    if declared is not None:
        return declared
    inner = get_args(kind)
    if hasattr(kind, "__metadata__"):
        return _accepted(inner[0], kind.__metadata__)
    if _is_literal(kind):
        texts = [f'"{value}"' for value in inner]
        return Accepts(f"Literal[{', '.join(texts)}]", f"[{'|'.join(map(str, inner))}]")
    some = [part for part in inner if part is not type(None)]
    if some:  # X | None, or a list of X
        found = _accepted(some[0], ())
        return Accepts(f"Sequence[{found.python}]", f"{found.shown}...") if is_list(kind) else found
    return _PLAIN[kind.__name__]


def _is_literal(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) is Literal


def is_list(kind: Any) -> bool:
    """Whether a type is a list, of which the command line takes one word each."""
    return getattr(kind, "__origin__", None) is list
