"""A missing model is an error before torch is loaded, and an unreachable hub is one after a single try."""

import subprocess
import sys

import huggingface_hub
import pytest
from huggingface_hub import constants

from limbeck.errors import BadModel
from limbeck.models import source

EARLY = """
import sys
import limbeck
job, keys = sys.argv[1], dict(pair.split("=") for pair in sys.argv[2:])
try:
    getattr(limbeck, job)(**keys)
except limbeck.LimbeckError as error:
    print(error)
assert not {"torch", "transformers"} & set(sys.modules), "slow ones were loaded"
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("job", "keys"),
    [
        ("distil", ["teacher=./nowhere"]),
        ("distil", ["student=runs/first/studnt"]),
        ("capture", ["teacher=./nowhere"]),
        ("doctor", ["teacher=./nowhere"]),
        ("shrink", ["teacher=builtin:nothing"]),
        ("probe", ["model=./nowhere"]),
    ],
)
def test_a_missing_folder_is_found_before_anything_slow_is_loaded(job, keys):
    process = subprocess.run(
        [sys.executable, "-c", EARLY, job, *keys], capture_output=True, text=True, check=False, timeout=100
    )
    assert process.returncode == 0, process.stderr
    assert "no such" in process.stdout


def test_servers_hub_ids_and_folders_pass(tmp_path):
    source.require("http://127.0.0.1:1/v1#m", "nobody/nothing", "gpt2", tmp_path, None)


class Offline:
    """A session of the hub's client without a response."""

    def __init__(self):
        self.tries = 0

    def head(self, url, timeout):
        self.tries += 1
        raise ConnectionError("Name or service not known")


@pytest.mark.parametrize("lookup", [source.resolve, source.resolve_description, source.config_file])
def test_a_hub_that_cannot_be_reached_is_tried_once(lookup, monkeypatch, tmp_path):
    session = Offline()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    source._unreachable.cache_clear()
    try:
        for _ in range(2):
            with pytest.raises(BadModel) as caught:
                lookup("nobody/nothing")
    finally:
        source._unreachable.cache_clear()
    assert session.tries == 1
    message = str(caught.value)
    assert "not in the hub's cache on this machine; the hub cannot be reached (https://" in message
    assert "Name or service not known" in message
    assert "Check the spelling and the network" in message
