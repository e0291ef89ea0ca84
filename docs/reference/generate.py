"""Writes the reference pages of the command line, run files and Python functions, and the stub of the latter, from the settings.

usage: generate.py [--check]; with --check nothing is written, and the exit status is 1 where a file is not what it would be.
"""

import dataclasses
import inspect
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import limbeck
from limbeck import results
from limbeck.config import resolve
from limbeck.config.commands import COMMANDS, Command
from limbeck.config.flag import SECTIONS, Setting
from limbeck.config.signature import docstring, parameters

ROOT = Path(__file__).parents[2]
NOTE = "<!-- Made by docs/reference/generate.py from the settings; edit those. -->"
EXAMPLE = """\
import limbeck

result = limbeck.distil(teacher="teacher", params="6M", data="my.jsonl", tokens="2M", out="runs/first")
print(result.verdict)
print(result.readings["student"]["held_out"].value, result.report)
"""
FUNCTIONS = [command for command in COMMANDS if command.result]


def files() -> dict[Path, str]:
    """Every file that is made, with what it should hold."""
    pages = ROOT / "docs" / "reference"
    return {
        pages / "cli.md": cli_page(),
        pages / "toml.md": toml_page(),
        pages / "api.md": api_page(),
        ROOT / "src" / "limbeck" / "api.pyi": stub(),
    }


def cli_page() -> str:
    """All commands, and all flags of each, section by section."""
    parts = [
        NOTE,
        "# The command line",
        "`limbeck COMMAND --help` shows the same. A COUNT is written as 250k, 6M or 1.3B, BYTES as 24GiB or 8GB, a TIME as 20ms. "
        "Exit status: 0 done, 2 a mistake of the user's, 1 a fault or a check that failed, 130 and 143 after SIGINT and SIGTERM; "
        "the same command continues what was stopped.",
        "| command | what it does |\n|---|---|\n"
        + "\n".join(f"| [`limbeck {c.name}`](#limbeck-{c.name.replace(' ', '-')}) | {c.summary} |" for c in COMMANDS),
    ]
    for command in COMMANDS:
        parts += [f"## limbeck {command.name}", command.summary, command.details, *flags_of(command)]
    return joined(parts)


def flags_of(command: Command) -> Iterator[str]:
    """The tables of a command's arguments and flags."""
    for section, settings in by_section(command):
        title = section or "Arguments"
        rows = [f"| {spelled(setting)} | {cell(command.described(setting))} |" for setting in settings]
        if not section and command.file:
            rows.insert(0, "| `[RUN.toml]` | A TOML file with the same keys; flags win. |")
        yield "\n".join([f"| {title} | |", "|---|---|", *rows])


def by_section(command: Command) -> Iterator[tuple[str, list[Setting]]]:
    """The settings of a command under the section that they are shown in; "" is that of arguments by position."""
    taken = list(command.taken())
    for section in ("", *SECTIONS):
        settings = [setting for setting in taken if setting.flag.section == section]
        if settings or (not section and command.file):
            yield section, settings


def spelled(setting: Setting) -> str:
    """A flag with its value, as code."""
    if setting.positional:
        return f"`{setting.word.upper()}{'...' if setting.many else ''}`"
    words = [f"--{word.replace('_', '-')}" for word in (setting.word, *setting.flag.aliases)]
    words += [f"--{setting.flag.off}"] if setting.is_switch and setting.flag.off != "-" else []
    value = "" if setting.is_switch else f" {setting.metavar}".replace("|", "\\|")
    return ", ".join(f"`{word}`" for word in words[:-1]) + (", " if words[1:] else "") + f"`{words[-1]}{value}`"


def toml_page() -> str:
    """An annotated run file for each command that takes one."""
    parts = [
        NOTE,
        "# Run files",
        "`limbeck distil run.toml` reads keys from a TOML file; flags win over it. Keys are those of the command line, with "
        "dashes or underscores, and a key that does not exist is an error. "
        "Below is every key of every command that takes a file: with its "
        "default, or commented out with an example where it has none or the default depends on something else.",
    ]
    for command in COMMANDS:
        if command.file:
            parts += [f"## limbeck {command.name}", f"```toml\n{run_file(command)}```"]
    return joined(parts)


