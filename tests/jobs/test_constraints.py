"""`limbeck constraints write`: the file, what is printed, and what is refused."""

import json
import sys

import pytest

from limbeck import cli
from limbeck.probes.constraints import read_items


@pytest.fixture
def limbeck(monkeypatch, capsys):
    """Runs the command line in this process; gives (exit status, stdout, stderr)."""

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["limbeck", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return run


def test_a_file_is_written_that_the_probe_reads(limbeck, tmp_path):
    out = tmp_path / "new" / "prompts.jsonl"
    status, shown, err = limbeck("constraints", "write", "--n", 40, "--out", out)
    assert (status, err) == (0, "")
    assert shown.startswith("40 prompts with ")
    assert f"limbeck probe MODEL --probe constraints --task {out}" in shown
    prompts = read_items(out)
    assert (len(prompts.items), prompts.left_out) == (40, 0)
    status, shown, _ = limbeck("constraints", "write", "--n", 40, "--out", out, "--json")  # the same again
    assert json.loads(shown)["constraints"] == sum(len(item.constraints) for item in prompts.items)


def test_families_and_difficulty_are_chosen(limbeck, tmp_path):
    out = tmp_path / "prompts.jsonl"
    keys = ("--families", "length,lacks", "--difficulty", "2", "--n", 5, "--json")
    status, shown, _ = limbeck("constraints", "write", *keys, "--out", out)
    assert status == 0
    assert json.loads(shown)["families"] == {"length": 5, "lacks": 5}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--families", "lenght"), "unknown family 'lenght'; did you mean 'length'?"),
        (("--families", "json,bullets", "--difficulty", "2"), "never both json and bullets"),
        (("--difficulty", "3..1"), "expected a number of constraints, such as 2, or a range such as 1..3, got '3..1'"),
        (("--n", "0"), "--n"),
        (("--seed", "1"), "is there already, with another content: give a new file with --out"),
    ],
)
def test_what_cannot_be_written_is_refused(flags, message, limbeck, tmp_path):
    out = tmp_path / "prompts.jsonl"
    if "--seed" in flags:
        out.write_text("mine\n")
    status, shown, err = limbeck(
        "constraints", "write", *flags, "--n" if "--n" not in flags else "--seed", 3, "--out", out
    )
    assert (status, shown) == (2, "")
    assert message in err
    assert not out.exists() or out.read_text() == "mine\n"
