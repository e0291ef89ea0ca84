"""`limbeck plan --mixers`: the cost of a mixture of layers relative to attention everywhere, and the capacity of its state.

State, FLOPs and parameters come from the mixers themselves, built without storage. So this needs torch, unlike the rest of
`limbeck plan`.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from limbeck.config import PlanSettings
from limbeck.config.defaults import VOCABULARY
from limbeck.errors import BadSetting
from limbeck.jobs.pair.mixers import Mixed, a_pattern, context_of, mixed, remarks, shown_bytes, shown_pattern
from limbeck.jobs.plan.device import BFLOAT16
from limbeck.planning.cost.mixers import Mixture
from limbeck.planning.cost.size import Size

_RULE = (
    "a rule of thumb, no measurement: what a model recalls is bounded by the bits of its state (Arora et al., arXiv 2402.18668, "
    "thm. 3.1), and of keys that are summed up with their values no more can be told apart than a key has channels (Schlag et "
    "al., arXiv 2102.11174, sec. 4.1); several heads and layers may share the work, and training may not get there"
)


def plan_mixture(settings: PlanSettings) -> dict[str, Any]:
    """Answers for a mixture; gives ``{"mixers", "layers", "total", "attention", "recall", "remarks", ...}``.

    State bytes are of one text of ``length`` tokens, numbers in bfloat16 but for sums over the text, which are float32. FLOPs
    are for each token of a row of that length, on average; training takes three forward passes.
    """
    assert settings.mixers is not None
    _alone(settings)
    if isinstance(settings.vocab, str | tuple):
        given = settings.vocab if isinstance(settings.vocab, str) else ",".join(map(str, settings.vocab))
        raise BadSetting(f"--vocab {given}: with --mixers it is the number of tokens, such as 8k: give that")
    vocab = VOCABULARY if settings.vocab is None else settings.vocab
    sizes = {"width": settings.width, "layers": settings.layers, "params": settings.params}
    shape = mixed(settings.mixers, **sizes, vocab=vocab, context=context_of(settings.length))
    config = shape.config(vocab)
    size, mixture = Size.of(config), Mixture.of(config)
    attention = Mixed(("attention",), shape.width, shape.layers, shape.context)
    parameters = a_pattern(shape.pattern, shape.width, shape.context)
    mlp = 6.0 * shape.width * config.intermediate_size
    layers = [
        {
            "layer": layer,
            "mixer": text,
            "parameters": parameters[layer % len(parameters)],
            "state_bytes": mixture.layer_bytes(layer, settings.length, BFLOAT16),
            "flops": mixture.mixer(layer).flops(settings.length) + mlp,
        }
        for layer, text in enumerate(mixture.layers)
    ]
    return {
        "mixers": list(shape.pattern),
        "width": shape.width,
        "heads": config.num_attention_heads,
        "vocab": vocab,
        "length": settings.length,
        "layers": layers,
        "total": _total(size, settings.length),
        "attention": _total(Size.of(attention.config(vocab)), settings.length),
        "recall": _recall(mixture, settings.length),
        "remarks": remarks(mixture, settings.length),
    }


def _alone(settings: PlanSettings) -> None:
    """Raises BadSetting for flags about a teacher or a device."""
    named = {
        "--candidates": settings.candidates,
        "--teacher": settings.teacher,
        "--shrink": settings.shrink,
        "--bytes": settings.weight_bytes,
        "--body-params": settings.body_params,
        "--tokens": settings.tokens,
        "--points": settings.points,
        "--device-memory": settings.device_memory,
        "--latency": settings.latency,
        "--gpu": settings.gpu,
        "--teacher-tokens": settings.teacher_tokens,
        "--epsilon": "epsilon" in settings.model_fields_set,
        "--free-teacher": not settings.pay_teacher,
    }
    given = [flag for flag, value in named.items() if value]
    if given:
        raise BadSetting(
            f"--mixers asks what a decoder costs by itself, {', '.join(given)} about a teacher or a device: leave one of them out"
        )


def _total(size: Size, length: int) -> dict[str, Any]:
    forward = size.forward_flops(length)
    return {
        "parameters": size.parameters,
        "state_bytes": size.state_bytes(length, BFLOAT16),
        "flops": forward,
        "training_flops": forward + size.backward_flops(length),
    }


def _recall(mixture: Mixture, length: int) -> dict[str, Any]:
    """The number of key-value pairs that the best layer's state can separate, as text and as a number."""
    found = {text: mixture.mixer(layer).pairs(length) for layer, text in enumerate(mixture.layers)}
    best = max(found, key=lambda text: found[text])
    pairs = found[best]
    if pairs == 0:
        sentence = (
            "no layer compares a query with what was read: convolutions and fixed state spaces found pairs again only where "
            "the model was about as wide as the text is long (Arora et al., arXiv 2312.04927, fig. 2)"
        )
    elif pairs >= length:
        sentence = f"{best} keeps each of the {length:,} tokens: all can be looked up"
    else:
        sentence = f"a head of {best} keeps at most {pairs:,} key-value pairs apart, of {length:,} tokens"
    return {"pairs": pairs, "mixer": best if pairs else None, "said": sentence, "rule": _RULE}


def show_mixture(result: dict[str, Any], console: Console) -> None:
    """Prints the result as text."""
    total, attention, length = result["total"], result["attention"], result["length"]
    console.print(
        f"{shown_pattern(result['mixers'], len(result['layers']))}: {len(result['layers'])} layers, width {result['width']} in "
        f"{result['heads']} heads, vocabulary {result['vocab']:,} (--vocab); one text of {length:,} tokens"
    )
    table = Table("layers", "mixer", "parameters", "state", "forward FLOPs a token", box=None, pad_edge=False)
    for place, mixer in enumerate(result["mixers"]):
        layers = result["layers"][place :: len(result["mixers"])]
        numbers = ", ".join(str(layer["layer"]) for layer in layers)
        table.add_row(numbers, mixer, *_cells(layers[0]))
    table.add_row("all", "with embedding and head", *_cells(total))
    table.add_row("", "attention in every layer", *_cells(attention))
    console.print(table)
    console.print(
        f"training: {total['training_flops']:.3g} FLOPs a token, with attention everywhere {attention['training_flops']:.3g}; "
        f"the state is {_share(total['state_bytes'], attention['state_bytes'])} attention's, in bfloat16 but for sums over the "
        "text, which are float32"
    )
    console.print(f"recall: {result['recall']['said']}")
    console.print(f"  {result['recall']['rule']}", style="dim")
    for remark in result["remarks"]:
        console.print(f"note: {remark}", style="yellow")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return f"{row['parameters']:,}", shown_bytes(row["state_bytes"]), f"{row['flops']:.3g}"


def _share(part: int, whole: int) -> str:
    return "as large as" if part == whole else f"{100 * part / whole:.3g} % of"
