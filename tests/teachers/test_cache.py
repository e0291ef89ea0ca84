"""A teacher's logits in a folder: unchanged, found by row, complete or refused, continued to the same bytes."""

import json

import numpy as np
import pytest
import torch

from limbeck.corpora import Rows
from limbeck.disk import read_json, write_json
from limbeck.errors import BadFolder, BadModel, Mismatch
from limbeck.jobs.capture.spread import borders
from limbeck.teachers import Coding, LogitCache, NumberedRows, capture_outcomes
from limbeck.teachers import cache as module
from limbeck.teachers.cache import MANIFEST, join_outcomes
from limbeck.teachers.codec import Sampled, TopK
from tests.helpers.held import held_elsewhere
from tests.helpers.kills import stops
from tests.helpers.models import frozen, llama, stores, tokenizer

LENGTH, ROWS = 16, 23


@pytest.fixture
def captured(tmp_path, monkeypatch):
    """Captures into a folder, with the settings ``keys``."""
    monkeypatch.setattr(module, "_SHARD_BYTES", 10 * LENGTH * 20)  # several files
    tok = tokenizer()
    train, _ = stores(tmp_path, tok)
    teacher, rows = frozen(llama(layers=2, seed=1, tok=tok, pad=4)), Rows(train, length=LENGTH)

    def capture(folder="cache", **keys):
        wanted = {
            "rows": ROWS,
            "first": 0,
            "length": LENGTH,
            "codec": Sampled(len(tok), 6),
            "seed": 3,
            "made_from": {"corpus": "a"},
        }
        how = wanted | keys
        return capture_outcomes(
            teacher,
            NumberedRows(rows.rows_of, how["length"], how["rows"], batch_rows=4, first=how["first"]),
            tmp_path / folder,
            coding=Coding(how["codec"], how["seed"]),
            made_from=how["made_from"],
        )

    capture.teacher, capture.rows, capture.folder = teacher, rows, tmp_path / "cache"
    return capture


@pytest.mark.parametrize("number", [2, 3, 5])  # of parts: of fewer than the files, as many, more
def test_parts_that_are_joined_have_the_files_and_bytes_of_one_capture(captured, tmp_path, number):
    whole = captured("whole")
    file_rows = module.rows_of_file(whole.codec, LENGTH)
    assert 2 < len(whole.shards) < 5
    cuts = borders(ROWS, file_rows=file_rows, batch_rows=4, shards=number)
    parts = [captured(f"part{cut.first}", first=cut.first, rows=cut.rows) for cut in cuts]
    states = stops(lambda out: join_outcomes(out, parts), tmp_path / "out", tmp_path / "stops")
    assert len(states) > 4
    names = {MANIFEST, *(shard["file"] for shard in whole.shards)}
    for state in states:
        join_outcomes(state, parts)
        assert {n: (state / n).read_bytes() for n in names} == {n: (whole.folder / n).read_bytes() for n in names}


@pytest.mark.parametrize("make", [lambda v: Sampled(v, 6), lambda v: TopK(v, 6)])
def test_cached_logits_equal_those_of_the_teacher(captured, make):
    cache = captured(codec=make(captured.teacher.vocab))
    batch = captured.rows.rows_of(np.array([17, 2, 11]))
    signal = cache(batch)
    log_p = captured.teacher(batch).logits().log_softmax(-1)
    torch.testing.assert_close(signal.log_p, log_p.gather(-1, signal.ids), atol=0.05, rtol=0)
    total = signal.weight.sum(-1) if signal.rest is None else signal.weight.sum(-1) + signal.rest.exp()
    torch.testing.assert_close(total, torch.ones(3 * LENGTH))
    assert signal.vocab == captured.teacher.vocab
    assert len(list(captured.folder.glob("*.arrow"))) > 1


@pytest.mark.parametrize(
    ("codec", "spelled"),
    [(Sampled(300, 6), "Drawn(vocab=300, k=6)"), (TopK(300, 6), "Coarse(vocab=300, k=6, p_bits=8)")],
)
def test_the_codec_is_spelled_on_disk_as_earlier_versions_spelled_it(captured, codec, spelled):
    assert captured(codec=codec).made_from["codec"] == spelled
    for kept in ("begun.json", "cache.json"):
        found = read_json(captured.folder / kept)
        assert found.get("made_from", found)["codec"] == spelled
    assert captured(codec=codec).rows == ROWS  # and it is opened again


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_capture_that_was_stopped_continues_to_the_same_bytes(captured, monkeypatch, stop):
    whole = captured("whole")
    calls = []

    def killed(*arguments, **keys):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return answers(*arguments, **keys)

    answers = module.packed_signal
    monkeypatch.setattr(module, "packed_signal", killed)
    with pytest.raises(KeyboardInterrupt):
        captured()
    for part in captured.folder.glob("*.part"):
        with part.open("ab") as raw:
            raw.write(b"half a row")
    queried = []
    monkeypatch.setattr(
        module,
        "packed_signal",
        lambda batch, *more, **keys: (queried.extend(batch.row.tolist()), answers(batch, *more, **keys))[1],
    )
    captured()
    assert min(queried) == 4 * (stop - 1) if stop < 4 else min(queried) > 8
    for file in whole.folder.glob("*.arrow"):
        assert file.read_bytes() == (captured.folder / file.name).read_bytes()


