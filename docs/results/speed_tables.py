"""Tables of speed, memory and cost: the benchmarks, every mixer, a streamed teacher."""

from dataclasses import asdict
from statistics import mean, median
from typing import Any

import goal_rows
import numpy as np
from cells import Tables, spread, table, within
from study_rows import HERE, REAL_MODEL, REAL_PAIR, read

from limbeck.probes.interval import difference_interval


def end_to_end() -> str:
    """A whole distillation by limbeck and its peers: medians and ranges of the runs, the ratio to TRL, the aim."""
    runs = read("performance/distil.json")["runs"]

    def of(contender: str, key: str) -> list[float]:
        """The values of one measurement in all runs of a contender."""
        return [run[key] for run in runs if run["contender"] == contender]

    lines = []
    for name, key, digits, aim in (
        ("real tokens per CPU-second", "tokens_per_cpu_s", 0, "2.6"),
        ("share of the FLOP floor", "floor_share", 2, "0.55"),
        ("peak above the models, MiB", "peak_mib", 0, "0.33"),
        ("CPU seconds to the first finished step", "first_step_cpu_s", 1, "1"),
        ("held-out cross-entropy, nats", "held_out_ce_nats", 3, ""),
        ("held-out KL to the teacher, nats", "held_out_kl_nats", 4, ""),
    ):
        cells = [
            spread(of(one, key), digits) if aim else f"{median(of(one, key)):.{digits}f}"
            for one in ("limbeck", "cached", "trl", "packed", "plain")
        ]
        ratio = f"{median(of('limbeck', key)) / median(of('trl', key)):.2f}" if aim and aim != "0.55" else ""
        lines.append([name, *cells, ratio, aim])
    return table(
        " | limbeck | limbeck, captured logits | TRL GKD | packed loop | padded loop | limbeck : TRL | aim", lines
    )


def on_policy() -> str:
    """Tokens for each CPU-second where half of the text is the student's own, and peak memory."""
    runs = read("performance/on-policy.json")["runs"]
    lines = []
    for name, shown in (("limbeck", "limbeck"), ("trl", "TRL GKD")):
        mine = [run for run in runs if run["contender"] == name]
        own = sum(run["on_policy_steps"] for run in mine), sum(run["steps"] for run in mine)
        rates, peaks = ([run[key] for run in mine] for key in ("tokens_per_cpu_s", "peak_mib"))
        lines.append([shown, f"{own[0]} of {own[1]}", spread(rates, 0), spread(peaks, 0)])
    return table(
        "contender | steps with the student's own text | tokens per CPU-second | peak above the models, MiB",
        lines,
    )


def real_pair(found: dict) -> str:
    """Results of benchmarks/real_pair.py: means over the seeds, bits per byte with their interval over documents and seeds."""
    lines = []
    for kind, budget in (("tokens", f"{found['tokens']:,} tokens"), ("time", f"{found['seconds']:g} CPU-seconds")):
        for contender, rates in found["formats"].items():
            cells = [cell for cell in found["cells"] if (cell["kind"], cell["contender"]) == (kind, contender)]
            read, trained, spent, nats, rate = (
                mean(map(figure, cells))
                for figure in (
                    lambda cell: cell["read"],
                    lambda cell: cell["trained"],
                    lambda cell: cell["cpu_s"],
                    lambda cell: cell["nats_per_token"],
                    lambda cell: cell["trained"] / (cell["capture_cpu_s"] + cell["training_cpu_s"]),
                )
            )
            sizes = np.array(cells[0]["documents"]["bytes"], dtype=float)
            bits = np.array([cell["documents"]["nats"] for cell in cells]) / np.log(2)
            level = within(asdict(difference_interval(bits, np.zeros_like(bits), sizes)))
            format_ = max(rates, key=lambda name: rates[name])
            figures = [f"{one:,.0f}" for one in (read, trained, spent, rate, max(cell["peak_mib"] for cell in cells))]
            lines.append([budget, contender, format_, *figures, f"{nats:.3f}", level])
        lines.append([budget, "DistillKit", *["not run"] * 7, "not run"])
    return table(
        "budget | contender | format | tokens read | tokens trained on | CPU-seconds | tokens per CPU-second | peak, MiB | "
        "nats per token | bits per byte",
        lines,
    )


