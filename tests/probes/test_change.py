"""How far a training moved a model: nothing for the same model, and the definitions by brute force."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from limbeck.errors import BadModel
from limbeck.probes.change import (
    OUTPUTS,
    _chosen,
    alignment,
    matrices_moved,
    represented,
    stable_rank,
    tangent_alignment,
    weight_readings,
)
from tests.helpers.zoo import animal, packed


@pytest.fixture
def pair():
    """A model and the same with noise."""
    start = animal("llama")
    end = animal("llama")
    torch.manual_seed(0)
    with torch.no_grad():
        for model in (start, end):
            embeddings = model.model.get_input_embeddings()
            embeddings.padding_idx = None  # for a row of this id autograd has no gradient
            embeddings.weight[0] = torch.randn(embeddings.weight.shape[1])
        for weight in end.model.parameters():
            weight += 0.3 * weight.std() * torch.randn_like(weight) if weight.ndim > 1 else 0.0
    return start, end


@pytest.mark.long
def test_a_model_is_where_it_was():
    start, end = animal("llama"), animal("llama")
    moved = matrices_moved(start, end)
    assert {one.moved for one in moved} == {0.0}
    assert all(one.rank_before == one.rank_after for one in moved)
    found = represented("model", start, end, [packed()])
    assert found.value == pytest.approx(1.0)
    assert tangent_alignment(start, end, [packed()]) == pytest.approx(1.0)


@pytest.mark.long
def test_weights_are_unchanged_by_the_measurement():
    start, end = animal("llama"), animal("llama")
    before = deepcopy(end.model.state_dict())
    tangent_alignment(start, end, [packed()], outputs=8)
    assert all(torch.equal(before[name], tensor) for name, tensor in end.model.state_dict().items())


def test_the_share_that_weights_moved(pair):
    start, end = pair
    whole = matrices_moved(start, end)[0]
    names = [name for name, weight in start.model.named_parameters() if weight.ndim > 1]
    a, b = (dict(model.model.named_parameters()) for model in pair)
    flat = [torch.cat([one[name].detach().double().flatten() for name in names]) for one in (a, b)]
    assert whole.moved == pytest.approx(float((flat[1] - flat[0]).norm() / flat[0].norm()))
    assert {"all", "embed_tokens", "q_proj", "down_proj"} <= {one.kind for one in matrices_moved(start, end)}
    assert [one.name for one in weight_readings("model", [whole])] == [
        "weights_moved",
        "stable_rank_before",
        "stable_rank_after",
    ]


def test_the_stable_rank_is_that_of_the_singular_values():
    torch.manual_seed(1)
    weight = torch.randn(20, 12) @ torch.diag(torch.linspace(1, 0.1, 12))
    values = torch.linalg.svdvals(weight.double())
    assert stable_rank(weight) == pytest.approx(float(values.square().sum() / values[0] ** 2), rel=1e-3)
    assert stable_rank(torch.eye(5)) == pytest.approx(5)
    assert stable_rank(torch.zeros(3, 3)) == 0


def test_alignment_is_the_cosine_of_gram_matrices_and_blind_to_turns():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(30, 6, generator=g, dtype=torch.float64) for _ in range(2))
    document = np.repeat(np.arange(10), 3)
    found = alignment(a, b, document)
    k, m = a @ a.T, b @ b.T
    assert found.value == pytest.approx(float((k * m).sum() / (k.norm() * m.norm())))
    assert found.low <= found.value <= found.high
    assert found.n == 10
    turn = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64))[0]
    assert alignment(a, 3 * a @ turn, document).value == pytest.approx(1.0)
    assert np.isnan(alignment(a[:6], b[:6], document[:6]).low)


@pytest.mark.long
def test_the_tangent_kernel_is_that_of_exact_gradients(pair):
    batch = packed()
    rows, chosen = _chosen([batch], OUTPUTS)
    grams = []
    for model in pair:
        model.model.eval().requires_grad_(True)
        logits = torch.cat([model(row).logits().gather(1, row.targets.flatten()[:, None])[:, 0] for row in rows])
        parameters = list(model.model.parameters())
        gradients = [
            torch.cat([g.flatten() for g in torch.autograd.grad(logit, parameters, retain_graph=True)])
            for logit in logits[chosen]
        ]
        jacobian = torch.stack(gradients)
        grams.append(jacobian @ jacobian.T)
    exact = float((grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm()))
    assert tangent_alignment(*pair, [batch]) == pytest.approx(exact, abs=0.06)


def test_another_shape_is_no_start():
    with pytest.raises(BadModel, match="the model that the training began with"):
        matrices_moved(animal("llama"), animal("qwen3"))
