"""`limbeck distil --mixers`: the student is its teacher, or a pruned student, with cheaper mixers instead of attention.

There are three stages, of which the first two are optional (`run.match`): the output of each mixer is matched to that of the
attention it replaces, then the output of each block to that of the whole layer, then the student is distilled like any other. All
three share one token budget: arms that start from the matched student are trained on the tokens that are left. The layers that
keep attention are given by index, or chosen by how much replacing each of them alone raises the loss on recall.
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

from limbeck.config import ATTENTION, Stage
from limbeck.corpora import Rows, TokenStore
from limbeck.corpora.pack import Blend, Start
from limbeck.disk import Count, read_lines, read_rows, write_json, write_rows, writing
from limbeck.errors import BadCorpus
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.mixture import blend_of
from limbeck.jobs.common.training import plan_of
from limbeck.jobs.distil.plan import DistilPlan
from limbeck.jobs.pair.student import OnDisk, make_student
from limbeck.models.decoder import LimbeckForCausalLM
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.models.save import save
from limbeck.models.stored import StoredModel
from limbeck.models.trim.model import lineage_of_vocabulary
from limbeck.objectives import CrossEntropy
from limbeck.probes import Bigrams, measure_slices
from limbeck.report.words import count
from limbeck.run.log import console
from limbeck.run.match import UNIT, Match, layer_of
from limbeck.run.micro import micro_batches
from limbeck.run.optim import suggested_learning_rate
from limbeck.run.run import Plan, Run
from limbeck.run.save import checkpoints
from limbeck.students.convert import convert

BASE, MATCHING, FACTS = "base", "matching", "conversion.json"  # in a run's folder; with attention it is in ATTENTION
_ROWS = 64  # of training text on which the loss of recall is measured


def make_converted(
    plan: DistilPlan,
    teacher: LanguageModel | OnDisk,
    store: TokenStore,
    *,
    environment: Environment,
    most_rows: int | None = None,
) -> Path:
    """Converts the student, matches it to attention in the plan's stages, and returns its folder.

    The same student with attention everywhere and conversion.json, which records what was done, are saved beside it. A killed run
    continues in its stage. The stages read the first rows of the plan's budget one after the other, in the order of the first
    seed. ``most_rows`` limits the rows to those with teacher logits, None for all. Raises BadCorpus if the layers that keep
    attention are to be chosen and the text repeats no bigram.
    """
    settings, conversion, budget = plan.request.settings, plan.conversion, plan.budget
    assert conversion is not None, "the plan has a conversion"
    out, world, length = settings.out, environment.world, budget.length
    base = _base(plan, teacher, store, environment)
    if world.first and not (out / ATTENTION / "config.json").exists():
        save(
            _converted(base, [ATTENTION] * len(conversion.mixers), seed=settings.seed, device=world.device),
            out / ATTENTION,
        )
    world.barrier()
    everywhere = load(verified_folder(out / ATTENTION), device=world.device)
    lr = settings.lr or suggested_learning_rate(everywhere.parameters_count)
    size = {"steps": budget.steps, "rows": budget.rows}
    training = plan_of(
        settings, **size, lr=lr, schedule=settings.schedule, bf16=environment.bf16, tf32=environment.tf32
    )
    training = replace(training, average="")  # of the last stage alone
    taken = conversion.steps(budget.steps)
    blend = None
    if "sources" in store.manifest:
        blend = blend_of(settings.data, steps=budget.steps, rows=budget.rows, schedule=plan.schedule)
    work = _Matching(out / MATCHING, everywhere, store, length, settings.seed, training, environment, most_rows, blend)
    mixers, damage = conversion.mixers, None
    student = _converted(base, mixers, seed=settings.seed, device=world.device)
    if "mixers" in taken:
        student = work.stage("mixers", student, taken["mixers"])
    if conversion.keep is not None:
        damage = _damage(
            out / MATCHING / "damage.json", everywhere, student, store, length=length, environment=environment
        )
        kept = _most_damaged(damage, conversion.keep)
        mixers = tuple(ATTENTION if layer in kept else text for layer, text in enumerate(mixers))
        student = _with_mixers_of(student, _converted(base, mixers, seed=settings.seed, device=world.device))
    if "blocks" in taken:
        student = work.stage("blocks", student, taken["blocks"], before=taken.get("mixers", 0))
    if world.first:
        facts = {
            "mixers": list(mixers),
            "converted": (student.lineage or {})["converted"],
            "tokens": {stage: some * budget.rows * length for stage, some in taken.items()},
            "error": {stage: work.error(stage) for stage in taken},
            "damage": damage,
            "attention_parameters": everywhere.parameters_count,
        }
        write_json(out / FACTS, facts)
        show(facts, console)
        save(student, out / "cut")
        shutil.rmtree(out / MATCHING, ignore_errors=True)
    world.barrier()
    return out / "cut"


def _base(
    plan: DistilPlan, teacher: LanguageModel | OnDisk, store: TokenStore, environment: Environment
) -> LanguageModel | StoredModel:
    """The model whose attention is replaced: the teacher, or what is pruned out of it to the plan's target."""
    if plan.target is None:
        if isinstance(teacher, OnDisk):
            return teacher.stored
        return LanguageModel(teacher.model, teacher.tokenizer, teacher.name, lineage_of_vocabulary(teacher) or None)
    folder = make_student(
        plan.request.settings,
        plan.request.teacher,
        plan.target,
        teacher,
        store,
        length=plan.budget.length,
        environment=environment,
        folder=plan.request.settings.out / BASE,
    )
    return load(verified_folder(folder), device=environment.world.device)