def real_model() -> str:
    """What it costs to take a real model in and to hand one out: CPU seconds, and ratios in pairs."""
    found = read("performance/real-model.json")
    steps, tasks, export = found["vocabulary"]["step_cpu_s"], found["tasks"], found["export"]

    def times(ratios: list[float]) -> str:
        return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    def seconds(of: float) -> str:
        return f"{of:.1f}"

    whole, kept = found["vocabulary"]["tokens"]
    lines = [
        ["de-quantise the 4-bit file into a folder", seconds(found["import_cpu_s"]), "", "30 s"],
        [f"choose {kept:,} of {whole:,} tokens", seconds(found["vocabulary"]["trimming_cpu_s"]), "", "20 s"],
        [
            f"a training step, {kept:,} tokens",
            seconds(median(steps["trimmed"])),
            times(found["vocabulary"]["ratios"]),
            "1.5",
        ],
        [f"a training step, {whole:,} tokens", seconds(median(steps["all tokens"])), "", ""],
        [f"write GGUF q8_0 of {export['parameters'] / 1e6:.0f}M", seconds(export["write_cpu_s"]), "", "20 s"],
        ["the whole command, with llama.cpp's reading and times", seconds(export["command_cpu_s"]), "", ""],
        [
            f"{tasks['items']} pairs of BLiMP, limbeck",
            seconds(median(tasks["cpu_s"]["limbeck"])),
            times(tasks["ratios"]),
            "1",
        ],
        [f"{tasks['items']} pairs of BLiMP, lm-eval's hf", seconds(median(tasks["cpu_s"]["lm-eval hf"])), "", ""],
    ]
    return table("what | CPU-seconds | times as fast as the line below | aim", lines)


def losses() -> str:
    """Time of each loss, in units of its bare matrix products, and extra memory, in matrices of tokens by vocabulary."""
    ours, theirs = (
        {one["contender"]: one for one in read(f"performance/{file}.json")["results"]}
        for file in ("losses-limbeck", "losses")
    )
    matrix = 2048 * 32_000 * 4 / 2**20  # MiB of logits
    lines = []
    for found, names in ((ours, [name for name in ours if name.startswith("limbeck")]), (theirs, PEERS)):
        products = median(found["matrix products alone"]["seconds"])
        rows = [(median(found[name]["seconds"]) / products, name, found[name]["peak_mib"] / matrix) for name in names]
        lines += [
            [name, f"{times:.2f}", f"{memory:.2f}" if memory < 1 else f"{memory:.1f}"]
            for times, name, memory in sorted(rows)
        ]
    return table("contender | times the bare products | extra memory, (T, V) matrices", lines)


def compiled() -> str:
    """A sentence on what compiling the work on a block of logits gives, in units of the bare products and of pairs of calls."""
    measured = read("performance/losses-compiled.json")
    found = {one["contender"]: one["seconds"] for one in measured["results"]}
    products, eager = found["matrix products alone"], found["limbeck ForwardKL"]
    pairs = [one / other for one, other in zip(found["compiled blocks, ForwardKL"], eager, strict=True)]
    sides = (eager, found["compiled blocks, ForwardKL"])
    ours, theirs = (median([one / bare for one, bare in zip(side, products, strict=True)]) for side in sides)
    return (
        f"With the work on a block of logits compiled by `torch.compile`, ForwardKL takes {median(pairs):.2f} times as long as "
        f"without (median of {len(pairs)} pairs, {min(pairs):.2f} to {max(pairs):.2f}; {theirs:.2f} and {ours:.2f} times the "
        f"bare products; {measured['processor']}). So it is not compiled."
    )


PEERS = (
    *("naive forward KL", "Liger fused, forward KL", "Liger fused, JSD 0.5"),
    *("TRL, forward KL", "TRL, JSD 0.5", "TRL chunked, forward KL"),
)


def captured() -> str:
    """Bytes a token of each codec of captured logits, and the speeds of writing and reading them."""
    lines = [
        [
            one["format"].replace("likeliest", "top-k").replace("top-64", "64 top-k and the rest"),
            f"{one['vocab']:,}",
            str(one["bytes"]),
            f"{one['encode_tokens_per_s']:,.0f}",
            f"{one['decode_tokens_per_s'] / 1e6:.2f} M",
        ]
        for one in read("performance/caches.json")["formats"]
    ]
    return table("kept | vocabulary | bytes a token | packed, tokens/s | read, tokens/s", lines)


def served() -> str:
    """Tokens a second that each client gets from a server, as a share of the server's bound, and per CPU-second of the client."""
    found, lines = read("performance/served.json"), []
    for name in ("bare", "limbeck"):
        speeds = [pair[f"{name}_tokens_per_s"] for pair in found["pairs"]]
        busy = [pair[f"{name}_tokens_per_cpu_s"] for pair in found["pairs"] if f"{name}_tokens_per_cpu_s" in pair]
        share = f"{100 * median(speeds) / found['most_tokens_per_s']:.0f} %"
        lines.append([name, spread(speeds), share, spread(busy) if busy else "–"])
    bound = f"{found['most_tokens_per_s']:,.0f}"
    return table(
        f"client | tokens a second | of the server's bound, {bound} | tokens per CPU-second of the client", lines
    )


