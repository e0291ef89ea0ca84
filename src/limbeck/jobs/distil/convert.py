"""`limbeck distil --mixers`: the student is its teacher, or a cut of it, with cheaper mixers in the place of attention.

Three stages, of which the first two may be left out: each mixer learns to give what the attention in its place gives, each block
what the whole layer gives (`run.match`), and then the student is distilled as any other. Tokens of all three are counted
together: what starts from the matched student is trained on as many fewer. Which layers keep attention is said by place, or
chosen by what replacing a layer alone does to recall.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from rich.console import Console
from rich.table import Table

from limbeck.config import ATTENTION, STAGES, DistilSettings, Stage
from limbeck.corpora import Rows, TokenStore
from limbeck.disk import Count, read_lines, read_rows, write_json, write_rows, writing
from limbeck.errors import BadCorpus, BadSetting
from limbeck.jobs.common.captured import config_source
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.pair.mixers import pattern_asked, remarks
from limbeck.jobs.pair.student import make_student, mixers_for
from limbeck.models.configuration import load_config
from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.models.save import save
from limbeck.objectives import CrossEntropy
from limbeck.planning.cost.mixers import Mixture
from limbeck.probes import Bigrams, measure_slices
from limbeck.report.words import count
from limbeck.run.log import console
from limbeck.run.match import UNIT, Match, layer_of
from limbeck.run.optim import suggested_learning_rate
from limbeck.run.run import Plan, Run, micro_batches
from limbeck.run.save import checkpoints
from limbeck.students.convert import check_family, check_mixers, config_of, convert
from limbeck.students.shape import Shape
from limbeck.students.shape import config_of as config_of_cut

BASE, MATCHING, SAID = "base", "matching", "conversion.json"  # in a run's folder; with attention it is in ATTENTION
_SHARE = 0.1  # of the tokens, for each of the first two stages; ours, not tuned
_ROWS = 64  # of training text, on which damage is measured


@dataclass(frozen=True)
class Conversion:
    """What is asked for: a mixer for each layer, or one for all but ``keep`` that are still to be chosen."""

    mixers: tuple[str, ...]
    keep: int | None
    stages: tuple[Stage, ...]

    @classmethod
    def of(cls, settings: DistilSettings, layers: int) -> Conversion:
        """From the settings, for a student of so many layers. Raises BadSetting or BadModel where there can be no such."""
        assert settings.mixers is not None
        pattern = list(pattern_asked(settings.mixers))
        check_mixers(pattern)
        if settings.keep_attention is not None:
            if len(pattern) > 1 or pattern[0].partition(":")[0] == ATTENTION:
                raise BadSetting(
                    f"--mixers {settings.mixers!r} with --keep-attention: expected one mixer to take the place of attention, "
                    "such as gdn; to say which layer has which, leave --keep-attention out"
                )
            if settings.keep_attention >= layers:
                raise BadSetting(
                    f"--keep-attention {settings.keep_attention}: the student has {layers} layers, so nothing would be "
                    f"converted; give 1 to {layers - 1}, or leave --mixers out"
                )
        elif layers % len(pattern):
            raise BadSetting(
                f"--mixers {settings.mixers!r}: {len(pattern)} mixers, repeated until the layers are full, do not divide the "
                f"student's {layers}; give a divisor of {layers}"
            )
        elif all(text == ATTENTION for text in pattern):
            raise BadSetting(
                f"--mixers {settings.mixers!r}: nothing would be converted; leave it out, or name another mixer"
            )
        mixers = tuple(pattern * (layers // len(pattern)))
        return cls(mixers, settings.keep_attention, STAGES if settings.match is None else settings.match)

    def steps(self, steps: int) -> dict[Stage, int]:
        """Steps of each stage out of those of the whole training. Raises BadSetting where none would be left."""
        found = {stage: max(1, round(_SHARE * steps)) for stage in self.stages}
        if sum(found.values()) >= steps:
            raise BadSetting(
                f"--match {','.join(self.stages)} takes {sum(found.values())} of {steps} steps and leaves none to distil in: "
                "give more --tokens, fewer --batch-tokens, or --match none"
            )
        return found


def check_conversion(settings: DistilSettings, target: Shape | None) -> Conversion | None:
    """What is asked for, from the configuration alone; None where the student is not converted."""
    if settings.mixers is None:
        return None
    config = load_config(config_source(settings.teacher))
    check_family(config)
    return Conversion.of(settings, Shape.of(config).layers if target is None else target.layers)


@dataclass(frozen=True)
class Planned:
    """What a conversion will make: the student, and the same with attention everywhere where it is to be matched to that."""

    student: LimbeckConfig
    reference: LimbeckConfig | None

    @classmethod
    def of(cls, settings: DistilSettings, asked: Conversion, target: Shape | None) -> Planned:
        """From the teacher's configuration alone."""
        config = load_config(config_source(settings.teacher))
        base, layers = config if target is None else config_of_cut(target, config), len(asked.mixers)
        reference = config_of(base, [ATTENTION] * layers) if asked.stages else None
        return cls(config_of(base, mixers_for(settings, layers)), reference)

    def remarks(self, length: int) -> list[str]:
        """What is allowed, and may not be meant, of rows of this length."""
        return remarks(Mixture.of(self.student), length)


