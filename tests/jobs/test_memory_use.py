"""How a job decides what is computed at once: as asked, else by the estimate, and a run that continues as it began."""

import numpy as np
import pytest
from transformers import LlamaConfig

from limbeck.config import PretrainSettings
from limbeck.errors import BadSetting
from limbeck.jobs.common import memory
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.memory import COMPUTED, computed, memory_use, planned_run, usual_document
from limbeck.jobs.common.training import plan_of
from limbeck.planning.cost.fitting import FULL
from limbeck.planning.cost.memory import USUAL, MemoryUse
from limbeck.planning.cost.size import Size
from limbeck.run.run import Plan
from limbeck.run.world import alone

HERE = Environment(alone(), bf16=False)
CONFIG = LlamaConfig(
    vocab_size=300, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4, bos_token_id=1
)


def settings(**how) -> PretrainSettings:
    return PretrainSettings(**{"shape": "layers=4,hidden=256,heads=4,kv_heads=4,ffn=704"} | how)


def used(monkeypatch, free, known=None, **how):
    """What a run of rows of 128 tokens, 8 of them a step, uses of so much free memory."""
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    run = planned_run(settings(**how), HERE, length=128, rows=8)
    return memory_use(run, CONFIG, None, HERE, known or {})


def needs(**how) -> int:
    run = planned_run(settings(), HERE, length=128, rows=8)
    return sum(run.peak(Size.of(CONFIG), None, CONFIG)(MemoryUse(**how), 128).values())


def test_documents_are_cut_at_rows():
    """Of 100 and 300 tokens in rows of 256: parts of 100, 256 and 44."""
    lengths = np.array([100, 300])
    assert usual_document(lengths, 256) == round((100**2 + 256**2 + 44**2) / 400)
    assert usual_document(np.array([], dtype=np.int64), 256) is None


def test_with_enough_memory_nothing_changes(monkeypatch):
    use, kept = used(monkeypatch, needs() / FULL + 1)
    assert (use, kept) == (USUAL, {})
    plan = Plan(steps=1, rows=8, lr=1.0)
    assert computed(plan, use) == plan


def test_with_less_the_fastest_way_that_fits_is_taken_and_kept(monkeypatch):
    """4 rows of 128 tokens at once take 1.03 times as long as 8, layers that are computed twice a third longer."""
    assert used(monkeypatch, (needs() - 1) / FULL)[0] == MemoryUse(rows=4)
    least = used(monkeypatch, 0)
    assert least[0] == MemoryUse(rows=1, checkpointed=True)
    assert least[1] == {
        COMPUTED: {"asked": {"micro_batch": None, "checkpointing": "auto"}, "rows": 1, "checkpointed": True}
    }
    plan = computed(Plan(steps=1, rows=8, lr=1.0), least[0])
    assert (plan.micro, plan.checkpointing) == (1, "layers")


def test_a_run_that_continues_computes_as_it_began(monkeypatch):
    _, kept = used(monkeypatch, 0)
    assert used(monkeypatch, 10**12, known=kept) == (MemoryUse(rows=1, checkpointed=True), kept)
    assert used(monkeypatch, 10**12, known=kept, micro_batch=2) == (MemoryUse(rows=2), {})


def test_what_is_asked_is_used(monkeypatch):
    assert used(monkeypatch, 0, micro_batch=8, checkpointing="none") == (MemoryUse(rows=8), {})
    assert used(monkeypatch, 0, micro_batch=8)[0] == MemoryUse(rows=8, checkpointed=True)


@pytest.mark.parametrize(
    ("how", "bf16", "named"),
    [
        ({"weights_dtype": "bfloat16", "optimizer": "adamw-bf16"}, False, "--dtype bfloat16"),
        ({"weights_dtype": "bfloat16"}, True, "--optimizer adamw-bf16 or adamw-8bit"),
    ],
)
def test_weights_that_could_not_be_trained_are_refused(how, bf16, named):
    with pytest.raises(BadSetting, match=named):
        plan_of(settings(**how), steps=100, rows=4, lr=1e-3, schedule="wsd", bf16=bf16)


def test_settings_reach_the_plan():
    how = {"micro_batch": 3, "checkpointing": "layers", "optimizer": "adamw-bf16", "weights_dtype": "bfloat16"}
    plan = plan_of(settings(**how), steps=100, rows=4, lr=1e-3, schedule="wsd", bf16=True)
    assert (plan.micro, plan.checkpointing, plan.optimizer, plan.weights) == tuple(how.values())
    usual = plan_of(settings(), steps=100, rows=4, lr=1e-3, schedule="wsd", bf16=False)
    assert (usual.micro, usual.checkpointing, usual.optimizer, usual.weights) == (None, "auto", "adamw", "float32")
