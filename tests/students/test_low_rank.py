"""Low-rank students: the error is what theory says, dirty and unused inputs do not matter, files are as small as counted."""

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from limbeck.errors import BadCorpus, BadModel, BadSetting, BadShape
from limbeck.models.formats import set_format
from limbeck.models.load import load
from limbeck.models.mixers.low_rank import LowRank
from limbeck.models.save import save
from limbeck.planning.cost.size import Size
from limbeck.students.factor import Budget, Moments, factor, factored, linears, moments
from limbeck.students.low_rank import low_rank, stored_parameters
from tests.helpers.zoo import animal, packed


def sample(m: int = 12, n: int = 10, tokens: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(n, n, generator=g, dtype=torch.float64) * torch.logspace(0, -2, n, dtype=torch.float64)
    inputs = torch.randn(tokens, n, generator=g, dtype=torch.float64) @ mixing
    return torch.randn(m, n, generator=g, dtype=torch.float64), inputs


def seen(inputs: torch.Tensor) -> Moments:
    return Moments(inputs.T @ inputs / len(inputs), inputs.abs().mean(0))


def error(weight: torch.Tensor, other: torch.Tensor, inputs: torch.Tensor) -> float:
    return float((inputs @ (weight - other).T).square().sum(-1).mean())


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_error_on_the_sample_is_the_sum_of_the_dropped_squared_singular_values(rank):
    weight, inputs = sample()
    found = factored(weight, seen(inputs), rank)
    # singular values of W R with R Rᵀ = C: square roots of the eigenvalues of W C Wᵀ
    values = torch.linalg.eigvalsh(weight @ seen(inputs).second @ weight.T).flip(0)
    assert error(weight, found.matrix, inputs) == pytest.approx(float(values[rank:].sum()), rel=1e-4, abs=1e-12)


def test_whitened_factors_are_best_on_their_sample_and_svd_is_best_without_one():
    weight, inputs = sample()
    errors = {
        m: error(weight, factored(weight, seen(inputs), 4, method=m).matrix, inputs)
        for m in ("whitened", "asvd", "svd")
    }
    assert errors["whitened"] < min(errors["asvd"], errors["svd"])
    plain = torch.linalg.svdvals(weight)[4:].square().sum()
    assert float((weight - factored(weight, None, 4, method="svd").matrix).square().sum()) == pytest.approx(
        float(plain)
    )


def test_an_input_that_is_always_zero_does_no_harm():
    weight, inputs = sample()
    inputs[:, 3] = 0
    found = factored(weight, seen(inputs), 5)
    assert torch.isfinite(found.matrix).all()
    values = torch.linalg.eigvalsh(weight @ seen(inputs).second @ weight.T).flip(0)
    assert error(weight, found.matrix, inputs) == pytest.approx(float(values[5:].sum()), rel=1e-3)


def test_entries_kept_apart_find_large_single_weights():
    g = torch.Generator().manual_seed(1)
    low = torch.randn(20, 2, generator=g, dtype=torch.float64) @ torch.randn(2, 16, generator=g, dtype=torch.float64)
    weight = low.clone()
    weight[3, 5], weight[11, 0], weight[17, 9] = 40.0, -30.0, 25.0
    inputs = torch.randn(300, 16, generator=g, dtype=torch.float64)
    found = factored(weight, seen(inputs), 2, 3)
    assert found.places.tolist() == [3 * 16 + 5, 11 * 16, 17 * 16 + 9]
    assert error(weight, found.matrix, inputs) < 1e-2 * error(weight, factored(weight, seen(inputs), 2).matrix, inputs)


def test_moments_are_those_of_the_inputs_of_each_map_at_positions_that_count():
    model, batch = animal("llama"), packed()
    read: dict[str, torch.Tensor] = {}
    maps = linears(model)
    handles = [
        part.register_forward_pre_hook(lambda module, inputs, name=name: read.update({name: inputs[0]}))
        for name, part in maps.items()
    ]
    model.model.eval()
    model(batch)
    for handle in handles:
        handle.remove()
    found = moments(model, [batch] * 8, maps)
    assert found.keys() == maps.keys()
    for name, inputs in read.items():
        x = inputs.detach().flatten(0, 1)[batch.weight.flatten() > 0].double()
        torch.testing.assert_close(found[name].second, x.T @ x / len(x))
        torch.testing.assert_close(found[name].size, x.abs().mean(0))


@pytest.mark.long
@pytest.mark.parametrize("sparse", [0.0, 0.02])
def test_a_student_of_factors_computes_the_same_as_multiplied_out_and_is_as_small_as_counted(sparse, tmp_path):
    teacher, batch = animal("llama"), packed()
    text = [batch] * 8  # as many tokens as inputs
    budget = Budget(0.6, sparse)
    thin, dense = (low_rank(teacher, text, budget=budget, dense=dense) for dense in (False, True))
    for model in (thin, dense):
        model.model.eval()
    torch.testing.assert_close(thin(batch).logits(), dense(batch).logits(), rtol=1e-4, atol=1e-5)
    assert stored_parameters(thin) == stored_parameters(dense)
    maps = linears(teacher)
    whole = sum(part.weight.numel() for part in maps.values())
    most = teacher.parameters_count - whole + 0.6 * whole
    assert most - 64 * len(maps) < stored_parameters(thin) <= most
    assert Size.of(thin.config).parameters == thin.parameters_count < teacher.parameters_count
    save(thin, tmp_path / "thin")
    again = load(tmp_path / "thin")
    assert torch.equal(again(batch).logits(), thin(batch).logits())
    assert again.lineage == thin.lineage
    with safe_open(tmp_path / "thin" / "model.safetensors", "pt") as file:
        assert sum(file.get_tensor(name).nbytes for name in file.keys()) == 4 * stored_parameters(thin)  # noqa: SIM118


def test_transformers_loads_both_kinds(tmp_path):
    teacher, batch = animal("llama"), packed()
    text = [batch] * 8  # as many tokens as inputs
    for dense in (False, True):
        student = low_rank(teacher, text, budget=Budget(0.5, 0.01), dense=dense)
        student.model.eval()
        save(student, tmp_path / str(dense))
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / str(dense), trust_remote_code=not dense)
        tokens = batch.tokens[:1, :8]
        torch.testing.assert_close(plain(input_ids=tokens).logits, student.model(input_ids=tokens).logits)


