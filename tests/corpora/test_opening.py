"""What documents begin with is chosen by the loss of the same tokens, and only where it is surely better."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from limbeck.config import DistilSettings
from limbeck.corpora import opening
from limbeck.corpora.opening import begin_with, candidates, measure
from limbeck.jobs.common.opening import open_once
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from tests.helpers.models import llama, texts, tokenizer

TURN, SEPARATOR = "<|bos|>", "<|endoftext|>"
TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m['content'] }}{% endfor %}"


def model() -> LanguageModel:
    """A model whose tokenizer says that documents begin with ``<|bos|>``, and which has a separator too."""
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": [SEPARATOR]})
    return llama(tok=words)


def costing(of: LanguageModel, nats: dict[str | None, float], *, noise: float = 0.0, asked: list | None = None):
    """A loss by what a row begins with; those of documents differ by ``noise``."""
    ids = {of.tokenizer.convert_tokens_to_ids(token): value for token, value in nats.items() if token is not None}

    def loss(rows):
        if asked is not None:
            asked.extend(rows)
        generator = np.random.default_rng(0)
        return [
            np.full(len(row) - 1, ids.get(row[0], nats[None]) + noise * generator.standard_normal()) for row in rows
        ]

    return loss


@pytest.mark.parametrize("best", [TURN, SEPARATOR, None])
def test_the_opening_of_the_lowest_loss_is_taken(best):
    of = model()
    found = measure(of, texts(20), costing(of, {TURN: 2.24, SEPARATOR: 2.3, None: 2.4} | {best: 2.18}, noise=0.001))
    assert (found.token, found.declared, found.documents) == (best, TURN, 16)
    assert min(found.nats.values()) == pytest.approx(2.18, abs=1e-3)
    assert f"begin with {'none' if best is None else repr(best)}, " in found.sentence


def test_all_are_compared_on_the_same_tokens_behind_the_first():
    """Where a document begins with nothing, nothing predicts its first token; it counts for no candidate."""
    of, asked = model(), []
    found = measure(of, texts(20), costing(of, {TURN: 1.0, SEPARATOR: 2.0, None: 3.0}, asked=asked))
    assert list(found.nats.values()) == [1.0, 2.0, 3.0]
    bos, separator = (of.tokenizer.convert_tokens_to_ids(token) for token in (TURN, SEPARATOR))
    rows = [row[1:] for row in asked[:16]]
    assert asked == [[bos, *row] for row in rows] + [[separator, *row] for row in rows] + rows
    assert max(map(len, rows)) == 64


def test_without_a_sure_difference_the_declared_one_stays():
    of = model()
    found = measure(of, texts(20), costing(of, {TURN: 2.2, SEPARATOR: 2.19, None: 2.3}, noise=0.3))
    assert found.token == TURN
    assert f"begin with '{TURN}', as the tokenizer says" in found.sentence


def test_the_error_is_that_of_a_ratio_over_documents():
    sizes, differences = np.array([10.0, 20.0, 30.0]), np.array([1.0, 4.0, 4.0])
    residuals = differences - 0.15 * sizes
    expected = np.sqrt(3 / 2 * (residuals**2).sum()) / 60
    assert opening._error(differences, sizes) == pytest.approx(expected)


def test_nothing_is_measured_where_nothing_speaks_for_another():
    of = llama(tok=tokenizer())
    assert candidates(of) == [TURN]
    found = measure(of, texts(20), costing(of, {}))  # which would fail
    assert (found.token, found.nats) == (TURN, {})
    assert measure(model(), texts(3), costing(of, {})).token == TURN  # and of three documents nothing is sure


def test_settings_that_name_another_token_leave_a_choice():
    of = llama(tok=tokenizer())
    of.config.bos_token_id = of.tokenizer.eos_token_id
    assert candidates(of) == [TURN, "<|eos|>", None]
    of.config.bos_token_id = 50  # an ordinary token, which no document begins with
    assert candidates(of) == [TURN]


@pytest.mark.parametrize("token", [SEPARATOR, None])
def test_a_choice_goes_with_the_model_and_changes_no_conversation(token, tmp_path):
    of = model()
    of.tokenizer.chat_template = TEMPLATE
    talk = [{"role": "user", "content": "the cat"}]
    before = of.tokenizer.apply_chat_template(talk, tokenize=False)
    begin_with(of, token)
    save(of, tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.tokenizer.bos_token == token
    identity = None if token is None else again.tokenizer.convert_tokens_to_ids(token)
    assert again.config.bos_token_id == again.model.generation_config.bos_token_id == identity
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").apply_chat_template(talk, tokenize=False) == before
    assert candidates(again)[0] == token


@pytest.mark.long
def test_smollm2_begins_stories_with_its_separator(smollm2, stories, tmp_path, monkeypatch):
    """Nats a token in the first 64 tokens of 16 stories: 2.236, and 2.371 with ``<|im_start|>``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    of = load(smollm2)
    some = [json.loads(line)["text"] for line in stories.read_text("utf-8").splitlines()[:16]]
    finding = open_once(DistilSettings(), of, of, some, device=torch.device("cpu"))[0]
    assert "begin with '<|endoftext|>', not with '<|im_start|>' as the tokenizer says" in finding.message
    assert of.tokenizer.bos_token_id == 0
