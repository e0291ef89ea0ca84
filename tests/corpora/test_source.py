"""Sources give their documents, the side depends on the document only, and errors name bad input."""

import json
import os
import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.corpora import Document, is_held_out, read
from limbeck.corpora.hub import hub_name
from limbeck.corpora.source import resolve
from limbeck.errors import BadCorpus

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def message_of(source: str) -> str:
    with pytest.raises(BadCorpus) as caught:
        list(read(source))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_text_file_is_one_document_with_every_character(tmp_path):
    assert list(read(write(tmp_path / "a.txt", "one\r\n\n  two\n"))) == [Document("a.txt", text="one\r\n\n  two\n")]


def test_separators_split_a_text_file_and_line_numbers_locate_its_documents(tmp_path):
    source = write(
        tmp_path / "a.txt", "one\n<|endoftext|>\n\ntwo\nlines\n<|endoftext|>\n<|endoftext|>\nsay <|endoftext|>\n"
    )
    assert [(d.name, d.text) for d in read(source)] == [
        ("a.txt:1", "one"),
        ("a.txt:3", "two\nlines"),
        ("a.txt:8", "say <|endoftext|>"),
    ]


def test_jsonl_gives_texts_and_conversations_and_passes_over_blanks(tmp_path):
    rows = [{"text": "one", "id": 1}, None, {"text": "  "}, {"messages": CHAT, "text": "ignored"}]
    source = write(tmp_path / "a.jsonl", "\ufeff" + "\n".join("" if row is None else json.dumps(row) for row in rows))
    assert list(read(source)) == [Document("a.jsonl:1", text="one"), Document("a.jsonl:4", messages=CHAT)]


def test_records_are_chosen_by_the_value_of_a_field(tmp_path):
    """Their names stay those of their lines; other values, and records without the field, are passed over."""
    values = ["math", "code", 3, True, None, "math"]
    rows = [{"text": f"text {n}", "kind": value} for n, value in enumerate(values)] + [{"text": "without"}]
    source = write(tmp_path / "all.jsonl", "\n".join(map(json.dumps, rows)))
    pq.write_table(pa.table({"text": ["a", "b", "c"], "kind": ["math", None, "code"]}), tmp_path / "all.parquet")

    def chosen(value: str, file: str = source) -> list[tuple[str, str | None]]:
        return [(d.name, d.text) for d in read(f"where:kind={value}:{file}")]

    assert chosen("math") == [("all.jsonl:1", "text 0"), ("all.jsonl:6", "text 5")]
    assert chosen("3") == [("all.jsonl:3", "text 2")]
    assert chosen("true") == [("all.jsonl:4", "text 3")]
    assert chosen("null") == [("all.jsonl:5", "text 4")]
    assert chosen("code", str(tmp_path / "all.parquet")) == [("all.parquet:3", "c")]
    assert chosen("math", str(tmp_path)) == [*chosen("math"), ("all.parquet:1", "a")]
    assert [d.unread for d in read(f"where:kind=math:{source}")] == [(), ()]
    both = f"where:kind=math:where:text=text 5:{source},where:kind=code:{source}"
    assert [d.text for d in read(both)] == ["text 5", "text 1"]


def test_a_source_by_a_field_is_another_text_than_the_whole(tmp_path):
    source = write(tmp_path / "all.jsonl", json.dumps({"text": "one", "kind": "math"}))
    stamps = [
        [part.stamp for part in resolve(one)] for one in (source, f"where:kind=math:{source}", f"where:kind=x:{source}")
    ]
    assert len({json.dumps(stamp) for stamp in stamps}) == 3


def test_a_source_by_a_field_that_cannot_be_read_is_explained(tmp_path):
    source = write(tmp_path / "all.jsonl", json.dumps({"text": "one", "kind": "math"}))
    text = write(tmp_path / "a.txt", "kind=math")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "all.parquet")
    assert "expected records with that value, got none" in message_of(f"where:kind=maths:{source}")
    assert "expected a field, its value and a source" in message_of(f"where:kind:{source}")
    assert "expected records with fields" in message_of(f"where:kind=math:{text}")
    assert "expected records with fields" in message_of("where:kind=math:python:stdlib")
    assert "expected records with fields" in message_of(f"where:kind=math:formats:{source}")
    assert "expected records with fields" in message_of(f"where:kind=math:file://{tmp_path / 'a.txt'}")
    assert "expected records with that value, got none" in message_of(f"{text},where:knid=math:{source}")
    assert "expected a column 'kind' (where:)" in message_of(f"where:kind=math:{tmp_path / 'all.parquet'}")
    assert "a path that does not exist" in message_of("where:kind=math:gone.jsonl")


