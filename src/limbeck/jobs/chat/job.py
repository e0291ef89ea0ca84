"""`limbeck chat`: a model answers in the terminal, or two side by side; lines of a pipe are answered one by one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TextIO

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from limbeck.config import ChatSettings
from limbeck.errors import BadRecord
from limbeck.jobs.chat.answer import Answer, ChatModel
from limbeck.jobs.common.environment import environment_of
from limbeck.models.configuration import load_config
from limbeck.models.load import load
from limbeck.report.words import size
from limbeck.run.log import console as messages
from limbeck.terminal import visible


def chat(settings: ChatSettings, lines: TextIO, console: Console) -> None:
    """Answers each line, until there are no more. In a terminal a line is asked for, and answers grow as they are written.

    With ``json_`` each line gives one JSON object: ``{"prompt", "answers": [{"model", "text", "tokens", "read", "seconds",
    "finished", "tokens_per_second"}]}``.
    """
    models = _chat_models(settings)
    person = lines.isatty() and console.is_terminal and not settings.json_
    for model in models:
        how = "answers by its chat template" if model.chats else "has no chat template, and continues what you write"
        messages.print(f"{model.name}: {size(model.bytes)} of weights; it {how}")
    for text in _typed(lines, console) if person else _piped(lines):
        try:
            if person:
                _grow(models, text, console)
            else:
                _print_answers(models, text, as_json=settings.json_)
        except BadRecord as error:  # a template refuses what was written; the next line may be another
            messages.print(f"limbeck: {error}")


def _chat_models(settings: ChatSettings) -> list[ChatModel]:
    environment = environment_of(settings, settings.model, settings.beside)
    names = [name for name in (settings.model, settings.beside) if name]
    for name in names:
        load_config(name)
    found = []
    for name in names:
        model = load(name, device=environment.world.device, dtype=environment.dtype)
        parameters = sum(parameter.numel() for parameter in model.model.parameters())
        weights = parameters * (model.stored or torch.float32).itemsize
        how = (settings.temperature, settings.seed, settings.max_new_tokens)
        found.append(ChatModel(str(name), model, weights, *how))
    return found


def _typed(lines: TextIO, console: Console) -> Iterator[str]:
    """What a person types; an empty line or the end of the input ends it."""
    messages.print("an empty line ends it")
    while True:
        console.print(Text("> ", style="bold"), end="")
        line = lines.readline()
        if not line.strip():
            return
        yield line.rstrip("\n")


def _piped(lines: TextIO) -> Iterator[str]:
    """The lines that are not empty."""
    return (line.rstrip("\n") for line in lines if line.strip())


def _together(models: Sequence[ChatModel], text: str) -> Iterator[list[Answer]]:
    """The answers after each token of any of them, the models in turn."""
    latest = [Answer(model.name) for model in models]
    for grown in zip_longest(*(model.answer(text) for model in models)):
        latest = [new or old for new, old in zip(grown, latest, strict=True)]
        yield latest


def _print_answers(models: Sequence[ChatModel], text: str, *, as_json: bool) -> None:
    answers = _last(_together(models, text))
    if as_json:
        print(json.dumps({"prompt": text, "answers": [answer.row() for answer in answers]}, ensure_ascii=False))
        return
    for answer in answers:
        if len(answers) > 1:
            print(f"{visible(answer.model)}:")
        print(visible(answer.text))
    print(flush=True)


def _last(found: Iterable[list[Answer]]) -> list[Answer]:
    *_, last = found
    return last


def _grow(models: Sequence[ChatModel], text: str, console: Console) -> None:
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for answers in _together(models, text):
            live.update(_side_by_side(models, answers), refresh=True)
    console.print()


def _side_by_side(models: Sequence[ChatModel], answers: Sequence[Answer]) -> Table:
    table = Table(box=None, pad_edge=False, expand=True, padding=(0, 2, 0, 0), header_style="bold")
    for model in models:
        table.add_column(Text(model.model.name, overflow="ellipsis", no_wrap=True), ratio=1, overflow="fold")
    table.add_row(*(Text(visible(answer.text)) for answer in answers))
    table.add_row(*(_facts(model, answer) for model, answer in zip(models, answers, strict=True)))
    return table


def _facts(model: ChatModel, answer: Answer) -> Group:
    cut = "" if answer.finished else ", …"
    facts = f"{answer.tokens} tokens, {answer.rate:,.1f} tokens/s, {size(model.bytes)}{cut}"
    return Group(Text(""), Text(facts, style="dim"))


def main(settings: ChatSettings, terminal: Callable[[], Console]) -> None:
    """The command: what is typed or piped is answered."""
    chat(settings, sys.stdin, terminal())