def test_a_flipped_byte_is_found_where_it_is_read(captured):
    captured()
    file = sorted(captured.folder.glob("*.arrow"))[1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    cache = LogitCache(captured.folder)
    with pytest.raises(BadModel, match=r"the logits of row [\d,]+ do not match their checksum: copy the folder again"):
        cache(captured.rows.rows_of(np.arange(ROWS)))


@pytest.fixture
def stopped(captured, monkeypatch):
    """A capture that was stopped in its last file, with others finished."""

    def killed(batch, *arguments, **keys):
        if ROWS - 1 in batch.row:
            raise KeyboardInterrupt
        return answers(batch, *arguments, **keys)

    answers = module.packed_signal
    with monkeypatch.context() as patch:
        patch.setattr(module, "packed_signal", killed)
        with pytest.raises(KeyboardInterrupt):
            captured()
    assert not (captured.folder / module.MANIFEST).exists()
    return sorted(captured.folder.glob("*.arrow"))


def test_each_byte_of_a_finished_file_is_looked_at_when_a_capture_goes_on(captured, stopped):
    file = stopped[0]
    data = file.read_bytes()
    for at in range(0, len(data), 97):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(
            BadModel, match=rf"{file.name}.*(remove .*the next run captures its rows again|copy it again)"
        ):
            captured()
    file.unlink()
    whole, cache = captured("whole"), captured()
    for shard in whole.shards:
        assert (captured.folder / shard["file"]).read_bytes() == (whole.folder / shard["file"]).read_bytes()
    assert cache.shards == whole.shards


def test_a_finished_capture_is_looked_at_again_when_its_command_is_given_again(captured):
    captured()
    file = sorted(captured.folder.glob("*.arrow"))[1]
    data = file.read_bytes()
    file.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    with pytest.raises(BadModel, match=rf"{file.name}"):
        captured()
    file.write_bytes(data)
    assert captured().rows == ROWS


def test_finished_files_that_an_earlier_version_did_not_note_are_believed_by_their_rows(captured, stopped):
    begun = captured.folder / "begun.json"
    value = read_json(begun)
    assert [shard["file"] for shard in value.pop("finished")] == [file.name for file in stopped]
    write_json(begun, value)
    file = stopped[0]
    data = file.read_bytes()
    whole = captured("whole")
    packed = data.index(whole.packed(0).tobytes())
    file.write_bytes(data[:packed] + bytes([data[packed] ^ 1]) + data[packed + 1 :])
    with pytest.raises(BadModel, match=rf"{file.name}: the logits of row 0 do not match their checksum: remove"):
        captured()
    file.write_bytes(data)
    assert captured().shards == whole.shards


def test_a_missing_file_and_a_short_one_are_named(captured):
    captured()
    file = sorted(captured.folder.glob("*.arrow"))[0]
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadModel, match=rf"{file.name}: a file of this cache is missing or damaged"):
        LogitCache(captured.folder)
    file.unlink()
    with pytest.raises(BadModel, match="capture the rows 0 to"):
        LogitCache(captured.folder)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"made_from": {"corpus": "b"}}, "corpus"),
        ({"codec": Sampled(40, 5)}, "codec"),
        ({"seed": 4}, "seed"),
        ({"rows": 9}, "rows"),
    ],
)
def test_a_cache_of_something_else_is_refused_with_the_field(captured, keys, named):
    captured()
    with pytest.raises(Mismatch, match=f"made from another {named}: "):
        captured(**keys)


def test_a_capture_that_is_not_finished_is_no_cache(captured):
    captured()
    (captured.folder / module.MANIFEST).unlink()
    with pytest.raises(BadModel, match=r"found no cache\.json: capture them with limbeck capture"):
        LogitCache(captured.folder)


def test_rows_that_were_not_captured_are_named(captured):
    cache = captured(rows=5)
    with pytest.raises(Mismatch, match="has logits of rows 0 to 4, expected row 7 too: capture more rows"):
        cache(captured.rows.rows_of(np.array([7])))


def test_two_captures_into_one_folder_are_kept_apart(captured):
    with held_elsewhere(captured.folder), pytest.raises(BadFolder, match="another limbeck process"):
        captured()


def test_the_manifest_has_codec_corpus_and_rows(captured):
    captured()
    manifest = json.loads((captured.folder / module.MANIFEST).read_text())
    assert manifest["kind"] == "drawn"
    assert manifest["made_from"]["corpus"] == "a"
    assert sum(shard["rows"] for shard in manifest["shards"]) == ROWS