def recall() -> str:
    """Speed of the recall task's rows and trainings over straightforward code, with its range over pairs of runs."""
    lines = []
    for name, one in read("performance/mqar.json")["results"].items():
        digits = 0 if one["ratio"] > 10 else 2
        value, least, most = (f"{one[key]:.{digits}f}" for key in ("ratio", "least", "most"))
        lines.append([name, value, f"{least} to {most}", "100" if name.startswith("rows") else "2"])
    return table("what | times as fast | pair by pair | aim", lines)


def formats() -> str:
    """Speed of bfloat16 over float32 by size of the model, for a training step and a forward pass."""
    lines = []
    for one in read("performance/formats.json")["shapes"]:
        ratios = [
            [a / b for a, b in zip(one[kind]["float32"], one[kind]["bfloat16"], strict=True)]
            for kind in ("step", "forward")
        ]
        sizes = [str(one["width"]), str(one["layers"]), f"{one['parameters'] / 1e6:.1f}M"]
        lines.append([*sizes, *(spread(found, 2) for found in ratios)])
    return table("width | layers | parameters | training step, times as fast | forward pass, times as fast", lines)


def int8() -> str:
    """A teacher in each number format: speed beside float32, and what its logits lose."""
    found, lines = read("performance/int8-teacher.json"), []
    for name, spent in found["seconds"].items():
        ratios = [a / b for a, b in zip(found["seconds"]["float32"], spent, strict=True)]
        cells = [f"{found['timed_tokens'] / median(spent):,.0f}", spread(ratios, 2)]
        lost = found["losses"].get(name)
        cells += ["", "", ""] if lost is None else [within(lost["kl"], 4), within(lost["nats"], 4, sign="+")]
        cells += [] if lost is None else [f"{100 * lost['agreement']:.1f} %"]
        lines.append([name, *cells])
    return table(
        "format | tokens per CPU-second | times float32 | KL from float32, nats per token | nats per token above float32 | "
        "same most probable token",
        lines,
    )


def attention() -> str:
    """Attention inside documents beside fused attention: how many times as fast, and the error of both."""
    lines = []
    for one in read("performance/attention.json")["rows"]:
        ratios = [
            [a / b for a, b in zip(one[kind]["fused"], one[kind]["plain"], strict=True)] for kind in ("both", "forward")
        ]
        errors = [f"{100 * one['errors'][kind]:.1f} %" for kind in ("plain", "fused")]
        lines.append([one["row"], *(spread(found, 2) for found in ratios), *errors])
    return table(
        "a row | with gradients, times as fast | forward, times as fast | error | error of fused attention", lines
    )


def attention_losses() -> str:
    """A model's nats per token by number format and attention."""
    found = read("performance/attention.json")["losses"]
    cells = [f"{found['nats_per_token'][kind]:.4f}" for kind in ("float32", "fused", "plain")]
    documents = f"{found['documents']} documents, {found['tokens']:,} tokens"
    head = "model | text | float32 | bfloat16, fused attention | bfloat16, plain products"
    return table(head, [[found["model"], documents, *cells]])


def cut() -> str:
    """Peak memory and CPU time of cutting students out of models of random weights, layer by layer and in memory."""
    lines = []
    for one in read("performance/cut.json")["models"]:
        sizes = [f"{one['parameters'] / 1e6:,.0f}M", f"{one['file_gib']:.2f}", f"{one['streamed']['student_gib']:.2f}"]
        ways = [
            f"{one[way]['peak_gib']:.2f}, {one[way]['cpu_s']:,.0f}" if way in one else "–"
            for way in ("streamed", "resident")
        ]
        lines.append([*sizes, *ways])
    return table(
        "parameters | teacher's file, GiB | student's file, GiB | layer by layer: peak GiB, CPU-seconds | in memory: the same",
        lines,
    )


def text() -> str:
    """Memory above that of the start, of building stores of text of two sizes."""
    found = read("performance/text.json")
    lines = [
        [
            f"{one['bytes'] / 1e6:,.0f}",
            f"{one['tokens'] / 1e6:,.0f}",
            str(one["shards"]),
            f"{one['build_mib']:,.0f}",
            f"{one['deduplicated_mib']:,.0f}",
            f"{one['rows_mib']:,.0f}",
            *ending,
        ]
        for one, ending in ((found["eighth"], ("", "")), (found["whole"], _ended(found)))
    ]
    head = "text, MB | tokens, million | shards | built, peak MiB | without duplicates, peak MiB"
    head += " | rows read, MiB | flat | ended and continued"
    return table(head, lines)


