"""A model that is spread over processes is measured as one in memory, and what needs it in one process is refused."""

import json

import pytest

import limbeck
from limbeck.errors import BadSetting
from tests.helpers.models import texts, write_teacher
from tests.helpers.ranks import on_ranks

MEASURED = {"probe": "likelihood,slices,arithmetic", "length": 32}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A teacher, another model of its tokenizer, and a text."""
    folder = tmp_path_factory.mktemp("probe")
    write_teacher(folder)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts(40))
    (folder / "text.jsonl").write_text(rows)
    return folder


def measured(here, **more):
    data = {} if more["probe"] == "pass-until" else {"data": str(here / "text.jsonl")}
    return limbeck.probe(model=str(here / "teacher"), threads=1, **data, **more)


@pytest.mark.long
def test_a_model_in_parts_is_measured_as_one_in_memory(here, tmp_path):
    """Beside a teacher, with probes that read rows and one that generates; speed alone is left out."""
    how = MEASURED | {"teacher": str(here / "teacher")}

    def work(world):
        found = measured(here, mesh="shard", out=str(tmp_path / "out"), **how)
        return found["readings"] if found else {}

    first, second = on_ranks(2, work)
    assert second == {}
    alone = measured(here, **how)["readings"]
    assert alone.keys() - first.keys() == {"prefill", "decode", "peak_memory"}
    assert first.keys() <= alone.keys()
    for name, row in first.items():
        assert row["n"] == alone[name]["n"], name
        assert row["value"] == pytest.approx(alone[name]["value"], rel=1e-4, abs=1e-6), name
    kept = [json.loads(line)["name"] for line in (tmp_path / "out" / "readings.jsonl").read_text().splitlines()]
    assert kept == list(first)


@pytest.mark.long
def test_what_needs_the_model_in_one_process_is_refused(here):
    def work(world):
        with pytest.raises(BadSetting, match=r"--mesh replicate: probe is one process.* give --mesh shard"):
            measured(here, **MEASURED)
        with pytest.raises(BadSetting, match=r"--mesh shard: --probe pass-until samples with a model in one process"):
            measured(here, probe="pass-until", task="copy", mesh="shard")
        return "refused"

    assert on_ranks(2, work) == ["refused"] * 2
