"""`limbeck pretrain --start`: a model goes on with its tokenizer, continues after a kill, and its card says from what."""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import limbeck
from limbeck.errors import BadFolder, BadModel, BadSetting, Interrupted, Mismatch
from limbeck.jobs.pretrain import job
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.models.source import weights_digest
from limbeck.run.run import Run
from limbeck.run.step import train_step
from limbeck.students.grow import PAD, grow, growth
from tests.helpers.models import llama, tokenizer, write_corpus


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A text, a model that was grown, in bfloat16 and with a licence, and a run that goes on from it."""
    place = tmp_path_factory.mktemp("start")
    write_corpus(place, count=40)
    small = llama(layers=1, hidden=16, tok=tokenizer())
    grown = grow(small, growth(small.config, PAD, shape="hidden=24,heads=6", new_layers=None, seed=0))
    save(grown, place / "grown", dtype=torch.bfloat16, card="---\nlicense: apache-2.0\n---\n")
    go_on(place, place / "run")
    return place


def go_on(here: Path, out: Path, **more: Any) -> Any:
    asked: dict[str, Any] = {
        "data": str(here / "text.jsonl"),
        "start": str(here / "grown"),
        "threads": 1,
        "seq_len": 32,
    }
    return limbeck.pretrain(**(asked | {"tokens": 640, "batch_tokens": 64, "out": out} | more))


def test_a_model_goes_on_with_its_tokenizer_and_its_card_names_it(here):
    start, trained = load(here / "grown"), load(here / "run" / "model")
    assert trained.config.to_diff_dict() == start.config.to_diff_dict()
    assert trained.tokenizer.get_vocab() == start.tokenizer.get_vocab()
    assert trained.lineage == start.lineage
    assert trained.stored == torch.bfloat16  # that of the start
    assert not (here / "run" / "tokenizer").exists()
    losses = [json.loads(line)["loss_nats"] for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    digest = weights_digest(here / "grown")
    card = " ".join((here / "run" / "model" / "README.md").read_text().split())
    assert f"trained further from grown with limbeck {limbeck.__version__}" in card
    assert f"grown has weights with the SHA-256 `{digest}`" in card
    assert "It was grown from" in card
    assert 'license: "apache-2.0"' in card
    page = (here / "run" / "report.html").read_text()
    assert "A model trained further from grown" in page
    assert digest in page


@pytest.mark.long
def test_a_model_stopped_on_its_way_ends_with_the_same_bits(here, tmp_path, monkeypatch):
    count = []

    def stopping(*args, **keys):
        count.append(1)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*args, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(job, "Run", partial(Run, update=stopping))
        with pytest.raises(Interrupted):
            go_on(here, tmp_path / "again")
    go_on(here, tmp_path / "again")
    again, whole = (folder / "model" / "model.safetensors" for folder in (tmp_path / "again", here / "run"))
    assert again.read_bytes() == whole.read_bytes()
    save(llama(layers=1, hidden=24, seed=5, tok=tokenizer()), tmp_path / "other")
    with pytest.raises(BadFolder, match=r"start: .*grown"):
        go_on(here, tmp_path / "again", start=str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        (
            {"params": "1M", "vocab": 512},
            BadSetting,
            "--params, --vocab describe a new one: leave them out, or --start",
        ),
        ({"shape": "layers=2"}, BadSetting, "--shape describe a new one.*limbeck grow makes a larger model"),
        ({"mixers": "gdn", "width": 16, "layers": 2}, BadSetting, "--mixers, --width, --layers describe"),
        ({"start": "./none"}, BadModel, "no such folder"),
        ({"seq_len": 2**20}, Mismatch, "rows longer than the context of"),
    ],
)
def test_what_does_not_go_with_a_start_is_refused(here, tmp_path, more, error, said):
    with pytest.raises(error, match=said):
        go_on(here, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()