def test_values_that_json_does_not_have_are_written_as_they_are_read(tmp_path):
    day, names = [date(2020, 1, 1), None], pa.array([b"math", b"code"], pa.binary())
    pq.write_table(
        pa.table({"text": ["a", "b"], "day": day, "kind": names, "level": [3.0, None]}), tmp_path / "t.parquet"
    )
    for condition in ("day=2020-01-01", "kind=math", "level=3.0"):
        assert [d.text for d in read(f"where:{condition}:{tmp_path / 't.parquet'}")] == ["a"]


def test_folders_are_read_with_those_that_they_link_to_each_once(tmp_path):
    for folder in ("real", "all"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / f"{folder}.jsonl", json.dumps({"text": folder}))
    (tmp_path / "all" / "more").symlink_to(tmp_path / "real")
    (tmp_path / "all" / "again").symlink_to(tmp_path / "all")
    (tmp_path / "all" / "zzz").mkdir()
    write(tmp_path / "all" / "zzz" / "last.jsonl", json.dumps({"text": "last"}))
    (tmp_path / "all" / "also").symlink_to(tmp_path / "all" / "zzz")
    found = [(d.name, d.text) for d in read(str(tmp_path / "all"))]
    assert found == [("all.jsonl:1", "all"), ("more/real.jsonl:1", "real"), ("zzz/last.jsonl:1", "last")]


def test_a_file_whose_name_is_no_utf_8_is_read(tmp_path):
    try:
        write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")), json.dumps({"text": "one"}))
    except OSError:
        pytest.skip("this file system refuses such names")
    assert [d.name for d in read(str(tmp_path))] == ["caf\ufffd.jsonl:1"]


def test_parquet_gives_texts_and_conversations(tmp_path):
    pq.write_table(pa.table({"text": ["one", "", "two"], "n": [1, 2, 3]}), tmp_path / "text.parquet")
    # a table gives every message every key, null where it has none
    pq.write_table(pa.table({"messages": [[{**CHAT[0], "name": "Ann"}, CHAT[1]]]}), tmp_path / "chat.parquet")
    assert [(d.name, d.text) for d in read(str(tmp_path / "text.parquet"))] == [
        ("text.parquet:1", "one"),
        ("text.parquet:3", "two"),
    ]
    assert [d.messages for d in read(str(tmp_path / "chat.parquet"))] == [[{**CHAT[0], "name": "Ann"}, CHAT[1]]]


