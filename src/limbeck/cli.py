"""The command line, made from the table of commands and their settings.

Exit status: 0 success; 2 a user's mistake, with one message on stderr; 1 a defect of limbeck, with a traceback; 130 and 143
after SIGINT and SIGTERM. Jobs are imported inside the commands, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import atexit
import gc
import inspect
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer import Argument, Option
from typer.core import TyperCommand

from limbeck import __version__
from limbeck.border import explained
from limbeck.config import known_keys, likely
from limbeck.config.commands import COMMANDS, GROUPS, Command
from limbeck.config.flag import SECTIONS, Setting
from limbeck.errors import Interrupted, LimbeckError, OutOfMemory
from limbeck.scrub import scrubbed
from limbeck.terminal import visible

_HYPHEN = "\ue000"  # stands for a hyphen while lines are broken

FIRST = """\
limbeck makes a large language model small. What one does, in this order:

  limbeck plan --params 600M --tokens 10B --candidates 1.5B,4B,8B
      which teacher pays for a student, and what it costs
  limbeck doctor --teacher MODEL --params 600M --data my.jsonl
      whether teacher, student and dataset belong together
  limbeck distil --teacher MODEL --params 600M --data my.jsonl --out runs/first
      prune a student, train it and its baselines, write report.html
  limbeck probe runs/first/student --teacher MODEL
      measure the student again, on other text or other tasks
  limbeck capture --teacher MODEL --data my.jsonl --out logits
      keep the teacher's logits, for as many students as you like

Try it now, in minutes on a CPU, with a small teacher that is built in:

  limbeck distil --text-tokens 40k --tokens 200k --out runs/demo

limbeck --help lists all commands, limbeck COMMAND --help the flags of one.
"""


class _Command(TyperCommand):
    """A command that shows its flags in sections, accepts their old spellings, and suggests the nearest flag."""

    spec: Command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [self._today(word) for word in args]
        try:
            self._refuse_repeated(ctx, words)
            return super().parse_args(ctx, words)
        except Exception as error:  # Typer's own, of which older versions have Click's: recognised by their attributes
            if (wrong := getattr(error, "option_name", None)) and hasattr(error, "possibilities"):
                meant = likely(wrong, known_keys(s for s in self.spec.taken() if not s.positional))
                error.possibilities = [f"--{meant.replace('_', '-')}"] if meant else []
            elif hasattr(error, "message") and "unexpected extra argument" in error.message:
                error.message += ". Join several values of a flag with commas: a.jsonl,b.jsonl"
            raise

    def _refuse_repeated(self, ctx: Any, words: list[str]) -> None:
        """Refuses a flag that is given twice: only its last value would count."""
        *_, given = self.make_parser(ctx).parse_args(args=list(words))
        for param in given:
            if param.param_type_name == "option" and given.count(param) > 1 and not param.multiple:
                ctx.fail(
                    f"{param.opts[0]} is given {given.count(param)} times, and only the last would count: give it once, with "
                    "commas between values where it takes several"
                )

    def _today(self, word: str) -> str:
        """A flag with its current name."""
        flag, equals, value = word.partition("=")
        for setting in self.spec.taken():
            if flag in {f"--{old.replace('_', '-')}" for old in setting.flag.old}:
                return f"--{setting.word}{equals}{value}"
        return word

    def format_options(self, ctx: Any, formatter: Any) -> None:
        shown = {param.name: record for param in self.get_params(ctx) if (record := param.get_help_record(ctx))}
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{name: [] for name in SECTIONS}}
        if "file" in shown:
            sections["Arguments"].append(shown.pop("file"))
        for setting in self.spec.taken():
            if record := shown.pop(setting.attribute, None):
                sections[setting.flag.section or "Arguments"].append(record)
        sections["Output"] += shown.values()  # --help
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    _write_unbroken(formatter, records)


def _write_unbroken(formatter: Any, records: Sequence[tuple[str, str]]) -> None:
    """Writes flags with their texts, without breaks at hyphens: a name such as off-policy is to be read and copied whole."""
    begin = len(formatter.buffer)
    formatter.write_dl([(flag, text.replace("-", _HYPHEN)) for flag, text in records])
    formatter.buffer[begin:] = [part.replace(_HYPHEN, "-") for part in formatter.buffer[begin:]]


app = typer.Typer(
    name="limbeck",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": shutil.get_terminal_size().columns},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"limbeck {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _all(
    ctx: typer.Context,
    version: Annotated[
        bool, Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Makes a large language model small: plan, prune, distil, and prove what came out."""
    if ctx.invoked_subcommand is None:
        print(FIRST, end="")


