"""A teacher's answers in a folder: as it gave them, found by row, whole or refused, continued to the same bytes."""

import json

import numpy as np
import pytest
import torch

from limbeck.corpora import Rows
from limbeck.disk import read_json, write_json
from limbeck.errors import BadFolder, BadModel, Mismatch
from limbeck.teachers import Coding, LogitCache, NumberedRows, capture_outcomes
from limbeck.teachers import cache as module
from limbeck.teachers.codec import Sampled, TopK
from tests.helpers.held import held_elsewhere
from tests.helpers.models import frozen, llama, stores, tokenizer

LENGTH, ROWS = 16, 23


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Captures into a folder; keys change how."""
    monkeypatch.setattr(module, "_SHARD_BYTES", 10 * LENGTH * 20)  # several files
    tok = tokenizer()
    train, _ = stores(tmp_path, tok)
    teacher, rows = frozen(llama(layers=2, seed=1, tok=tok, pad=4)), Rows(train, length=LENGTH)

    def capture(folder="cache", **keys):
        wanted = {
            "rows": ROWS,
            "length": LENGTH,
            "codec": Sampled(len(tok), 6),
            "seed": 3,
            "made_from": {"corpus": "a"},
        }
        how = wanted | keys
        return capture_outcomes(
            teacher,
            NumberedRows(rows.rows_of, how["length"], how["rows"], batch_rows=4),
            tmp_path / folder,
            coding=Coding(how["codec"], how["seed"]),
            made_from=how["made_from"],
        )

    capture.teacher, capture.rows, capture.folder = teacher, rows, tmp_path / "cache"
    return capture


@pytest.mark.parametrize("make", [lambda v: Sampled(v, 6), lambda v: TopK(v, 6)])
def test_what_is_told_is_what_the_teacher_says(asked, make):
    cache = asked(codec=make(asked.teacher.vocab))
    batch = asked.rows.rows_of(np.array([17, 2, 11]))
    told = cache(batch)
    log_p = asked.teacher(batch).logits().log_softmax(-1)
    torch.testing.assert_close(told.log_p, log_p.gather(-1, told.ids), atol=0.05, rtol=0)
    total = told.weight.sum(-1) if told.rest is None else told.weight.sum(-1) + told.rest.exp()
    torch.testing.assert_close(total, torch.ones(3 * LENGTH))
    assert told.vocab == asked.teacher.vocab
    assert len(list(asked.folder.glob("*.arrow"))) > 1


@pytest.mark.parametrize(
    ("codec", "spelled"),
    [(Sampled(300, 6), "Drawn(vocab=300, k=6)"), (TopK(300, 6), "Coarse(vocab=300, k=6, p_bits=8)")],
)
def test_the_codec_is_spelled_on_disk_as_earlier_versions_spelled_it(asked, codec, spelled):
    assert asked(codec=codec).made_from["codec"] == spelled
    for kept in ("begun.json", "cache.json"):
        found = read_json(asked.folder / kept)
        assert found.get("made_from", found)["codec"] == spelled
    assert asked(codec=codec).rows == ROWS  # and it is opened again


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_capture_that_was_stopped_continues_to_the_same_bytes(asked, monkeypatch, stop):
    whole = asked("whole")
    calls = []

    def killed(*arguments, **keys):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return answers(*arguments, **keys)

    answers = module.packed_signal
    monkeypatch.setattr(module, "packed_signal", killed)
    with pytest.raises(KeyboardInterrupt):
        asked()
    for part in asked.folder.glob("*.part"):
        with part.open("ab") as raw:
            raw.write(b"half a row")
    asked_again = []
    monkeypatch.setattr(
        module,
        "packed_signal",
        lambda batch, *more, **keys: (asked_again.extend(batch.row.tolist()), answers(batch, *more, **keys))[1],
    )
    asked()
    assert min(asked_again) == 4 * (stop - 1) if stop < 4 else min(asked_again) > 8
    for file in whole.folder.glob("*.arrow"):
        assert file.read_bytes() == (asked.folder / file.name).read_bytes()


def test_a_flipped_byte_is_found_where_it_is_read(asked):
    asked()
    file = sorted(asked.folder.glob("*.arrow"))[1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    cache = LogitCache(asked.folder)
    with pytest.raises(BadModel, match=r"the logits of row [\d,]+ do not match their checksum: copy the folder again"):
        cache(asked.rows.rows_of(np.arange(ROWS)))


@pytest.fixture
def stopped(asked, monkeypatch):
    """A capture that was stopped in its last file: others of its files are finished."""

    def killed(batch, *arguments, **keys):
        if ROWS - 1 in batch.row:
            raise KeyboardInterrupt
        return answers(batch, *arguments, **keys)

    answers = module.packed_signal
    with monkeypatch.context() as patch:
        patch.setattr(module, "packed_signal", killed)
        with pytest.raises(KeyboardInterrupt):
            asked()
    assert not (asked.folder / module.MANIFEST).exists()
    return sorted(asked.folder.glob("*.arrow"))


def test_each_byte_of_a_finished_file_is_looked_at_when_a_capture_goes_on(asked, stopped):
    file = stopped[0]
    data = file.read_bytes()
    for at in range(0, len(data), 97):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(
            BadModel, match=rf"{file.name}.*(remove .*the next run captures its rows again|copy it again)"
        ):
            asked()
    file.unlink()
    whole, cache = asked("whole"), asked()
    for shard in whole.shards:
        assert (asked.folder / shard["file"]).read_bytes() == (whole.folder / shard["file"]).read_bytes()
    assert cache.shards == whole.shards


def test_a_finished_capture_is_looked_at_again_when_its_command_is_given_again(asked):
    asked()
    file = sorted(asked.folder.glob("*.arrow"))[1]
    data = file.read_bytes()
    file.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    with pytest.raises(BadModel, match=rf"{file.name}"):
        asked()
    file.write_bytes(data)
    assert asked().rows == ROWS


def test_finished_files_that_an_earlier_version_did_not_note_are_believed_by_their_rows(asked, stopped):
    begun = asked.folder / "begun.json"
    value = read_json(begun)
    assert [shard["file"] for shard in value.pop("finished")] == [file.name for file in stopped]
    write_json(begun, value)
    file = stopped[0]
    data = file.read_bytes()
    whole = asked("whole")
    packed = data.index(whole._row(0).tobytes())
    file.write_bytes(data[:packed] + bytes([data[packed] ^ 1]) + data[packed + 1 :])
    with pytest.raises(BadModel, match=rf"{file.name}: the logits of row 0 do not match their checksum: remove"):
        asked()
    file.write_bytes(data)
    assert asked().shards == whole.shards


def test_a_missing_file_and_a_short_one_are_named(asked):
    asked()
    file = sorted(asked.folder.glob("*.arrow"))[0]
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadModel, match=rf"{file.name}: a file of this cache is missing or damaged"):
        LogitCache(asked.folder)
    file.unlink()
    with pytest.raises(BadModel, match="capture the rows 0 to"):
        LogitCache(asked.folder)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"made_from": {"corpus": "b"}}, "corpus"),
        ({"codec": Sampled(40, 5)}, "codec"),
        ({"seed": 4}, "seed"),
        ({"rows": 9}, "rows"),
    ],
)
def test_a_cache_of_something_else_is_refused_with_the_field(asked, keys, named):
    asked()
    with pytest.raises(Mismatch, match=f"made from another {named}: "):
        asked(**keys)


def test_a_capture_that_is_not_finished_is_no_cache(asked):
    asked()
    (asked.folder / module.MANIFEST).unlink()
    with pytest.raises(BadModel, match=r"found no cache\.json: capture them with limbeck capture"):
        LogitCache(asked.folder)


def test_rows_that_were_not_captured_are_said(asked):
    cache = asked(rows=5)
    with pytest.raises(Mismatch, match="has logits of rows 0 to 4, expected row 7 too: capture more rows"):
        cache(asked.rows.rows_of(np.array([7])))


def test_two_captures_into_one_folder_are_kept_apart(asked):
    with held_elsewhere(asked.folder), pytest.raises(BadFolder, match="another limbeck process"):
        asked()


def test_the_manifest_says_what_is_in_it(asked):
    asked()
    manifest = json.loads((asked.folder / module.MANIFEST).read_text())
    assert manifest["kind"] == "drawn"
    assert manifest["made_from"]["corpus"] == "a"
    assert sum(shard["rows"] for shard in manifest["shards"]) == ROWS
