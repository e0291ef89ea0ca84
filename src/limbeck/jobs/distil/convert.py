"""`limbeck distil --mixers`: the student is its teacher, or a cut of it, with cheaper mixers in the place of attention.

Three stages, of which the first two may be left out: each mixer learns to give what the attention in its place gives, each block
what the whole layer gives (`run.match`), and then the student is distilled as any other. Tokens of all three are counted
together: what starts from the matched student is trained on as many fewer. Which layers keep attention is given by place, or
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

from limbeck.config import ATTENTION, Stage
from limbeck.corpora import Rows, TokenStore
from limbeck.corpora.pack import Start
from limbeck.disk import Count, read_lines, read_rows, write_json, write_rows, writing
from limbeck.errors import BadCorpus
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil.plan import DistilPlan
from limbeck.jobs.pair.student import make_student
from limbeck.models.decoder import LimbeckForCausalLM
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.models.save import save
from limbeck.objectives import CrossEntropy
from limbeck.probes import Bigrams, measure_slices
from limbeck.report.words import count
from limbeck.run.log import console
from limbeck.run.match import UNIT, Match, layer_of
from limbeck.run.optim import suggested_learning_rate
from limbeck.run.run import Plan, Run, micro_batches
from limbeck.run.save import checkpoints
from limbeck.students.convert import convert

BASE, MATCHING, FACTS = "base", "matching", "conversion.json"  # in a run's folder; with attention it is in ATTENTION
_ROWS = 64  # of training text, on which damage is measured


def make_converted(
    plan: DistilPlan,
    teacher: LanguageModel,
    store: TokenStore,
    *,
    environment: Environment,
    most_rows: int | None = None,
) -> Path:
    """The folder of the converted student, matched to attention in the stages of the plan.

    Beside it is the same student with attention everywhere, and conversion.json, which records what was done. A killed run goes
    on in the stage it was in. The stages read the first rows of the plan's budget, one behind the other, in the order of the
    first seed; ``most_rows`` of the text, where the teacher has logits of no more.
    """
    settings, conversion, budget = plan.request.settings, plan.conversion, plan.budget
    assert conversion is not None, "the plan has a conversion"
    out, world, length = settings.out, environment.world, budget.length
    base = LanguageModel(teacher.model, teacher.tokenizer, teacher.name)
    if plan.target is not None:
        folder = make_student(
            settings, plan.target, teacher, store, length=length, environment=environment, folder=out / BASE
        )
        base = load(verified_folder(folder), device=world.device)
    if world.first and not (out / ATTENTION / "config.json").exists():
        save(_converted(base, [ATTENTION] * len(conversion.mixers), seed=settings.seed), out / ATTENTION)
    world.barrier()
    everywhere = load(verified_folder(out / ATTENTION), device=world.device)
    lr = settings.lr or suggested_learning_rate(everywhere.parameters_count)
    training = Plan(steps=budget.steps, rows=budget.rows, lr=lr, schedule=settings.schedule, bf16=environment.bf16)
    taken = conversion.steps(budget.steps)
    work = _Matching(out / MATCHING, everywhere, store, length, settings.seed, training, environment, most_rows)
    mixers, damage = conversion.mixers, None
    student = _converted(base, mixers, seed=settings.seed)
    if "mixers" in taken:
        student = work.stage("mixers", student, taken["mixers"])
    if conversion.keep is not None:
        damage = _damage(
            out / MATCHING / "damage.json", everywhere, student, store, length=length, environment=environment
        )
        kept = _most_damaged(damage, conversion.keep)
        mixers = tuple(ATTENTION if layer in kept else text for layer, text in enumerate(mixers))
        student = _with_mixers_of(student, _converted(base, mixers, seed=settings.seed))
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
    environment: Environment
    most_rows: int | None

    def stage(self, stage: Stage, student: LanguageModel, steps: int, *, before: int = 0) -> LanguageModel:
        """The student after a stage, from disk where it is done; it reads on ``before`` steps into the text."""
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
        """What a stage came to: its loss over the last tenth of its steps."""
        rows = read_lines(self.folder / stage / "metrics.jsonl")
        last = rows[-max(1, len(rows) // 10) :]
        return float(sum(row[f"loss_{UNIT}"] for row in last) / len(last))


def show(facts: Mapping[str, Any], console: Console) -> None:
    """Prints what a conversion did: damage by layer where that chose, what each layer is now, and what matching came to."""
    if facts["damage"]:
        table = Table("attention replaced in", "nats on recall hits", "more than before", "elsewhere", "now")
        for row in facts["damage"]:
            label, now = (
                ("no layer", "") if row["layer"] is None else (str(row["layer"]), facts["mixers"][row["layer"]])
            )
            table.add_row(label, f"{row['hits']:.4f}", f"{row['damage']:+.4f}", f"{row['elsewhere']:.4f}", now)
        console.print(table)
    for layer, row in enumerate(facts["converted"]):
        console.print(f"layer {layer}: {row['mixer']}; of attention it has {row['taken']}; fresh: {row['fresh']}")
    for stage, tokens in facts["tokens"].items():
        console.print(
            f"matched {stage} on {count(tokens)} tokens: squared error {facts['error'][stage]:.3f} of the target's square"
        )


def _converted(base: LanguageModel, mixers: Sequence[str], *, seed: int) -> LanguageModel:
    """A conversion in float32, whose fresh parts follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = convert(base, mixers)
    made.model.float()
    made.lineage = {**(made.lineage or {}), **(base.lineage or {})}  # a pruned student's names what it was pruned from
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
    environment: Environment,
) -> list[dict[str, Any]]:
    """What replacing attention in one layer alone does to recall, on training text; first with none replaced.

    Raises BadCorpus where the text has nothing to recall.
    """
    if environment.world.first and not file.exists():
        batches = list(micro_batches(Rows(store, length=length).take(_ROWS), environment.world.device))
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
    environment.world.barrier()
    return read_rows(file, _Damage, remedy="remove it, and it is measured again")


def _most_damaged(damage: Sequence[Mapping[str, Any]], keep: int) -> set[int]:
    """The layers that keep attention: those of which the loss harms recall most, taken one at a time."""
    alone = sorted((row for row in damage if row["layer"] is not None), key=lambda row: (-row["damage"], row["layer"]))
    return {row["layer"] for row in alone[:keep]}
