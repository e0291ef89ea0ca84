"""What is said of rows before a run, which rows an older run keeps, and that a document in pieces is measured as one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import limbeck
from limbeck.config import CaptureSettings, DistilSettings
from limbeck.corpora import Document, Reader, Rows, build_held_out
from limbeck.corpora.layout import BEST_FIT, STREAM, WITHOUT_LONG
from limbeck.disk import write_json
from limbeck.errors import BadFolder, BadSetting
from limbeck.jobs.common.captured import Captured
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import claim, packed_as, packing_of, signature_of, text_of_run
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.common.packing import packed, packed_documents
from limbeck.probes import measure
from limbeck.run.world import alone
from tests.corpora.test_pack import numbered
from tests.helpers.models import frozen, llama, tokenizer, write_corpus, write_teacher

TEMPLATE = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"


def test_lost_context_of_texts_is_reported_with_a_length_that_halves_it():
    store = numbered([[True] * 101] * 50)  # of 100 predictions 36 stand behind a row of 64
    found = packed(store, length=64, context=512)
    assert (found.check, found.level) == ("packing", "ok")
    assert found.message.startswith(
        "36.0 % of the tokens are learned without all that came before them: 50 of 50 documents are "
    )
    assert "longer than a row of 64 tokens, and cut" in found.message
    assert found.remedy.startswith("--seq-len 128 halves that share")
    longest = numbered([[True] * 1001] * 50)
    found = packed(longest, length=64, context=1024)
    assert found.level == "warning"
    assert "93.6 % of the tokens" in found.message
    assert packed(longest, length=64, context=128).level == "ok"  # nothing could be done about it
    assert "which is more than the context of 128 tokens" in packed(longest, length=64, context=128).remedy


def test_lost_context_of_conversations_is_reported_with_a_length_that_halves_it():
    talk = ([False] * 20 + [True] * 20) * 4  # of 80 learned tokens 20 stand in the first row of 64
    found = packed(numbered([talk] * 30), length=64, context=512)
    assert found.level == "warning"
    assert found.message.startswith("75.0 % of the tokens are learned without all that came before them: 30 of 30 conv")
    assert "split over several, where an answer keeps its question if both fit" in found.message
    assert found.remedy.endswith("--long-conversations drop leaves them out")
    dropped = packed(numbered([talk] * 30 + [[False, True]], packing=WITHOUT_LONG), length=64, context=512)
    assert dropped.level == "warning"
    assert dropped.message.startswith("30 of 31 conversations are longer than a row of 64 tokens and left out, 100.0 %")
    assert "--long-conversations split learns them in pieces" in dropped.remedy


def test_prompts_with_completions_are_called_what_they_are():
    talk = [False] * 20 + [True] * 60
    found = packed(numbered([talk] * 30), length=64, context=512, forms={"prompt and completion"})
    assert "30 of 30 prompts with their completions are longer than a row of 64 tokens" in found.message
    short = packed(numbered([[False] * 8 + [True] * 24] * 30), length=64, context=512, forms={"Alpaca"})
    assert short.message.startswith("no instruction with its output is longer than a row of 64 tokens")
    mixed = packed(numbered([talk] * 30), length=64, context=512, forms={"prompt and completion", "messages"})
    assert "30 of 30 conversations are longer" in mixed.message


def test_whole_conversations_and_their_padding_are_reported():
    found = packed(numbered([[False] * 20 + [True] * 20] * 30), length=64, context=512)
    assert found.message.startswith(
        "no conversation is longer than a row of 64 tokens: each stands whole in one; 39 % of"
    )
    assert (found.level, found.remedy) == ("warning", "--seq-len 128 leaves 9 % of padding")
    assert packed(numbered([[True] * 41] * 300), length=64, context=512).level == "ok"


def test_the_doctor_looks_at_some_documents():
    tok = tokenizer(300)
    tok.chat_template = TEMPLATE
    reader = Reader(tok, tok.eos_token_id, 300)
    asked = {"role": "user", "content": "q w e r t y u i o p " * 3}
    talks = [Document(f"d:{i}", None, [asked, {"role": "assistant", "content": f"no {i}"}]) for i in range(4)]
    (found,) = packed_documents(talks, reader, packing=BEST_FIT, length=16, context=64)
    assert "4 of 4 conversations are longer than a row of 16 tokens" in found.message
    tok.chat_template = None
    assert packed_documents(talks, reader, packing=BEST_FIT, length=16, context=64) == []  # others say that better


def test_a_run_that_an_older_version_began_keeps_its_rows(tmp_path):
    signature = signature_of(DistilSettings(data="text.jsonl"), "distil")
    assert signature["packing"] == BEST_FIT
    older = {key: value for key, value in signature.items() if key != "packing"}
    claim(tmp_path, older)
    (tmp_path / "cut").mkdir()
    assert claim(tmp_path, signature)["signature"] == older
    assert packing_of(tmp_path) == STREAM
    with pytest.raises(BadFolder, match=r"packing: None there, 'best-fit-3-drop' now"):
        claim(tmp_path, signature_of(DistilSettings(data="text.jsonl", long_conversations="drop"), "distil"))
    claim(tmp_path / "new", signature)
    assert packing_of(tmp_path / "new") == BEST_FIT


def test_what_decides_rows_decides_a_run():
    kept, dropped = (
        signature_of(CaptureSettings(data="text.jsonl", long_conversations=how), "capture") for how in ("split", "drop")
    )
    assert {key for key in kept if kept[key] != dropped[key]} == {"packing"}
    assert "long_conversations" not in kept


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packing")
    write_teacher(folder)
    write_corpus(folder)
    ask(folder, "whole")
    return folder


def ask(here: Path, out: str, **keys):
    usual = {
        "teacher": str(here / "teacher"),
        "data": str(here / "text.jsonl"),
        "length": 16,
        "threads": 1,
        "kind": "drawn",
    }
    return limbeck.capture(**(usual | {"out": here / out} | keys))


def test_a_capture_names_its_rows_and_an_older_one_keeps_those_it_has(here, tmp_path):
    assert json.loads((here / "whole" / "answers" / "cache.json").read_text())["made_from"]["packing"] == BEST_FIT
    captured = Captured(here / "whole")
    assert [store.packing for store in captured.stores()] == [BEST_FIT, BEST_FIT]
    older = tmp_path / "older"
    shutil.copytree(here / "whole", older)
    run = json.loads((older / "run.json").read_text())
    del run["signature"]["packing"]
    write_json(older / "run.json", run)
    assert [store.packing for store in Captured(older).stores()] == [STREAM, STREAM]
    assert [store.packing for store in text_of_run(older)] == [STREAM, STREAM]
    assert packed_as(text_of_run(older)[0]) == {}
    with pytest.raises(BadSetting, match=r"--long-conversations drop: the logits in .* were captured with split"):
        limbeck.distil(teacher=str(here / "whole"), shrink=2.0, long_conversations="drop", out=tmp_path / "run")


def test_a_document_in_several_pieces_is_measured_as_one(here, tmp_path):
    model = frozen(llama())
    store = build_held_out(str(here / "text.jsonl"), model, tmp_path)
    where = Environment(alone("cpu"), bf16=False)
    held_out = HeldOut(store, length=16, environment=where, rows=store.layout(16).rows)
    found = measure(model, None, held_out.batches(), documents=store.documents)
    assert found.tokens.tolist() == (np.diff(store.starts) - 1).tolist()
    assert store.layout(16).packed.cut > 0
    sizes = [store.bytes_of(document) for document in range(store.documents)]
    assert held_out.text_bytes(found).tolist() == pytest.approx(sizes)


def test_padding_costs_nothing_in_a_step(here, tmp_path):
    """The loss and the gradient of rows with room are those of their documents alone."""
    from limbeck.objectives import CrossEntropy
    from limbeck.objectives.fused import fused_backward

    store = build_held_out(str(here / "text.jsonl"), llama().tokenizer, tmp_path)
    gradients = []
    for length in (200, 256):
        model = llama()
        batch = Rows(store, length=length).rows_of(np.arange(store.layout(length).rows))
        scale = 1 / float(batch.weight.sum())
        loss = float(fused_backward(CrossEntropy(), model(batch), None, batch, scale=scale))
        gradients.append((loss, torch.cat([p.grad.flatten() for p in model.model.parameters()])))
    assert store.layout(256).packed.cut == store.layout(200).packed.cut == 0
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-6)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-3, atol=1e-6)


def test_a_folder_of_another_job_names_the_job_alone(tmp_path):
    claim(tmp_path, signature_of(DistilSettings(data="text.jsonl"), "distil"))
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(BadFolder, match=r"holds another run's state \(job: 'distil' there, 'capture' now\)\."):
        claim(tmp_path, signature_of(CaptureSettings(data="other.jsonl"), "capture"))