def test_gradients_of_factors_are_those_of_the_matrix_that_they_stand_for():
    teacher, batch = animal("llama"), packed()
    text = [batch] * 8  # as many tokens as inputs
    student = low_rank(teacher, text, budget=Budget(0.6, 0.02))
    part = student.decoder.layers[0].mlp.up_proj
    weight = part.weight.detach().requires_grad_()
    x = torch.randn(7, part.right.in_features)
    (x @ weight.T).square().sum().backward()
    part(x).square().sum().backward()
    gradient = weight.grad
    torch.testing.assert_close(part.left.weight.grad, gradient @ part.right.weight.T, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(part.values.grad, gradient.flatten()[part.places], rtol=1e-3, atol=1e-4)


def test_faults_are_refused_with_what_helps():
    teacher, batch = animal("llama"), packed()
    text = [batch] * 8  # as many tokens as inputs
    with pytest.raises(BadSetting, match=r"between 0 and 1; got 1\.2"):
        Budget(1.2)
    with pytest.raises(BadSetting, match=r"less than 0\.1"):
        Budget(0.2, 0.1)
    with pytest.raises(BadShape, match=r"layers.0.*less than rank 1"):
        next(factor(teacher, text, budget=Budget(0.001)))
    with pytest.raises(BadSetting, match="got 'qr'"):
        next(factor(teacher, text, budget=Budget(0.5), method="qr"))
    with pytest.raises(BadCorpus, match="fewer than the"):
        next(factor(teacher, [batch], budget=Budget(0.5)))
    with pytest.raises(BadShape, match="no linear maps"):
        next(factor(animal("gpt2"), text, budget=Budget(0.5)))
    with pytest.raises(BadModel, match=r"q_norm.*--dense"):
        low_rank(animal("qwen3"), text, budget=Budget(0.5))


@pytest.mark.parametrize("tokens", [3, 40])
def test_few_tokens_and_many_are_the_same_in_mixed_precision_too(tokens):
    torch.manual_seed(0)
    part = LowRank(16, 12, 3, 5)
    part.places.copy_(torch.tensor([0, 17, 40, 100, 191], dtype=torch.int32))
    part.values.data.normal_()
    x = torch.randn(tokens, 16, requires_grad=True)
    torch.testing.assert_close(part(x), x @ part.weight.T)
    with torch.autocast("cpu", torch.bfloat16):
        part(x).square().sum().backward()
    assert torch.isfinite(part.values.grad).all()
    set_format(part, torch.bfloat16)
    torch.testing.assert_close(part(x.bfloat16()).float(), x @ part.weight.float().T, rtol=0.05, atol=0.05)


def test_a_mixture_of_experts_is_made_dense_first():
    teacher = animal("llama")
    teacher.decoder.layers[0].mlp.experts = torch.nn.Parameter(torch.zeros(2, 3, 4))
    with pytest.raises(BadShape, match="dense student"):
        linears(teacher)
