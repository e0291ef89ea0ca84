"""Processes with a part of all weights each make the training that one process makes, and continue one another's."""

import errno
import os
import platform
import signal
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor, distribute_tensor

from limbeck.disk import read_lines
from limbeck.errors import BadFolder, BadModel, BadSetting, OtherRankStopped
from limbeck.generation.greedy import generate_greedy
from limbeck.generation.local import generate
from limbeck.jobs.common import folder
from limbeck.models.language_model import whole
from limbeck.models.led import leading, led
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.objectives import CrossEntropy
from limbeck.objectives.fused import fused_backward
from limbeck.probes import measure
from limbeck.run import save as of_save
from limbeck.run import saver
from limbeck.run.rounded import RoundedAdamW
from limbeck.run.run import Run
from limbeck.run.save import TrainState, checkpoints, load_checkpoint
from limbeck.run.sharded import layout_of
from limbeck.run.watch import Watch
from limbeck.run.world import World, alone
from tests.helpers.models import batch, llama, tokenizer
from tests.helpers.ranks import on_ranks, results, started
from tests.run.test_run import build, wait_for, weights


def sharded_run(folder: Path, data: Path, world: World, *, read: Path | None = None, **how) -> Run:
    """A run on shards, of a student in memory or of one that is ``read`` from a folder."""
    run = build(folder, data, world=world, **how)
    if read:
        run.student = world.load(read, train=True)
    else:
        world.place(run.student, train=True)
    world.place(run.teacher, train=False)
    return run


