"""`limbeck push`: what is sent, what is not, and what the card says; no test has a network."""

import json
from types import SimpleNamespace

import pytest
import yaml

from limbeck.config import PushSettings
from limbeck.errors import BadFolder, BadServer, BadSetting
from limbeck.jobs.push import job
from limbeck.jobs.push.job import push
from limbeck.models.save import save
from limbeck.types import Reading
from tests.helpers.models import llama

CARD = """---
library_name: transformers
base_model: "owner/teacher"
license: "apache-2.0"
---

# Mine
"""
SENT = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def student(tmp_path):
    """A run's student, beside things that are nobody's business."""
    run = tmp_path / "run"
    save(llama(), run / "student", card=CARD)
    signature = {"data": f"hf:owner/stories:small/train,{tmp_path}/own.jsonl", "eval_data": None}
    (run / "run.json").write_text(json.dumps({"signature": signature}))
    readings = [
        Reading("student", "likelihood", "perplexity", 7.25, "", 40, 7.0, 7.5, 0),
        Reading("student", "likelihood", "held_out", 1.98, "nats/token", 40, 1.9, 2.0, None),
        Reading("student", "likelihood", "held_out", 1.91, "nats/token", 40, 1.9, 2.0, 0),
        Reading("teacher", "likelihood", "held_out", 1.5, "nats/token", 40, 1.4, 1.6, None),
    ]
    (run / "readings.jsonl").write_text("".join(json.dumps(one.row()) + "\n" for one in readings))
    for name in ("optimizer.safetensors", "state.json", "metrics.jsonl", "training_args.bin", "log.txt", ".env"):
        (run / "student" / name).write_text("secret")
    return run / "student"


def settings(student, **keys) -> PushSettings:
    return PushSettings(**{"model": student, "repo": "me/small", "dry_run": True} | keys)


def test_a_dry_run_names_the_files_of_the_model_and_no_others(student, monkeypatch):
    monkeypatch.setattr(job, "HfApi", lambda: pytest.fail("a server was asked"))
    result = push(settings(student))
    assert set(result["files"]) == SENT
    assert result["private"] is True
    assert result["url"] is None
    assert result["bytes"] == sum(result["files"].values())
    assert result["files"]["model.safetensors"] == (student / "model.safetensors").stat().st_size


def test_the_card_has_what_the_hub_reads(student):
    card = push(settings(student))["card"]
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "owner/teacher"
    assert front["base_model_relation"] == "finetune"
    assert front["license"] == "apache-2.0"
    assert front["datasets"] == ["owner/stories"]
    (index,) = front["model-index"]
    metrics = {m["type"]: m["value"] for result in index["results"] for m in result["metrics"]}
    assert index["name"] == "small"
    assert metrics == {"loss": 1.98, "perplexity": 7.25}  # of the student, over all seeds where there is that
    assert index["results"][0]["dataset"]["name"] == "hf:owner/stories:small/train, own.jsonl"
    assert "# Mine" in card


class Hub:
    """A hub in memory."""

    def __init__(self, *, private: bool = True) -> None:
        self.private, self.calls, self.sent = private, [], {}

    def create_repo(self, repo, *, private, exist_ok):
        self.calls.append((repo, private, exist_ok))
        return SimpleNamespace(repo_id=repo, __str__=lambda: repo)

    def repo_info(self, repo):
        return SimpleNamespace(private=self.private)

    def create_commit(self, repo, operations, *, commit_message):
        self.sent = {one.path_in_repo: one.path_or_fileobj for one in operations}


def test_what_is_sent_is_what_the_dry_run_says(student, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(job, "HfApi", lambda: hub)
    result = push(settings(student, dry_run=False))
    assert hub.calls == [("me/small", True, True)]
    assert set(hub.sent) == set(result["files"]) == SENT
    assert hub.sent["README.md"].decode() == result["card"]


def test_a_repository_that_is_public_already_gets_nothing_unasked(student, monkeypatch):
    hub = Hub(private=False)
    monkeypatch.setattr(job, "HfApi", lambda: hub)
    with pytest.raises(BadSetting, match="me/small is public: add --public"):
        push(settings(student, dry_run=False))
    assert hub.sent == {}


def test_a_hub_that_fails_is_one_message_without_a_secret(student, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghij")
    hub = Hub()
    hub.create_repo = lambda *_, **__: (_ for _ in ()).throw(RuntimeError("401 for hf_abcdefghij"))
    monkeypatch.setattr(job, "HfApi", lambda: hub)
    with pytest.raises(BadServer, match=r"did not take me/small \(401 for \*\*\*\)"):
        push(settings(student, dry_run=False))


def test_a_file_that_names_a_folder_of_this_machine_is_refused(student):
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps(config | {"_name_or_path": "/home/me/models/x"}))
    with pytest.raises(BadFolder, match=r"config\.json names a folder of this machine"):
        push(settings(student))


def test_a_folder_without_weights_says_which_to_give(student, tmp_path):
    with pytest.raises(BadFolder, match=r"holds no weights .* give one of its folders: student"):
        push(settings(student.parent))
    with pytest.raises(BadFolder, match="no such folder"):
        push(settings(tmp_path / "nothing"))


@pytest.mark.parametrize("repo", ["a/b/c", "a b", "../x", ""])
def test_names_that_no_repository_can_have(student, repo):
    with pytest.raises(BadSetting, match="expected NAME or OWNER/NAME"):
        push(settings(student, repo=repo))
