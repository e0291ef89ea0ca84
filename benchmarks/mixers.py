"""Every sequence mixer beside softmax attention of the same width, over lengths: a training step, and a token of decoding.

    python benchmarks/mixers.py                    # one thread; some two and a half minutes of CPU

What is timed is a mixer alone, without the MLP beside it: forward and backward over a row, in chunks as in training, and one
token after a text of that length. Attention and all mixers take turns within each repeat, and what counts is the ratio to the
attention of the same repeat, in CPU time of this process with one thread. Transformers' own Mamba, Mamba-2 and RWKV-4 take turns
with ours of the same shape. Results and the figure are written under docs/results/mixers/, the table is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from circumstances import made_by
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch import nn
from transformers import Mamba2Config, MambaConfig, RwkvConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.rwkv.modeling_rwkv import RwkvSelfAttention

from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mixer import Dims, Mixer
from limbeck.models.mixers.named import MIXERS
from limbeck.models.mixers.pattern import build

WIDTH, HEADS = 256, 4
REPEATS = {128: 7, 512: 5, 2048: 3, 8192: 2}  # steps of each length
WRITTEN = 24  # tokens that are decoded at each length
PEERS_LENGTH = 1024
PEERS_REPEATS = {"mamba2": 3, "rwkv4": 3, "mamba": 1}  # a step of Transformers' Mamba takes most of a minute
_WARM = 128  # tokens of the call that finds nothing warm
COUNTED = (2048, 32_768)  # lengths whose bytes and FLOPs are counted
BFLOAT16 = torch.bfloat16

# Where each mixer is from, as its file says.
PAPERS: Mapping[str, str] = {
    "attention": "1706.03762",
    "swa": "2004.05150",
    "repeats": "2312.04927",
    "topk": "2312.04927",
    "conv": "2312.04927",
    "longconv": "2312.04927",
    "linear": "2006.16236",
    "based": "2402.18668",
    "retnet": "2307.08621",
    "gla": "2312.06635",
    "deltanet": "2406.06484",
    "gdn": "2412.06464",
    "s4d": "2206.11893",
    "h3": "2212.14052",
    "hyena": "2302.10866",
    "mamba": "2312.00752",
    "mamba2": "2405.21060",
    "rwkv4": "2305.13048",
}
_COLOURS = {"attention": "black", "swa": "dimgray", "repeats": "gray", "topk": "darkgray"}


def dims(length: int) -> Dims:
    """Of a decoder whose longest text is this one."""
    return Dims(width=WIDTH, heads=HEADS, kv_heads=HEADS, head_dim=WIDTH // HEADS, length=length)


def counted(name: str) -> dict[str, Any]:
    """Bytes of the state in bfloat16, its sums in float32, and FLOPs of a forward pass for each token, at two lengths."""
    found: dict[str, Any] = {"paper": PAPERS[name]}
    for length in COUNTED:
        with torch.device("meta"):
            mixer = build(name, dims(length))
        found[f"flops_{length}"] = mixer.flops(length)
        found[f"state_bytes_{length}"] = mixer.to(BFLOAT16).state_bytes(length)
    return found


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process for one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turn(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each contender in each repeat."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            spent[name].append(cpu_seconds(work))
    return spent


def step(mixer: nn.Module, length: int, *, alone: bool) -> Callable[[], object]:
    """Forward and backward of a mixer over one row; ``alone`` where it is one of ours."""
    x = torch.randn(1, length, WIDTH, requires_grad=True)

    def work(count: int = length) -> None:
        documents = Documents.alone(1, count, tokens=torch.arange(count)[None] % 97)
        y = mixer(x[:, :count], documents)[0] if alone else mixer(x[:, :count])
        (y[0] if isinstance(y, tuple) else y).sum().backward()

    work(min(length, _WARM))
    return work


class Writer:
    """A mixer that has read a text and goes on, a token a call."""

    def __init__(self, mixer: Mixer, length: int) -> None:
        self.mixer, self.place = mixer.eval(), length
        x = torch.randn(1, length, WIDTH)
        with torch.no_grad():
            _, self.state = mixer(x, Documents.alone(1, length, tokens=torch.arange(length)[None] % 97), mixer.fresh(x))
        self.x = torch.randn(1, 1, WIDTH)

    @torch.no_grad()
    def __call__(self) -> None:
        documents = Documents.alone(1, 1, first=self.place, tokens=torch.tensor([[self.place % 97]]))
        _, self.state = self.mixer(self.x, documents, self.state)
        self.place += 1


def at_length(length: int, repeats: int) -> list[dict[str, Any]]:
    """Training and decoding of every mixer at one length, each with its ratio to attention in the same repeats."""
    torch.manual_seed(0)
    mixers = {name: build(name, dims(length)).train() for name in MIXERS}
    trained = in_turn({name: step(mixer, length, alone=True) for name, mixer in mixers.items()}, repeats)
    written = in_turn({name: Writer(mixer, length) for name, mixer in mixers.items()}, WRITTEN)
    return [
        {
            "mixer": name,
            "length": length,
            "training_s_per_token": statistics.median(trained[name]) / length,
            "training_to_attention": _ratio(trained[name], trained["attention"]),
            "decoding_s_per_token": statistics.median(written[name]),
            "decoding_to_attention": _ratio(written[name], written["attention"]),
            "repeats": repeats,
        }
        for name in mixers
    ]


def _ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """The median of the ratios pair by pair, and the least and the most."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def peers() -> Iterator[dict[str, Any]]:
    """A training step of ours and of Transformers' own, of the same shape."""
    torch.manual_seed(0)
    mamba = MambaConfig(hidden_size=WIDTH, state_size=16, expand=2, conv_kernel=4, num_hidden_layers=1)
    mamba2 = Mamba2Config(
        hidden_size=WIDTH, state_size=64, num_heads=8, head_dim=64, n_groups=1, chunk_size=64, num_hidden_layers=1
    )
    theirs: dict[str, Any] = {
        "mamba": MambaMixer(mamba, 0),
        "mamba2": Mamba2Mixer(mamba2, 0),
        "rwkv4": RwkvSelfAttention(RwkvConfig(hidden_size=WIDTH, num_hidden_layers=3), 1),
    }
    for name in ("mamba", "mamba2"):  # a model would initialise these
        theirs[name].conv1d.reset_parameters()
        theirs[name].out_proj.reset_parameters()
    with torch.no_grad():
        for part in (theirs["rwkv4"].time_decay, theirs["rwkv4"].time_first):
            part.normal_()
        for name in ("key", "value", "receptance"):
            getattr(theirs["rwkv4"], f"time_mix_{name}").uniform_()
    for name, repeats in PEERS_REPEATS.items():
        ours = build(name, dims(PEERS_LENGTH)).train()
        works = {
            "ours": step(ours, PEERS_LENGTH, alone=True),
            "theirs": step(theirs[name].train(), PEERS_LENGTH, alone=False),
        }
        spent = in_turn(works, repeats)
        yield {
            "mixer": name,
            "length": PEERS_LENGTH,
            "ours_s_per_token": statistics.median(spent["ours"]) / PEERS_LENGTH,
            "theirs_s_per_token": statistics.median(spent["theirs"]) / PEERS_LENGTH,
            "theirs_to_ours": _ratio(spent["theirs"], spent["ours"]),
            "repeats": repeats,
        }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """CPU time for each token against length, on logarithmic axes: training left, decoding right."""
    with mpl.rc_context({"svg.hashsalt": "limbeck", "font.size": 8}):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        panels = figure.subplots(1, 2)
        colours = mpl.colormaps["tab20"]
        sides = (
            ("training_s_per_token", 1e6, "training: CPU µs a token"),
            ("decoding_s_per_token", 1e3, "decoding: CPU ms a token"),
        )
        for axes, (key, factor, title) in zip(panels, sides, strict=True):
            for number, name in enumerate(MIXERS):
                line = [row for row in rows if row["mixer"] == name]
                axes.plot(
                    [row["length"] for row in line],
                    [factor * row[key] for row in line],
                    marker="os^Dv"[number % 5],
                    markersize=3,
                    linewidth=2.2 if name == "attention" else 1,
                    color=_COLOURS.get(name, colours(number % 20)),
                    label=name,
                )
            axes.set(xscale="log", yscale="log", title=title, xlabel="tokens of the text")
            axes.set_xticks(sorted({row["length"] for row in rows}))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        figure.savefig(path, metadata={"Date": None})


