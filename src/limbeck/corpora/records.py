"""Converts a record of a dataset to a document. All known field names are in this file.

The form of a record follows from its fields, in this order: ``messages`` (chat), ``text``, ``conversations`` (ShareGPT),
``prompt`` and ``completion``, ``instruction`` and ``output`` (Alpaca). `Columns` gives other names, or says that records are
preference pairs (``chosen`` and ``rejected``), which only an objective of pairs reads, or that prompts alone are read. In every
chat form, ``tools`` and ``chat_template_kwargs`` are passed to the chat template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NoReturn

from limbeck.corpora import preference
from limbeck.corpora.document import Document, Message, without_nulls
from limbeck.corpora.jsonl import Unreadable, parsed
from limbeck.errors import BadRecord, BadSetting

# The required and the optional fields of each form. A record has the first form that matches.
FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "messages": (("messages",), ("system",)),
    "text": (("text",), ()),
    "ShareGPT": (("conversations",), ("system",)),
    "prompt and completion": (("prompt", "completion"), ()),
    "Alpaca": (("instruction", "output"), ("input", "system", "history")),
    preference.FORM: (("chosen", "rejected"), ("prompt", "system")),
}
BESIDE = ("tools", "chat_template_kwargs")  # optional fields of a conversation in every form
PROMPT = "prompt alone"
CHECKS = ("answer", "instruction_id_list", "kwargs")  # beside a prompt in any form: what its completions are checked by
STRATEGY = "strategy"  # beside a prompt in any form: which of several system messages its teacher reads
SPLIT = "split_by"  # in any form: records with one value of it are on one side of the split
Forms = Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]

# The forms of records of which prompts alone are read. A preference pair that names its prompt has that alone.
_PROMPTS: Forms = {**FORMS, PROMPT: (("prompt",), ("system",))}
_OF_PROMPTS: Forms = {
    form: (_PROMPTS[form][0], (*_PROMPTS[form][1], *CHECKS, STRATEGY))
    for form in sorted(_PROMPTS, key=lambda form: form == preference.FORM)  # as the last one
}

# Keys of a message that decide whether its tokens have weight in the loss. The chat template does not receive them.
LEARNED = ("weight", "train", "trainable")

# Keys without text of their own; nothing is lost when the chat template ignores them.
MARKS = frozenset({*LEARNED, "id", "type", "tool_call_id", "index"})

# Roles of ShareGPT's form. A function_call is an assistant turn with a tool call.
_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function_response"), "tool"),
    "system": "system",
    "function_call": "function_call",
}
_OURS = {"messages", "conversation", "tools", "tokenize", "add_generation_prompt", "continue_final_message"}
_OURS |= {"chat_template", "return_dict", "return_tensors", "return_assistant_tokens_mask", "tokenizer_kwargs"}


@dataclass(frozen=True)
class Columns:
    """Field names of a dataset as (usual name, name in the dataset) pairs. Without pairs the usual names apply.

    ``preference``: each record is a preference pair, whatever other fields it has; otherwise none may be. ``prompts``: only the
    prompt of a record is read, which may be all that it has, what completions of it are checked by (`CHECKS`), and its
    `STRATEGY`.

    ``only``: (field of the dataset, value) pairs; records with another value of one of them, or without it, are passed over.

    Raises BadSetting for an unknown or repeated usual name, and where a form lacks a required field.
    """

    names: tuple[tuple[str, str], ...] = ()
    preference: bool = False
    prompts: bool = False
    only: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        ours = [name for name, _ in self.names]
        for name in ours:
            if name not in self._roles:
                raise BadSetting(
                    f"--columns {name}=...: unknown field {name!r}. There are: {', '.join(self._roles)}; write the usual name "
                    "first, such as text=body"
                )
        if len(set(ours)) < len(ours):
            raise BadSetting(f"--columns: a field is named twice among {', '.join(ours)}: give each one column")
        if set(ours) - {*CHECKS, STRATEGY, SPLIT} and not any(
            set(needed) <= set(ours) for needed, _ in self.forms.values()
        ):
            raise BadSetting(
                f"--columns: expected all fields of one form, got {', '.join(ours)}. The forms are "
                + "; ".join(" and ".join(needed) for needed, _ in self.forms.values())
            )

    @property
    def forms(self) -> Forms:
        """The required and the optional fields of each form that a record may have; it has the first that matches."""
        return _OF_PROMPTS if self.prompts else FORMS

    @property
    def _roles(self) -> tuple[str, ...]:
        names = (name for needed, others in self.forms.values() for name in (*needed, *others))
        return (*dict.fromkeys(names), *BESIDE, SPLIT)

    @property
    def form(self) -> str | None:
        """The form whose fields are given, None where each record's form is recognised."""
        given = {name for name, _ in self.names}
        if self.preference:
            return preference.FORM
        return next((form for form, (needed, _) in self.forms.items() if set(needed) <= given), None)

    def takes(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has the values of ``only``; numbers, true and false are written as in JSON."""
        return all(name in record and _written(record[name]) == value for name, value in self.only)

    def there(self, name: str) -> str:
        """The name of a field in the dataset, from its usual name."""
        return dict(self.names).get(name, name)

    def wanted(self, names: Iterable[str]) -> list[str]:
        """The columns of a table that are read."""
        there = list(names)
        form = self.form or self.form_of(dict.fromkeys(there, True))
        if form is None:
            return []
        read = dict.fromkeys([*map(self.there, (*self.fields(form), SPLIT)), *(name for name, _ in self.only)])
        return [name for name in read if name in there]

    def fields(self, form: str) -> tuple[str, ...]:
        """The usual names of all fields of a form that are read."""
        needed, others = self.forms[form]
        return (*needed, *others) if form == "text" else (*needed, *others, *BESIDE)

    def form_of(self, record: Mapping[str, Any]) -> str | None:
        """The form of a record by its fields, None for an unknown one; a null field is absent where another form matches."""
        whole = [form for form, (needed, _) in self.forms.items() if all(name in record for name in needed)]
        held = [form for form in whole if all(record[name] is not None for name in self.forms[form][0])]
        return next(iter(held or whole), None)


def from_record(
    record: Mapping[str, Any],
    *,
    name: str,
    where: str,
    columns: Columns | None = None,
    table: bool = False,
    unread: tuple[str, ...] = (),
) -> Document | None:
    """The document of one record, None where its text is blank or it is not taken. ``where`` locates the record in errors.

    ``table``: the record is a row of a table, in which every object has the keys of all others with null values, and whose
    columns ``unread`` were not loaded. Raises BadRecord where a field has the wrong type or content.
    """
    columns = columns or Columns()
    if not columns.takes(record):
        return None
    form = columns.form or columns.form_of(record)
    if form == preference.FORM and not (columns.preference or columns.prompts):
        raise BadRecord(
            f"{where}: this is a preference pair ('chosen' and 'rejected'), which an objective of pairs learns: limbeck tune "
            f"--objective DPO; for one side alone, give its name, such as --columns messages=chosen"
        )
    if form is None or any(columns.there(field) not in record for field in columns.forms[form][0]):
        _refuse_without(columns, form, list(record), where)
    fields = {field: record[there] for field in columns.fields(form) if (there := columns.there(field)) in record}
    read = {columns.there(field) for field in (*fields, SPLIT)} | {name for name, _ in columns.only}
    found = {key: _of_table(value) for key, value in fields.items()} if table else fields
    document = _AS[form](_Record(found, where, asked_alone=columns.prompts), name)
    if document is None:
        return None
    if columns.prompts:
        document = document if document.rejected is None else _prompt_of_pair(document)
        document = replace(document, checked_by={key: found[key] for key in CHECKS if found.get(key) is not None})
        document = replace(document, strategy=found.get(STRATEGY))
    if SPLIT in dict(columns.names) and record.get(columns.there(SPLIT)) is None:
        raise BadRecord(
            f"{where}: expected '{columns.there(SPLIT)}', which decides the side of the split (--columns {SPLIT}=...), got the "
            f"keys {', '.join(map(repr, list(record)[:8]))}: name another field, or add it"
        )
    if (group := record.get(columns.there(SPLIT))) is not None:
        document = replace(document, question=_group(group, columns.there(SPLIT), where))
    unread = unread or tuple(str(key) for key, value in record.items() if key not in read and _holds_text(value))
    return replace(document, form=document.form or form, unread=_shared(unread))


def _group(value: Any, field: str, where: str) -> str:
    """What decides the side of the split instead of the content. Raises BadRecord unless it is a text or a whole number."""
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    raise BadRecord(
        f"{where}: expected '{field}' to be a text or a whole number, got {kind(value)}: repair or remove it"
    )


def _written(value: Any) -> str:
    """A value as it is written in a source: a text itself, anything else as JSON, or as Python writes what JSON does not have."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if value is None or isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, default=str)
    return str(value)


def from_text(text: Any, *, name: str, where: str, family: str | None = None, field: str = "text") -> Document | None:
    """The document of one text, or None where the text is blank. Raises BadRecord where it is not a Unicode string."""
    text = _string(text, field, where)
    return Document(name, text=text, family=family, form="text") if text.strip() else None


@cache
def _shared(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same tuple object for all records with the same fields, which saves memory."""
    return names


def _refuse_without(columns: Columns, form: str | None, names: list[str], where: str) -> NoReturn:
    came = ", ".join(map(repr, names[:8])) or "none"
    if columns.preference and not columns.names:
        raise BadRecord(
            f"{where}: expected a preference pair with 'chosen' and 'rejected', since the objective compares two completions, "
            f"got the keys {came}: name others, such as --columns chosen=winner,rejected=loser, or take --objective CrossEntropy"
        )
    if columns.names:
        wanted = " and ".join(repr(columns.there(field)) for field in columns.forms[form or "text"][0])
        raise BadRecord(f"{where}: expected {wanted} (--columns), got the keys {came}: name others, or remove it")
    alone = " or 'prompt'" if columns.prompts else ""
    raise BadRecord(
        f"{where}: expected 'text' or 'messages'{alone}, got the keys {came}: name the one that holds the text, such as "
        "--columns text=body, or question and answer, such as --columns prompt=question,completion=answer"
    )


@dataclass
class _Record:
    """The fields of a record by their usual names, and its place for messages. ``asked_alone``: its prompt alone is read."""

    fields: dict[str, Any]
    where: str
    asked_alone: bool = False

    def conversation(self, name: str, messages: list[Message]) -> Document:
        """The document of some messages, with system prompt, tools and template arguments of the record."""
        system = self.fields.get("system")
        if system not in (None, "") and not any(message["role"] == "system" for message in messages):
            messages = [{"role": "system", "content": _string(system, "system", self.where)}, *messages]
        tools, further = self.fields.get("tools"), self.fields.get("chat_template_kwargs")
        return Document(
            name,
            messages=messages,
            tools=None if tools in (None, [], "") else _tools(tools, self.where),
            template=None if further in (None, {}, "") else _further(further, self.where),
        )


def _chat(record: _Record, name: str) -> Document | None:
    return record.conversation(name, _messages(record.fields["messages"], "messages", record.where))


def _plain(record: _Record, name: str) -> Document | None:
    return from_text(record.fields["text"], name=name, where=record.where)


def _sharegpt(record: _Record, name: str) -> Document | None:
    turns = _list(record.fields["conversations"], "conversations", record.where)
    if all(isinstance(turn, Mapping) and "from" not in turn for turn in turns):
        return record.conversation(name, _messages(turns, "conversations", record.where))
    return record.conversation(name, [_turn(turn, i, record.where) for i, turn in enumerate(turns)])


def _turn(turn: Any, i: int, where: str) -> Message:
    """The message of one turn in ShareGPT's form. Its other keys are kept."""
    speaker = turn.get("from") if isinstance(turn, Mapping) else None
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        came = kind(turn) if not isinstance(turn, Mapping) else kind(speaker)
        raise BadRecord(f"{where}: expected turn {i} to be 'from' one of {', '.join(_SPEAKERS)}, got {came}: repair it")
    value = _string(turn.get("value"), f"value of turn {i}", where)
    others = {key: inner for key, inner in turn.items() if key not in ("from", "value")}
    if _SPEAKERS[speaker] != "function_call":
        return _checked({"role": _SPEAKERS[speaker], "content": value, **others}, i, where)
    call = parsed(value, where=where)
    if isinstance(call, BadRecord):
        raise BadRecord(f"{where}: expected the function_call of turn {i} to be JSON, got {kind(value)}: repair it")
    calls = [{"type": "function", "function": call}]
    return _checked({"role": "assistant", "content": None, "tool_calls": calls, **others}, i, where)


def _completion(record: _Record, name: str) -> Document | None:
    prompt, completion = record.fields["prompt"], record.fields["completion"]
    if isinstance(prompt, list) or isinstance(completion, list):
        before = _messages(prompt, "prompt", record.where)
        after = _messages(completion, "completion", record.where)
        return record.conversation(name, [*({**message, "weight": 0} for message in before), *after])
    begin, end = _string(prompt, "prompt", record.where), _string(completion, "completion", record.where)
    counts = end.strip() or (record.asked_alone and begin.strip())
    return Document(name, text=begin + end, prompt=len(begin)) if counts else None


def _prompt(record: _Record, name: str) -> Document | None:
    """A prompt without a completion, in TRL's prompt-only formats; of IFEval's, which are instructions, a user's turn."""
    prompt = record.fields["prompt"]
    if isinstance(prompt, list):
        return record.conversation(name, _messages(prompt, "prompt", record.where))
    text = _string(prompt, "prompt", record.where)
    if record.fields.get("system") not in (None, "") or record.fields.get("instruction_id_list") is not None:
        return record.conversation(name, [{"role": "user", "content": text}])
    return Document(name, text=text, prompt=len(text)) if text.strip() else None


def _prompt_of_pair(pair: Document) -> Document:
    """The prompt that both sides of a preference pair begin with. Raises BadRecord where they have none in common."""
    text = None if pair.text is None else pair.text[: pair.prompt]
    messages = None if pair.messages is None else pair.messages[: pair.asked]
    if not text and not messages:
        raise BadRecord(f"{pair.name}: expected a prompt that both sides begin with, got none: give it as 'prompt'")
    return replace(pair, text=text, messages=messages, rejected=None, asked=0)


def _alpaca(record: _Record, name: str) -> Document | None:
    texts = {
        key: "" if (value := record.fields.get(key)) is None else value for key in ("instruction", "input", "output")
    }
    request = [_string(texts[key], key, record.where) for key in ("instruction", "input")]
    answer = _string(texts["output"], "output", record.where)
    history = record.fields.get("history")
    turns = [pair for pair in history if pair] if isinstance(history, list) else []
    if not (history is None or isinstance(history, list)) or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 for pair in turns
    ):
        raise BadRecord(f"{record.where}: expected 'history' to be pairs of question and answer: repair or remove it")
    contents = [text for pair in turns for text in pair] + ["\n\n".join(filter(str.strip, request)), answer]
    roles = ("user", "assistant") * (len(contents) // 2)
    messages = [
        {"role": role, "content": _string(text, "history", record.where)}
        for role, text in zip(roles, contents, strict=True)
    ]
    counts = answer.strip() or (record.asked_alone and any(map(str.strip, request)))
    return record.conversation(name, messages) if counts else None


def _pair(record: _Record, name: str) -> Document:
    prompt, *ends = preference.split_pair(record.fields, record.where)
    if isinstance(prompt, str):
        texts = [_string(prompt, "prompt", record.where) + _string(end, "chosen", record.where) for end in ends]
        chosen, rejected = (Document(name, text=text, prompt=len(prompt)) for text in texts)
        return replace(chosen, rejected=rejected, form=preference.form_of(record.fields, prompt))
    before = preference.unlearned(_messages(prompt, "prompt", record.where)) if prompt else []
    both = [_messages(end, field, record.where) for end, field in zip(ends, ("chosen", "rejected"), strict=True)]
    chosen, rejected = (record.conversation(name, [*before, *messages]) for messages in both)
    asked = len(chosen.messages or ()) - len(both[0])
    return replace(chosen, rejected=rejected, asked=asked)


_AS = {
    preference.FORM: _pair,
    "messages": _chat,
    "text": _plain,
    "ShareGPT": _sharegpt,
    "prompt and completion": _completion,
    PROMPT: _prompt,
    "Alpaca": _alpaca,
}


def _messages(messages: Any, field: str, where: str) -> list[Message]:
    """The checked messages: a non-empty list of objects with role and content. Raises BadRecord for anything else."""
    return [_checked(message, i, where) for i, message in enumerate(_list(messages, field, where))]


def _list(value: Any, field: str, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise BadRecord(f"{where}: expected '{field}' to be a non-empty list, got {kind(value)}: repair or remove it")
    return value


def _checked(message: Any, i: int, where: str) -> Message:
    """One checked message with its content as one string."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadRecord(f"{where}: expected message {i} to be an object with a string 'role', got {kind(message)}")
    _check_values(message, where)
    if isinstance(message.get("content"), list):
        message = {**message, "content": _joined(message["content"], i, where)}
    if not isinstance(message.get("content"), str) and not (
        message.get("content") is None and message.get("tool_calls")
    ):
        raise BadRecord(
            f"{where}: expected the 'content' of message {i} to be a string, got {kind(message.get('content'))}: "
            "only text conversations are read"
        )
    return message


def _joined(parts: list[Any], i: int, where: str) -> str:
    """The text of content that consists of parts."""
    texts: list[str] = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str) or (isinstance(part, Mapping) and "text" not in str(part.get("type", "text"))):
            came = f"a part of the type {part.get('type')!r}" if isinstance(part, Mapping) else kind(part)
            raise BadRecord(f"{where}: expected the 'content' of message {i} to be text, got {came}: only text is read")
        texts.append(text)
    return "".join(texts)


def _of_table(value: Any) -> Any:
    """A field without the nulls that a table adds. The null content of a turn with only tool calls stays; templates test it."""
    found = without_nulls(value)
    for message in found if isinstance(found, list) else ():
        if isinstance(message, dict) and message.get("tool_calls"):
            message.setdefault("content", None)
    return found


def _tools(tools: Any, where: str) -> list[Any]:
    """The definitions of functions, as a list or as JSON of one."""
    if isinstance(tools, str):
        inner = parsed('{"tools": ' + tools + "}", where=where)
        if isinstance(inner, BadRecord):
            raise BadRecord(f"{where}: expected 'tools' to be a list or JSON of one, got {kind(tools)}: repair it")
        tools = inner["tools"]
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRecord(f"{where}: expected 'tools' to be a list of objects, got {kind(tools)}: repair or remove it")
    _check_values(tools, where)
    return tools


def _further(further: Any, where: str) -> dict[str, Any]:
    """Arguments of the chat template, as an object or as JSON of one."""
    if isinstance(further, str):
        further = parsed(further, where=where)
    if not isinstance(further, dict):
        raise BadRecord(f"{where}: expected 'chat_template_kwargs' to be an object, got {kind(further)}: repair it")
    if taken := sorted(_OURS & further.keys()):
        raise BadRecord(f"{where}: 'chat_template_kwargs' holds {taken[0]!r}, which limbeck gives itself: remove it")
    _check_values(further, where)
    return further


def learned(message: Message, i: int, where: str) -> bool:
    """Whether a turn is learned: the assistant's, unless its weight is 0 or train is false.

    Raises BadRecord for other values of weight and train, and for one that is not 0 in a turn of another role.
    """
    given = {key: message[key] for key in LEARNED if message.get(key) is not None}
    for key, value in given.items():
        if value not in (0, 1):  # True and False are 1 and 0
            raise BadRecord(
                f"{where}: expected the {key!r} of message {i} to be 0 or 1, got {kind(value)}: a turn is learned or not"
            )
        if value and message["role"] != "assistant":
            raise BadRecord(
                f"{where}: the {key!r} of message {i} says that a turn of the {message['role']} is learned, and only the "
                "assistant's are: remove it"
            )
    return message["role"] == "assistant" and all(given.values())


def _string(text: Any, field: str, where: str) -> str:
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise BadRecord(
                f"{where}: expected {field!r} to be UTF-8, got byte 0x{text[error.start]:02X} at byte {error.start}: convert it"
            ) from None
    if not isinstance(text, str):
        raise BadRecord(f"{where}: expected {field!r} to be a string, got {kind(text)}: repair or remove it")
    _check_unicode(text, where)
    return text


def _check_values(value: Any, where: str) -> None:
    """Raises BadRecord where a value for the chat template cannot be read, or is not text."""
    if isinstance(value, str):
        _check_unicode(value, where)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check_unicode(str(key), where)
            _check_values(inner, where)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_values(inner, where)
    elif not isinstance(value, int | float | None):
        raise BadRecord(f"{where}: expected text, numbers, lists and objects, got {kind(value)}: repair or remove it")


def _check_unicode(text: str, where: str) -> None:
    """Raises BadRecord for half a surrogate pair (``\\ud800``), which JSON can spell but Unicode text cannot contain."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(
            f"{where}: expected Unicode text, got a lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}: repair or remove it"
        ) from None


def _holds_text(value: Any) -> bool:
    """Whether a field contains a non-empty string at any depth."""
    if isinstance(value, Mapping):
        return any(map(_holds_text, value.values()))
    return any(map(_holds_text, value)) if isinstance(value, list | tuple) else isinstance(value, str) and bool(value)


def kind(value: Any) -> str:
    """A description of a value in JSON's terms, for messages."""
    if value is None:
        return "null"
    if isinstance(value, Unreadable):
        return value.reason
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, Mapping):
        return "an object with the keys " + (", ".join(map(repr, list(value)[:8])) or "none")
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    return f"a value of the type {type(value).__name__}"