def test_folders_globs_and_commas_are_read_in_a_fixed_order(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt", ".hidden.txt", "notes.md"):
        write(tmp_path / name, name)
    assert [d.name for d in read(str(tmp_path))] == ["a.txt", "b.txt", "sub/c.txt"]
    assert [d.text for d in read(str(tmp_path / "*"))] == ["a.txt", "b.txt"]
    assert [d.text for d in read(str(tmp_path / "**/*.txt"))] == ["a.txt", "b.txt", "sub/c.txt"]
    assert [d.text for d in read(f"{tmp_path / 'b.txt'}, {tmp_path / 'a.txt'}")] == ["b.txt", "a.txt"]


def test_a_comma_in_a_file_name_is_no_separator(tmp_path):
    assert [d.text for d in read(write(tmp_path / "a,b.txt", "one"))] == ["one"]


def test_the_standard_library_is_read_by_module_without_its_tests():
    documents = list(read("python:stdlib"))
    by_name = {d.name: d for d in documents}
    assert by_name["json.decoder"].text == Path(sys.modules["json"].__file__).with_name("decoder.py").read_text()
    assert by_name["json"].family == by_name["json.decoder"].family == "json"
    assert [d.name for d in documents] == sorted(by_name)
    pieces = {piece for d in documents for piece in d.name.split(".")[:-1]}
    assert not pieces & {"test", "tests", "idlelib", "site-packages", "encodings", "ensurepip"}


def test_held_out_modules_are_whole_families_whatever_the_fraction():
    documents = list(read("python:stdlib"))
    sides = {}
    for d in documents:
        assert is_held_out(d, fraction=0.0) == is_held_out(d, fraction=1.0)
        assert sides.setdefault(d.family, is_held_out(d)) == is_held_out(d)
    assert 0.03 < sum(sides.values()) / len(sides) < 0.2
    # what a shipped teacher has not seen must not move with a version of this package
    assert sides["typing"]
    assert sides["ipaddress"]
    assert not sides["json"]


@given(st.text(), st.integers(0, 1000), st.integers(0, 1000))
def test_the_split_depends_on_the_text_alone_and_grows_with_the_fraction(text, one, other):
    less, more = sorted((one / 1000, other / 1000))
    held_out = is_held_out(Document("a", text=text), fraction=less)
    assert held_out == is_held_out(Document("b", text=text), fraction=less)
    assert held_out <= is_held_out(Document("a", text=text), fraction=more)


def test_the_split_holds_out_the_requested_fraction():
    documents = [Document(str(i), text=f"text {i}") for i in range(4000)]
    share = sum(is_held_out(d, fraction=0.2) for d in documents) / len(documents)
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / 4000) ** 0.5


def test_the_order_of_keys_in_a_message_does_not_move_a_conversation():
    turned = [dict(reversed(message.items())) for message in CHAT]
    assert Document("a", messages=CHAT).digest() == Document("b", messages=turned).digest()


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("hf:name", ("name", None, "train")),
        ("hf:org/name", ("org/name", None, "train")),
        ("hf:org/name/test", ("org/name", None, "test")),
        ("hf:name/validation", ("name", None, "validation")),
        ("hf:org/train_of_thought", ("org/train_of_thought", None, "train")),
        ("hf:org/name/train[:10%]", ("org/name", None, "train[:10%]")),
        ("hf:org/name:config", ("org/name", "config", "train")),
        ("hf:org/name:20231101.en/test_sft", ("org/name", "20231101.en", "test_sft")),
        ("hf:name:config/train[:10%]", ("name", "config", "train[:10%]")),
    ],
)
def test_hub_names_are_taken_apart(source, parts):
    assert hub_name(source) == parts


