"""What Ollama and llama.cpp need beside a GGUF file: a Modelfile, and a command.

Ollama's templates are of Go and no translation of Jinja. So a template is written only where that of the tokenizer renders probe
messages exactly as ChatML or Llama 3 does. Source: docs.ollama.com, "Modelfile Reference".
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from limbeck.generation.local import stop_tokens
from limbeck.models.language_model import LanguageModel

_GO_CHATML = """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
"""
_GO_LLAMA3 = """{{ if .System }}<|start_header_id|>system<|end_header_id|>

{{ .System }}<|eot_id|>{{ end }}{{ if .Prompt }}<|start_header_id|>user<|end_header_id|>

{{ .Prompt }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>

{{ .Response }}<|eot_id|>"""
Messages = Sequence[Mapping[str, str]]


def _chatml(messages: Messages) -> str:
    turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
    return "".join([*turns, "<|im_start|>assistant\n"])


def _llama3(messages: Messages) -> str:
    turns = [f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n{m['content']}<|eot_id|>" for m in messages]
    return "".join([*turns, "<|start_header_id|>assistant<|end_header_id|>\n\n"])


_KNOWN: Mapping[str, tuple[Callable[[Messages], str], str]] = {
    "ChatML": (_chatml, _GO_CHATML),
    "Llama 3": (_llama3, _GO_LLAMA3),
}
_SYSTEM = {"role": "system", "content": "Sei brief & exact."}
_ASKED = {"role": "user", "content": "Why 1 < 2?\nSay <it>."}
_PROBES = (
    (_SYSTEM, _ASKED),
    (_SYSTEM, _ASKED, {"role": "assistant", "content": "So."}, {"role": "user", "content": "Thanks {{ x }}"}),
)


@dataclass(frozen=True)
class Template:
    """A chat template that Ollama can have: its name, its text for Ollama, and the system message where none is given."""

    name: str
    go: str
    system: str | None = None


def template_of(model: LanguageModel) -> Template | None:
    """The template of a model whose tokenizer renders as one of those that are known; None for another."""
    for name, (render, go) in _KNOWN.items():
        if all(_rendered(model, probe) == render(probe) for probe in _PROBES):
            alone = _rendered(model, (_ASKED,))
            if alone == render((_ASKED,)):
                return Template(name, go)
            marker = "\0"
            before, after = render(({"role": "system", "content": marker}, _ASKED)).split(marker)
            if alone is not None and alone.startswith(before) and alone.endswith(after):
                return Template(name, go, alone[len(before) : len(alone) - len(after)])
    return None


def _rendered(model: LanguageModel, messages: Messages) -> str | None:
    """Messages as the tokenizer renders them, without the token that begins every text; None where it cannot."""
    try:
        text = model.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    except Exception:  # of whatever kind a template raises
        return None
    begin = model.tokenizer.bos_token
    # llama.cpp and Ollama put the token that begins a text there themselves
    twice = isinstance(begin, str) and begin and text.startswith(begin) and not begin.startswith("<|im_start")
    return str(text.removeprefix(begin) if twice else text)


def modelfile(model: LanguageModel, file: str) -> tuple[str | None, str]:
    """(Modelfile, "") for a GGUF file beside it, or (None, reason) where Ollama could not be told how to chat."""
    template = None
    if model.tokenizer.chat_template:
        template = template_of(model)
        if template is None:
            return (
                None,
                "no Modelfile: the chat template renders neither as ChatML nor as Llama 3, and Ollama has no other of its own",
            )
    lines = [f"FROM ./{file}", f'TEMPLATE """{template.go if template else "{{ .Prompt }}"}"""']
    if template is not None and template.system is not None:
        lines.append(f'SYSTEM """{template.system}"""')
    if template is not None and '"""' in (template.system or ""):
        return None, "no Modelfile: the system message of the chat template holds three quotes, which end it there"
    stops = [model.tokenizer.convert_ids_to_tokens(identity) for identity in sorted(stop_tokens(model))]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if isinstance(stop, str) and '"' not in stop]
    lines.append(f"PARAMETER num_ctx {min(model.context, 8192)}")
    return "\n".join(lines) + "\n", ""


def llama_cpp_command(model: LanguageModel, file: str) -> str:
    """The command that runs a GGUF file: a chat where the model has a template, else a text that goes on."""
    how = ["-cnv"] if model.tokenizer.chat_template else ["-no-cnv", "-n", "100", "-p", "Once upon a time"]
    return shlex.join(["llama-cli", "-m", file, *how])
