"""The files of the page on clusters are right as far as they can be checked without one."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from limbeck import cli, commands
from limbeck.dispatch import settings_of
from limbeck.run.sharded import layout_of

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "clusters.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"^```slurm\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(YAML,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
OPTIONS = {  # of sbatch, with the form of their values
    "job-name": r"[\w-]+",
    "nodes": r"\d+",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "time": r"\d+:\d\d:\d\d",
    "signal": r"(B:)?TERM@\d+",
    "requeue": r"",
    "open-mode": r"append|truncate",
    "output": r"[\w%.-]+",
    "array": r"\d+-\d+",
}


@pytest.fixture
def read(monkeypatch, tmp_path):
    """The settings that limbeck reads from the words of a command, which is not run; /shared is a folder here."""
    (tmp_path / "teacher").mkdir()
    (tmp_path / "my.jsonl").touch()

    def read(words):
        found = []
        monkeypatch.setattr(
            commands, "RUN", dict.fromkeys(commands.RUN, lambda *given: found.append(settings_of(*given)))
        )
        monkeypatch.setattr(sys, "argv", ["limbeck", *(word.replace("/shared", str(tmp_path)) for word in words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0, words
        return found[0]

    return read


def words_of(script: str) -> list[str]:
    """The words of limbeck's command in a script, with numbers for its variables."""
    command = script.replace("\\\n", " ").split("limbeck ")[-1].splitlines()[0]
    return shlex.split(re.sub(r"\$\{?\w+\}?", "1", command))


@pytest.mark.parametrize("script", SCRIPTS, ids=["train", "capture"])
def test_a_slurm_script_is_one(script, read):
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
    assert script.startswith("#!/bin/bash\n#SBATCH")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))
    for name, value in options.items():
        assert re.fullmatch(OPTIONS[name], value), (name, value)
    settings = read(words_of(script))
    if "nodes" in options:
        processes = int(options["nodes"]) * int(options["gpus-per-node"])
        assert f"--nproc_per_node={options['gpus-per-node']} " in script
        assert layout_of(settings.mesh, processes) == (int(options["nodes"]), int(options["gpus-per-node"]))
    else:
        last = options["array"].split("-")[1]
        assert f'/{last}"' in script
        assert settings.shard == (1, int(last))


def test_the_kubernetes_job_is_one(read):
    service, job = yaml.safe_load_all(YAML)
    name, spec = job["metadata"]["name"], job["spec"]
    assert (service["kind"], job["kind"], job["apiVersion"]) == ("Service", "Job", "batch/v1")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    (train,) = pod["containers"]
    assert {mount["name"] for mount in train["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    launch = dict(word.removeprefix("--").partition("=")[::2] for word in train["args"][: train["args"].index("-m")])
    assert launch["master_addr"] == f"{name}-0.{pod['subdomain']}"
    assert int(launch["nnodes"]) == spec["completions"]
    assert int(launch["nproc_per_node"]) == train["resources"]["limits"]["nvidia.com/gpu"]
    settings = read(train["args"][train["args"].index("limbeck") + 1 :])
    processes = int(launch["nnodes"]) * int(launch["nproc_per_node"])
    assert layout_of(settings.mesh, processes) == (int(launch["nnodes"]), int(launch["nproc_per_node"]))
    assert "/shared" in {mount["mountPath"] for mount in train["volumeMounts"]}
