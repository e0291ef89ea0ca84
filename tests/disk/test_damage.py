"""A changed bit in a file of limbeck's is detected, or changes nothing in the results."""

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limbeck.corpora import TokenStore
from limbeck.disk import (
    CheckedRows,
    bare,
    check_folder,
    digest_of,
    load_arrays,
    read_json,
    read_lines,
    read_rows,
    save_arrays,
    sha256_of,
    sums_of,
    write_json,
    write_lines,
)
from limbeck.errors import BadCorpus, BadFolder, BadModel
from limbeck.teachers import LogitCache
from tests.helpers.kills import Job, forked, jobs, result, stops
from tests.helpers.models import stores, tokenizer


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Changes one bit of a file, which may be linked from elsewhere."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    beside = path.with_name("flipped")
    beside.write_bytes(data)
    beside.replace(path)


def places(path: Path) -> list[tuple[int, int]]:
    """A few bits of a file, always the same: at its beginning, its end, and between."""
    size = path.stat().st_size
    random = np.random.default_rng(size)
    return [(0, 0), (size - 1, 0), (int(random.integers(size)), int(random.integers(8)))] if size else []


def same_value(path: Path, before: bytes) -> bool:
    """Whether a changed JSON file has the same value, as 1e-05 and 1E-05 do."""
    if path.suffix not in (".json", ".jsonl"):
        return False
    try:
        values = [[json.loads(line) for line in data.splitlines()] for data in (before, path.read_bytes())]
    except ValueError:
        try:
            values = [json.loads(data) for data in (before, path.read_bytes())]
        except ValueError:
            return False
    return values[0] == values[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[dict[str, Job], Path]:
    here = tmp_path_factory.mktemp("damage")
    return jobs(here), here


@pytest.fixture(scope="module")
def folder_of(made) -> Callable[[str], Path]:
    """The folder of a finished job, by name."""
    run, here = made

    def folder(name: str) -> Path:
        if not (here / name).exists():
            run[name](here / name)
        return here / name

    return folder


def check_all_are_noticed(folder: Path) -> None:
    found = check_folder(folder)
    assert found.damaged == {}
    assert {path.name for path in found.unknown} <= {"report.html", "README.md"}
    assert len(found.good) > 1
    for path in sorted(found.good):
        before = path.read_bytes()
        for at, bit in places(path):
            flip(path, at, bit)
            damaged = check_folder(folder).damaged
            assert any(str(path) in message for message in damaged.values()) or same_value(path, before), (
                path,
                at,
                bit,
            )
            path.write_bytes(before)
    assert check_folder(folder).damaged == {}


@pytest.mark.long
@pytest.mark.parametrize("name", ["written", "pretrain"])
def test_verify_finds_a_changed_bit_in_every_file(name, folder_of):
    check_all_are_noticed(folder_of(name))


@pytest.mark.long
@pytest.mark.parametrize("name", ["distil", "capture"])
def test_verify_finds_a_changed_bit_in_every_file_of_a_run_and_a_capture(name, folder_of):
    check_all_are_noticed(folder_of(name))


def check_each_is_harmless(
    job: Job, out: Path, state: Path, expected: dict[str, object], *, every: int, first: int = 0
) -> int:
    """Changes a bit in every n-th file of a state, and continues the job; gives the number of refused changes."""
    files = sorted(path.relative_to(state) for path in state.rglob("*") if path.is_file() and path.stat().st_size)
    refused = 0
    for number, file in enumerate(files[first::every]):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(state, out)
        at, bit = places(out / file)[number % 2 + 1]
        flip(out / file, at, bit)
        message = forked(lambda: job(out))
        if message:
            assert message.startswith(str(out)) or str(out / file) in message, (file, message)
            refused += 1
        else:
            assert result(out) == expected, file
    return refused


@pytest.mark.long
def test_a_job_that_goes_on_notices_what_changed(made, folder_of, tmp_path):
    folder_of("pretrain")  # imports everything
    job, out = made[0]["pretrain"], tmp_path / "out"
    states = stops(job, out, tmp_path / "stops")
    expected = result(out)
    state = next(state for state in states if (state / "step-000004").exists())
    assert check_each_is_harmless(job, out, state, expected, every=3) > 1


@pytest.mark.long
@pytest.mark.parametrize("name", ["written", "pretrain", "distil", "capture"])
def test_a_job_that_goes_on_notices_whatever_changed(name, made, folder_of, tmp_path):
    folder_of(name)
    job, out = made[0][name], tmp_path / "out"
    states = stops(job, out, tmp_path / "stops")
    expected = result(out)
    for first, state in enumerate((states[len(states) // 3], states[2 * len(states) // 3], states[-1])):
        check_each_is_harmless(job, out, state, expected, every=2, first=first % 2)


def test_a_changed_token_of_a_store_is_noticed(tmp_path):
    train, _ = stores(tmp_path, tokenizer())
    shard = next(train.folder.glob("*.arrow"))
    flip(shard, shard.stat().st_size // 2)
    with pytest.raises(BadCorpus, match=r"00000\.arrow: expected SHA-256 .* the token store is damaged"):
        TokenStore.open(train.folder).verify()


# JSON


def test_changed_json_is_detected(tmp_path):
    write_json(tmp_path / "a.json", {"b": (1, 2.5), "a": {"x": None}})
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5], "a": {"x": None}}
    stored = json.loads((tmp_path / "a.json").read_text())
    assert stored["digest"] == digest_of({"a": {"x": None}, "b": [1, 2.5]})
    (tmp_path / "a.json").write_text(json.dumps(stored))  # laid out in another way
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5], "a": {"x": None}}
    (tmp_path / "a.json").write_text(json.dumps(stored | {"b": [1, 2.25]}))
    with pytest.raises(BadFolder, match=r'a\.json: expected the content limbeck wrote.*remove its "digest"'):
        read_json(tmp_path / "a.json")


def test_files_of_earlier_versions_are_read_with_one_note(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("limbeck.disk.records._noted", [])
    (tmp_path / "a.json").write_text('{"b": 1}')
    (tmp_path / "rows.json").write_text('[{"b": 1}]')
    (tmp_path / "lines.jsonl").write_text('{"b": 1}\n{"b": 2}\n{"b"')
    assert read_json(tmp_path / "a.json") == {"b": 1}
    assert read_json(tmp_path / "a.json") == {"b": 1}
    assert read_rows(tmp_path / "rows.json") == [{"b": 1}]
    assert read_lines(tmp_path / "lines.jsonl") == [{"b": 1}, {"b": 2}]
    message = capsys.readouterr().err
    assert message.count("was written by an earlier version without a checksum") == 1
    assert str(tmp_path / "a.json") in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON as limbeck wrote it"),
        ("[1, 2]", "expected `object`, got `array`"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ('{"a": 1, "digest": 7}', "its SHA-256 differs"),
        (b'{"a": "\xff"}', "expected JSON"),
    ],
)
def test_what_is_no_json_of_ours_is_an_error_of_the_readers_class(text, message, tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadModel) as caught:
        read_json(file, error=BadModel, remedy="copy it")
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "copy it" in str(caught.value)
    with pytest.raises(BadModel, match="got: No such file or directory: copy it"):
        read_json(tmp_path / "b.json", error=BadModel, remedy="copy it")


def test_lines_carry_the_crc_of_their_bytes(tmp_path):
    file = tmp_path / "lines.jsonl"
    write_lines(file, [{"a": 1}, {"a": "é"}])
    assert file.read_text() == '{"a": 1, "crc32": "fba18e97"}\n{"a": "é", "crc32": "868ea892"}\n'
    assert read_lines(file) == [{"a": 1}, {"a": "é"}]


def read_or_refused(read: Callable[[Path], Any], file: Path) -> Any:
    """The contents of a file; None if it is refused by its name."""
    try:
        return read(file)
    except BadFolder as error:
        return None if str(file) in str(error) else error


@pytest.mark.long
def test_each_bit_of_lines_is_noticed(tmp_path):
    file = tmp_path / "lines.jsonl"
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    write_lines(file, rows)
    data = file.read_bytes()
    for at in range(len(data)):
        for bit in range(8):
            flip(file, at, bit)
            found = read_or_refused(read_lines, file)
            assert found is None or found == rows, (at, bit)
            file.write_bytes(data)
    for end in range(len(data)):  # and what a kill cut short is left out
        file.write_bytes(data[:end])
        assert read_lines(file) == rows[: data[: end + 1].count(b"\n")]


@pytest.mark.long
def test_each_bit_of_json_is_noticed(tmp_path):
    file, value = tmp_path / "a.json", {"a": 1e-05, "b": {"c": ["x", None]}}
    write_json(file, value)
    data = file.read_bytes()
    for at in range(len(data)):
        for bit in range(8):
            flip(file, at, bit)
            # or 1E-05
            assert read_or_refused(read_json, file) in (None, value), (at, bit)
            file.write_bytes(data)


def test_a_last_value_that_looks_like_a_checksum_is_none_where_it_is_not_that_of_its_line(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text('{"a": 1, "b": "fba18e98"}\n')  # {"a": 1} has fba18e97
    assert read_lines(file) == [{"a": 1, "b": "fba18e98"}]
    file.write_text('{"a": 1, "b": "fba18e97"}\n')
    with pytest.raises(BadFolder, match=r"lines\.jsonl, line 1: expected a line that ends with its CRC-32"):
        read_lines(file)


def test_each_bit_of_arrays_is_noticed(tmp_path):
    file = tmp_path / "a.safetensors"
    arrays = {"tokens": np.array([1.0, 2.0]), "nats": np.array([0.5, 0.25])}
    save_arrays(file, arrays, surprises="[]")
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask()
    read, facts, digest = load_arrays(file, {"tokens": 1, "nats": 1}, needs=("tokens",), remedy="measure again")
    assert (facts, digest is None) == ({"surprises": "[]"}, False)
    assert all((read[name] == arrays[name]).all() for name in arrays)
    data = file.read_bytes()
    for at in range(len(data)):
        flip(file, at, at % 8)
        with pytest.raises(BadFolder, match=r"a\.safetensors: .*measure again"):
            load_arrays(file, {"tokens": 1, "nats": 1}, needs=("tokens",), remedy="measure again")
        file.write_bytes(data)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


# Rows that are appended


def test_rows_that_were_appended_are_checked_when_they_are_gone_on_with(tmp_path):
    file = tmp_path / "a.part"
    with CheckedRows(file, 3) as rows:
        rows.add(b"abcdef")
    with CheckedRows(file, 3) as rows:
        assert rows.done == 2
        rows.add(b"ghi")
        assert rows.sums.tolist() == [zlib.crc32(row) for row in (b"abc", b"def", b"ghi")]
    with file.open("ab") as end:
        end.write(b"jk")  # a row that a kill cut short
    with CheckedRows(file, 3) as rows:
        assert rows.done == 3
        rows.keep(2)
    assert file.read_bytes() == b"abcdef"
    flip(file, 4)
    with pytest.raises(BadFolder, match=r"a\.part: the file is damaged \(the CRC-32 of row 1 differs\)"):
        CheckedRows(file, 3)
    flip(file, 4)
    flip(sums_of(file), 0)
    with pytest.raises(BadFolder, match=r"the file beside it declares 2"):
        CheckedRows(file, 3)


def test_rows_without_checksums_are_trusted_at_first_use(tmp_path):
    file = tmp_path / "a.part"
    file.write_bytes(b"abcdefg")
    with CheckedRows(file, 3) as rows:
        assert rows.done == 2
    flip(file, 0)
    with pytest.raises(BadFolder, match="the CRC-32 of row 0 differs"):
        CheckedRows(file, 3)


# Names in manifests


@pytest.mark.parametrize("name", ["../x", "/x", "", ".", "..", "a/b", "a\\b", "a\0b"])
def test_a_manifest_names_bare_names(name, tmp_path):
    with pytest.raises(ValueError, match="expected the bare name of a file"):
        bare(name)
    train, _ = stores(tmp_path, tokenizer())
    manifest = json.loads((train.folder / "manifest.json").read_text())
    del manifest["digest"]
    manifest["shards"][0]["file"] = name
    (train.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadCorpus, match=r"expected the bare name of a file - at `\$\.shards\[0\]\.file`"):
        TokenStore.open(train.folder)
    shard = {"file": name, "first": 0, "rows": 1}
    cache = {"name": "t", "vocab": 9, "made_from": {}, "kind": "drawn", "codec": {"vocab": 9, "k": 2}}
    (tmp_path / "cache.json").write_text(json.dumps(cache | {"first": 0, "rows": 1, "length": 4, "shards": [shard]}))
    with pytest.raises(BadModel, match=r"expected the bare name of a file - at `\$\.shards\[0\]\.file`"):
        LogitCache(tmp_path)


def test_bare_names_are_let_through():
    assert bare("answers-000000000000.arrow") == "answers-000000000000.arrow"
    assert sha256_of(Path(__file__)) == sha256_of(Path(__file__))


def strip(folder: Path) -> None:
    """Removes everything that earlier versions did not write."""
    for path in sorted(folder.rglob("*")):
        if path.name == "digests.json" or path.suffix == ".crc":
            path.unlink()
        elif path.suffix == ".json":
            value = json.loads(path.read_text())
            if isinstance(value, dict):
                kept = {k: v for k, v in value.items() if k not in ("digest", "files")}
                path.write_text(json.dumps(kept["rows"] if set(kept) == {"rows"} else kept))
        elif path.suffix == ".jsonl" or path.name.endswith(".jsonl.part"):
            path.write_text(re.sub(r', "crc32": "[0-9a-f]{8}"\}', "}", path.read_text()))


@pytest.mark.long
def test_a_folder_of_an_earlier_version_is_gone_on_with(made, folder_of, tmp_path):
    folder_of("pretrain")
    job, out = made[0]["pretrain"], tmp_path / "out"
    states = stops(job, out, tmp_path / "stops")
    expected = result(out)
    shutil.rmtree(out)
    state = next(state for state in states if (state / "step-000004").exists())
    strip(state)
    assert check_folder(state).damaged == {}
    state.rename(out)
    assert forked(lambda: job(out)) == ""
    assert result(out).keys() | {"tokenizer/digests.json"} == expected.keys()
    assert result(out)["model/model.safetensors"] == expected["model/model.safetensors"]