def table(results: dict[str, Any]) -> str:
    """The table of the page, in Markdown."""
    short, long = COUNTED
    lengths = sorted({row["length"] for row in results["measured"]})
    shown = [length for length in lengths if length >= 512]
    columns = ["mixer", "arXiv", f"state at {short // 1024}k, {long // 1024}k", "MFLOP a token at 2k, 32k"]
    columns += [
        f"training at {', '.join(f'{n:,}' for n in shown)}",
        f"decoding at {', '.join(f'{n:,}' for n in shown)}",
    ]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name in MIXERS:
        facts = results["counted"][name]
        ours = {row["length"]: row for row in results["measured"] if row["mixer"] == name}
        cells = [
            name,
            f"[{facts['paper']}](https://arxiv.org/abs/{facts['paper']})",
            ", ".join(_bytes(facts[f"state_bytes_{n}"]) for n in COUNTED),
            ", ".join(f"{facts[f'flops_{n}'] / 1e6:.2f}" for n in COUNTED),
            *(
                ", ".join(f"{ours[n][f'{key}_to_attention']['median']:.2f}" for n in shown)
                for key in ("training", "decoding")
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| mixer | ours, µs a token | Transformers', µs a token | times ours |", "|---|---|---|---|"]
    for row in results["peers"]:
        ratio = row["theirs_to_ours"]
        lines.append(
            f"| {row['mixer']} | {row['ours_s_per_token'] * 1e6:.0f} | {row['theirs_s_per_token'] * 1e6:.0f} | "
            f"{ratio['median']:.1f} ({ratio['least']:.1f} to {ratio['most']:.1f}) |"
        )
    return "\n".join(lines)


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def main() -> None:
    """Prints the tables, and writes results and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/mixers"), help="folder of results and figure")
    parser.add_argument("--longest", type=int, default=8192, help="leave out longer texts (default 8192)")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    begun = time.process_time()
    results: dict[str, Any] = {
        **made_by("transformers"),
        "width": WIDTH,
        "heads": HEADS,
        "counted": {name: counted(name) for name in MIXERS},
        "measured": [],
        "peers": [],
    }
    asked.out.mkdir(parents=True, exist_ok=True)

    def keep(what: str) -> None:
        """Writes what there is so far."""
        results["cpu_seconds"] = time.process_time() - begun
        (asked.out / "mixers.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"{what} done, {results['cpu_seconds']:.0f} CPU seconds so far", file=sys.stderr)

    for length, repeats in REPEATS.items():
        results["measured"] += at_length(length, repeats) if length <= asked.longest else []
        keep(f"{length} tokens")
    draw(results["measured"], asked.out / "mixers.svg")
    for row in peers():
        results["peers"].append(row)
        keep(f"Transformers' {row['mixer']}")
    print(table(results))


if __name__ == "__main__":
    main()
