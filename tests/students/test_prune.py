"""Scores and pruning: kept weights are the teacher's, the least important ones are removed, the student is ordinary."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig

from limbeck.errors import BadCorpus, BadSetting, BadShape
from limbeck.models.anatomy import Anatomy
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.students.prune import choose_units, prune
from limbeck.students.score import METHODS, score
from limbeck.students.shape import Shape
from limbeck.students.tally import Scores
from limbeck.types import Batch
from tests.helpers.zoo import CONFIGS, animal, packed, words


def random_scores(shape: Shape, *, seed: int = 0) -> Scores:
    g = torch.Generator().manual_seed(seed)
    heads = torch.rand(shape.layers, shape.heads, generator=g)
    return Scores(
        layers=torch.rand(shape.layers, generator=g),
        heads=heads,
        kv_heads=heads.unflatten(1, (shape.kv_heads, -1)).sum(-1),
        ffn=torch.rand(shape.layers, shape.ffn, generator=g),
        hidden=torch.rand(shape.hidden, generator=g),
        method="random",
        depth="random",
    )


def smaller(name: str) -> Shape:
    """A smaller length of every axis that every architecture of the zoo allows."""
    full = Shape.of(CONFIGS[name])
    square = Anatomy.of(CONFIGS[name]).kind.square
    return Shape(layers=2, hidden=16 if square else 24, heads=2, kv_heads=2 if square else 1, ffn=full.ffn // 2)


def eval_logits(model: LanguageModel, batch: Batch) -> torch.Tensor:
    model.model.eval()
    with torch.no_grad():
        return model(batch).logits()


@pytest.mark.parametrize("name", CONFIGS)
def test_cutting_nothing_gives_the_teachers_logits_bit_by_bit(name):
    teacher, batch = animal(name), packed()
    full = Shape.of(teacher.config)
    student = prune(teacher, shape=full, scores=random_scores(full))
    assert torch.equal(eval_logits(student, batch), eval_logits(teacher, batch))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_student_is_an_ordinary_model_that_transformers_loads(name, tmp_path):
    teacher, batch, shape = animal(name), packed(), smaller(name)
    teacher.model.generation_config.max_new_tokens = 7
    before = {key: value.clone() for key, value in teacher.model.state_dict().items()}
    student = prune(teacher, shape=shape, scores=random_scores(Shape.of(teacher.config)))
    assert all(torch.equal(before[key], value) for key, value in teacher.model.state_dict().items())
    assert Shape.of(student.config) == shape
    assert student.model.training
    assert all(p.requires_grad for p in student.model.parameters())
    tied = [
        model.model.get_output_embeddings().weight is model.model.get_input_embeddings().weight
        for model in (teacher, student)
    ]
    assert tied[0] == tied[1]
    save(student, tmp_path / "student")
    plain, report = AutoModelForCausalLM.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert not any(report.values())
    assert plain.generation_config.max_new_tokens == 7
    again = load(tmp_path / "student")
    assert torch.equal(eval_logits(again, batch), eval_logits(student, batch))
    assert again.lineage == student.lineage
    kept = student.lineage["kept"]
    assert [len(kept["layers"]), len(kept["hidden"]), len(kept["heads"][0])] == [2, shape.hidden, 2]


@given(st.sampled_from(sorted(CONFIGS)), st.integers(0, 1000))
def test_pruning_parts_without_output_changes_nothing(name, seed):
    """Heads and neurons followed by zeros, and layers that add zeros, change no logit when they are removed.

    Heads of OLMo 2 and 3 are normed together, so that each changes the others.
    """
    teacher, batch = animal(name, seed=seed), packed(seed=seed)
    anatomy, full = Anatomy.of(teacher.config), Shape.of(teacher.config)
    scores = random_scores(full, seed=seed)
    shape = replace(full, layers=2, ffn=full.ffn // 2)
    if not anatomy.kind.square and not name.startswith("olmo"):
        shape = replace(shape, heads=2, kv_heads=1)
    kept = choose_units(shape, scores)
    layers = kept.layers.tolist()
    pairs = zip(anatomy.attention_outs(teacher.model), anatomy.ffn_outs(teacher.model), strict=True)
    conv = CONFIGS[name].model_type == "gpt2"
    for layer, (attention, ffn) in enumerate(pairs):
        gone_heads, gone_neurons = torch.ones(full.heads, dtype=torch.bool), torch.ones(full.ffn, dtype=torch.bool)
        if layer in layers:
            gone_heads[kept.heads[layers.index(layer)]] = False
            gone_neurons[kept.ffn[layers.index(layer)]] = False
        else:
            for module in (attention, ffn):
                if module.bias is not None:
                    module.bias.zero_()
        for module, gone in ((attention, gone_heads.repeat_interleave(anatomy.sizes.head_dim)), (ffn, gone_neurons)):
            (module.weight if conv else module.weight.T)[gone] = 0
    student = prune(teacher, shape=shape, scores=scores)
    torch.testing.assert_close(eval_logits(student, batch), eval_logits(teacher, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.startswith(("gpt", "stablelm"))])
def test_a_channel_that_is_zero_everywhere_changes_logits_only_through_the_norms(name):
    """Without it every norm divides by the mean over fewer channels: with weights scaled back nothing else differs.

    The norms of the GPTs and StableLM subtract a mean as well, so that there no channel is silent.
    """
    teacher, batch = animal(name), packed()
    anatomy, full = Anatomy.of(teacher.config), Shape.of(teacher.config)
    gone = torch.tensor([3, 7, 8, 9, 20, 21, 30, 31])
    for tensor_name, parameter in teacher.model.named_parameters():
        local = tensor_name.removeprefix(f"{anatomy.kind.layers}.").partition(".")[2]
        axes = anatomy.outside.get(tensor_name) or anatomy.inside[local]
        for dimension, axis in enumerate(axes):
            if axis == "hidden" and parameter.dim() == 2 and (dimension == 0 or "embed" in tensor_name):
                parameter.index_fill_(dimension, gone, 0)
        if local.endswith("proj.bias") and axes == ("hidden",):
            parameter[gone] = 0
    hidden = torch.ones(32)
    hidden[gone] = 0
    scores = replace(random_scores(full), hidden=hidden)
    student = prune(teacher, shape=replace(full, hidden=24), scores=scores)
    # RMS over the 24 channels is sqrt(32/24) times that over all 32, everywhere and for every token.
    factor = (32 / 24) ** 0.5
    for module in student.model.modules():
        if type(module).__name__.endswith("RMSNorm") and module.weight.numel() == 24:
            with torch.no_grad():
                shift = 1 if anatomy.kind.scaled_embedding else 0
                module.weight.copy_((module.weight + shift) * factor - shift)
    torch.testing.assert_close(eval_logits(student, batch), eval_logits(teacher, batch), rtol=1e-3, atol=1e-3)


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 4), st.integers(1, 2))
def test_units_are_the_best_of_their_layer_and_heads_go_by_groups(seed, layers, kv_heads, queries):
    full = Shape(layers=5, hidden=16, heads=8, kv_heads=4, ffn=12)
    scores = random_scores(full, seed=seed)
    keep = choose_units(Shape(layers, 6, kv_heads * queries, kv_heads, 5), scores)
    for index in (keep.layers, keep.hidden, keep.heads, keep.kv_heads, keep.ffn):
        assert index.dtype == torch.int64
        assert torch.equal(index, index.unique(dim=-1)) or index.dim() == 2
        assert (index.diff(dim=-1) > 0).all()
    assert set(keep.hidden.tolist()) == set(scores.hidden.topk(6).indices.tolist())
    if layers > 1:
        assert {0, 4} <= set(keep.layers.tolist())
    for row, layer in enumerate(keep.layers.tolist()):
        assert set(keep.ffn[row].tolist()) == set(scores.ffn[layer].topk(5).indices.tolist())
        assert set(keep.kv_heads[row].tolist()) == set(scores.kv_heads[layer].topk(kv_heads).indices.tolist())
        owners = (keep.heads[row] // 2).tolist()
        assert owners == sorted(keep.kv_heads[row].tolist() * queries)


def test_a_shape_that_does_not_fit_is_refused_before_anything_is_built():
    teacher = animal("llama")
    full = Shape.of(teacher.config)
    with pytest.raises(BadShape, match="layers=9 cannot be pruned from the teacher's layers=4"):
        prune(teacher, shape=replace(full, layers=9), scores=random_scores(full))


def gated_inputs(inputs, named, gate):
    """The arguments of a module with its hidden states multiplied by a gate."""
    return tuple(x * gate for x in inputs), {k: v * gate if k == "hidden_states" else v for k, v in named.items()}


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gemma2", "phi3", "olmo2"])
def test_gradient_scores_are_those_of_explicit_gates(name):
    """Gates of 1, multiplied in by hooks in float64; the gradient of each row's mean loss, absolute, mean over rows."""
    teacher = animal(name)
    teacher.model.double()
    batch = packed(rows=3)
    batch = replace(batch, weight=batch.weight.double())
    anatomy, full = Anatomy.of(teacher.config), Shape.of(teacher.config)
    scores = score(teacher, [batch.rows(slice(0, 1)), batch.rows(slice(1, 3))], method="gradient")
    heads = torch.ones(full.layers, full.heads, dtype=torch.float64, requires_grad=True)
    ffn = torch.ones(full.layers, full.ffn, dtype=torch.float64, requires_grad=True)
    hidden = torch.ones(full.hidden, dtype=torch.float64, requires_grad=True)
    d = anatomy.sizes.head_dim
    for layer, module in enumerate(anatomy.attention_outs(teacher.model)):
        module.register_forward_pre_hook(lambda _, x, layer=layer: (x[0] * heads[layer].repeat_interleave(d),))
    for layer, module in enumerate(anatomy.ffn_outs(teacher.model)):
        module.register_forward_pre_hook(lambda _, x, layer=layer: (x[0] * ffn[layer],))
    *readers, last = anatomy.readers(teacher.model)
    for module in readers:
        if anatomy.kind.unnormed:
            module.register_forward_pre_hook(lambda _, x, named: gated_inputs(x, named, hidden), with_kwargs=True)
        else:
            module.register_forward_hook(lambda _, __, y: y * hidden)
    last.register_forward_hook(lambda _, __, y: y * hidden)
    expected = [torch.zeros_like(gate) for gate in (heads, ffn, hidden)]
    for index in range(3):
        row = batch.rows(slice(index, index + 1))
        losses = torch.nn.functional.cross_entropy(teacher(row).logits(), row.targets[0], reduction="none")
        loss = (losses * row.weight[0]).sum() / row.weight.sum()
        for total, gradient in zip(expected, torch.autograd.grad(loss, (heads, ffn, hidden)), strict=True):
            total += gradient.abs() / 3
    for ours, theirs in zip((scores.heads, scores.ffn, scores.hidden), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-9)
    groups = expected[0].unflatten(1, (full.kv_heads, -1)).sum(-1)
    torch.testing.assert_close(scores.kv_heads.double(), groups, rtol=1e-5, atol=1e-9)
    assert all(parameter.grad is None for parameter in teacher.model.parameters())


