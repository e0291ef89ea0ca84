"""`limbeck pretrain`: trains a tokenizer and a model from scratch, or goes on with a model, with cross-entropy.

A new model is Llama-like, or a decoder of any mixture of layers (`jobs.pair.mixers`).
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from limbeck.config import PretrainSettings
from limbeck.corpora import Rows, TokenStore, require_rows, train_tokenizer
from limbeck.corpora.draws import training_texts
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.mixture import plain
from limbeck.corpora.reading import USUAL, Records
from limbeck.corpora.source import resolve as resolve_source
from limbeck.disk import claims, whole_folder, write_digests, write_lines, write_rows, writing
from limbeck.ending import Ending, show_ending
from limbeck.errors import BadSetting, BadShape
from limbeck.jobs.common.environment import Environment, batch_rows, environment_of, row_length
from limbeck.jobs.common.folder import claim_together, now, same_corpus, signature_of, update
from limbeck.jobs.common.held_out import Apart, HeldOut, kept_apart, watch_of, write_apart
from limbeck.jobs.common.memory import computed, memory_use, needs_documents, planned_run
from limbeck.jobs.common.mixture import blend_of, mixture_facts, print_mixture, wanted_tokens
from limbeck.jobs.common.rates import (
    early_stop_findings,
    fresh_rate_finding,
    optimiser_findings,
    rate_finding,
    rate_of,
)
from limbeck.jobs.common.text import columns_of, records_of, stores_of
from limbeck.jobs.common.trained import place_best, write_training
from limbeck.jobs.common.training import plan_of, rule_of, tracked_of
from limbeck.jobs.pair.mixers import CONTEXT, Mixed, context_of, mixed, remarks, shown_bytes, shown_pattern
from limbeck.jobs.pretrain.start import check_start, start_facts, start_signature
from limbeck.models.build import new_model
from limbeck.models.decoder import LimbeckConfig
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.models.save import round_to, save
from limbeck.models.vocabulary import ids_of
from limbeck.objectives.basic import CrossEntropy
from limbeck.planning.checks.pair import show
from limbeck.planning.checks.steps import too_few_steps
from limbeck.planning.cost.mixers import Mixture
from limbeck.planning.cost.size import Size
from limbeck.probes.likelihood import likelihood
from limbeck.probes.measurements import measure
from limbeck.probes.samples import samples
from limbeck.report.page import write_report
from limbeck.report.pretrained import pretrained_card, trained_how
from limbeck.report.words import bounded, count
from limbeck.run.log import console
from limbeck.run.run import Run
from limbeck.run.save import drop_best
from limbeck.run.world import World, leave
from limbeck.students.shape import Shape, shape_axes

_FLOAT32 = 4  # bytes of a number of the model while it is trained


@claims()
def pretrain(settings: PretrainSettings) -> dict[str, Any]:
    """Trains a model from scratch, or from another one, and saves it as an ordinary Hugging Face folder.

    Returns ``{"out", "model", "readings"}``, an empty dict on ranks other than 0. Raises a LimbeckError for settings or text that
    do not fit.
    """
    begun = _begin(settings)
    training, apart = _training(begun, _model(begun))
    training.train()
    world = begun.world
    whole = world.gathered(training.student)
    result = {}
    if world.first and whole is not None:
        whole.model.to(world.device)
        training.student = whole
        result = _finish(begun, training, apart)
    world.barrier()
    leave()
    return result


@dataclass(frozen=True)
class _Begun:
    """A job before its training: settings, what run.json holds, (training, held-out) text, and the steps.

    ``shape``: that of a new model; of a model that goes on, its weights.
    """

    settings: PretrainSettings
    environment: Environment
    shape: Shape | Mixed | LanguageModel
    run: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase
    stores: tuple[TokenStore, TokenStore]
    length: int
    rows: int
    steps: int

    @property
    def world(self) -> World:
        """The processes of the job."""
        return self.environment.world

    @property
    def stored(self) -> torch.dtype:
        """The number format of the saved model: that of the one that goes on, else float32."""
        own = self.shape.stored if isinstance(self.shape, LanguageModel) else None
        return own or torch.float32


def _begin(settings: PretrainSettings) -> _Begun:
    """Checks the settings, claims the folder, and makes tokenizer and text."""
    rule_of(settings)  # for its errors
    shape, context, environment = _shape_and_place(settings)
    out, world = settings.out, environment.world
    length = row_length(settings, context, world.device, name=settings.start or "the new model")
    rows, steps = batch_rows(settings, length, world.size)
    blend_of(settings.data, steps=steps, rows=rows, schedule=settings.schedule)  # for its errors
    for source in filter(None, (plain(settings.data), settings.eval_data)):
        resolve_source(source, columns_of(settings))
    signature = signature_of(settings, "pretrain", length=length, rows=rows, bf16=environment.bf16)
    run = claim_together(out, signature | start_signature(settings), world, tf32=environment.tf32)
    most = wanted_tokens(settings, length=length, ranks=world.size)
    own = shape.tokenizer if isinstance(shape, LanguageModel) else None
    tokenizer = own or _tokenizer(settings, out, environment, most=most)
    stores = store, held_out = stores_of(settings, tokenizer, environment, most=most)
    require_rows(store, length=length)
    if world.first:
        same_corpus(out, run, store, held_out)
    return _Begun(settings, environment, shape, run, tokenizer, stores, length, rows, steps)


def _shape_and_place(settings: PretrainSettings) -> tuple[Shape | Mixed | LanguageModel, int, Environment]:
    """The shape of the new model, or the one that goes on; its context; and where it computes."""
    if settings.start is not None:
        check_start(settings)
        environment = environment_of(settings, settings.start)
        model = load(settings.start, train=True)
        return model, model.context, environment
    context = CONTEXT if settings.mixers is None else context_of(settings.length)
    shape = _shape(settings, context)
    width = shape.hidden if isinstance(shape, Shape) else shape.width
    return shape, context, environment_of(settings, width=width)


def _model(begun: _Begun) -> LanguageModel:
    """The model before its training, where it computes: of the shape with random weights, or the one that goes on."""
    settings, shape, tokenizer = begun.settings, begun.shape, begun.tokenizer
    if isinstance(shape, LanguageModel):
        model = shape
    else:
        config = llama_config(shape, tokenizer) if isinstance(shape, Shape) else mixed_config(shape, tokenizer)
        model = new_model(config, tokenizer, settings.seed, name=settings.out.name)
    begun.world.place(model, train=True)
    return model


def _rate(begun: _Begun, model: LanguageModel) -> float:
    """The peak learning rate: that of the settings, of the run's beginning, or the one suggested for this size."""
    kept: float | None = json.loads(begun.world.share(json.dumps(begun.run.get("lr"))))
    rate = rate_of(begun.settings, model.parameters_count, kept=kept)
    if begun.world.first and kept is None:
        update(begun.settings.out, begun.run, lr=rate)
    return rate