def make_converted(
    settings: DistilSettings,
    asked: Conversion,
    target: Shape | None,
    teacher: LanguageModel,
    store: TokenStore,
    *,
    length: int,
    rows: int,
    steps: int,
    machine: Environment,
    most_rows: int | None = None,
) -> Path:
    """The folder of the converted student, matched to attention in the stages that were asked for.

    Beside it is the same student with attention everywhere, and conversion.json, which says what was done. A killed run goes on
    in the stage it was in. The stages read the first of so many ``steps`` of ``rows`` rows, one behind the other, in the order of
    the first seed; ``most_rows`` of the text, where the teacher has answered no more.
    """
    out, world = settings.out, machine.world
    base = LanguageModel(teacher.model, teacher.tokenizer, teacher.name)
    if target is not None:
        folder = make_student(settings, target, teacher, store, length=length, machine=machine, folder=out / BASE)
        base = load(verified_folder(folder), device=world.device)
    if world.first and not (out / ATTENTION / "config.json").exists():
        save(_converted(base, [ATTENTION] * len(asked.mixers), seed=settings.seed), out / ATTENTION)
    world.barrier()
    everywhere = load(verified_folder(out / ATTENTION), device=world.device)
    lr = settings.lr or suggested_learning_rate(everywhere.parameters_count)
    plan = Plan(steps=steps, rows=rows, lr=lr, schedule=settings.schedule, bf16=machine.bf16)
    taken = asked.steps(steps)
    work = _Matching(out / MATCHING, everywhere, store, length, settings.seed, plan, machine, most_rows)
    mixers, damage = asked.mixers, None
    student = _converted(base, mixers, seed=settings.seed)
    if "mixers" in taken:
        student = work.stage("mixers", student, taken["mixers"])
    if asked.keep is not None:
        damage = _damage(out / MATCHING / "damage.json", everywhere, student, store, length=length, machine=machine)
        kept = _most_damaged(damage, asked.keep)
        mixers = tuple(ATTENTION if layer in kept else text for layer, text in enumerate(mixers))
        student = _with_mixers_of(student, _converted(base, mixers, seed=settings.seed))
    if "blocks" in taken:
        student = work.stage("blocks", student, taken["blocks"], before=taken.get("mixers", 0))
    if world.first:
        said = {
            "mixers": list(mixers),
            "converted": (student.lineage or {})["converted"],
            "tokens": {stage: some * rows * length for stage, some in taken.items()},
            "error": {stage: work.error(stage) for stage in taken},
            "damage": damage,
            "attention_parameters": everywhere.parameters_count,
        }
        write_json(out / SAID, said)
        show(said, console)
        save(student, out / "cut")
        shutil.rmtree(out / MATCHING, ignore_errors=True)
    world.barrier()
    return out / "cut"


class _Damage(TypedDict):
    """What replacing attention in a layer does; of no layer first."""

    layer: Count | None
    hits: float
    elsewhere: float
    damage: float