def run_file(command: Command) -> str:
    """The annotated run file of a command."""
    lines = []
    for section, settings in by_section(command):
        lines += [f"# ---- {section} ----", ""] if section else []
        for setting in settings:
            if setting.key != "json":
                lines += [*wrapped(command.described(setting)), *assigned(setting), ""]
    return "\n".join(lines).rstrip() + "\n"


def wrapped(text: str, width: int = 96) -> list[str]:
    """A text as comments."""
    import textwrap

    return [f"# {line}" for line in textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)]


def assigned(setting: Setting) -> list[str]:
    """The line that sets a key, commented out where there is no fixed default."""
    if setting.required:
        return [f"{setting.key} = {toml_value(example_of(setting))}"]
    fixed = not setting.flag.needs and not setting.flag.default
    if fixed and setting.default is not None and setting.default != ():
        return [f"{setting.key} = {toml_value(default_of(setting))}"]
    return [f"# {setting.key} = {toml_value(example)}" for example in (example_of(setting),) if example is not None]


def default_of(setting: Setting) -> object:
    """A default as a run file has it: text as people write it, for what is read from text."""
    value = setting.default
    return value if isinstance(value, bool | int | float) and "str" not in setting.annotation else setting.default_text


def example_of(setting: Setting) -> object:
    """An example of a value of a setting without a default."""
    if setting.is_switch:
        return True
    if setting.default is not None and setting.default != ():
        text = setting.default if setting.flag.default else setting.default_text
        text = ",".join(text) if isinstance(text, tuple) else text
    elif setting.flag.examples:
        text = setting.flag.examples[0].strip("'")
    elif setting.annotation.startswith("Literal["):
        text = setting.annotation.split('"')[1]
    else:
        text = EXAMPLES[setting.key]
    return int(text) if setting.annotation == "int" else float(text) if setting.annotation == "float" else text


EXAMPLES = {
    "alpha": "32",
    "baselines": "full",
    "mesh": "shard",  # of keys whose description needs none
    "batch_tokens": "16k",
    "eval_data": "held-out.jsonl",
    "eval_every": "500",
    "frame": "<|endoftext|>",
    "keep_attention": "2",
    "layers": "4",
    "lr": "0.001",
    "match": "mixers,blocks",
    "micro_batch": "8",
    "pairs": "runs/distil/student",
    "patience": "3",
    "ray": "auto",
    "seq_len": "1024",
    "shards": "64",
    "start": "runs/grown",
    "shrink": "2.5",
    "skip_bad": "10",
    "student": "Qwen/Qwen3-0.6B",
    "students": "3",
    "text_processes": "4",
    "threads": "4",
    "tokenizer": "Qwen/Qwen3-8B",
    "tokens": "2M",
    "width": "64",
    "workers": "2",
}


