"""Prints the result of `limbeck plan` (`jobs.plan`)."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from limbeck.jobs.plan.job import OUTCOMES
from limbeck.students.shape import BLOCK, BLOCKED, GIVEN_UP
from limbeck.terminal import visible


def show(result: dict[str, Any], console: Console) -> None:
    """Prints the result of a plan."""
    student = result["student"]
    if result["shapes"]:
        _show_shapes(result["shapes"], console)
    shape = f" ({student['shape']})" if student["shape"] else ""
    console.print(
        f"student: {student['parameters']:,} parameters, {student['without_embeddings']:,} without embeddings{shape}, "
        f"{result['tokens']:,} tokens"
    )
    if student["rows"]:
        console.print(_blocks(student["rows"]))
    if "vocabulary" in student:
        console.print(_embeddings(student["vocabulary"]))
    if result["device"]:
        _show_device(result["device"], console)
    for answer in result["planners"]:
        console.print(Text.assemble("\n", (answer["planner"], "bold"), f": {visible(answer['said'])}"))
        if answer["rows"]:
            console.print(_losses(answer))
            if result["pay_teacher"]:
                sentence = "break-even, uses of each forward pass of the teacher from which on it gains"
                console.print(f"  {sentence}: {_break_even(answer['rows'])}; here {result['uses']:.1f}")
        for note in answer["notes"]:
            console.print(f"  {note}", style="dim")
    if result["local_fit"] is None:
        console.print(
            Text.assemble(
                "\n",
                ("local fit", "bold"),
                ": none, since no --points are given: a pilot of your own data beats both rules above",
            )
        )
    for row in result["skipped"]:
        console.print(f"  skipped {row}", style="yellow")
    gpu = f" on one {result['gpu']['name']} ({result['gpu']['source']})"
    console.print(Text.assemble("\n", ("cost", "bold"), gpu), soft_wrap=True)
    console.print(_cost_table(result["costs"]))
    for cost in result["costs"]:
        console.print(_memory(cost, result["gpu"]), soft_wrap=True)
    console.print("assumed:")
    for sentence in result["assumptions"]:
        console.print(f"  {sentence}")


def _blocks(rows: dict[str, int]) -> str:
    """Whether the rows of the student's matrices are whole blocks of the quantised files that it may be exported to."""
    odd = [f"{name} {width:,}" for name, width in rows.items() if width % BLOCK]
    if not odd:
        return f"rows of its matrices: multiples of {BLOCK}, so that q8_0 and q4_0 exports quantise all of them"
    message = (
        f"rows of its matrices: no multiple of {BLOCK} in {', '.join(odd)}: q8_0 and q4_0 exports have these in float16"
    )
    return (
        message
        if rows["hidden"] < BLOCKED
        else f"{message}; multiples would cost {GIVEN_UP:.0%} of the budget, or balance"
    )


def _embeddings(vocabulary: dict[str, Any]) -> str:
    """The share of the parameters that embeddings take, and what a trimmed vocabulary would make of the same shape."""
    message = f"embeddings: {vocabulary['share']:.0%} of it, of {vocabulary['tokens']:,} tokens"
    fewer = ", ".join(f"{parameters:,} with {int(n):,}" for n, parameters in vocabulary["trimmed"].items())
    return f"{message}; parameters with a trimmed vocabulary (--vocab): {fewer}" if fewer else message


def _show_shapes(shapes: dict[str, Any], console: Console) -> None:
    """The shapes of a budget of bytes; those over the limit are marked."""
    console.print(
        f"{shapes['legal']:,} legal shapes, {shapes['within']:,} within {shapes['budget_bytes']:,} bytes in {shapes['format']}; "
        f"--json has the {len(shapes['front']):,} that fill it with fewest FLOPs and KV-cache bytes for their parameters"
    )
    console.print(_shapes_table(shapes), soft_wrap=True)
    for sentence in shapes["skipped"]:
        console.print(f"  {sentence}", style="yellow")
    if shapes["seconds_of"]:
        limit = shapes["latency_s"]
        mark = "" if limit is None else f"; ! is over {limit * 1e3:g} ms or the memory"
        console.print(f"ms a token: {shapes['seconds_of']}{mark}")