def test_activation_scores_are_the_formula_over_rows():
    teacher, batch = animal("llama"), packed(rows=3)
    teacher.model.double()
    anatomy = Anatomy.of(teacher.config)
    seen, close = {}, {"rtol": 1e-5, "atol": 1e-7}
    hooks = [
        anatomy.ffn_outs(teacher.model)[1].register_forward_pre_hook(lambda _, x: seen.update(ffn=x[0])),
        anatomy.attention_outs(teacher.model)[1].register_forward_pre_hook(lambda _, x: seen.update(heads=x[0])),
        anatomy.layers_of(teacher.model)[1].register_forward_hook(lambda _, x, y: seen.update(read=x[0], wrote=y)),
    ]
    norms = []
    hooks += [m.register_forward_hook(lambda _, __, y: norms.append(y)) for m in anatomy.readers(teacher.model)]
    with torch.no_grad():
        teacher(batch)
    for hook in hooks:
        hook.remove()
    scores = score(teacher, [batch], method="activation")
    share = (batch.weight / batch.weight.sum(1, keepdim=True))[..., None]
    torch.testing.assert_close(scores.ffn[1].double(), (share * seen["ffn"].abs()).sum(1).norm(dim=0), **close)
    sizes = seen["heads"].unflatten(-1, (4, 8)).norm(dim=-1)
    torch.testing.assert_close(scores.heads[1].double(), (share * sizes).sum(1).norm(dim=0), **close)
    torch.testing.assert_close(
        scores.hidden.double(), sum((share * y.abs()).sum(1).norm(dim=0) for y in norms), **close
    )
    cosine = torch.nn.functional.cosine_similarity(seen["read"], seen["wrote"], dim=-1)
    weight = batch.weight / batch.weight.sum()
    torch.testing.assert_close(scores.layers[1].double(), ((1 - cosine) * weight).sum(), **close)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "phi3", "olmo2"])