class _Damage(TypedDict):
    """Loss in nats per token with attention replaced in one layer; the first row is without a replacement."""

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
    environment: Environment
    most_rows: int | None
    blend: Blend | None

    def stage(self, stage: Stage, student: LanguageModel, steps: int, *, before: int = 0) -> LanguageModel:
        """The student after a stage, from disk if it is done. The stage reads the text from the row after ``before`` steps."""
        folder, world = self.folder / stage, self.environment.world
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
                ranks=world,
                most=self.most_rows,
                start=Start(before * self.plan.rows),
                blend=self.blend,
            )
            plan = replace(self.plan, steps=steps)
            label = f"match {stage}"
            # the objective takes no part: no logits are computed
            Run(folder, label, student, None, corpus, CrossEntropy(), plan, world, update=match, unit=UNIT).train()
            student.model.requires_grad_(True)
            if world.first:
                save(student, folder / "student")
                for checkpoint in checkpoints(folder):
                    shutil.rmtree(checkpoint, ignore_errors=True)
            world.barrier()
        return load(verified_folder(folder / "student"), device=world.device, train=True)

    def error(self, stage: Stage) -> float:
        """The mean loss over the last tenth of a stage's steps."""
        rows = read_lines(self.folder / stage / "metrics.jsonl")
        last = rows[-max(1, len(rows) // 10) :]
        return float(sum(row[f"loss_{UNIT}"] for row in last) / len(last))


def show(facts: Mapping[str, Any], console: Console) -> None:
    """Prints a conversion's result: damage by layer if it was measured, what each layer has of attention, the matching errors."""
    if facts["damage"]:
        table = Table("attention replaced in", "nats on recall hits", "more than before", "elsewhere", "now")
        for row in facts["damage"]:
            label, now = (
                ("no layer", "") if row["layer"] is None else (str(row["layer"]), facts["mixers"][row["layer"]])
            )
            table.add_row(label, f"{row['hits']:.4f}", f"{row['damage']:+.4f}", f"{row['elsewhere']:.4f}", now)
        console.print(table)
    for layer, row in enumerate(facts["converted"]):
        console.print(
            f"layer {layer}: {row['mixer']}; copied from attention: {row['taken']}; initialised: {row['fresh']}"
        )
    for stage, tokens in facts["tokens"].items():
        console.print(
            f"matched {stage} on {count(tokens)} tokens: squared error {facts['error'][stage]:.3f} of the target's square"
        )


def _converted(
    base: LanguageModel | StoredModel, mixers: Sequence[str], *, seed: int, device: torch.device
) -> LanguageModel:
    """A conversion in float32. The seed decides the parts that are initialised at random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = convert(base, mixers, device=device)
    made.model.float()
    pruned = (
        base.lineage if isinstance(base, LanguageModel) else None
    )  # a pruned student's names what it was pruned from
    made.lineage = {**(made.lineage or {}), **(pruned or {})}
    return made


def _with_mixers_of(matched: LanguageModel, student: LanguageModel) -> LanguageModel:
    """``student`` with the mixers of ``matched`` in all layers that do not keep attention."""
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
    environment: Environment,
) -> list[dict[str, Any]]:
    """The loss on recall hits and elsewhere with attention replaced in one layer at a time, on training text.

    The first row has no layer replaced. Raises BadCorpus if the text repeats no bigram.
    """
    if environment.world.first and not file.exists():
        batches = list(micro_batches(Rows(store, length=length).take(_ROWS), environment.world.device))
        bigrams = Bigrams.counted(store, batches, vocab=everywhere.vocab)
        reference, changed = everywhere.model, student.model
        assert isinstance(reference, LimbeckForCausalLM)
        assert isinstance(changed, LimbeckForCausalLM)
        rows: list[dict[str, Any]] = []
        training = changed.training
        changed.eval()  # without sampling and other behaviour of mixers that is for training only
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
                    f"{store.folder}: no row of {length} tokens repeats a pair of tokens, so recall cannot choose the layers "
                    "that keep attention: give them by index, as in --mixers 'attention*1,gdn*3', or longer rows with --seq-len"
                )
            rows.append({"layer": layer, "hits": hits, "elsewhere": found.mean(hits=False), "damage": damage})
        changed.train(training)
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_rows(file, rows)
    environment.world.barrier()
    return read_rows(file, _Damage, remedy="remove it, and it is measured again")


def _most_damaged(damage: Sequence[Mapping[str, Any]], keep: int) -> set[int]:
    """The ``keep`` layers whose replacement alone raises the loss on recall hits most."""
    alone = sorted((row for row in damage if row["layer"] is not None), key=lambda row: (-row["damage"], row["layer"]))
    return {row["layer"] for row in alone[:keep]}
