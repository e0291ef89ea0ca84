"""The teacher of a text, parsed once."""

from pathlib import Path

import pytest

from limbeck.errors import BadSetting
from limbeck.teachers.ref import ANSWERS, DESCRIPTION, CapturedRef, LocalRef, ServedRef, teacher_ref
from limbeck.teachers.remote.http import Address


def test_a_text_names_a_model_a_capture_or_a_server(tmp_path):
    for folder in (ANSWERS, DESCRIPTION):
        (tmp_path / "capture" / folder).mkdir(parents=True)
    captured = teacher_ref(str(tmp_path / "capture"))
    assert captured == CapturedRef(str(tmp_path / "capture"), tmp_path / "capture")
    assert captured.config_source == tmp_path / "capture" / DESCRIPTION
    assert not captured.has_weights
    local = teacher_ref(str(tmp_path))  # a folder, and no capture
    assert local == LocalRef(str(tmp_path))
    assert local.config_source == str(tmp_path)
    assert local.has_weights
    served = teacher_ref("http://127.0.0.1:8000/v1#model", "a/tokenizer")
    assert served == ServedRef("http://127.0.0.1:8000/v1#model", "a/tokenizer")
    assert served.address == Address("http", "127.0.0.1", 8000, "/v1", "model")
    assert served.config_source == "a/tokenizer"
    assert not served.has_weights
    assert not served.has_full_logits


def test_a_capture_below_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (ANSWERS, DESCRIPTION):
        (tmp_path / "capture" / folder).mkdir(parents=True)
    assert teacher_ref("~/capture") == CapturedRef("~/capture", tmp_path / "capture")


@pytest.mark.parametrize(
    ("name", "tokenizer", "message"),
    [
        (
            "some/model",
            "other/model",
            "--tokenizer other/model: only a teacher on a server needs it; some/model has its own",
        ),
        ("http://127.0.0.1:8000/v1#model", None, "a server does not give its tokenizer: give the folder or hub id"),
        ("http://127.0.0.1:8000/v1", "a/tokenizer", "this one names no model after a #"),
    ],
)
def test_what_is_missing_or_too_much_is_named(name, tokenizer, message):
    with pytest.raises(BadSetting, match=message):
        Path(teacher_ref(name, tokenizer).config_source)