def _parameters(command: Command) -> Iterator[inspect.Parameter]:
    """The parameters from which Typer makes arguments and options. Values stay text: the settings read them."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    if command.file:
        words = "A TOML file with the same keys; flags win."
        yield inspect.Parameter(
            "file", keyword, default=None, annotation=Annotated[Path | None, Argument(metavar="[RUN.toml]", help=words)]
        )
    for setting in command.taken():
        kind, default = _typed(setting), ... if setting.required else None
        words = command.described(setting)
        if setting.positional:
            option = Argument(metavar=setting.word.upper(), help=words, show_default=False)
        else:
            metavar = None if setting.is_switch else setting.metavar
            option = Option(*_spelled(setting), metavar=metavar, help=words, show_default=False)
        yield inspect.Parameter(setting.attribute, keyword, default=default, annotation=Annotated[kind, option])


def _typed(setting: Setting) -> Any:
    if setting.is_switch:
        return bool | None
    if setting.many:
        return list[str]
    return str if setting.required else str | None


def _spelled(setting: Setting) -> list[str]:
    """The spellings of a flag that help shows."""
    words = [f"--{word.replace('_', '-')}" for word in (setting.word, *setting.flag.aliases)]
    if setting.is_switch and setting.flag.off != "-":
        words[0] += f"/--{setting.flag.off}"
    return words


def _called(command: Command) -> Callable[..., None]:
    """The function that Typer calls for a command."""

    def call(**flags: Any) -> None:
        from limbeck import commands  # after --help

        file = flags.pop("file", None)
        commands.RUN[command.name](command.name, file, flags)

    parameters = list(_parameters(command))
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__doc__ = "\n\n".join(filter(None, (command.summary, command.details)))
    return call


def _register() -> None:
    groups = {"": app}
    for name, about in GROUPS.items():
        groups[name] = typer.Typer(no_args_is_help=True, help=about)
    for command in COMMANDS:
        group, _, name = command.name.rpartition(" ")
        kind = type("_Command", (_Command,), {"spec": command})
        groups[group].command(name, cls=kind, short_help=command.summary)(_called(command))
    for name in GROUPS:
        app.add_typer(groups[name], name=name)


_register()


def main() -> NoReturn:
    """Runs the command line and exits."""
    signal.signal(signal.SIGTERM, _terminated)
    atexit.register(gc.freeze)  # what is there at the end goes with the process, unsearched
    _quiet()
    try:
        with explained():
            app()  # prints a wrong flag itself and exits with 2; turns SIGINT into 130
    except (LimbeckError, Interrupted) as error:
        rank = os.environ.get("RANK", "0")
        if rank == "0" or isinstance(
            error, OutOfMemory
        ):  # under torchrun every rank has the same error, but for memory
            where = "" if rank == "0" else f"process {rank}: "
            print(f"limbeck: {where}{visible(scrubbed(str(error)))}", file=sys.stderr)
        sys.exit(error.status)
    sys.exit(0)


# Libraries that warn while they are imported, of things that a user of limbeck can neither see nor change: kernels of other
# machines, enums of torchao, operators of a torchvision that is not there.
_CHATTY = ("torchao", "torch.utils._pytree", "torch.onnx._internal.exporter._registration")


def _quiet() -> None:
    """Leaves only errors of those libraries, in this process; whoever imports limbeck hears them."""
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Interrupted("stopped by SIGTERM; what was saved is kept, and the same command continues", number)