def _shapes_table(shapes: dict[str, Any]) -> Table:
    vocabularies = len({row["vocab"] for row in shapes["rows"]}) > 1
    timed = shapes["seconds_of"] is not None
    table = Table(box=None, pad_edge=False)
    for column, numbers, wanted in (
        ("", False, True),
        ("layers", True, True),
        ("hidden", True, True),
        ("heads", True, True),
        ("ffn", True, True),
        ("tokens", True, vocabularies),
        ("parameters", True, True),
        ("embedding", True, True),
        ("bytes", True, True),
        ("FLOPs/token", True, True),
        (f"KV at {shapes['length']:,}", True, True),
        ("ms/token", True, timed),
    ):
        if wanted:
            table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in shapes["rows"]:
        axes = dict(part.split("=") for part in row["shape"].split(","))
        cells = [
            ", ".join(row["names"]),
            axes["layers"],
            axes["hidden"],
            f"{axes['heads']}/{axes['kv_heads']}",
            axes["ffn"],
        ]
        cells += [f"{row['vocab']:,}"] if vocabularies else []
        cells += [f"{row['parameters']:,}", f"{row['embedding_share']:.0%}", f"{row['bytes']:,}", f"{row['flops']:.3g}"]
        cells += [f"{row['kv_bytes']:,}"]
        cells += [f"{row['seconds'] * 1e3:.3g}{' !' if row['over'] else ''}"] if timed else []
        table.add_row(*cells)
    return table


def _show_device(device: dict[str, Any], console: Console) -> None:
    if device["teacher_fits"]:
        console.print("the teacher itself fits the device: nothing needs to be shrunk for it")
    console.print(
        f"on {device['gpu']}: {_of(device['student_bytes'], device['memory_bytes'])} with weights in {device['format']} and "
        f"{device['length']:,} tokens of context ({device['student_kv_bytes_per_token']:,} bytes each), "
        f"{device['student_latency_s'] * 1e3:.3g} ms a token"
    )


def _of(part: float, whole: float) -> str:
    """A part of some bytes as text in GiB, or in MiB if the whole is small."""
    unit, size = ("GiB", 2**30) if whole >= 2**29 else ("MiB", 2**20)
    return f"{part / size:.2f} of {whole / size:.2f} {unit}"


def _losses(answer: dict[str, Any]) -> Table:
    """``without teacher``: cross-entropy for the same FLOPs; the gain is over that, in nats per token."""
    table = Table(box=None, pad_edge=False)
    for column in ("teacher", "its loss", "student's", "FLOPs", "without teacher", "gain"):
        table.add_column(
            column, no_wrap=column != "teacher", overflow="fold"
        )  # a path is long, and its end identifies it
    for row in answer["rows"]:
        name = row["teacher"] or "none"
        cells = [
            name + (" ←" if row["teacher"] == answer["cheapest"] else ""),
            "" if row["teacher_loss"] is None else f"{row['teacher_loss']:.3f}",
            _interval(row["loss"]),
            f"{row['flops']:.2g}",
            f"{row['alone_loss']:.3f}, {_short(row['alone_tokens'])} tokens",
            f"{row['gain']:+.3f}",
        ]
        table.add_row(*cells)
    return table


def _break_even(rows: list[dict[str, Any]]) -> str:
    """The number of uses from which each teacher's logits win at equal compute. JSON has null for "no number is enough"."""
    uses = ((row["teacher"], row["break_even"]) for row in rows if row["teacher"] is not None)
    return ", ".join(f"{name} {'never' if times is None else f'{times:.1f} times'}" for name, times in uses)


def _short(number: float) -> str:
    """A number with a suffix, such as 1.5B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _interval(loss: dict[str, Any]) -> str:
    return f"{loss['value']:.3f} ± {(loss['high'] - loss['low']) / 2:.3f}"


def _memory(cost: dict[str, Any], gpu: dict[str, Any]) -> str:
    """The peak by part, and the setting that fits into the GPU."""
    parts = sorted(cost["bytes"].items(), key=lambda part: -part[1])
    each = ", ".join(f"{name} {size / 2**30:,.1f} GiB" for name, size in parts)
    sentence = f"memory of a training in bfloat16 with {cost['teacher']}: {each}"
    fits = cost["fits"]
    if fits is None:
        return sentence
    need, there = f"{fits['peak_bytes'] / 2**30:,.1f} GiB", f"{gpu['name']} with {gpu['memory'] / 2**30:,.1f} GiB"
    slower = f", about {fits['slower']:.0%} slower" if fits["slower"] > 0.005 else ""
    other = "" if fits["same"] else ", with another result"
    if not fits["fits"]:
        return f"{sentence}; no setting fits {there}: {fits['flags']} needs {need}"
    how = f"with {fits['flags']} ({need}{slower}{other})" if fits["flags"] else "as it is"
    return f"{sentence}; it fits {there} {how}"


def _cost_table(costs: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("teacher", "FLOPs", "hours", "peak memory", f"cache, top {OUTCOMES}", "cache, all"):
        table.add_column(column, no_wrap=column != "teacher", overflow="fold")
    for cost in costs:
        peak = f"{cost['peak_bytes'] / 2**30:,.1f} GiB" + ("" if cost["activations_counted"] else " and activations")
        caches = (
            "unknown" if cost[k] is None else f"{cost[k] / 1e9:,.1f} GB" for k in ("cache_bytes", "full_cache_bytes")
        )
        table.add_row(cost["teacher"], f"{cost['flops']:.2e}", f"{cost['gpu_hours']:,.1f}", peak, *caches)
    return table