def test_a_local_folder_is_read_through_datasets(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "stories" / "train"  # its last piece is no split
    folder.mkdir(parents=True)
    write(folder / "train.jsonl", '{"text": "one"}\n{"text": "two"}\n')
    write(folder / "test.jsonl", '{"text": "three"}\n')
    assert [(d.name, d.text) for d in read(f"hf:{folder}")] == [
        (f"{folder}/train:1", "one"),
        (f"{folder}/train:2", "two"),
    ]
    assert [d.text for d in read(f"hf:{folder}/test")] == ["three"]
    assert resolve(f"hf:{folder}")[0].stamp == resolve(f"hf:{folder}")[0].stamp
    assert "split 'validation', got ValueError" in message_of(f"hf:{folder}/validation")
    write(folder / "train.jsonl", '{"body": "one"}\n')
    (folder / "test.jsonl").unlink()
    assert "expected a column 'text' or 'messages', got 'body'" in message_of(f"hf:{folder}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "one"', 'a.jsonl:2: expected one JSON object, got \'{"text": "one"\''),
        ("[" * 100_000, "a.jsonl:2: expected one JSON object, got '[[["),
        ('"one"', "a.jsonl:2: expected one JSON object, got '\"one\"'"),
        (
            '{"body": "one"}',
            "a.jsonl:2: expected 'text' or 'messages', got the keys 'body': name the one that holds the text",
        ),
        ("{}", "a.jsonl:2: expected 'text' or 'messages', got the keys none"),
        ('{"text": 1}', "a.jsonl:2: expected 'text' to be a string, got the number 1: repair"),
        ('{"text": null}', "a.jsonl:2: expected 'text' to be a string, got null"),
        ('{"text": "\\ud800"}', "a.jsonl:2: expected Unicode text, got a lone surrogate U+D800 at character 0"),
        ('{"messages": []}', "a.jsonl:2: expected 'messages' to be a non-empty list, got an empty list"),
        ('{"messages": "hi"}', "a.jsonl:2: expected 'messages' to be a non-empty list, got the string 'hi'"),
        ('{"messages": [{"content": "hi"}]}', "a.jsonl:2: expected message 0 to be an object with a string 'role'"),
        ('{"messages": [{"role": "user"}]}', "a.jsonl:2: expected the 'content' of message 0 to be a string, got null"),
        ('{"messages": [{"role": "\\udfff", "content": ""}]}', "got a lone surrogate U+DFFF"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(tmp_path, line, expected):
    assert expected in message_of(write(tmp_path / "a.jsonl", '{"text": "fine"}\n' + line + "\n"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_undecodable_bytes_are_named_by_line_and_offset(tmp_path, name):
    source = write(tmp_path / name, '{"text": "é"}\n'.encode() + b'{"text": "\xe9"}\n')
    assert f"{source}:2: expected UTF-8, got byte 0xE9 at byte {15 + 10}: convert the file" in message_of(source)


def test_missing_paths_are_named_with_the_nearest(tmp_path):
    write(tmp_path / "stories.jsonl", "{}")
    assert f"a path that does not exist: is it {tmp_path / 'stories.jsonl'}?" in message_of(
        str(tmp_path / "storis.jsonl")
    )
    assert f"a path that does not exist: look into {tmp_path}" in message_of(str(tmp_path / "zzz"))
    assert f"there is no folder {tmp_path / 'no'} either" in message_of(str(tmp_path / "no" / "a.txt"))
    assert "expected a pattern that matches .txt, .jsonl, .json or .parquet files, got nothing" in message_of(
        str(tmp_path / "*.txt")
    )


def test_wrong_sources_are_errors_at_the_call(tmp_path):
    fine = write(tmp_path / "fine.txt", "one")
    with pytest.raises(BadCorpus, match="a path that does not exist"):
        read(f"{fine},{tmp_path / 'none.txt'}")  # not iterated


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "", "expected text, got an empty file: fill it or leave it out"),
        ("a.txt", " \n\n", "expected text, got only blank documents"),
        ("a.jsonl", "\n\n", "expected text, got only blank documents"),
        ("a.csv", "a,b", "got the extension '.csv': rename or convert it"),
        ("a.parquet", "no parquet", "expected a Parquet file, got one that cannot be read"),
    ],
)
def test_files_without_text_are_named(tmp_path, name, content, expected):
    source = write(tmp_path / name, content)
    message = message_of(source)
    assert message.startswith(f"{source}: ")
    assert expected in message


def test_parquet_without_the_column_or_with_a_null_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["one"], "n": [1]}), path)
    assert f"{path}: expected a column 'text' or 'messages', got 'body', 'n'" in message_of(str(path))
    pq.write_table(pa.table({"text": ["one", None]}), path)
    assert f"{path}, row 2: expected 'text' to be a string, got null" in message_of(str(path))


def test_an_empty_folder_is_named(tmp_path):
    write(tmp_path / "notes.md", "one")
    assert (
        f"{tmp_path}: expected .txt, .jsonl, .json or .parquet files, got a folder without any (it holds notes.md)"
        in message_of(str(tmp_path))
    )


@pytest.mark.parametrize("source", ["python:foo", "builtin:stdlib"])
def test_unknown_schemes_are_named_with_the_known(source):
    assert f"got {source!r}: the schemes are formats:, hf:, python:" in message_of(source)


def test_wrong_hub_names_and_empty_pieces_are_named(tmp_path):
    assert "expected hf:name[:config][/split], got 'hf:'" in message_of("hf:")
    assert "expected hf:name[:config][/split], got 'hf:a:b:c'" in message_of("hf:a:b:c")
    assert "got an empty name: write at least one source" in message_of("")
    assert "nothing between two commas" in message_of(f"{write(tmp_path / 'a.txt', 'one')},,")


def test_a_data_set_that_cannot_be_had_is_named():
    message = message_of("hf:no-such-org/no-such-name:config/test")
    assert "expected a dataset 'no-such-org/no-such-name', configuration 'config', split 'test', got " in message
    assert message.endswith("check the three, or name a local file")