def toml_value(value: object) -> str:
    """A value as a run file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    text = str(value)
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def api_page() -> str:
    """The functions with their parameters, what they give, the errors, and the other public names."""
    parts = [
        NOTE,
        "# Python",
        "`import limbeck` loads neither torch nor a model; each name is imported at its first use. The functions take the "
        "keys of the command line, with underscores. "
        "None is as if a key was not given. They raise a `limbeck.LimbeckError`. Results are frozen "
        'and also read-only mappings of their JSON form: `result.out` is a path, `result["out"]` its text, `result.json()` all '
        "of it.",
        f"```python\n{EXAMPLE}```",
    ]
    for command in FUNCTIONS:
        rows = [f"| `{p.name}: {cell(str(p.annotation))}` | {cell(told(command, p))} |" for p in parameters(command)]
        about = "\n".join(["| parameter | |", "|---|---|", *rows])
        parts += [f"## limbeck.{command.name}", command.summary, command.details, f"Gives `{command.result}`.", about]
    parts += [
        "## Results",
        *(page_of(getattr(results, name)) for name in sorted({c.result for c in FUNCTIONS} | {"Measured"})),
    ]
    parts += ["## Errors", "\n".join(f"- `{name}`: {first_line(getattr(limbeck, name))}" for name in errors())]
    named = {c.name for c in FUNCTIONS} | {c.result for c in FUNCTIONS} | {"Measured", *errors()}
    others = [f"- `{name}`: {first_line(getattr(limbeck, name))}" for name in limbeck.__all__ if name not in named]
    return joined([*parts, "## Other names", "\n".join(others)])


def told(command: Command, parameter: inspect.Parameter) -> str:
    """What a parameter is."""
    if parameter.name == "file":
        return "A TOML run file with the same keys; keys given here win."
    return command.described(next(s for s in command.taken() if s.key == parameter.name))


def errors() -> list[str]:
    """The public errors."""
    return [n for n in limbeck.__all__ if inspect.isclass(v := getattr(limbeck, n)) and issubclass(v, BaseException)]


def page_of(kind: type) -> str:
    """A class of results."""
    fields = [f"- `{f.name}: {f.type}`" for f in dataclasses.fields(kind) if f.name != "row"]
    fields += [f"- `{n}`: {first_line(v)}" for n, v in vars(kind).items() if isinstance(v, property)]
    return "\n\n".join([f"### {kind.__name__}", inspect.cleandoc(kind.__doc__ or ""), "\n".join(fields)])


def first_line(value: object) -> str:
    """The first sentence of a docstring."""
    return cell((inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " "))


def cell(text: str) -> str:
    """A text as a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def joined(parts: list[str]) -> str:
    """Blocks of a page."""
    return "\n\n".join(filter(None, parts)) + "\n"


def stub() -> str:
    """The stub of `limbeck.api`, by which type checkers and editors know the parameters."""
    names = sorted(command.result for command in FUNCTIONS)
    lines = [
        '"""Made by docs/reference/generate.py from the settings; edit those."""',
        "",
        "from collections.abc import Mapping, Sequence",
        "from os import PathLike",
        "from typing import Literal",
        "",
        "from limbeck.objectives import Objective",
        "from limbeck.results import (",
        *(f"    {name}," for name in names),
        ")",
        "",
    ]
    for command in FUNCTIONS:
        lines += [f"def {command.name}(", *declared(command), f") -> {command.result}:"]
        escaped = docstring(command).replace("\\", "\\\\")
        lines += [
            f'    """{escaped.splitlines()[0]}',
            *(f"    {t}".rstrip() for t in escaped.splitlines()[1:]),
            '    """',
            "",
        ]
    return "\n".join(lines)


def declared(command: Command) -> Iterator[str]:
    """The parameters of a function, a line each."""
    keyword = False
    previous = None
    for parameter in parameters(command):
        if previous is inspect.Parameter.POSITIONAL_ONLY and parameter.kind is not previous:
            yield "    /,"
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword:
            keyword = True
            yield "    *,"
        default = "" if parameter.default is inspect.Parameter.empty else f" = {literal(parameter.default)}"
        yield f"    {parameter.name}: {parameter.annotation}{default},"
        previous = parameter.kind


def literal(value: object) -> str:
    """A default as source text."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{value:_}" if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 else repr(value)


def check_run_files() -> None:
    """Raises where a run file of the page is none, whole or with one example more."""
    for command in COMMANDS:
        if command.file:
            text = run_file(command)
            resolve(command.settings, None, tomllib.loads(text))
            needed = {setting.key: example_of(setting) for setting in command.taken() if setting.required}
            for line in text.splitlines():
                key, equals, _ = line.removeprefix("# ").partition(" = ")
                if equals and line.startswith("# ") and key.isidentifier():
                    resolve(command.settings, None, needed | tomllib.loads(line.removeprefix("# ")))


def main() -> int:
    """Writes the files, or says which are not what they should be."""
    check_run_files()
    stale = [path for path, text in files().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(files()[path], encoding="utf-8")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