def _ended(found: Any) -> tuple[str, str]:
    """Whether memory was flat, and whether a build that was ended came to the same bits."""
    kills = f"{found['killed']['kills']} times: {'the same bits' if found['killed']['same'] else 'other bits'}"
    return "yes" if all(found["flat"].values()) else "no", kills


def cost() -> str:
    """Relative errors of estimated time: of trainings whose steps were timed, and guessed before."""
    shapes = read("performance/cost.json")["shapes"]
    lines = []
    for key, name in (
        ("time_ratio", "from its own first steps"),
        ("guess_ratio", "from two rates, before there is a student"),
    ):
        errors = [abs(one[key] - 1) for one in shapes]
        lines.append([name, str(len(errors)), f"{100 * median(errors):.0f} %", f"{100 * max(errors):.0f} %"])
    return table("estimated | pairs | off by, median | at most", lines)


def memory() -> str:
    """Largest relative errors of estimated peaks of memory, for each way of computing a training."""
    found = read("performance/memory.json")
    lines = []
    for way, one in found["worst"].items():
        pairs = sum(key.endswith(f": {way}") for key in found["cells"])
        lines.append(
            [way, str(pairs), *(f"{100 * one[part]:.1f} %" if part in one else "" for part in ("fitted", "others"))]
        )
    return table("computed | pairs | off by at most, pairs that constants were fitted to | others", lines)


def size(number: float) -> str:
    """A number of bytes in KiB, or in MiB from one MiB on."""
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB"


def mixers() -> str:
    """State and FLOPs of each mixer by context length, and its times of training and decoding in units of attention's."""
    found = read("mixers/mixers.json")
    measured = {(one["mixer"], one["length"]): one for one in found["measured"]}
    lines = []
    for name, one in found["counted"].items():
        times = [
            ", ".join(f"{measured[name, length][f'{task}_to_attention']['median']:.2f}" for length in (512, 2048, 8192))
            for task in ("training", "decoding")
        ]
        lines.append(
            [
                name,
                f"[{one['paper']}](https://arxiv.org/abs/{one['paper']})",
                ", ".join(size(one[f"state_bytes_{length}"]) for length in (2048, 32768)),
                ", ".join(f"{one[f'flops_{length}'] / 1e6:.2f}" for length in (2048, 32768)),
                *times,
            ]
        )
    return table(
        "mixer | arXiv | state at 2k, 32k | MFLOP a token at 2k, 32k | training at 512, 2k, 8k | decoding at 512, 2k, 8k",
        lines,
    )


def peers() -> str:
    """Microseconds a token of our mixers and of those of Transformers, and their ratio: median, least and most of the runs."""
    lines = []
    for one in read("mixers/mixers.json")["peers"]:
        value, least, most = (f"{one['theirs_to_ours'][key]:.1f}" for key in ("median", "least", "most"))
        micro = [f"{1e6 * one[key]:.0f}" for key in ("ours_s_per_token", "theirs_s_per_token")]
        lines.append([one["mixer"], *micro, f"{value} ({least} to {most})", str(one["repeats"])])
    return table("mixer | ours, µs a token | Transformers', µs a token | times ours | runs", lines)


def streamed() -> str:
    """Peak memory and seconds of a teacher that is streamed layer by layer, beside the same teacher in memory."""
    found = read("streamed/streamed.json")
    lines = [
        [name, f"{found[key]['peak_bytes'] / 1e6:.1f} MB", f"{found[key]['seconds']:.0f}"]
        for name, key in (
            (f"streamed, limit {found['limit_bytes'] / 1e6:.1f} MB", "streamed"),
            ("in memory", "resident"),
        )
    ]
    return table(" | peak above the start | seconds", lines)


TABLES: Tables = {
    "performance.md": {
        "goals": goal_rows.table,
        "end-to-end": end_to_end,
        "on-policy": on_policy,
        **({"real-pair": lambda: real_pair(read("performance/real-pair.json"))} if REAL_PAIR.exists() else {}),
        **({"real-model": real_model} if REAL_MODEL.exists() else {}),
        "losses": losses,
        "compiled": compiled,
        "captured": captured,
        "served": served,
        "recall": recall,
        "formats": formats,
        **({"int8": int8} if (HERE / "performance" / "int8-teacher.json").exists() else {}),
        "attention": attention,
        "attention-losses": attention_losses,
        "memory": memory,
        "cut": cut,
        "text": text,
        "cost": cost,
    },
    "mixers/README.md": {"mixers": mixers, "peers": peers},
    "streamed/README.md": {"streamed": streamed},
}