def test_wanda_scores_are_those_of_single_weights_added_up(name):
    """|W_ij| times the norm of input j over all positions that count, of every matrix from what it read; summed over rows."""
    teacher, batch = animal(name), packed(rows=3)
    teacher.model.double()
    anatomy, full = Anatomy.of(teacher.config), Shape.of(teacher.config)
    scores = score(teacher, [batch.rows(slice(0, 1)), batch.rows(slice(1, 3))], method="wanda")
    single: dict[str, torch.Tensor] = {}

    def keep(module_name):
        def hook(module, inputs, output):
            read = inputs[0][batch.weight > 0]  # (n, inputs)
            weight = (
                module.weight.T
                if CONFIGS[name].model_type == "gpt2" and "lm_head" not in module_name
                else module.weight
            )
            single[module_name] = weight.abs() * read.norm(dim=0)

        return hook

    matrices = [(n, m) for n, m in teacher.model.named_modules() if hasattr(m, "weight") and m.weight.dim() == 2]
    hooks = [
        m.register_forward_hook(keep(n))
        for n, m in matrices
        if "emb" not in n and n.split(".")[-1] not in ("wte", "wpe")
    ]
    teacher.model(input_ids=batch.tokens, position_ids=batch.position, use_cache=False)
    for hook in hooks:
        hook.remove()
    last = 1  # the layer that is looked at
    out, down = (f"{anatomy.kind.layers}.{last}.{part}" for part in (anatomy.kind.attention_out, anatomy.kind.ffn_out))
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(scores.ffn[last].double(), single[down].sum(0), **close)
    heads = single[out].sum(0).unflatten(0, (full.heads, -1)).sum(-1)
    torch.testing.assert_close(scores.heads[last].double(), heads, **close)
    outs = (anatomy.kind.attention_out, anatomy.kind.ffn_out)
    readers = [found for module, found in single.items() if not module.endswith(outs)]
    assert len(readers) == full.layers * {"llama": 5, "gpt2": 2, "gpt_neox": 2, "phi3": 2, "olmo2": 5}[name] + 1
    torch.testing.assert_close(scores.hidden.double(), sum(found.sum(0) for found in readers), **close)
    groups = scores.heads.unflatten(1, (full.kv_heads, -1)).sum(-1)
    torch.testing.assert_close(scores.kv_heads, groups)


