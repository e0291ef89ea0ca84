"""Finished trainings of a study go to another machine."""

import json
import lzma

import pytest

from limbeck.disk import read_json, write_json
from tests.test_headlines import script

RESULT = {"cell": {"name": "a", "seed": 1}, "result": {"nats": [0.1, 1 / 3]}, "cpu_seconds": 2.5}


def study(folder, *names, text="abc"):
    (folder / "text").mkdir(parents=True)
    write_json(folder / "text" / "run.json", {"text": {"train": text}, "started": str(folder)})
    for name in names:
        (folder / "trainings" / "cells" / name).mkdir(parents=True)
        write_json(folder / "trainings" / "cells" / name / "result.json", RESULT | {"name": name})
    return folder


def test_what_is_lacking_is_put_and_what_is_there_stays(tmp_path, capsys):
    file, there = tmp_path / "kept" / "study.json.xz", study(tmp_path / "there", "b")
    here = study(tmp_path / "here", "a", "b")
    (here / "converted").mkdir()
    write_json(here / "converted" / "teacher.json", [1])
    script("finished").keep(here, file)
    own = there / "trainings/cells/b/result.json"
    write_json(own, {"cell": "its own"})
    script("finished").put(file, there)
    assert read_json(there / "trainings/cells/a/result.json") == RESULT | {"name": "a"}
    assert read_json(own) == {"cell": "its own"}
    assert json.loads((there / "converted" / "teacher.json").read_text()) == [1]
    assert "2 of 3 results" in capsys.readouterr().out


def test_another_text_or_none_is_refused(tmp_path):
    file = tmp_path / "study.json.xz"
    script("finished").keep(study(tmp_path / "here", "a"), file)
    for there in (study(tmp_path / "other", text="abd"), tmp_path / "empty"):
        with pytest.raises(SystemExit, match="expected the text with the digests"):
            script("finished").put(file, there)
        assert not list(there.rglob("result.json"))


def test_no_result_leaves_the_folder(tmp_path):
    file = tmp_path / "study.json.xz"
    script("finished").keep(study(tmp_path / "here", "a"), file)
    file.write_bytes(lzma.compress(lzma.decompress(file.read_bytes()).replace(b"trainings/cells/a", b"../outside")))
    with pytest.raises(SystemExit, match="outside"):
        script("finished").put(file, study(tmp_path / "there"))
    assert not (tmp_path / "outside").exists()


def test_a_folder_without_a_finished_training_or_a_text_is_refused(tmp_path):
    without = study(tmp_path / "without", "a")
    (without / "text" / "run.json").unlink()
    for here in (study(tmp_path / "here"), without):
        with pytest.raises(SystemExit, match="found none"):
            script("finished").keep(here, tmp_path / "study.json.xz")
