"""`import limbeck` leaves Transformers and what stands on it as they are, and still its decoder is known to them."""

import json
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import limbeck
from tests.models.test_decoder import made

# Others' imports, each of which may be a process's first of Transformers: what is half imported then differs.
QUICK = ("from transformers import LlamaForCausalLM", "import transformers.generation")
IMPORTS = (
    "from transformers import PreTrainedModel",
    "from transformers import Trainer",
    "from transformers import AutoModelForCausalLM",
    "from transformers import AutoConfig",
    "from transformers import AutoTokenizer",
    "from transformers import pipeline",
    "import transformers.models.llama.modeling_llama",
    "import transformers.models.auto.modeling_auto",
    "import transformers.models.auto.configuration_auto",
    "import transformers.modeling_layers",
    "import transformers.cache_utils",
)
OTHERS = ("trl", "peft", "lm_eval", "accelerate")

# Nothing of ours was run, and the tables are those of Transformers alone.
UNCHANGED = """
import sys
ours = {name for name in sys.modules if name.startswith("limbeck.")}
assert ours == {"limbeck.registration"}, ours
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
assert list(CONFIG_MAPPING) == list(CONFIG_MAPPING_NAMES) == list(CONFIG_MAPPING.keys())
assert "limbeck.models.auto" not in sys.modules
"""
KNOWN = """
config = AutoConfig.for_model("limbeck")
assert type(config).__name__ == "LimbeckConfig"
assert "limbeck" in CONFIG_MAPPING and list(CONFIG_MAPPING)[-1] == "limbeck"
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
assert MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__ == "LimbeckForCausalLM"
"""


def run(code: str, *arguments: str) -> str:
    """What a fresh process prints that runs this code, in which a warning is an error."""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize("statement", [*QUICK, *(pytest.param(other, marks=pytest.mark.long) for other in IMPORTS)])
def test_an_import_of_transformers_after_limbecks_is_as_without_it(statement):
    run(f"import limbeck\n{statement}\n{UNCHANGED}from transformers import AutoConfig\n{KNOWN}")


@pytest.mark.long
def test_imports_of_transformers_before_limbecks_are_as_without_it():
    run("\n".join([*QUICK, *IMPORTS, "import limbeck", *QUICK, *IMPORTS, UNCHANGED, KNOWN]))


@pytest.mark.long
@pytest.mark.parametrize("order", ["import limbeck, {}", "import {}, limbeck"])
@pytest.mark.parametrize("other", OTHERS)
def test_what_stands_on_transformers_is_imported_in_either_order(order, other):
    if find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    warned = "import warnings; warnings.simplefilter('ignore')\n"  # others' own business
    run(f"{warned}{order.format(other)}\n{UNCHANGED}from transformers import AutoConfig\n{KNOWN}")


USES = """
import json, sys
import limbeck
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, pipeline
folder = sys.argv[1]
found = [AutoConfig.from_pretrained(folder), AutoModel.from_pretrained(folder)]
found += [AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)]
found += [pipeline("text-generation", model=found[-1], tokenizer=sys.argv[2]).model]
print(json.dumps([type(one).__name__ for one in found]))
"""


@pytest.mark.long
def test_every_auto_class_loads_a_model_of_ours(tmp_path):
    made("conv", "attention").save_pretrained(tmp_path)
    tokenizer = str(Path(limbeck.__file__).parent / "builtin" / "stdlib")
    names = ["LimbeckConfig", "LimbeckModel", "LimbeckForCausalLM", "LimbeckForCausalLM"]
    assert json.loads(run(USES, str(tmp_path), tokenizer)) == names


def test_the_table_is_pickled_without_limbeck():
    again = pickle.loads(pickle.dumps(CONFIG_MAPPING))
    assert type(again._extra_content) is dict
    assert dict(again._extra_content) == dict(CONFIG_MAPPING._extra_content)