def deep(layers: int = 6) -> LanguageModel:
    """A random Llama of more layers."""
    config = LlamaConfig(**{**CONFIGS["llama"].to_dict(), "num_hidden_layers": layers})
    return new_model(config, words(), 3)


@pytest.mark.parametrize("keep", [1, 2, 3, 5, 6])
def test_angular_removes_the_block_whose_input_and_output_have_the_smallest_angle(keep):
    teacher, batch = deep(), packed(rows=3)
    states = []
    hooks = [
        layer.register_forward_hook(lambda _, x, y: states.append((x[0], y))) for layer in teacher.model.model.layers
    ]
    with torch.no_grad():
        teacher(batch)
    for hook in hooks:
        hook.remove()
    hidden = [states[0][0], *(after for _, after in states)]
    removed, weight = 6 - keep, batch.weight / batch.weight.sum()
    angles = {}
    for first in range(1, 6 - removed) if keep > 1 else (0, 1):
        cosine = torch.nn.functional.cosine_similarity(hidden[first], hidden[first + removed], dim=-1)
        angles[first] = float((cosine.arccos() / torch.pi * weight).sum())
    first = min(angles, key=angles.__getitem__, default=0)
    scores = score(teacher, [batch], depth="angular", keep=keep)
    kept = choose_units(replace(Shape.of(teacher.config), layers=keep), scores).layers.tolist()
    assert kept == [layer for layer in range(6) if not first <= layer < first + removed]


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("name", ["deep", "gemma2"])
def test_greedy_removes_what_students_without_it_miss_least(name, keep):
    """Against models that are built without the layers, one by one; the first and the last go when nothing else is left."""
    teacher, batch = deep() if name == "deep" else animal(name), packed(rows=3)
    full = Shape.of(teacher.config)

    def loss(layers):
        keys = torch.zeros(full.layers).index_fill(0, torch.tensor(layers), 5.0)
        chosen = replace(random_scores(full), layers=keys)
        assert choose_units(replace(full, layers=len(layers)), chosen).layers.tolist() == layers
        logits = eval_logits(prune(teacher, shape=replace(full, layers=len(layers)), scores=chosen), batch)
        losses = torch.nn.functional.cross_entropy(logits, batch.targets.reshape(-1), reduction="none")
        return float((losses * batch.weight.reshape(-1)).sum())

    before, left = eval_logits(teacher, batch), list(range(full.layers))
    while len(left) > max(keep, 2):
        left.remove(min(left[1:-1], key=lambda gone: loss([one for one in left if one != gone])))
    if keep == 1:
        left = min(([0], [full.layers - 1]), key=loss)
    scores = score(teacher, [batch], depth="greedy", keep=keep)
    assert choose_units(replace(full, layers=keep), scores).layers.tolist() == left
    assert torch.equal(eval_logits(teacher, batch), before)
    assert not any("forward" in vars(module) for module in teacher.model.modules())


