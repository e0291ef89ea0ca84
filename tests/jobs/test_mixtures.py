"""A decoder of any mixture of layers from the command line: what is planned is what is trained."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from limbeck import cli
from limbeck.api import plan, pretrain
from limbeck.errors import BadFolder, BadModel, BadSetting, BadShape
from limbeck.jobs.pair.mixers import Mixed, context_of, heads_of, mixed
from limbeck.models.auto import LimbeckConfig
from limbeck.models.build import build
from limbeck.models.load import load
from limbeck.models.mixers.named import MIXERS
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.training import estimate
from tests.helpers.models import write_corpus

PATTERN = "conv,based:4,mamba2:state=6,head=8,swa:5"
SHAPE = Mixed(("conv", "based:4", "mamba2:state=6,head=8", "swa:5"), width=32, layers=8, context=24)


@torch.no_grad()
def test_a_plan_describes_the_decoder_that_would_be_built():
    pattern = f"{PATTERN},longconv,topk"
    shape = Mixed((*SHAPE.pattern, "longconv", "topk"), width=32, layers=12, context=context_of(24))
    found = plan(mixers=pattern, width=32, layers=12, length=24, vocab=50)
    model = build(shape.config(50), dtype=torch.bfloat16).eval()
    assert found["total"]["parameters"] == sum(p.numel() for p in model.parameters())
    for layer, said in zip(model.model.layers, found["layers"], strict=True):
        assert said["parameters"] == sum(p.numel() for p in layer.parameters())
    cache = model(torch.ones(1, 24, dtype=torch.long)).past_key_values
    assert found["total"]["state_bytes"] == cache.nbytes() == sum(layer["state_bytes"] for layer in found["layers"])
    head = 2 * 50 * 32
    assert found["total"]["flops"] == pytest.approx(head + sum(layer["flops"] for layer in found["layers"]))
    assert found["total"]["training_flops"] == 3 * found["total"]["flops"]
    assert [layer["mixer"] for layer in found["layers"]] == list(shape.pattern) * 2
    assert plan(mixers=list(shape.pattern), width=32, layers=12, length=24, vocab=50) == found


def test_beside_it_stands_the_same_decoder_with_attention_everywhere():
    found = plan(mixers="conv,gla", width=64, layers=4, length=1000, vocab=50)
    attention = found["attention"]
    assert attention["state_bytes"] == 4 * 1000 * 2 * 64 * 2
    assert attention == plan(mixers="attention", width=64, layers=4, length=1000, vocab=50)["total"]
    twice = plan(mixers="conv,gla", width=64, layers=4, length="2k", vocab=50)
    assert twice["total"]["state_bytes"] == found["total"]["state_bytes"]
    assert twice["total"]["flops"] == found["total"]["flops"]
    assert twice["attention"]["state_bytes"] == 2 * attention["state_bytes"]


def test_attention_everywhere_costs_what_a_llama_does():
    ours = Size.of(Mixed(("attention",), width=64, layers=3, context=100).config(50))
    llama = LlamaConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=3,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    theirs = Size.of(llama)
    assert ours.parameters == theirs.parameters
    for length in (1, 7, 100):
        assert ours.forward_flops(length) == theirs.forward_flops(length)
        assert ours.state_bytes(length, 2) == theirs.state_bytes(length, 2)
        assert ours.inference_bytes(length, 2) == theirs.inference_bytes(length, 2)
    assert ours.multiplied == theirs.multiplied


@torch.no_grad()
def test_flops_of_a_decoder_are_those_torch_counts():
    config = Mixed(("retnet", "linear", "attention"), width=32, layers=3, context=64).config(50)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        build(config)(torch.ones(1, 64, dtype=torch.long), use_cache=False)
    hidden = 2 * 2 * 31.5 * 32  # the half of attention's square that a mask hides
    assert counter.get_total_flops() / 64 == pytest.approx(Size.of(config).forward_flops(64) + hidden, rel=1e-6)


def test_long_filters_are_parameters_that_no_token_is_multiplied_with():
    short, long = (Size.of(Mixed(("longconv", "hyena"), width=32, layers=2, context=c).config(50)) for c in (64, 640))
    assert long.parameters - short.parameters == (640 - 64) * 32
    assert long.multiplied == short.multiplied


def test_training_a_mixture_costs_three_of_its_forward_passes():
    size = Size.of(SHAPE.config(50))
    cost = estimate(size, None, length=24, tokens=1000, batch_tokens=96, itemsize=4, device="cpu")
    assert cost.flops == 1000 * 3 * size.forward_flops(24)


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_is_planned(mixer):
    found = plan(mixers=mixer, width=64, layers=1, length=300, vocab=50)
    assert found["total"]["flops"] > 2 * 50 * 64
    assert found["total"]["state_bytes"] > 0


@pytest.mark.parametrize(
    ("mixers", "pairs", "said"),
    [
        ("conv,hyena", 0, "no layer compares a query with what was read"),
        ("conv,attention", 500, "attention keeps each of the 500 tokens: all can be looked up"),
        ("swa:64,based,conv", 153, "a head of based keeps at most 153 key-value pairs apart, of 500 tokens"),
        ("swa:64", 63, "a head of swa:64 keeps at most 63"),
    ],
)
def test_the_capacity_of_a_state_is_reported_with_its_source(mixers, pairs, said):
    recall = plan(mixers=mixers, width=64, layers=6, length=500)["recall"]
    assert recall["pairs"] == pairs
    assert said in recall["said"]
    assert "no measurement" in recall["rule"]
    assert "2402.18668" in recall["rule"]


def test_a_window_longer_than_texts_is_allowed_with_a_note():
    assert plan(mixers="swa:64", width=32, layers=1, length=63)["remarks"] == [
        "swa:64 has a window larger than the 63 tokens of a row, so it equals full attention"
    ]
    assert plan(mixers="swa:64", width=32, layers=1, length=64)["remarks"] == []


# Sizes


@pytest.mark.parametrize(
    ("width", "heads"), [(16, 1), (32, 2), (48, 3), (64, 4), (96, 6), (128, 4), (256, 4), (320, 5), (1024, 16)]
)
def test_heads_are_of_64_channels_or_narrower_so_that_there_are_four(width, heads):
    assert heads_of(width) == heads


@pytest.mark.parametrize(
    ("mixers", "budget", "vocab"),
    [
        ("conv,based,conv,swa:64", 1_000_000, 512),
        ("attention*1,gdn*3", 100_000_000, 32_000),
        ("mamba", 300_000, 512),
        ("mamba2", 20_000_000, 8_000),
    ],
)
def test_a_budget_is_filled_and_kept_to(mixers, budget, vocab):
    found = mixed(mixers, width=None, layers=None, params=budget, vocab=vocab, context=1024)
    parameters = Size.of(found.config(vocab)).parameters
    assert 0.8 * budget < parameters <= budget
    assert found.layers % len(found.pattern) == 0
    assert 24 <= found.width / found.layers <= 128


def test_of_a_long_pattern_a_small_budget_holds_one():
    found = mixed("conv*9", width=None, layers=None, params=200_000, vocab=256, context=64)
    assert found.layers == 9


# Training


def trained(folder: Path, **changes):
    usual = {
        "data": str(folder / "text.jsonl"),
        "mixers": PATTERN,
        "width": 32,
        "layers": 4,
        "vocab": 280,
        "tokens": "600",
        "batch_tokens": 128,
        "length": 16,
        "threads": 1,
        "out": folder / "run",
    }
    return pretrain(**(usual | changes))


@pytest.mark.long
def test_a_mixture_is_trained_with_what_was_planned_in_its_record(tmp_path, capsys):
    write_corpus(tmp_path)
    result = trained(tmp_path)
    said = capsys.readouterr().err
    planned = plan(mixers=PATTERN, width=32, layers=4, length=16, vocab=280)
    model = load(result["model"])
    assert planned["total"]["parameters"] == model.parameters_count
    assert type(model.config) is LimbeckConfig
    assert model.config.mixers == list(SHAPE.pattern)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["layers"] == list(SHAPE.pattern)
    assert run["flops"] == pytest.approx(run["tokens"] * Size.of(model.config).forward_flops(16) * 3)
    state = model.model(torch.ones(1, 16, dtype=torch.long), use_cache=True).past_key_values.nbytes()
    assert run["state_bytes"] == state > planned["total"]["state_bytes"]  # float32 here
    assert "layers: conv, based:4, mamba2:state=6,head=8, swa:5, width 32; state after 16 tokens" in said
    assert [file.name for file in (tmp_path / "run" / "measurements").iterdir()] == ["model-seed0.safetensors"]
    assert "Reliability: accuracy by confidence" in (tmp_path / "run" / "report.html").read_text()
    card = (Path(result["model"]) / "README.md").read_text()
    assert "with the layers conv, based:4, mamba2:state=6,head=8, swa:5, trained from scratch" in card
    assert f"epochs of the {run['corpus']['tokens']:,} in the training part of\n`{tmp_path / 'text.jsonl'}`, on" in card
    assert trained(tmp_path)["readings"] == result["readings"]
    with pytest.raises(BadFolder, match="mixers: 'conv,based:4,mamba2:state=6,head=8,swa:5' there, 'conv' now"):
        trained(tmp_path, mixers="conv")


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"mixers": "conv,bassed"},
            BadModel,
            "--mixers 'conv,bassed': 'bassed': there is no mixer 'bassed', the nearest is 'based'",
        ),
        ({"mixers": "swa:windw=3"}, BadModel, "no option 'windw', the nearest is 'window'"),
        ({"layers": 6}, BadSetting, "--layers 6: expected a multiple of the 4 mixers of --mixers, which are repeated"),
        ({"layers": 6}, BadSetting, "give 4 or 8, or another pattern"),
        ({"layers": 3}, BadSetting, "give 4, or another pattern"),
        ({"width": 40}, BadSetting, "--width 40: expected a multiple of 16"),
        ({"width": 16, "mixers": "mamba2:head=24"}, BadModel, "do not make whole heads of 24; give head="),
        ({"layers": None}, BadSetting, "expected --width and --layers, got only --width"),
        ({"params": "1M"}, BadSetting, "give --width and --layers, or a budget with --params; not both"),
        ({"width": None, "layers": None}, BadSetting, "--mixers needs the size of the decoder"),
        ({"shape": "layers=1"}, BadSetting, "--shape describes a Llama and does not go with --mixers"),
        ({"mixers": None}, BadSetting, "--width 32: needs --mixers"),
        ({"width": None, "layers": None, "params": "9k"}, BadShape, "the narrowest has "),
    ],
)
def test_what_makes_no_decoder_is_an_error_before_anything_is_written(changes, error, said, tmp_path):
    write_corpus(tmp_path)
    with pytest.raises(error) as found:
        trained(tmp_path, **changes)
    assert said in str(found.value)
    assert not (tmp_path / "run").exists()


def test_rows_longer_than_the_usual_context_make_it_longer(tmp_path):
    write_corpus(tmp_path)
    rows = {"length": 1100, "tokens": "1100", "batch_tokens": 1100}
    result = trained(tmp_path, mixers="conv", width=16, layers=1, **rows)
    assert load(result["model"]).config.max_position_embeddings == 1100


def test_filters_as_long_as_the_context_are_planned_as_they_are_trained(tmp_path):
    write_corpus(tmp_path)
    result = trained(tmp_path, mixers="longconv,topk", layers=2, tokens="128")
    planned = plan(mixers="longconv,topk", width=32, layers=2, length=16, vocab=280)
    assert planned["total"]["parameters"] == load(result["model"]).parameters_count


# The command line


@pytest.fixture
def limbeck(monkeypatch, capsys):
    """Runs `limbeck plan` in this process; gives (exit status, stdout, stderr)."""

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["limbeck", "plan", *argv])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


def test_a_plan_is_shown_layer_by_layer(limbeck):
    status, out, _ = limbeck("--mixers", "conv,swa:64", "--width", "64", "--layers", "4", "--context", "32k")
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[2][:3] == ["0,", "2", "conv"]
    assert rows[3][:3] == ["1,", "3", "swa:64"]
    assert "attention in every layer" in out
    assert "one text of 32,000 tokens" in out
    assert "% of attention's, in bfloat16 but for sums over the text, which are float32" in " ".join(out.split())
    assert "recall: a head of swa:64 keeps at most 63 key-value pairs apart, of 32,000 tokens" in out


def test_a_plan_is_one_json_object(limbeck):
    status, out, _ = limbeck("--mixers", "conv", "--params", "100k", "--vocab", "256", "--length", "64", "--json")
    assert status == 0
    assert json.loads(out) == plan(mixers="conv", params="100k", vocab=256, length=64)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--mixers", "conv", "--params", "1M", "--gpu", "L4"), "--gpu about a teacher or a device"),
        (("--mixers", "conv", "--params", "1M", "--teacher-tokens", "1B"), "--teacher-tokens about a teacher"),
        (("--mixers", "conv", "--params", "1M", "--epsilon", "0", "--free-teacher"), "--epsilon, --free-teacher about"),
        (("--layers", "4", "--params", "1M"), "--layers 4: needs --mixers"),
        (("--vocab", "4"), "--vocab 4: goes with --teacher, whose vocabulary it trims, or with --mixers"),
        (("--mixers", "conv", "--params", "1M", "--length", "1"), "--seq-len: expected at least 2, got '1'"),
        (("--mixers", "conv", "--params", "1M", "--length", "long"), "1.3B, got 'long'\n"),
    ],
)
def test_wrong_flags_of_a_plan_are_errors(flags, said, limbeck):
    status, _, err = limbeck(*flags)
    assert status == 2
    assert said in err
