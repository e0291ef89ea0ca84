"""Pairs in TRL's formats are read and learned as by TRL: the loss and gradients of its DPOTrainer (needs the package trl)."""

import json

import numpy as np
import pytest
import torch

from limbeck.corpora import Rows
from limbeck.corpora.build import build_training
from limbeck.corpora.pair_rows import by_side, each_counts_once
from limbeck.corpora.reading import Records
from limbeck.corpora.records import Columns
from limbeck.jobs.tune.reference import Reference
from limbeck.models.save import save
from limbeck.objectives import parse
from limbeck.objectives.fused import fused_backward
from limbeck.probes.measurements import measure
from tests.helpers.models import llama, texts, tokenizer

pytestmark = [pytest.mark.extras, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(("text", "kind"), [("DPO", "sigmoid"), ("APOZero", "apo_zero"), ("APODown", "apo_down")])
def test_loss_and_gradient_are_those_of_trl(text, kind, tmp_path):
    trl = pytest.importorskip("trl", reason="the package trl is not installed")
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    tok = tokenizer()
    words = [
        text.split() for text in texts(8, seed=5)
    ]  # TRL looks for the prompt's end in the tokens of the whole text
    sides = {"chosen": lambda w: " " + " ".join(w[2:6]), "rejected": lambda w: " " + " ".join(w[4:1:-1])}
    rows = [{"prompt": " ".join(w[:2])} | {name: side(w) for name, side in sides.items()} for w in words]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    student, before = llama(seed=2, tok=tok), llama(seed=1, tok=tok)
    save(student, tmp_path / "student")
    save(before, tmp_path / "before")

    store = build_training(
        str(tmp_path / "pairs.jsonl"), tok, tmp_path / "data", records=Records(Columns(preference=True))
    )
    batch = Rows(store, length=64, counted=each_counts_once).rows_of(np.arange(store.layout(64).rows))
    whole = by_side(Rows(store, length=64).rows_of(np.arange(store.layout(64).rows)))
    known = measure(before, None, [whole], documents=2 * store.documents)
    teacher = Reference("before", -known.nats.reshape(-1, 2))
    loss = fused_backward(parse(text), student(batch), teacher(batch), batch, scale=1 / store.documents)

    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs, reference = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("student", "before"))
    how = {
        "per_device_train_batch_size": len(rows),
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "max_length": None,
    }
    trainer = trl.DPOTrainer(
        theirs,
        reference,
        args=trl.DPOConfig(str(tmp_path / "out"), beta=0.1, loss_type=[kind], gradient_checkpointing=False, **how),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tmp_path / "student"),
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(trainer.model.train(), inputs)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    own = dict(student.model.named_parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(own[name].grad, parameter.grad, rtol=1e-3, atol=1e-6)