@pytest.mark.parametrize("method", ["activation", "gradient", "wanda"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_positions_of_weight_zero_and_the_cut_into_batches_do_not_count(name, method):
    teacher, batch = animal(name), packed(rows=4)
    # Only the last document of each row counts, so the tokens of the first may be anything.
    weight = batch.document.float()
    ours = replace(batch, weight=weight)
    other = replace(ours, tokens=torch.where(weight > 0, batch.tokens, (batch.tokens + 5) % 40))
    silent = replace(ours, weight=torch.zeros_like(weight))
    a = score(teacher, [ours], method=method)
    b = score(teacher, [other.rows(slice(0, 1)), silent, other.rows(slice(1, 4))], method=method)
    for field in ("layers", "heads", "kv_heads", "ffn", "hidden"):
        torch.testing.assert_close(getattr(a, field), getattr(b, field), rtol=1e-4, atol=1e-6)


def test_scoring_leaves_the_teacher_as_it_was():
    teacher = animal("gpt2")
    teacher.model.train()
    for method in METHODS:
        score(teacher, [packed()], method=method, depth="angular")
    score(teacher, [packed()], depth="greedy")
    assert teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    hooks = [m for m in teacher.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks


def test_random_scores_are_a_seeds_own():
    teacher, batch = animal("llama"), packed()
    a, b, c = (score(teacher, [batch], method="random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.ffn, b.ffn)
    assert not torch.equal(a.ffn, c.ffn)
    layers = score(teacher, [batch], method="wanda", depth="random", seed=1)
    assert torch.equal(layers.layers, a.layers)
    units = score(teacher, [batch], method="random", depth="influence", seed=1)
    assert torch.equal(units.ffn, a.ffn)
    assert torch.equal(units.layers, score(teacher, [batch]).layers)
    assert (units.method, units.depth, a.depth) == ("random", "influence", "random")


def test_a_model_that_cannot_be_scored_is_an_error():
    teacher, batch = animal("llama"), packed()
    with pytest.raises(BadCorpus, match="calibration sample has no row with a token of weight > 0"):
        score(teacher, [replace(batch, weight=torch.zeros_like(batch.weight))])
    with pytest.raises(BadSetting, match="one of activation, gradient, wanda, random; got 'magnitude'"):
        score(teacher, [batch], method="magnitude")
    with pytest.raises(BadSetting, match="one of influence, angular, greedy, random; got 'loss'"):
        score(teacher, [batch], depth="loss")


def test_lineage_lists_what_was_kept():
    teacher = animal("llama")
    full = Shape.of(teacher.config)
    scores = replace(random_scores(full), layers=torch.tensor([0.1, 0.9, 0.5, 0.0]))
    student = prune(teacher, shape=replace(full, layers=3), scores=scores)
    assert student.lineage["teacher"] == "llama"
    assert student.lineage["shape"] == asdict(replace(full, layers=3))
    assert student.lineage["kept"]["layers"] == [0, 1, 3]
    assert student.lineage["kept"]["hidden"] == list(range(32))
    kept = student.model.model.layers[1].mlp.up_proj.weight
    assert torch.equal(kept, teacher.model.model.layers[1].mlp.up_proj.weight)
    json.dumps(student.lineage)


def _stories(teacher: LanguageModel, lines: list[str], length: int = 128) -> Batch:
    rows = [[1, *teacher.tokenizer.encode(json.loads(line)["text"], add_special_tokens=False)] for line in lines]
    tokens = torch.tensor([row[: length + 1] for row in rows if len(row) > length])
    t = torch.arange(length).expand(len(tokens), length)
    return Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(t.shape), t, torch.zeros_like(t), t[:, 0])


def test_importance_beats_chance_on_a_trained_model(stories_llama, stories):
    teacher = load(stories_llama)
    lines = stories.read_text(encoding="utf-8").splitlines()
    sample, held_out = _stories(teacher, lines[:12]), _stories(teacher, lines[1000:1020])
    full = Shape.of(teacher.config)

    def loss(method: str, seed: int, **changes: int) -> float:
        student = prune(teacher, shape=replace(full, **changes), scores=scores[method, seed])
        return float(torch.nn.functional.cross_entropy(eval_logits(student, held_out), held_out.targets.flatten()))

    scores = {("random", seed): score(teacher, [sample], method="random", seed=seed) for seed in range(5)}
    scores |= {(method, 0): score(teacher, [sample], method=method) for method in ("activation", "gradient")}
    for changes in ({"layers": 4}, {"hidden": 48}, {"ffn": 128}):
        chance = sorted(loss("random", seed, **changes) for seed in range(5))
        for method in ("activation", "gradient"):
            assert loss(method, 0, **changes) < chance[2]  # the median of five draws
