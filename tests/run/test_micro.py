"""Micro-batches: a step that runs out of memory begins again with fewer rows at once, and is the same step."""

import copy
import multiprocessing
import resource

import psutil
import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from limbeck.disk import read_json
from limbeck.errors import BadSetting, OutOfMemory, is_allocation
from limbeck.models.build import new_model
from limbeck.objectives import CTKD, CrossEntropy, ForwardKL
from limbeck.run.micro import MicroBatch
from limbeck.run.optim import adamw
from limbeck.run.save import checkpoints
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import alone
from tests.helpers.models import batch, frozen, llama, tokenizer
from tests.run.test_run import build, weights

TOK = tokenizer()
TEACHER = frozen(llama(layers=3, seed=1, tok=TOK))
FULL = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes"


def gpt2():
    """A student that drops a tenth of everything."""
    config = GPT2Config(vocab_size=len(TOK), n_embd=32, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0.1)
    student = new_model(config, TOK, 2, name="gpt2")
    student.model.train()
    return student


class Small:
    """A model with memory for so many rows at once, after ``free`` calls for which there was enough."""

    def __init__(self, model, rows, *, free=0, error=FULL):
        self.model, self.rows, self.free, self.error, self.sizes = model, rows, free, error, []
        self.name, self.vocab = model.name, model.vocab

    def __call__(self, rows):
        self.sizes.append(len(rows.tokens))
        if len(rows.tokens) > self.rows and len(self.sizes) > self.free:
            raise RuntimeError(self.error)
        return self.model(rows)


def stepped(student, micro, *, computed=None, rows=8):
    """Weights and result of one step of a student, which ``computed`` computes."""
    objective = 0.5 * ForwardKL() + 0.5 * CTKD()
    objective.begin(10)
    optimizer = adamw(student.model, objective.parameters(), weight_decay=0.1)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    torch.manual_seed(11)
    terms = [LossTerm(batch(rows, vocab=len(TOK)), objective, TEACHER)]
    found = train_step(computed or student, terms, optimizer, mesh=alone(), micro=micro)
    return torch.cat([p.detach().flatten() for p in student.model.parameters()]), found


@pytest.mark.parametrize("make", [lambda: llama(seed=2, tok=TOK), gpt2], ids=["llama", "dropout"])
def test_a_step_that_runs_out_of_memory_is_that_of_smaller_micro_batches(make):
    """The first micro-batch of 4 rows leaves its gradients, the second fails; nothing of either is left."""
    student, micro = make(), MicroBatch(4)
    other = copy.deepcopy(student)
    small = Small(student, 3, free=1)
    found = stepped(student, micro, computed=small)
    assert small.sizes == [4, 4, 2, 2, 2, 2]
    assert (micro.rows, micro.asked) == (2, 4)
    expected = stepped(other, MicroBatch(2))
    assert torch.equal(found[0], expected[0])
    assert found[1].numbers.tolist() == expected[1].numbers.tolist()


def test_without_a_size_a_step_computes_its_terms_as_they_are_and_less_where_it_must():
    student = llama(seed=2, tok=TOK)
    small = Small(student, 5)
    stepped(student, None, computed=small, rows=9)
    assert small.sizes == [9, 5, 4]


@pytest.mark.long
def test_a_row_that_does_not_fit_is_an_error_that_says_what_would():
    student, micro = llama(seed=2, tok=TOK), MicroBatch(4, remedy=lambda: "--seq-len 8 needs 1 GiB")
    before = copy.deepcopy(student.model.state_dict())
    with pytest.raises(
        OutOfMemory, match=r"one sequence of 16 tokens at a time \(.*can't allocate.*--seq-len 8 needs 1 GiB"
    ):
        stepped(student, micro, computed=Small(student, 0), rows=4)
    assert all(torch.equal(before[name], tensor) for name, tensor in student.model.state_dict().items())
    assert all(p.grad is None for p in student.model.parameters())


@pytest.mark.long
def test_what_can_be_spared_is_spared_before_a_row_is_too_much():
    student = llama(seed=2, tok=TOK)
    small = Small(student, 0)

    def spare():
        small.rows, more = 2, small.rows == 0
        return more

    stepped(student, MicroBatch(4, spare=spare), computed=small, rows=4)
    assert small.sizes == [4, 2, 1, 4, 2, 2]  # with more room it tries as many rows as were asked for again