@dataclass(frozen=True)
class _Matching:
    """The stages before distillation, each in a folder of its own."""

    folder: Path
    everywhere: LanguageModel
    store: TokenStore
    length: int
    seed: int
    plan: Plan
    machine: Environment
    most_rows: int | None

    def stage(self, stage: Stage, student: LanguageModel, steps: int, *, before: int = 0) -> LanguageModel:
        """The student after a stage, from disk where it is done; it reads on ``before`` steps into the text."""
        folder, world = self.folder / stage, self.machine.world
        if not (folder / "student" / "config.json").exists():
            model, reference = student.model, self.everywhere.model
            assert isinstance(model, LimbeckForCausalLM)
            assert isinstance(reference, LimbeckForCausalLM)
            match = Match(reference, _replaced(model), stage)
            match.trained(model)
            corpus = Rows(
                self.store,
                length=self.length,
                seed=self.seed,
                rank=world.rank,
                ranks=world.size,
                most=self.most_rows,
                first=before * self.plan.rows,
            )
            plan = replace(self.plan, steps=steps)
            label = f"match {stage}"
            # the objective takes no part: nothing is asked of logits
            Run(folder, label, student, None, corpus, CrossEntropy(), plan, world, update=match, unit=UNIT).train()
            student.model.requires_grad_(True)
            if world.first:
                save(student, folder / "student")
                for checkpoint in checkpoints(folder):
                    shutil.rmtree(checkpoint, ignore_errors=True)
            world.barrier()
        return load(verified_folder(folder / "student"), device=world.device, train=True)

    def error(self, stage: Stage) -> float:
        """What a stage came to: its loss over the last tenth of its steps."""
        rows = read_lines(self.folder / stage / "metrics.jsonl")
        last = rows[-max(1, len(rows) // 10) :]
        return float(sum(row[f"loss_{UNIT}"] for row in last) / len(last))


def show(said: Mapping[str, Any], console: Console) -> None:
    """Prints what a conversion did: damage by layer where that chose, what each layer is now, and what matching came to."""
    if said["damage"]:
        table = Table("attention replaced in", "nats on recall hits", "more than before", "elsewhere", "now")
        for row in said["damage"]:
            where, now = ("no layer", "") if row["layer"] is None else (str(row["layer"]), said["mixers"][row["layer"]])
            table.add_row(where, f"{row['hits']:.4f}", f"{row['damage']:+.4f}", f"{row['elsewhere']:.4f}", now)
        console.print(table)
    for layer, row in enumerate(said["converted"]):
        console.print(f"layer {layer}: {row['mixer']}; of attention it has {row['taken']}; fresh: {row['fresh']}")
    for stage, tokens in said["tokens"].items():
        console.print(
            f"matched {stage} on {count(tokens)} tokens: squared error {said['error'][stage]:.3f} of the target's square"
        )


def _converted(base: LanguageModel, mixers: Sequence[str], *, seed: int) -> LanguageModel:
    """A conversion in float32, whose fresh parts follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = convert(base, mixers)
    made.model.float()
    made.lineage = {**(made.lineage or {}), **(base.lineage or {})}  # a cut's says what it was cut out of
    return made


def _with_mixers_of(matched: LanguageModel, student: LanguageModel) -> LanguageModel:
    """The student with the other's mixers where its own are not attention."""
    assert isinstance(student.model, LimbeckForCausalLM)
    assert isinstance(matched.model, LimbeckForCausalLM)
    for layer in _replaced(student.model):
        layer_of(student.model, layer).mixer = layer_of(matched.model, layer).mixer
    return student


def _replaced(model: LimbeckForCausalLM) -> list[int]:
    """The layers whose mixer is not attention."""
    layers = range(model.config.num_hidden_layers)
    return [layer for layer in layers if model.config.mixer_of(layer) != ATTENTION]


def _damage(
    file: Path,
    everywhere: LanguageModel,
    student: LanguageModel,
    store: TokenStore,
    *,
    length: int,
    machine: Environment,
) -> list[dict[str, Any]]:
    """What replacing attention in one layer alone does to recall, on training text; first with none replaced.

    Raises BadCorpus where the text has nothing to recall.
    """
    if machine.world.first and not file.exists():
        batches = list(micro_batches(Rows(store, length=length).take(_ROWS), machine.world.device))
        bigrams = Bigrams.counted(store, batches, vocab=everywhere.vocab)
        reference, changed = everywhere.model, student.model
        assert isinstance(reference, LimbeckForCausalLM)
        assert isinstance(changed, LimbeckForCausalLM)
        rows: list[dict[str, Any]] = []
        training = changed.training
        changed.eval()  # what is drawn or chosen otherwise while a mixer learns is no part of what it can do
        for layer in (None, *_replaced(changed)):
            if layer is not None:
                own, layer_of(reference, layer).mixer = layer_of(reference, layer).mixer, layer_of(changed, layer).mixer
            found = measure_slices(everywhere, batches, bigrams, documents=store.documents)
            if layer is not None:
                layer_of(reference, layer).mixer = own
            hits = found.mean(hits=True)
            damage = hits - (rows[0]["hits"] if rows else hits)
            if not math.isfinite(hits):
                raise BadCorpus(
                    f"{store.folder}: no row of {length} tokens repeats a pair of tokens, so recall cannot say which layers keep "
                    "attention: say it by place, as in --mixers 'attention*1,gdn*3', or give longer rows with --seq-len"
                )
            rows.append({"layer": layer, "hits": hits, "elsewhere": found.mean(hits=False), "damage": damage})
        changed.train(training)
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_rows(file, rows)
    machine.world.barrier()
    return read_rows(file, _Damage, remedy="remove it, and it is measured again")


def _most_damaged(damage: Sequence[Mapping[str, Any]], keep: int) -> set[int]:
    """The layers that keep attention: those of which the loss harms recall most, taken one at a time."""
    alone = sorted((row for row in damage if row["layer"] is not None), key=lambda row: (-row["damage"], row["layer"]))
    return {row["layer"] for row in alone[:keep]}