def _announce(begun: _Begun, model: LanguageModel, rate: float) -> None:
    """Prints the model, the steps and the rate, what was found about them, and the layers of a mixture."""
    settings, parameters, (store, _) = begun.settings, model.parameters_count, begun.stores
    wanted = f" ({settings.params:,} wanted)" if settings.params not in (None, parameters) else ""
    wanted += f" of {model.name}" if settings.start is not None else ""
    rows, length = begun.rows, begun.length
    console.print(
        f"pretrain: {parameters:,} parameters{wanted}, {begun.steps:,} steps of {rows} x {length} tokens "
        f"({begun.steps * rows / store.layout(length).rows:.1f} epochs of {store.tokens:,} tokens), peak learning rate {rate:.2g}"
    )
    rates = [rate_finding(settings, parameters)] if settings.start else fresh_rate_finding(settings, parameters)
    findings = [one for one in rates if one.level != "ok"] + optimiser_findings(settings, parameters)
    show([*findings, *early_stop_findings(settings, settings.schedule)], console)
    if isinstance(begun.shape, Mixed):
        _print_layers(begun.shape, model, length)


def _training(begun: _Begun, model: LanguageModel) -> tuple[Run, Apart | None]:
    """The training of a model, and the held-out text that is measured meanwhile where there is such."""
    settings, environment, world, run = begun.settings, begun.environment, begun.world, begun.run
    length, rows, (store, held_out) = begun.length, begun.rows, begun.stores
    rate = _rate(begun, model)
    _announce(begun, model, rate)
    how: dict[str, Any] = {"schedule": settings.schedule, "bf16": environment.bf16, "tf32": environment.tf32}
    plan = plan_of(settings, steps=begun.steps, rows=rows, lr=rate, **how)
    lengths = np.diff(store.starts) if needs_documents(environment.dtype, world.device) else None
    planned = planned_run(settings, environment, length=length, rows=rows, documents=lengths)
    use, kept = memory_use(planned, model.config, None, environment, run)
    plan = computed(plan, use)
    blend = blend_of(settings.data, steps=plan.steps, rows=rows, schedule=settings.schedule)
    corpus = Rows(store, length=length, seed=settings.seed, ranks=world, blend=blend)
    rule = rule_of(settings)
    every = rule.every if rule else None
    apart = kept_apart(held_out, plan, every=rule.every, length=length, device=world.device) if rule else None
    if world.first:
        mixed = mixture_facts(store, corpus, plan.steps * rows)
        print_mixture(mixed)
        update(settings.out, run, **kept, **mixed)
        if apart:
            write_apart(settings.out, apart)
    watch = watch_of(held_out, plan, length=length, environment=environment, every=every, apart=apart)
    tracked = tracked_of(settings, run)
    objective = CrossEntropy()
    training = Run(
        *(settings.out, "pretrain", model, None, corpus, objective, plan, world),
        watch=watch,
        rule=rule,
        tracked=tracked,
    )
    return training, apart