def test_another_fault_is_not_taken_for_too_little_memory():
    student = llama(seed=2, tok=TOK)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        stepped(student, MicroBatch(4), computed=Small(student, 2, error="mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError(FULL), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_failed_allocations_are_known_by_class_or_text(error, expected):
    assert is_allocation(error) is expected


@pytest.mark.long
def test_a_run_keeps_the_size_that_fitted_and_continues_with_it(tmp_path):
    """With memory for 2 rows it ends with the bits of a run that was given 2, stopped in between or not."""
    data = tmp_path / "data"
    data.mkdir()

    def run(name, steps, micro=None):
        made = build(tmp_path / name, data, make=ForwardKL, steps=steps, schedule="constant", rows=8, micro=micro)
        made.teacher = Small(made.teacher, 2)
        made.train()
        return made

    def kept(name):
        return read_json(checkpoints(tmp_path / name)[-1] / "state.json").get("micro_batch")

    expected = weights(run("given", 6, micro=2))
    assert kept("given") is None
    stopped = run("stopped", 3)
    assert stopped.teacher.sizes[:6] == [8, 4, 2, 2, 2, 2]
    assert kept("stopped") == {"asked": 32, "rows": 2}
    again = run("stopped", 6)
    assert set(again.teacher.sizes) == {2}
    assert torch.equal(weights(again), expected)


FORK = multiprocessing.get_context("fork")


def _in_little_memory(sizes):
    """One step on 8 rows of 512 tokens, of which about 3 fit into the address space that is left; sends how many were taken."""
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=len(TOK), hidden_size=64, intermediate_size=8192, num_hidden_layers=1, num_attention_heads=4
    )
    student = new_model(config, TOK, 0, name="wide")
    optimizer = adamw(student.model, [], weight_decay=0.0)
    micro = MicroBatch(8)
    limit = psutil.Process().memory_info().vms + 700 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    rows = batch(8, 512, vocab=len(TOK))
    found = train_step(student, [LossTerm(rows, CrossEntropy())], optimizer, mesh=alone(), micro=micro)
    sizes.put((micro.rows, found.loss))


@pytest.mark.long
def test_a_step_goes_on_where_the_system_refuses_memory():
    sizes = FORK.Queue()
    process = FORK.Process(target=_in_little_memory, args=(sizes,))
    process.start()
    rows, loss = sizes.get(timeout=120)
    process.join(60)
    assert rows in (1, 2, 4)
    assert 3 < loss < 12


@pytest.mark.long
def test_layers_are_computed_twice_once_a_single_row_is_too_much(tmp_path, monkeypatch):
    """Only where that is left to memory; and the run that continues begins with it."""
    data = tmp_path / "data"
    data.mkdir()

    class Checkpointing(Small):
        """A teacher with memory for 2 rows, and for none while the student keeps its activations."""

        def __call__(self, rows):
            self.rows = 2 if self.student.model.model.layers[0].gradient_checkpointing else 0
            return super().__call__(rows)

    def run(name, steps=2, **how):
        made = build(tmp_path / name, data, make=ForwardKL, steps=steps, schedule="constant", rows=4, **how)
        made.teacher = Checkpointing(made.teacher, 0)
        made.teacher.student = made.student
        made.train()
        return made

    found = run("auto")
    assert found.teacher.sizes[:6] == [4, 2, 1, 4, 2, 2]
    state = read_json(checkpoints(tmp_path / "auto")[-1] / "state.json")
    assert state["micro_batch"] == {"asked": 32, "rows": 2, "checkpointed": 1}
    assert not found.student.model.model.layers[0].gradient_checkpointing  # the trained model is as it was
    assert set(run("auto", steps=4).teacher.sizes) == {2}
    assert set(run("layers", checkpointing="layers", micro=2).teacher.sizes) == {2}
    with pytest.raises(OutOfMemory, match="one sequence of 32 tokens"):
        run("none", checkpointing="none")


def test_what_cannot_be_computed_twice_is_refused(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    run = build(tmp_path / "run", data, make=ForwardKL, checkpointing="layers")
    monkeypatch.setattr(type(run.student.model), "supports_gradient_checkpointing", False)
    with pytest.raises(BadSetting, match=r"--checkpointing layers: .*llama model.*--micro-batch"):
        run.train()