def state_of(run: Run) -> dict[str, list]:
    """All tensors of a run's train state, whole, after its last checkpoint was read into new ones."""
    train_state = TrainState(run.student.model, run._begin(), run.objective)
    load_checkpoint(checkpoints(run.folder)[-1], train_state, mesh=run.world)
    return {name: whole(tensor).tolist() for name, tensor in train_state.tensors().items()}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A whole training in one process: its data and folder."""
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("one")
    build(folder, data).train()
    return data, folder


def losses(folder: Path) -> list[float]:
    return [row["loss_nats"] for row in read_lines(folder / "metrics.jsonl")]


@pytest.mark.parametrize(
    ("count", "mesh"), [(2, "shard"), pytest.param(4, "shard=2,replicate=2", marks=pytest.mark.long)]
)
def test_shards_make_the_training_of_one_process(one, tmp_path, count, mesh):
    """Three rows a step on two ranks: one of them has a row without weight. The objective learns a temperature of its own."""
    data, folder = one

    def work(world):
        run = sharded_run(tmp_path, data, world)
        local = sum(p.to_local().numel() for p in run.student.model.parameters())
        run.train()
        return local, torch.cat([whole(p).flatten() for p in run.student.model.parameters()]).tolist()

    answers = on_ranks(count, work, mesh=mesh)
    expected = build(tmp_path / "as", data)
    state = TrainState(expected.student.model, expected._begin(), expected.objective)
    load_checkpoint(checkpoints(folder)[-1], state, mesh=alone())
    assert losses(tmp_path) == pytest.approx(losses(folder), rel=1e-5)
    for local, found in answers:
        assert local <= 0.6 * len(found)
        torch.testing.assert_close(torch.tensor(found), weights(expected), rtol=0, atol=1e-4)


@pytest.mark.long
def test_a_student_that_is_read_in_parts_trains_as_one_in_memory(one, tmp_path):
    data, _ = one
    save(llama(seed=2, tok=tokenizer()), tmp_path / "start")
    how = {"steps": 4}
    on_ranks(2, lambda world: sharded_run(tmp_path / "memory", data, world, **how).train())
    on_ranks(2, lambda world: sharded_run(tmp_path / "parts", data, world, read=tmp_path / "start", **how).train())
    assert losses(tmp_path / "parts") == losses(tmp_path / "memory") != []


@pytest.mark.parametrize(
    ("count", "mesh"), [(2, "shard"), pytest.param(4, "shard=2,replicate=2", marks=pytest.mark.long)]
)
def test_micro_batches_and_recomputed_layers_train_as_one_process(one, tmp_path, count, mesh):
    """One row at a time: gradients are reduced over shards after each, over replicas after the last."""
    data, _ = one
    how = {"steps": 4, "rows": 3 * count, "micro": 1, "checkpointing": "layers"}
    build(tmp_path / "one", data, **how).train()
    on_ranks(count, lambda world: sharded_run(tmp_path / "more", data, world, **how).train(), mesh=mesh)
    assert losses(tmp_path / "more") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert len(losses(tmp_path / "more")) == 4


def test_no_process_keeps_whole_gradients_between_micro_batches():
    """FSDP has a mode that sums the gradients of all weights on each process, and reduces them at the end of a step."""

    def work(world):
        student = llama(seed=2, tok=tokenizer())
        world.place(student, train=True)
        world.begin(student, last=False)
        rows = batch(2)
        fused_backward(CrossEntropy(), student(rows), None, rows, scale=1.0)
        return sorted({type(p.grad).__name__ for p in student.model.parameters()})

    assert on_ranks(2, work) == [["DTensor"]] * 2


@pytest.mark.long
def test_a_checkpoint_is_continued_by_another_number_of_processes(one, tmp_path):
    """Every tensor of the train state has the same bits after the switch, in both directions."""
    data, folder = one
    before = state_of(build(folder, data))
    after = on_ranks(2, lambda world: state_of(sharded_run(folder, data, world)))
    assert after == [before, before]

    def work(world):
        run = sharded_run(tmp_path, data, world)
        run.train()
        return {name: whole(p).tolist() for name, p in run.student.model.named_parameters()}

    ended = on_ranks(2, work)
    found = state_of(build(tmp_path, data))
    assert ended == [{name: found[f"model.{name}"] for name in ended[0]}] * 2
    (checkpoint,) = checkpoints(tmp_path)[-1:]
    (lost, *_) = sorted(checkpoint.glob("shard-00002*"))
    lost.unlink()
    with pytest.raises(BadFolder, match=r"expected SHA-256 .* got no file: it is missing or damaged: remove"):
        state_of(build(tmp_path, data))


@pytest.mark.long
def test_a_rank_that_is_killed_ends_the_others_and_the_run_continues(one, tmp_path):
    data, _ = one
    expected = on_ranks(2, lambda world: (sharded_run(tmp_path / "whole", data, world).train(), "done")[1])
    assert expected == ["done", "done"]

    def work(world):
        try:
            sharded_run(tmp_path / "killed", data, world, slow=0.05).train()
        except OtherRankStopped as stopped:
            return str(stopped)
        return "done"

    begun = started(2, work)
    wait_for(tmp_path / "killed", 8)
    os.kill(begun[1][0].pid, signal.SIGKILL)
    message, code = results(begun)
    assert "another process of this run stopped" in message
    assert code == -signal.SIGKILL
    assert on_ranks(2, work) == ["done", "done"]
    assert state_of(build(tmp_path / "killed", data)) == state_of(build(tmp_path / "whole", data))


def test_a_rank_with_fewer_rows_gets_one_without_weight():
    def work(world):
        rows = world.even(batch(2 - world.rank), 2)
        return rows.tokens.shape[0], rows.weight.sum(-1).tolist()

    (first, weighed), (second, again) = on_ranks(2, work)
    assert first == second == 2
    assert min(weighed) > 0
    assert again[0] > 0
    assert again[1] == 0
    rows = batch(1)
    assert alone().even(rows, 2) is rows


def test_a_mesh_is_read_and_must_fit_the_processes():
    assert layout_of("replicate", 4) == (4, 1)
    assert layout_of("shard", 4) == (1, 4)
    assert layout_of("shard=2,replicate=2", 4) == (2, 2)
    assert layout_of("shard=4", 4) == (1, 4)
    with pytest.raises(ValueError, match="3 shards x 1 replicas are 3 processes, and torchrun started 4"):
        layout_of("shard=3", 4)
    for text in ("shards", "shard=0", "shard=two", "shard=2,tensor=2", ""):
        with pytest.raises(ValueError, match="expected replicate, shard, or numbers"):
            layout_of(text, 4)


@pytest.mark.long
@pytest.mark.parametrize("tied", [True, False])
def test_weights_gathered_in_bfloat16_train_as_under_autocast(one, tmp_path, tied):
    """The gradients are summed in float32 and the weights stay in it; the loss differs by what bfloat16 rounds."""
    data, _ = one

    def student():
        model = llama(seed=2, tok=tokenizer())
        if not tied:
            head = model.model.get_output_embeddings()
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
        return model

    how = {"student": student, "bf16": True, "steps": 12}
    build(tmp_path / "one", data, **how).train()

    def work(world):
        run = sharded_run(tmp_path / "two", data, replace(world, dtype=torch.bfloat16), **how)
        run.train()
        return sorted({str(p.dtype) for p in run.student.model.parameters()})

    assert on_ranks(2, work) == [["torch.float32"]] * 2
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [3, 361])
def test_moments_and_weights_are_rounded_alike_however_many_processes_hold_them(monkeypatch, dtype, rows):
    """From the same gradients an update has the same bits in one process and in several; blocks end within rows and shards."""
    monkeypatch.setattr("limbeck.run.rounded._BLOCK", {"cpu": 1000})
    made = [torch.randn((rows, 24), generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in range(4)]

    def updated(placed):
        parameters = [torch.nn.Parameter(placed(made[0].clone())), torch.nn.Parameter(torch.ones(5))]
        optimizer = RoundedAdamW(parameters, betas=(0.9, 0.95))
        optimizer.param_groups[0]["lr"] = 0.01
        for gradient in made[1:]:
            parameters[0].grad, parameters[1].grad = placed(gradient), torch.full((5,), 0.3)
            optimizer.step()
        found = [
            *parameters,
            *(state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")),
        ]
        return [whole(tensor.detach()).double().tolist() for tensor in found]

    expected = updated(lambda tensor: tensor)
    assert on_ranks(2, lambda world: updated(lambda tensor: distribute_tensor(tensor, world.layout))) == [expected] * 2


HALVES = {"optimizer": "adamw-bf16", "weights": "bfloat16", "bf16": True, "schedule": "constant"}


@pytest.mark.long
@pytest.mark.parametrize("how", [{"optimizer": "adamw-bf16"}, HALVES], ids=["moments", "weights"])
def test_weights_and_moments_in_bfloat16_are_sharded_and_continued_by_another_number(one, tmp_path, how):
    """Matrices are in parts, also of bfloat16; losses are those of one process, and each continues what the other began."""
    data, _ = one
    how = {"steps": 6, **how}
    narrow = "weights" in how
    build(tmp_path / "one", data, **how).train()
    before = state_of(build(tmp_path / "one", data, **how))

    def work(world):
        world = replace(world, dtype=torch.bfloat16 if narrow else None, narrow=narrow)
        continued = state_of(sharded_run(tmp_path / "one", data, world, **how))
        run = sharded_run(tmp_path / "two", data, world, **how)
        run.train()
        dtypes = {(str(p.dtype), isinstance(p, DTensor)) for p in run.student.model.parameters() if p.ndim >= 2}
        copy = world.gathered(run.student)
        kept = None if copy is None else {str(p.dtype) for p in copy.model.parameters()}
        return continued == before, dtypes, kept, state_of(sharded_run(tmp_path / "two", data, world, **how))

    found = on_ranks(2, work)
    after = state_of(build(tmp_path / "two", data, **how))
    expected = {("torch.bfloat16" if narrow else "torch.float32", True)}
    assert found == [(True, expected, kept, after) for kept in ({"torch.float32"}, None)]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-2 if narrow else 1e-3)
    assert len(losses(tmp_path / "two")) == 6


def test_moments_in_eight_bits_are_refused_where_weights_are_sharded(tmp_path):
    def work(world):
        with pytest.raises(BadSetting, match=r"adamw-8bit: expected one that trains sharded weights.*use adamw-bf16"):
            sharded_run(tmp_path / "run", tmp_path / "data", world, optimizer="adamw-8bit").train()
        return "told"

    (tmp_path / "data").mkdir()
    assert on_ranks(2, work) == ["told", "told"]


def test_a_gathered_copy_computes_as_the_whole_model():
    """Its weights are back in one place, and what no file holds too, such as the frequencies of positions."""
    rows, model = batch(2), llama(seed=5, tok=tokenizer())

    def work(world):
        parts = llama(seed=5, tok=tokenizer())
        world.place(parts, train=False)
        copy = world.gathered(parts)
        with torch.no_grad():
            together = parts(rows).logits().tolist()
            return together, None if copy is None else copy(rows).logits().tolist()

    (first, copied), (second, none) = on_ranks(2, work)
    expected = model(rows).logits()
    torch.testing.assert_close(torch.tensor(first), expected, rtol=0, atol=1e-5)
    assert first == second
    assert copied == expected.tolist()
    assert none is None


@pytest.mark.parametrize("tied", [True, False])
def test_each_process_reads_its_part_of_a_folder(tmp_path, tied):
    """The logits are those of the whole model, and no process holds more than its part."""
    model, rows = llama(seed=6, tok=tokenizer(), pad=3), batch(2)
    if not tied:
        head = model.model.get_output_embeddings()
        head.weight = torch.nn.Parameter(2 * head.weight.detach())
        model.config.tie_word_embeddings = False
    save(model, tmp_path / "model")

    def work(world):
        parts = world.load(tmp_path / "model", dtype=torch.float32)
        held = sum(p.to_local().numel() for p in parts.model.parameters())
        same = parts.model.get_output_embeddings().weight is parts.model.get_input_embeddings().weight
        with torch.no_grad():
            return held, same, parts(rows).logits().tolist()

    whole_model = load(tmp_path / "model")
    for held, same, logits in on_ranks(2, work):
        assert same == tied
        assert held <= 0.6 * whole_model.parameters_count
        torch.testing.assert_close(torch.tensor(logits), whole_model(rows).logits(), rtol=0, atol=1e-5)


def test_damage_in_the_part_of_one_process_is_one_error_on_all(tmp_path):
    """The last row of a weight, which the second process alone reads."""
    save(llama(seed=6, tok=tokenizer()), tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][-1] = torch.nan
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})

    def work(world):
        with pytest.raises(BadModel, match=r"layers\.0\.mlp\.up_proj\.weight"):
            world.load(tmp_path / "model")
        return "told"

    assert on_ranks(2, work) == ["told", "told"]


@pytest.mark.long
def test_held_out_text_that_shards_measure_together_changes_no_bit(one, tmp_path):
    """Each rank measures its own rows; the sums are those of all, and the training is as without."""
    data, _ = one
    rows = batch(4, seed=9)

    def work(world):
        run = sharded_run(tmp_path / "watched", data, world, steps=4, save_every=2)
        mine = rows.rows(slice(world.rank, None, 2))
        run.watch = Watch(lambda: [mine], 8, frozenset({0, 2, 4}), ranks=world)
        run.train()
        return sorted({type(p).__name__ for p in run.student.model.parameters()})

    assert on_ranks(2, work) == [["DTensor"]] * 2
    on_ranks(2, lambda world: sharded_run(tmp_path / "not", data, world, steps=4, save_every=2).train())
    assert losses(tmp_path / "watched") == losses(tmp_path / "not") != []
    first, *_ = read_lines(tmp_path / "watched" / "held_out.jsonl")
    expected = measure(llama(seed=2, tok=tokenizer()), None, [rows], documents=8)
    assert first["loss_nats"] == pytest.approx(expected.nats.sum() / expected.tokens.sum(), rel=1e-6)
    assert first["predictions"] == int((rows.weight > 0).sum())


@pytest.mark.long
@pytest.mark.parametrize("tied", [True, False])
def test_a_leader_computes_with_the_others_as_if_it_were_alone(tmp_path, tied):
    """Rows that do not divide by the processes, several batches, and a model that is packed: the logits are the same."""
    model = llama(seed=6, tok=tokenizer(), pad=3)
    if not tied:
        head = model.model.get_output_embeddings()
        head.weight = torch.nn.Parameter(2 * head.weight.detach())
        model.config.tie_word_embeddings = False
    save(model, tmp_path / "model")
    batches = [batch(rows, seed=rows) for rows in (3, 1, 4)]
    prompts, uniforms = [[5, 6, 7], [8], [9, 10]], np.random.default_rng(0).random((3, 6))

    def generated(one):
        return [row.tokens for row in generate(one, prompts, max_new_tokens=6, uniforms=uniforms)]

    def work(world):
        with (
            leading(tmp_path / "model", world.layout, device=world.device, dtype=torch.float32) as led,
            torch.no_grad(),
        ):
            if led is None:
                return "followed"
            with pytest.raises(BadModel, match=r"its weights are spread over processes.*leave --mesh out"):
                led.model(input_ids=batches[0].tokens)
            found = [led(rows).logits().tolist() for rows in batches]
            return led.parameters_count, found, generated(led), list(islice(generate_greedy(led, [5, 6]), 6))

    (counted, found, texts, greedy), followed = on_ranks(2, work)
    assert followed == "followed"
    whole_model = load(tmp_path / "model")
    assert counted == whole_model.parameters_count
    assert texts == generated(whole_model)
    assert greedy == list(islice(generate_greedy(whole_model, [5, 6]), 6))
    for rows, logits in zip(batches, found, strict=True):
        torch.testing.assert_close(torch.tensor(logits), whole_model(rows).logits(), rtol=0, atol=1e-5)


@pytest.mark.long
def test_models_in_parts_are_led_together(tmp_path):
    """As a probe measures a model beside its teacher, both with embedding and head in parts too."""
    rows, seeds = batch(3), (5, 6)
    for seed in seeds:
        save(llama(seed=seed, tok=tokenizer()), tmp_path / str(seed))

    def work(world):
        with led(*(world.load(tmp_path / str(seed)) for seed in seeds)) as found, torch.inference_mode():
            return [] if found is None else [found[number](rows).logits().tolist() for number in (0, 1, 0)]

    (first, second, again), followed = on_ranks(2, work)
    assert followed == []
    assert again == first
    for seed, logits in zip(seeds, (first, second), strict=True):
        torch.testing.assert_close(torch.tensor(logits), load(tmp_path / str(seed))(rows).logits(), rtol=0, atol=1e-5)


def test_a_folder_that_not_all_processes_see_stops_all_of_them(tmp_path, monkeypatch):
    """As one on a disk of each machine; the error names who does not see it."""
    monkeypatch.setattr(folder, "_PATIENCE", ())

    def work(world):
        with pytest.raises(
            BadFolder, match=r"expected a folder on a disk that all processes share, but rank 1 on \S+ cannot"
        ):
            folder.claim_together(tmp_path / str(world.rank), {"job": "distil"}, world)
        return sorted(folder.claim_together(tmp_path / "one", {"job": "distil"}, world))

    first, second = on_ranks(2, work, mesh="replicate")
    assert "signature" in first
    assert second == []


@pytest.mark.long
def test_clocks_and_host_names_that_differ_change_nothing(one, tmp_path, monkeypatch):
    """A process whose clock runs ahead does not save by it: the first one decides for all."""
    data, _ = one
    clock, saved, write = time.monotonic, [], saver.save_checkpoint

    def watched(folder, step, *given, **more):
        saved.append(step)
        return write(folder, step, *given, **more)

    def work(world):
        monkeypatch.setattr(saver, "save_checkpoint", watched)
        if not world.first:
            monkeypatch.setattr(time, "monotonic", lambda: 1e6 * clock())
            monkeypatch.setattr(platform, "node", lambda: "elsewhere")
        sharded_run(tmp_path, data, world, steps=3, save_every=100).train()
        return saved, sorted(folder.claim_together(tmp_path / "claimed", {"job": "distil"}, world))[-1:]

    assert on_ranks(2, work) == [([3], ["versions"]), ([3], [])]


@pytest.mark.long
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_of_one_process_is_one_error_on_all(one, tmp_path, monkeypatch, rank, background):
    data, _ = one
    write = HuggingFaceStorageWriter.write_data

    def full(self, plan, planner):
        if torch.distributed.get_rank() == rank:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, plan, planner)

    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", full)

    def work(world):
        run = sharded_run(tmp_path, data, world, steps=4, save_every=2)
        run.background = background
        with pytest.raises(BadFolder, match=r"the disk is full: .*step-000002"):
            run.train()
        return "told"

    assert on_ranks(2, work) == ["told", "told"]
    assert not list(tmp_path.glob("*step*"))


@pytest.mark.long
def test_a_checkpoint_that_the_first_process_cannot_complete_is_one_error_on_all(one, tmp_path, monkeypatch):
    data, _ = one
    write = of_save.write_json

    def full(path, value):
        if path.name == "state.json":
            raise BadFolder("the disk is full")
        write(path, value)

    monkeypatch.setattr(of_save, "write_json", full)

    def work(world):
        with pytest.raises(BadFolder, match=r"the disk is full"):
            sharded_run(tmp_path, data, world, steps=4, save_every=2).train()
        return "told"

    assert on_ranks(2, work) == ["told", "told"]
    assert not list(tmp_path.glob("*step*"))


@pytest.mark.long
def test_processes_that_write_in_the_background_write_the_same_and_each_checks_a_part_of_it(one, tmp_path, monkeypatch):
    """A damaged part of one is the error of all."""
    data, _ = one
    how = {"steps": 4, "save_every": 2}

    def work(world):
        run = sharded_run(tmp_path / "background", data, world, **how)
        run.background = True
        run.train()
        sharded_run(tmp_path / "between", data, world, **how).train()
        checked = []
        check = of_save.check_sums
        monkeypatch.setattr(
            of_save, "check_sums", lambda folder, files, **more: (checked.extend(files), check(folder, files, **more))
        )
        state = state_of(sharded_run(tmp_path / "background", data, world, **how))
        same = state == state_of(sharded_run(tmp_path / "between", data, world, **how))
        if world.first:
            damaged = max(checkpoints(tmp_path / "background")[-1].glob("shard-00002*"))
            damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
        world.barrier()
        with pytest.raises(BadFolder, match=r"shard-00002.*expected SHA-256"):
            state_of(sharded_run(tmp_path / "background", data, world, **how))
        return same, sorted({name[:11] for name in checked})

    assert on_ranks(2, work) == [(True, ["shard-00001"]), (True, ["shard-00002"])]