def _finish(begun: _Begun, training: Run, apart: Apart | None) -> dict[str, Any]:
    settings, run, length, (store, held_out) = begun.settings, begun.run, begun.length, begun.stores
    out, model, plan = settings.out, training.student, training.plan
    stored = round_to(model, begun.stored)
    if training.rule is not None:
        write_training(training)
    without = None if apart is None else apart.documents
    every_row = held_out.layout(length).rows
    text = HeldOut(held_out, length=length, environment=begun.environment, rows=every_row, without=without)
    measured = measure(model, None, text.batches(), documents=held_out.documents)
    readings = likelihood("model", [measured], text_bytes=text.text_bytes(measured), seed=settings.seed)
    write_lines(out / "readings.jsonl", [r.row() for r in readings])
    file = out / "measurements" / f"model-seed{settings.seed}.safetensors"
    with writing(file):
        file.parent.mkdir(exist_ok=True)
    measured.save(file)
    rows = samples(model, None, held_out)
    write_rows(
        out / "samples.json", [{key.replace("student", "model"): text for key, text in row.items()} for row in rows]
    )
    tokens = round(training.done * plan.rows * length * (1 - store.layout(length).padding))
    size = Size.of(model.config)
    spent = tokens * (size.forward_flops(length) + size.backward_flops(length))
    facts: dict[str, Any] = {"tokens": tokens, "parameters": model.parameters_count, "flops": spent, "lr": plan.lr}
    if size.mixture is not None:
        facts |= {"layers": size.mixture.layers, "state_bytes": size.state_bytes(length, _FLOAT32)}
    facts |= start_facts(settings, model, stored)
    update(out, run, ended=now(), corpus=store.manifest, **facts)
    save(model, out / "model", card=pretrained_card(run, readings), dtype=stored)
    if training.rule is not None and not training.rule.best:  # else the same command would look for them
        place_best(out, out / "model", dtype=stored)
        drop_best(out)
    loss = readings[0]
    if few := too_few_steps(plan.steps):
        console.print(f"note: {few}")
    student = ["--data", settings.data, "--out", str(out.with_name(f"{out.name}-student"))]
    ending = Ending(
        f"{model.parameters_count:,} parameters, {trained_how(run)} on {count(tokens)} tokens: cross-entropy on held-out text "
        f"{loss.value:.4f} {loss.unit} ({loss.low:.4f} to {loss.high:.4f}, {loss.n} documents)",
        [
            ["held out", "value", "unit", "documents"],
            *([r.name.replace("_", " "), bounded(r.value, r.low, r.high), r.unit, f"{r.n:,}"] for r in readings),
        ],
        {"report": write_report(out), "model": out / "model"},
        then=shlex.join(["limbeck", "distil", "--teacher", str(out / "model"), *student]),
    )
    show_ending(ending, console)
    return {"out": str(out), "model": str(out / "model"), "readings": [r.row() for r in readings]}


