"""TF32 is for the layers of training steps that chose it; heads, measurements and whatever is written have full products."""

import pytest
import torch
from torch.nn import functional as F

from limbeck.config import DistilSettings
from limbeck.jobs.common import environment, folder
from limbeck.jobs.common.environment import environment_of
from limbeck.jobs.common.folder import claim, signature_of, update
from limbeck.jobs.common.training import plan_of
from limbeck.objectives import ForwardKL
from limbeck.planning.checks import resources
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.training import Rates, estimate
from limbeck.probes.measurements import measure
from limbeck.products import full_products, tf32_products
from limbeck.run.run import Plan, Run
from limbeck.run.watch import Watch
from limbeck.run.world import World, alone
from limbeck.types import Head
from tests.helpers.models import batch, frozen, llama, tokenizer
from tests.run.test_waits import Corpus

TOK = tokenizer()
FAST, FULL = "high", "highest"


@pytest.fixture(autouse=True)
def unchanged():
    """The precision of this process is as it was, whatever a test did."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def products(monkeypatch):
    """The precisions in which linear maps were computed, in their order."""
    seen, linear = [], F.linear

    def recorded(*args, **kwargs):
        seen.append(torch.get_float32_matmul_precision())
        return linear(*args, **kwargs)

    monkeypatch.setattr(F, "linear", recorded)
    return seen


def test_contexts_nest_and_give_back_what_was_there():
    torch.set_float32_matmul_precision(FULL)
    with tf32_products():
        assert torch.get_float32_matmul_precision() == FAST
        with full_products():
            assert torch.get_float32_matmul_precision() == FULL
        assert torch.get_float32_matmul_precision() == FAST
    assert torch.get_float32_matmul_precision() == FULL


def test_a_head_is_computed_in_full_inside_a_training_step(products):
    with tf32_products():
        Head(torch.ones(3, 2)).logits(torch.ones(1, 2))
    assert products == [FULL]


def test_what_is_measured_is_computed_in_full(products):
    torch.set_float32_matmul_precision(FAST)  # of the program around
    measure(llama(seed=2, tok=TOK), None, [batch(vocab=len(TOK))], documents=99)
    assert set(products) == {FULL}


@pytest.mark.parametrize("tf32", [False, True])
def test_layers_of_a_step_take_tf32_where_the_plan_says_so(tmp_path, products, monkeypatch, tf32):
    heads, multiply = [], torch.mm

    def recorded(*args, **kwargs):
        heads.append(torch.get_float32_matmul_precision())
        return multiply(*args, **kwargs)

    monkeypatch.setattr(torch, "mm", recorded)
    teacher, student = frozen(llama(layers=3, seed=1, tok=TOK)), llama(seed=2, tok=TOK)
    plan = Plan(steps=2, rows=2, lr=1e-3, tf32=tf32)
    run = Run(tmp_path, "student", student, teacher, Corpus(), ForwardKL(), plan, alone())
    measured = []

    def batches():
        measured.append(len(products))
        yield batch(vocab=len(TOK))
        measured.append(len(products))

    run.watch = Watch(batches, 99, frozenset({1}))
    run.train()
    begin, end = measured
    assert set(products[begin:end]) == {FULL}
    assert set(products[:begin] + products[end:]) == {FAST if tf32 else FULL}
    assert heads
    assert set(heads) == {FULL}


def settings(out, **changes) -> DistilSettings:
    return DistilSettings(**{"teacher": "teacher", "out": out, "dtype": "float32", "device": "cuda"} | changes)


@pytest.fixture
def gpu(monkeypatch):
    """Lets jobs find a GPU, of which nothing is asked but its name."""
    monkeypatch.setattr(environment, "join", lambda device: World(0, 1, torch.device(device)))
    monkeypatch.setattr(environment, "require_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H")


def begin(out, *, tf32: bool, versions=None) -> None:
    """Leaves a run that came to something, with other versions in its record where some are given."""
    run = claim(out, signature_of(settings(out), "distil"), tf32=tf32)
    (out / "cut").mkdir(exist_ok=True)
    if versions is not None:
        update(out, run, versions=versions)


def test_a_new_run_on_a_gpu_takes_tf32_in_its_steps_alone(tmp_path, gpu):
    torch.set_float32_matmul_precision(FAST)
    found = environment_of(settings(tmp_path / "run"))
    assert found.tf32
    assert torch.get_float32_matmul_precision() == FULL
    plan = plan_of(settings(tmp_path), steps=9, rows=2, lr=1e-3, schedule="wsd", bf16=False, tf32=found.tf32)
    assert plan.tf32
    assert not environment_of(settings(tmp_path / "run", device="cpu")).tf32


@pytest.mark.parametrize("before", [False, True])
def test_a_begun_run_keeps_its_arithmetic(tmp_path, gpu, before):
    begin(tmp_path, tf32=before)
    assert environment_of(settings(tmp_path)).tf32 is before


@pytest.mark.parametrize(
    ("versions", "tf32"),
    [
        ({"limbeck": "0.1", "gpu": "H"}, False),  # before TF32 was the default
        ({"limbeck": "0.1"}, False),  # on a CPU
        ({"gpu": "H", "float32 on the gpu": "float32"}, False),
        (
            {"gpu": "H", "float32 on the gpu": "layers in TF32, heads in float32"},
            True,
        ),  # of the version that began with it
    ],
)
def test_a_run_of_an_older_version_keeps_its_arithmetic(tmp_path, gpu, versions, tf32):
    begin(tmp_path, tf32=True, versions=versions)
    assert environment_of(settings(tmp_path)).tf32 is tf32


def test_students_of_a_begun_sweep_keep_their_arithmetic(tmp_path, gpu):
    run = claim(tmp_path, signature_of(settings(tmp_path), "family"), tf32=True)
    update(tmp_path, run, members=["20M", "10M"])
    begin(tmp_path / "10M", tf32=False)
    assert not environment_of(settings(tmp_path)).tf32


def test_versions_say_how_float32_is_computed(gpu):
    key = "float32 on the gpu"
    assert folder.versions()[key] == "float32"
    assert folder.versions(tf32=True)[key] == "layers in TF32 in training steps, else float32"


def test_the_doctor_times_products_as_the_training_computes_them(monkeypatch):
    seen = []

    def rates(size, *, dtype, device):
        seen.append(torch.get_float32_matmul_precision())
        return Rates(1e10, 1e9)

    monkeypatch.setattr(resources, "measure_rates", rates)
    size = Size.of(llama(seed=2, tok=TOK).config)
    cost = estimate(size, None, length=16, tokens=100, batch_tokens=32, itemsize=4, device="cpu")
    for tf32 in (False, True):
        list(resources.duration(cost, dtype=torch.float32, device=torch.device("cpu"), tf32=tf32))
    assert seen == [FULL, FAST]
