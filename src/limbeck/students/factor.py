"""Low-rank factors of a model's matrices, fitted on a calibration sample, with a sparse part that is kept beside them.

A matrix W (m, n) becomes left right (+ S), with left (m, k) and right (k, n). The best factors for inputs x with second moments
C = E[x xᵀ] minimise E |(W - left right) x|²: the truncated singular value decomposition of W R with R Rᵀ = C, and R undone
(SVD-LLM, arXiv 2403.07378, sec. 3.1). *asvd* scales input j by E|x_j|^0.5 instead (arXiv 2312.05821, sec. 3.2); *svd* takes no
text. R is the symmetric root of C by eigenvectors, not its Cholesky factor, which does not exist where an input is always 0.

What a low rank cannot hold are single large entries, and in language models these carry signal. So the largest entries of what is
left, weighed by their inputs, are kept apart (as in robust principal component analysis), in alternation with the factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.errors import BadCorpus, BadSetting, BadShape
from limbeck.models.language_model import LanguageModel
from limbeck.models.mixers.low_rank import with_entries
from limbeck.models.observing import evaluating, hooked
from limbeck.types import Batch

FACTORS = ("whitened", "asvd", "svd")
ROUNDS = 4  # of factors and sparse part in turn
FLOOR = (
    1e-6  # the least eigenvalue of C, beside its largest: directions that the sample hardly has are not divided by 0
)
_MOMENTS = 2**30  # bytes of second moments that are kept at once


@dataclass(frozen=True)
class Moments:
    """Of n inputs: ``second`` E[x xᵀ] (n, n) and ``size`` E|x| (n), in float64."""

    second: Float[Tensor, "n n"]
    size: Float[Tensor, " n"]


class _Scaling(NamedTuple):
    """The matrix that inputs are scaled by, its inverse, and the size of each input."""

    root: Float[Tensor, "n n"]
    undo: Float[Tensor, "n n"]
    size: Float[Tensor, " n"]


@dataclass(frozen=True)
class Factors:
    """A matrix as left right, plus ``values`` at ``places`` (row-major) where entries are kept."""

    left: Float[Tensor, "m k"]
    right: Float[Tensor, "k n"]
    places: Int[Tensor, " kept"]
    values: Float[Tensor, " kept"]

    @property
    def matrix(self) -> Float[Tensor, "m n"]:
        """The matrix that they stand for."""
        return with_entries(self.left @ self.right, self.places, self.values)


@dataclass(frozen=True)
class Budget:
    """The share of a matrix's parameters that is kept, ``keep`` in (0, 1), of which ``sparse`` of its entries are kept apart.

    An entry that is kept apart counts twice, since its place is stored too.
    """

    keep: float
    sparse: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise BadSetting(f"the share of parameters that is kept lies between 0 and 1; got {self.keep:g}")
        if not 0 <= 2 * self.sparse < self.keep:
            raise BadSetting(
                f"entries kept apart take twice their share, and factors need the rest of {self.keep:g}; got {self.sparse:g}: "
                f"give less than {self.keep / 2:g}"
            )

    def of(self, m: int, n: int, name: str) -> tuple[int, int]:
        """The rank of a matrix (m, n), and the number of entries kept apart. Raises BadShape if not even rank 1 fits."""
        kept = round(self.sparse * m * n)
        rank = int((self.keep * m * n - 2 * kept) / (m + n))
        if rank < 1:
            raise BadShape(f"{name} ({m}, {n}): {self.keep:g} of its parameters is less than rank 1 takes; keep more")
        return rank, kept


def linears(model: LanguageModel) -> dict[str, nn.Linear]:
    """The linear maps of a decoder's layers by name, without its head. Raises BadShape where it has none, as GPT-2."""
    head = model.model.get_output_embeddings()
    found = {
        name: part for name, part in model.decoder.named_modules() if isinstance(part, nn.Linear) and part is not head
    }
    if any(weight.ndim > 2 for weight in model.decoder.parameters()):
        raise BadShape(
            f"{model.name}: a {model.config.model_type} model has the weights of several experts in one, not factored: make a "
            "dense student of it first (limbeck shrink)"
        )
    if not found:
        raise BadShape(f"{model.name}: a {model.config.model_type} model has no linear maps in its layers to factor")
    return found


@torch.no_grad()
def factor(
    model: LanguageModel, batches: Sequence[Batch], *, budget: Budget, method: str = "whitened"
) -> Iterator[tuple[str, Factors]]:
    """The factors of each linear map in the layers of a model, by name, from a sample of rows.

    All are fitted on the inputs of the model as it is. The model is not changed. Raises BadSetting for an unknown method,
    BadShape for a matrix whose budget is below rank 1, and BadCorpus for a sample with fewer tokens than a map has inputs.
    """
    if method not in FACTORS:
        raise BadSetting(f"matrices are factored by one of {', '.join(FACTORS)}; got {method!r}")
    maps = linears(model)
    sizes = {name: budget.of(part.out_features, part.in_features, name) for name, part in maps.items()}
    for names in _groups(maps):
        found = {} if method == "svd" else moments(model, batches, {name: maps[name] for name in names})
        scalings: dict[int, _Scaling] = {}  # maps that read the same tensor share theirs
        for name in names:
            seen = found.get(name)
            if id(seen) not in scalings or seen is None:
                scalings[id(seen)] = _scaling(seen, method, maps[name].weight)
            yield name, _factored(maps[name].weight, scalings[id(seen)], *sizes[name])