def _shape(settings: PretrainSettings, context: int) -> Shape | Mixed:
    sizes = {"width": settings.width, "layers": settings.layers}
    if settings.mixers is not None:
        if settings.shape is not None:
            raise BadSetting(
                "--shape describes a Llama and does not go with --mixers: give --width and --layers with it, or --params"
            )
        return mixed(settings.mixers, **sizes, params=settings.params, vocab=settings.vocab, context=context)
    for flag, value in sizes.items():
        if value is not None:
            raise BadSetting(
                f"--{flag} {value}: needs --mixers, which defines the layers: give it, or --shape layers=5,... instead"
            )
    if (settings.shape is None) == (settings.params is None):
        raise BadSetting(
            "give the size of the new model, as --params 1M or as --shape layers=5,hidden=128,...: one of them"
        )
    if settings.shape is not None:
        return whole_shape(settings.shape)
    assert settings.params is not None
    return scratch_shape(settings.params, vocab=settings.vocab)


def whole_shape(text: str) -> Shape:
    """A shape from text that must name every axis, since there is no teacher to take others from. Raises BadShape."""
    given = shape_axes(text)
    missing = [axis.name for axis in fields(Shape) if axis.name not in given]
    if missing:
        raise BadShape(f"the shape {text!r} lacks {', '.join(missing)}: a new model has no teacher to take them from")
    shape = Shape(**given)
    if shape.hidden % (2 * shape.heads) or shape.heads % shape.kv_heads:
        raise BadShape(
            f"the shape {text!r}: hidden must be an even multiple of heads, and heads a multiple of kv_heads, as in "
            "layers=5,hidden=128,heads=8,kv_heads=4,ffn=256"
        )
    return shape


