"""Files of adapters, both ways, against the package PEFT."""

import warnings

import pytest

from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.students.adapter_files import merge_file, read_adapters, write_adapters
from limbeck.students.adapters import adapt
from tests.helpers.zoo import animal
from tests.students.test_adapters import PLAN, drawn, logits

pytestmark = pytest.mark.extras
KINDS = ("llama", "gpt2", "phi3", "gemma2")
EXACT = 2e-5


@pytest.fixture(autouse=True)
def no_keys_are_missing():
    """PEFT says in warnings what it did not find, or did not expect."""
    peft = pytest.importorskip("peft", reason="needs the extra peft")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="peft")
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield peft


@pytest.mark.parametrize("name", KINDS)
def test_peft_loads_what_is_written(name, tmp_path, no_keys_are_missing):
    save(animal(name), tmp_path / "base")
    model, base = load(tmp_path / "base", train=True), load(tmp_path / "base")
    adapt(model, PLAN, seed=0)
    drawn(model)
    write_adapters(model, PLAN, tmp_path / "adapter", base=str(tmp_path / "base"), base_folder=tmp_path / "base")
    no_keys_are_missing.PeftModel.from_pretrained(base.model, str(tmp_path / "adapter"))
    assert (logits(base) - logits(model)).abs().max() < EXACT


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("fields", [{}, {"use_rslora": True, "alpha_pattern": {r".*\.0\..*": 7}}])
def test_what_peft_writes_is_read(name, fields, tmp_path, no_keys_are_missing):
    save(animal(name), tmp_path / "base")
    with_peft, ours = load(tmp_path / "base"), load(tmp_path / "base")
    plan = no_keys_are_missing.LoraConfig(
        r=3, lora_alpha=5, target_modules="all-linear", init_lora_weights=False, fan_in_fan_out=name == "gpt2", **fields
    )
    no_keys_are_missing.get_peft_model(with_peft.model, plan).save_pretrained(tmp_path / "adapter")
    merge_file(ours, read_adapters(tmp_path / "adapter"), base_folder=tmp_path / "base")
    assert (logits(ours) - logits(with_peft)).abs().max() < EXACT