def factored(
    weight: Float[Tensor, "m n"], seen: Moments | None, rank: int, kept: int = 0, *, method: str = "whitened"
) -> Factors:
    """Factors of a matrix of this rank, and this many entries beside them. ``seen`` is not needed for svd."""
    return _factored(weight, _scaling(seen, method, weight), rank, kept)


def _factored(weight: Float[Tensor, "m n"], scaling: _Scaling, rank: int, kept: int) -> Factors:
    wide = weight.detach().double()
    root, undo, input_size = scaling
    places = torch.zeros(0, dtype=torch.long, device=wide.device)
    rest = wide  # what no factors hold: first everything, so that a large entry is not taken for a rank
    for _ in range(ROUNDS if kept else 1):
        places = (rest.abs() * input_size).flatten().topk(kept).indices.sort().values
        apart = torch.zeros_like(wide).flatten().index_copy(0, places, rest.flatten()[places]).view_as(wide)
        left, right = _truncated(wide - apart, root, undo, rank)
        rest = wide - left @ right
    values, own = rest.flatten()[places], weight.dtype
    return Factors(left.to(own), right.to(own), places, values.to(own))


def moments(model: LanguageModel, batches: Iterable[Batch], maps: Mapping[str, nn.Linear]) -> dict[str, Moments]:
    """Moments of the inputs of some linear maps over a sample's positions of weight > 0, in one forward pass of each batch.

    Maps that read the same tensor share theirs. Raises BadCorpus for fewer positions than a map has inputs.
    """
    sums: dict[str, list[Tensor]] = {}
    counted = 0
    with evaluating(model.model):
        for batch in batches:
            mask = batch.weight.flatten() > 0
            counted += int(mask.sum())
            with _summing(maps, sums, mask):
                model(batch)
    most = max(part.in_features for part in maps.values())
    if counted < most:
        raise BadCorpus(
            f"the calibration sample has {counted:,} tokens, fewer than the {most:,} inputs of a matrix that is fitted on it; "
            "give more text, or longer rows (--seq-len)"
        )
    return {name: Moments(second / counted, size / counted) for name, (second, size) in sums.items()}


@contextmanager
def _summing(maps: Mapping[str, nn.Linear], sums: dict[str, list[Tensor]], mask: Tensor) -> Iterator[None]:
    """Adds the moments of what each map reads. One of several maps that read the same tensor adds for all of them."""
    last: list[Tensor | list[Tensor]] = []

    def hook(name: str) -> Callable[..., None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if last and last[0] is inputs[0]:
                sums.setdefault(name, last[1])  # type: ignore[arg-type]
                return
            x = inputs[0].flatten(0, -2)[mask].double()
            into = sums.setdefault(name, [x.new_zeros(x.shape[1], x.shape[1]), x.new_zeros(x.shape[1])])
            into[0].addmm_(x.T, x)
            into[1].add_(x.abs().sum(0))
            last[:] = [inputs[0], into]

        return add

    handles = [part.register_forward_pre_hook(hook(name)) for name, part in maps.items()]
    with hooked(handles):
        yield


def _groups(maps: Mapping[str, nn.Linear]) -> Iterator[list[str]]:
    """Names of maps whose second moments fit in memory together, in order."""
    group: list[str] = []
    taken = 0
    for name, part in maps.items():
        needed = 8 * part.in_features**2
        if group and taken + needed > _MOMENTS:
            yield group
            group, taken = [], 0
        group.append(name)
        taken += needed
    yield group


def _scaling(seen: Moments | None, method: str, weight: Float[Tensor, "m n"]) -> _Scaling:
    """How the inputs of a matrix are scaled before it is truncated."""
    if method == "svd" or seen is None:
        same = torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device)
        return _Scaling(same, same, same.diagonal())
    input_size = seen.second.diagonal().clamp_min(0).sqrt()
    if method == "asvd":
        scale = seen.size.clamp_min(FLOOR * seen.size.max()).sqrt()
        return _Scaling(scale.diag(), scale.reciprocal().diag(), input_size)
    values, vectors = torch.linalg.eigh(seen.second)
    root = values.clamp_min(FLOOR * float(values[-1])).sqrt()
    return _Scaling((vectors * root) @ vectors.T, (vectors / root) @ vectors.T, input_size)


def _truncated(wide: Tensor, root: Tensor, undo: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors of a matrix for scaled inputs. Both have half of each singular value."""
    u, s, v = torch.linalg.svd(wide @ root, full_matrices=False)
    half = s[:rank].sqrt()
    return u[:, :rank] * half, half[:, None] * (v[:rank] @ undo)
