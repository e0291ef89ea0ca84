"""The study of values by bytes of state: saved models are measured once, and made readings are judged."""

import json
from xml.etree import ElementTree

import pytest

from limbeck.models.build import new_model
from limbeck.models.decoder import LimbeckConfig
from limbeck.models.save import save
from tests.helpers.models import tokenizer
from tests.test_smollm2 import script


def scored(right: int, rows: int = 100) -> dict:
    return {"exact": [1.0] * right + [0.0] * (rows - right), "nats": [1.0] * rows, "tokens": [3.0] * rows}


def model(
    right: int, state: int, *, fixed: bool = True, without: int = 0, asked: str = "a", length: str = "256"
) -> dict:
    of = {"asked": asked, "state_bytes": state, "fixed": fixed, "shown": scored(right), "without": scored(without)}
    return {"parameters": 1000, "sources": {"text": {length: of}}}


MADE = {
    "attention": model(90, 9000, fixed=False),
    "windows": model(60, 900),
    "based": model(40, 500),
    "hyena": model(10, 100),
}


def judged(tmp_path, made: dict) -> list:
    for name, one in made.items():
        (tmp_path / "work").mkdir(exist_ok=True)
        (tmp_path / "work" / f"{name}.json").write_text(json.dumps(one))
    script("values").judge(tmp_path / "work", tmp_path / "out")
    return json.loads((tmp_path / "out" / "results.json").read_text())["groups"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ("confirmed", "confirmed", "confirmed")),
        ({"hyena": model(91, 100)}, ("inconclusive", "refuted", "confirmed")),
        ({"based": model(100, 500)}, ("refuted", "confirmed", "confirmed")),
        ({"attention": model(90, 9000, fixed=False, without=90)}, ("inconclusive", "inconclusive", "inconclusive")),
        ({"attention": model(90, 9000)}, ("inconclusive", "inconclusive", "inconclusive")),
    ],
)
def test_made_readings_are_judged_by_the_criterion(tmp_path, change, expected):
    (group,) = judged(tmp_path, MADE | change)
    assert tuple(group["claims"][claim]["verdict"] for claim in ("attention", "state", "context")) == expected
    if not change:
        assert group["claims"]["attention"]["gains"]["attention over based"]["value"] == pytest.approx(0.5)
        assert group["claims"]["state"]["gains"]["windows over hyena"]["value"] == pytest.approx(0.5)
        assert group["models"]["hyena"]["shown"]["value"] == pytest.approx(0.1)
        picture = ElementTree.fromstring((tmp_path / "out" / "state.svg").read_text())
        assert sum(one.tag.endswith("circle") for one in picture.iter()) == 4


def test_models_are_compared_on_the_same_rows_at_the_longest_length_of_all(tmp_path):
    longer = {
        name: {
            "parameters": 1,
            "sources": {"text": one["sources"]["text"] | {"512": one["sources"]["text"]["256"] | {"asked": "b"}}},
        }
        for name, one in MADE.items()
    }
    other = {"alone": model(10, 100, asked="c")}
    (group,) = judged(tmp_path, {**longer, **other})
    assert (group["length"], set(group["models"])) == (512, set(MADE))
    (group,) = judged(tmp_path, {**longer, "hyena": MADE["hyena"]})
    assert (group["length"], set(group["models"])) == (256, set(MADE)), "one of them has no more"


def test_saved_models_are_measured_once(tmp_path):
    tok, study = tokenizer(), script("values")
    for name, mixers in (("attention", ["attention"]), ("gdn", ["gdn"])):
        config = LimbeckConfig(
            vocab_size=len(tok),
            hidden_size=32,
            intermediate_size=32,
            mixers=mixers,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=tok.bos_token_id,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
        )
        save(new_model(config, tok, 0, name=name), tmp_path / "models" / name / ("student" if name == "gdn" else ""))
    text = tmp_path / "text.jsonl"
    said = [f"Na{i} is a the{i} cat{i} on it." for i in range(20)]
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in said))
    study.measure(str(tmp_path / "models"), str(tmp_path / "work"), str(text))
    files = sorted((tmp_path / "work").iterdir())
    assert [file.name for file in files] == ["attention.json", "gdn.json"]
    found = [json.loads(file.read_text())["sources"]["text"] for file in files]
    assert list(found[0]) == list(found[1])
    for length in found[0]:
        assert found[0][length]["asked"] == found[1][length]["asked"]
        assert not found[0][length]["fixed"]
        assert found[1][length]["fixed"]
    before = [file.stat().st_mtime_ns for file in files]
    named = ",".join(f"{name}={tmp_path}" for name in ("attention", "gdn"))
    study.measure(named, str(tmp_path / "work"), str(text))
    assert [file.stat().st_mtime_ns for file in files] == before
