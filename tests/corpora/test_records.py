"""One reader for the record formats of other programs; records that it cannot read are named."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limbeck.corpora import Document, is_held_out, read
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.prompt import prompt_of
from limbeck.corpora.records import Columns, from_record
from limbeck.corpora.source import resolve
from limbeck.disk import existing, shown
from limbeck.errors import BadCorpus, BadRecord, BadSetting, BadTask
from limbeck.probes.reversal import read_facts
from limbeck.probes.tasks import task_of

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "weather_of", "parameters": {"town": {"type": "string"}}}}


def write(path: Path, *rows, **_) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def one(path: Path, row, columns=None) -> Document:
    (document,) = read(write(path / "a.jsonl", row), columns)
    return document


def refused(path: Path, row, columns=None) -> str:
    with pytest.raises(BadCorpus) as caught:
        list(read(write(path / "a.jsonl", row), columns))
    return str(caught.value)


# One reader of JSON lines


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_only_line_breaks_end_a_line_in_texts_tasks_and_facts(tmp_path, sign):
    assert one(tmp_path, {"text": f"a{sign}b"}).text == f"a{sign}b"
    task = write(tmp_path / "task.jsonl", {"prompt": f"say{sign}x=", "answer": "x"})
    assert task_of(task).instances[0].prompt == f"say{sign}x="
    facts = [{"subject": f"s{i}", "object": f"o{i}", "forward": f"f{sign}", "backward": "b"} for i in range(3)]
    assert [fact.forward for fact in read_facts(write(tmp_path / "facts.jsonl", *facts))] == [f"f{sign}"] * 3


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_part_of_a_record(tmp_path):
    rows = [{"prompt": "2+2=", "answer": "4", "text": "one"}, {"prompt": "2+3=", "answer": "5", "text": "two"}]
    content = "\ufeff" + "\r\n".join(map(json.dumps, rows)) + "\r\n"
    (tmp_path / "a.jsonl").write_bytes(content.encode())
    assert [d.text for d in read(str(tmp_path / "a.jsonl"))] == ["one", "two"]
    assert [i.answers for i in task_of(str(tmp_path / "a.jsonl")).instances] == [("4",), ("5",)]


@pytest.mark.parametrize(
    "value",
    ["9" * 5000, "-" + "1" * 4301, "NaN", "-Infinity", "[" * 3000 + "]" * 3000, '{"a":' * 150 + "1" + "}" * 150],
)
def test_a_field_that_nobody_reads_stops_nothing(tmp_path, value):
    (tmp_path / "a.jsonl").write_text('{"n": ' + value + ', "text": "a [b]", "m": [' + value + "]}\n")
    assert [d.text for d in read(str(tmp_path / "a.jsonl"))] == ["a [b]"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "first", "text": "second"}', "expected 'text' to be a string, got a key that occurs twice"),
        ('{"text": ' + "9" * 5000 + "}", "expected 'text' to be a string, got a number of 5,000 digits"),
        ('{"text": NaN}', "expected 'text' to be a string, got NaN, which is not JSON"),
        ('{"text": ' + "[" * 101 + "]" * 101 + "}", "got a value nested more than 100 deep"),
        (
            '{"messages": [{"role": "assistant", "content": "a", "content": "b"}]}',
            "expected text, numbers, lists and objects, got a key that occurs twice",
        ),
        ("[" * 3000, "expected one JSON object, got '[[["),
    ],
)
def test_what_two_readers_would_read_differently_is_named_where_it_is_read(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(BadCorpus) as caught:
        list(read(str(tmp_path / "a.jsonl")))
    assert str(caught.value).startswith(f"{tmp_path / 'a.jsonl'}:2: ")
    assert message in str(caught.value)


def test_a_faulty_task_is_named_by_its_line(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "a", "answer": NaN}\n')
    with pytest.raises(BadTask, match=r"t\.jsonl:2: .*got NaN, which is not JSON"):
        task_of(str(tmp_path / "t.jsonl"))
    (tmp_path / "t.jsonl").write_bytes(b'{"prompt": "\xff", "answer": "b"}\n')
    with pytest.raises(BadTask, match=r"t\.jsonl:1: expected UTF-8, got byte 0xFF at byte 12"):
        task_of(str(tmp_path / "t.jsonl"))


# Files of all kinds


def test_packed_files_lists_and_capital_endings_are_read_and_others_counted(tmp_path):
    rows = [{"text": "one"}, {"text": "two"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "a.JSONL").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines[:16]) + gzip.compress(lines[16:]))  # two members
    with pa.output_stream(str(tmp_path / "c.jsonl.zst"), compression="zstd") as file:
        file.write(lines)
    (tmp_path / "d.json").write_text(json.dumps(rows, indent=2))
    (tmp_path / "e.json").write_text(json.dumps(rows[0], indent=2))
    (tmp_path / "f.json").write_bytes(lines)
    (tmp_path / "g.TXT.gz").write_bytes(gzip.compress(b"three"))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.md").write_text("no")
    (tmp_path / "h.parquet.gz").write_text("no")
    texts = [(d.name, d.text) for d in read(str(tmp_path))]
    both = ["one", "two"]
    assert texts == [
        *(
            (f"{name}:{i}", text)
            for name in ("a.JSONL", "b.jsonl.gz", "c.jsonl.zst", "d.json")
            for i, text in enumerate(both, 1)
        ),
        ("e.json:1", "one"),
        *((f"f.json:{i}", text) for i, text in enumerate(both, 1)),
        ("g.TXT.gz", "three"),
    ]
    parts = resolve(str(tmp_path))
    assert parts[0].beside == ("config.json", "h.parquet.gz", "notes.md")
    assert all(part.beside == () for part in parts[1:])
    assert resolve(str(tmp_path / "*"))[0].beside == ("config.json", "h.parquet.gz", "notes.md")


def test_faulty_records_of_a_json_list_are_named_by_their_number(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "one, [two]"}, "no", {"text": "three"}] more')
    bad = BadRecords(2)
    assert [d.text for d in read(str(tmp_path / "a.json"), bad=bad)] == ["one, [two]", "three"]
    assert bad.count == 2
    assert bad.first[0].startswith(f"{tmp_path / 'a.json'}, record 2: expected one JSON object, got '\"no\"'")
    assert bad.first[1].startswith(f"{tmp_path / 'a.json'}, record 4: expected one JSON object, got 'more'")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz", "a.json.gz", "a.jsonl.zst"])
def test_a_damaged_packed_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(
        gzip.compress(b'{"text": "one"}\n' * 100)[:-12] if name.endswith("gz") else b"no zstd"
    )
    with pytest.raises(BadCorpus, match="expected a file that can be read, got: "):
        list(read(str(tmp_path / name)))


def test_a_line_longer_than_memory_is_sure_to_hold_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.corpora.streams.LONGEST", 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "' + b" " * 10**6))  # a thousandth of its size
    with pytest.raises(BadCorpus, match=r"a\.jsonl\.gz:1: expected lines of at most 1,000 bytes"):
        list(read(str(tmp_path / "a.jsonl.gz")))
    monkeypatch.setattr("limbeck.corpora.files.LONGEST", 1000)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a\n" * 10**6))
    with pytest.raises(BadCorpus, match="expected documents of at most 1,000 characters"):
        list(read(str(tmp_path / "a.txt.gz")))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"[\n" + b"{},\n" * 10**6))
    with pytest.raises(BadCorpus, match="expected at most 1,000 bytes in a file that is read whole"):
        list(read(str(tmp_path / "a.json.gz")))


# Names


def test_a_list_of_files_longer_than_a_name_may_be_is_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"part-{i:05d}.jsonl" for i in range(300)]
    for i, name in enumerate(names):
        write(Path(name), {"text": f"text {i}"})
    assert len(",".join(names)) > os.pathconf("/", "PC_PATH_MAX")
    assert [d.text for d in read(",".join(names))] == [f"text {i}" for i in range(300)]


def test_home_is_home_in_every_piece_of_a_list(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", {"text": "one"})
    write(tmp_path / "b.jsonl", {"text": "two", "prompt": "a", "answer": "b"})
    assert [d.text for d in read("~/a.jsonl,~/b.jsonl")] == ["one", "two"]
    assert [d.text for d in read("~/*.jsonl")] == ["one", "two"]
    assert task_of("~/b.jsonl").name == "b"


@pytest.mark.parametrize("name", ["", "a" * 300, "a\0b", "~nobody-of-this-name/a", "a/" * 3000])
def test_what_can_be_no_path_is_none(name):
    assert existing(name) is None


def test_a_path_is_found_and_a_long_name_is_shortened(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").touch()
    assert existing("~/a") == tmp_path / "a"
    assert shown("a" * 200) == "a" * 200
    assert shown("a" * 201) == "a" * 200 + "… (201 characters)"


# Forms


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": CHAT}, CHAT),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}, CHAT),
        ({"conversations": CHAT}, CHAT),
        (
            {
                "system": "be kind",
                "conversations": [{"from": "user", "value": "hi"}, {"from": "assistant", "value": "hello"}],
            },
            [{"role": "system", "content": "be kind"}, *CHAT],
        ),
        ({"instruction": "hi", "output": "hello"}, CHAT),
        ({"instruction": "hi", "input": "", "output": "hello"}, CHAT),
        (
            {"instruction": "add", "input": "1 2", "output": "3", "history": [["hi", "hello"]], "system": "count"},
            [
                {"role": "system", "content": "count"},
                *CHAT,
                {"role": "user", "content": "add\n\n1 2"},
                {"role": "assistant", "content": "3"},
            ],
        ),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, [{**CHAT[0], "weight": 0}, CHAT[1]]),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
                    CHAT[1],
                ]
            },
            CHAT,
        ),
    ],
)
def test_conversations_are_recognised_by_their_fields(tmp_path, row, messages):
    assert one(tmp_path, row).messages == messages


def test_a_call_of_a_function_in_sharegpts_form_is_a_call(tmp_path):
    turns = [
        {"from": "human", "value": "weather?"},
        {"from": "function_call", "value": '{"name": "weather_of", "arguments": {"town": "X"}}'},
        {"from": "observation", "value": "sun"},
        {"from": "gpt", "value": "It shines."},
    ]
    found = one(tmp_path, {"conversations": turns, "tools": json.dumps([TOOL])})
    call = {"type": "function", "function": {"name": "weather_of", "arguments": {"town": "X"}}}
    assert found.messages[1] == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert [message["role"] for message in found.messages] == ["user", "assistant", "tool", "assistant"]
    assert found.tools == [TOOL]


def test_a_prompt_is_read_and_its_completion_learned(tmp_path):
    found = one(tmp_path, {"prompt": "2+2=", "completion": "4"})
    assert (found.text, found.prompt, found.form) == ("2+2=4", 4, "prompt and completion")
    assert found.digest() != Document("", text="2+2=4").digest()


HH = "Human: hi\n\nAssistant:"  # how texts of pairs end their prompt


@pytest.mark.parametrize(
    ("row", "names", "expected"),
    [
        ({"prompt": "2+2=", "answer": "4"}, (), ("2+2=", None, {"answer": "4"})),
        ({"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": []}, (), (None, CHAT[:1], {})),
        (
            {"chosen": CHAT, "rejected": [CHAT[0], {**CHAT[1], "content": "no"}]},
            (),
            (None, [{**CHAT[0], "weight": 0}], {}),
        ),
        ({"chosen": "Human: hi\n\nAssistant: yes", "rejected": "Human: hi\n\nAssistant: no"}, (), (HH, None, {})),
        ({"messages": CHAT[:1], "answer": 4}, (), (None, CHAT[:1], {"answer": 4})),
        (
            {"question": "2+2=", "solution": "4"},
            (("prompt", "question"), ("answer", "solution")),
            ("2+2=", None, {"answer": "4"}),
        ),
        ({"text": "2+2=", "solution": "4"}, (("answer", "solution"),), ("2+2=", None, {"answer": "4"})),
        (
            {"prompt": "hi", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
            (),
            (None, CHAT[:1], {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}),
        ),
    ],
)
def test_prompts_are_read_alone_with_what_checks_their_completions(tmp_path, row, names, expected):
    found = one(tmp_path, row, Columns(names, prompts=True))
    assert (found.text, found.messages, found.checked_by) == expected


def test_columns_name_what_is_called_otherwise(tmp_path):
    assert one(tmp_path, {"body": "one", "text": "other"}, Columns((("text", "body"),))).text == "one"
    columns = Columns((("prompt", "question"), ("completion", "answer")))
    row = {"question": "2+2=", "answer": "4", "text": "no"}
    assert one(tmp_path, row, columns) == Document("a.jsonl:1", text="2+2=4", prompt=4)
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (found,) = read(str(tmp_path / "a.parquet"), columns)
    assert (found.text, found.prompt, found.unread) == ("2+2=4", 4, ("text",))
    assert "expected 'question' and 'answer' (--columns), got the keys 'text'" in refused(
        tmp_path, {"text": "a"}, columns
    )
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(BadCorpus, match="expected a column 'question'"):
        list(read(str(tmp_path / "a.parquet"), columns))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((("txt", "body"),), "unknown field 'txt'. There are: messages, system, text, "),
        ((("text", "a"), ("text", "b")), "a field is named twice"),
        ((("prompt", "question"),), "expected all fields of one form, got prompt"),
    ],
)
def test_columns_that_make_no_form_are_refused(names, message):
    with pytest.raises(BadSetting) as caught:
        Columns(names)
    assert message in str(caught.value)


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])])
def test_functions_and_arguments_of_the_template_belong_to_a_conversation(tmp_path, tools):
    found = one(tmp_path, {"messages": CHAT, "tools": tools, "chat_template_kwargs": {"enable_thinking": False}})
    assert found.tools == [TOOL]
    assert found.template == {"enable_thinking": False}
    assert (
        len({d.digest() for d in (found, Document("", messages=CHAT), Document("", messages=CHAT, tools=[TOOL]))}) == 3
    )


def test_a_table_gives_the_conversations_of_its_lines(tmp_path):
    def call(name, **arguments):
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": name, "arguments": arguments}}],
        }

    rows = [
        {"messages": [CHAT[0], call("town_of", town="X")], "tools": [TOOL]},
        {"messages": [CHAT[0], call("add", left=1, right=[None, 2])]},
        {"messages": CHAT},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    lines, table = (list(read(source)) for source in (write(tmp_path / "a.jsonl", *rows), str(tmp_path / "a.parquet")))
    assert [d.messages for d in lines] == [d.messages for d in table] == [row["messages"] for row in rows]
    assert [d.tools for d in lines] == [d.tools for d in table] == [[TOOL], None, None]
    assert [d.digest() for d in lines] == [d.digest() for d in table]


def test_columns_of_text_of_any_type_are_read(tmp_path):
    arrays = {
        "dictionary": pa.array(["a b", "é"]).dictionary_encode(),
        "large": pa.array(["a b", "é"], pa.large_string()),
        "view": pa.array(["a b", "é"], pa.string_view()),
        "binary": pa.array([b"a b", "é".encode()]),
    }
    for name, array in arrays.items():
        pq.write_table(pa.table({"text": array}), tmp_path / f"{name}.parquet")
        assert [d.text for d in read(str(tmp_path / f"{name}.parquet"))] == ["a b", "é"]
    pq.write_table(pa.table({"text": pa.array([b"a b", b"\xff"])}), tmp_path / "a.parquet")
    with pytest.raises(BadCorpus, match=r"row 2: expected 'text' to be UTF-8, got byte 0xFF at byte 0"):
        list(read(str(tmp_path / "a.parquet")))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": [{"from": "alien", "value": "hi"}]}, "expected turn 0 to be 'from' one of human, user, gpt"),
        ({"conversations": [{"from": "human", "value": None}]}, "expected 'value of turn 0' to be a string, got null"),
        ({"instruction": "a", "output": 3}, "expected 'output' to be a string, got the number 3"),
        ({"prompt": "a", "completion": None}, "expected 'completion' to be a string, got null"),
        ({"messages": CHAT, "tools": "[{]"}, "expected 'tools' to be a list or JSON of one"),
        ({"messages": CHAT, "tools": ["f"]}, "expected 'tools' to be a list of objects"),
        (
            {"messages": CHAT, "chat_template_kwargs": {"tokenize": True}},
            "holds 'tokenize', which limbeck gives itself",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "expected the 'content' of message 0 to be text, got a part of the type 'image_url': only text is read",
        ),
    ],
)
def test_a_record_of_a_known_form_with_something_else_in_it_is_named(tmp_path, row, message):
    assert message in refused(tmp_path, row)


def test_fields_with_text_that_are_not_read_are_known(tmp_path):
    row = {"text": "a", "title": "b", "n": 1, "meta": {"tags": ["c"]}, "empty": "", "none": None}
    assert one(tmp_path, row).unread == ("title", "meta")
    assert one(tmp_path, {"messages": CHAT, "tools": [TOOL], "text": "other"}).unread == ("text",)


# Records that cannot be read


def test_faulty_records_are_counted_and_the_first_ten_named(tmp_path):
    rows = [{"text": "fine"}, *({"text": i} for i in range(12))]
    source = write(tmp_path / "a.jsonl", *rows)
    bad = BadRecords()
    assert [d.text for d in read(source, bad=bad)] == ["fine"]
    with pytest.raises(BadCorpus) as caught:
        bad.check()
    lines = str(caught.value).split("\n")
    assert lines[0] == "12 records cannot be read. Repair or remove them, or give --skip-bad 12:"
    assert [line.split(":")[1] for line in lines[1:11]] == [str(i) for i in range(2, 12)]
    assert lines[11:] == ["  and 2 more"]
    few = BadRecords(12)
    list(read(source, bad=few))
    few.check()


def test_a_text_of_which_nothing_can_be_read_is_not_read_to_its_end(tmp_path):
    source = write(tmp_path / "a.jsonl", *({"body": str(i)} for i in range(300)))
    with pytest.raises(BadCorpus, match="none of the first 100 records can be read"):
        list(read(source, bad=BadRecords(50)))


@pytest.mark.parametrize("history", [5, True, "hi", {"a": 1}])
def test_a_history_that_is_no_list_is_a_faulty_record(history):
    with pytest.raises(BadRecord, match="expected 'history' to be pairs of question and answer"):
        from_record({"instruction": "add", "output": "3", "history": history}, name="a", where="a:1")


def test_prompts_alone_need_no_answer():
    records = [
        {"prompt": "Say hi", "completion": ""},
        {"instruction": "Name a bird", "input": "", "output": ""},
        {"instruction": "Name a fish", "output": None},
        {"prompt": "", "completion": " "},
    ]
    found = [from_record(one, name="a", where="a:1", columns=Columns(prompts=True)) for one in records]
    asked = [prompt_of(document).asked for document in found if document is not None]
    assert asked == ["Say hi", *([{"role": "user", "content": f"Name a {one}"}] for one in ("bird", "fish"))]
    assert found[3] is None
    assert [from_record(one, name="a", where="a:1") for one in records[:2]] == [None, None]  # nothing to learn


def test_json_lines_with_a_faulty_first_one_are_json_lines(tmp_path):
    (tmp_path / "a.json").write_text('{"text": "a"\n{"text": "b"}\n{"text": "c"}\n')
    bad = BadRecords(1)
    assert [document.text for document in read(str(tmp_path / "a.json"), bad=bad)] == ["b", "c"]
    assert bad.count == 1
    (tmp_path / "b.json").write_text('{"text":\n "a"')  # one object, cut off
    with pytest.raises(BadCorpus, match=r"b.json: expected one JSON object"):
        list(read(str(tmp_path / "b.json")))
    (tmp_path / "c.json").write_text('{\n "text": "a",\n {"b": 1}\n')  # one faulty object in several lines is one
    with pytest.raises(BadCorpus, match=r"c.json: expected one JSON object"):
        list(read(str(tmp_path / "c.json")))


def test_records_of_one_group_are_on_one_side_of_the_split():
    def document(answer: str, **fields):
        return from_record({"prompt": "one?", "completion": answer, **fields}, name="a", where="a:1", columns=columns)

    columns = Columns()
    sides = {is_held_out(document(f"{n}", split_by="g"), fraction=0.5) for n in range(40)}
    assert len(sides) == 1
    assert len({is_held_out(document(f"{n}"), fraction=0.5) for n in range(40)}) == 2
    assert document("a", split_by=7) == document("a")  # the same document, whatever its group
    assert "split_by" not in document("a", split_by="text").unread
    columns = Columns((("split_by", "book"),))
    assert document("a", book=3).question == "3"
    assert columns.wanted(["text", "book", "other"]) == ["text", "book"]
    with pytest.raises(
        BadRecord, match=r"expected 'book', which decides the side of the split \(--columns split_by=...\)"
    ):
        document("a")  # a wrong name is not passed over
    for value in (True, 1.5, " ", ["a"]):
        with pytest.raises(BadRecord, match="expected 'book' to be a text or a whole number"):
            document("a", book=value)