def scratch_shape(parameters: int, *, vocab: int) -> Shape:
    """A shape of this many parameters: of those within 1 %, the one whose FFN is nearest to 8/3 of its width.

    Heads have 16 to 128 channels, and a layer has 24 to 128 channels of width: depth follows width as in the model families of
    Kaplan et al. (arXiv 2001.08361, sec. 3.2: between 32 and 128 channels a layer the loss hardly changes). Raises BadShape if
    no shape is within 25 % of this many parameters.
    """
    found = []
    every = 16 if parameters < 10**8 else 128
    for hidden in range(max(32, every), 16384, every):
        head = 16 if hidden < 512 else (64 if hidden < 2048 else 128)
        if hidden % (2 * head):
            continue
        heads = hidden // head
        for layers in {max(2, round(hidden / per)) for per in (24, 32, 48, 64, 96, 128)}:
            without = vocab * hidden + layers * (2 * hidden * hidden + hidden * heads * head + 2 * hidden) + hidden
            ffn = _ffn(hidden, (parameters - without) / (3 * hidden * layers))
            size = without + 3 * hidden * layers * ffn
            stretch = abs(math.log(3 * ffn / (8 * hidden)))
            found.append(
                (
                    max(0.0, abs(size / parameters - 1) - 0.01),
                    stretch,
                    size,
                    Shape(layers, hidden, heads, heads // 2, ffn),
                )
            )
        if vocab * hidden > 2 * parameters:
            break
    best = min(found, key=lambda one: one[:2], default=None)
    if best is None or abs(best[2] / parameters - 1) > 0.25:
        sizes = [size for *_, size, _ in found]
        near = [
            max((s for s in sizes if s < parameters), default=None),
            min((s for s in sizes if s > parameters), default=None),
        ]
        there = " and ".join(f"{size:,}" for size in near if size)
        raise BadShape(
            f"no shape of about {parameters:,} parameters with a vocabulary of {vocab:,}"
            + (f": the nearest have {there}. Give one of these" if there else ": give more parameters")
            + ", give another --vocab, or --shape"
        )
    return best[-1]


def _ffn(hidden: int, wanted: float) -> int:
    """The width of an FFN nearest to the one wanted, between 4/3 and 4 times that of the model."""
    step = 8 if hidden < 512 else 16
    return min(max(step * round(wanted / step), -(-hidden * 4 // 3 // step) * step), hidden * 4)


def llama_config(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The configuration of a new model of this shape."""
    return LlamaConfig(
        vocab_size=ids_of(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def mixed_config(shape: Mixed, tokenizer: PreTrainedTokenizerFast) -> LimbeckConfig:
    """The configuration of a new decoder of a mixture of layers."""
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return shape.config(ids_of(tokenizer), special=special)


def _print_layers(shape: Mixed, model: LanguageModel, length: int) -> None:
    """Prints the pattern, and the size of its state beside that of attention in all layers."""
    size = Size.of(model.config)
    assert size.mixture is not None
    attention = Mixture(("attention",) * shape.layers, size.mixture.dims)
    ours, theirs = (mixture.state_bytes(length, _FLOAT32) for mixture in (size.mixture, attention))
    console.print(
        f"layers: {shown_pattern(shape.pattern, shape.layers)}, width {shape.width}; state after {length} tokens "
        f"{shown_bytes(ours)} (with attention everywhere {shown_bytes(theirs)}), all in float32, as it is trained"
    )
    for remark in remarks(size.mixture, length):
        console.print(f"note: {remark}")


def _tokenizer(
    settings: PretrainSettings, out: Path, environment: Environment, *, most: Sequence[int]
) -> PreTrainedTokenizerFast:
    """The tokenizer, trained on the training documents only, once."""
    if environment.world.first:
        make_tokenizer(
            settings.data,
            out / "tokenizer",
            vocab=settings.vocab,
            eval_data=settings.eval_data,
            records=records_of(settings),
            most=most,
        )
    environment.world.barrier()
    return PreTrainedTokenizerFast.from_pretrained(verified_folder(out / "tokenizer"))


def make_tokenizer(
    data: str,
    folder: Path,
    *,
    vocab: int,
    eval_data: str | None = None,
    records: Records = USUAL,
    most: Sequence[int] = (),
) -> None:
    """Trains a tokenizer of ``vocab`` tokens into a folder, unless it exists, on the documents that are not held out.

    Those in ``eval_data`` are held out, also where ``data`` contains them; without it those that `build_stores` holds out.
    ``most``: the training tokens of each source after which one that is streamed is read no further.
    """
    if not folder.exists():
        bad = BadRecords(records.skip_bad)
        texts = training_texts(data, bad, eval_source=eval_data, records=records, most=most)
        tokenizer = train_tokenizer(texts, vocab=vocab)
        bad.check()
        with whole_folder(folder) as beside:
            tokenizer.save_pretrained(beside)
            write_digests(beside)
