"""Students whose matrices are low-rank factors of their teacher's (`students.factor`): as factors, or multiplied out.

As factors the student is limbeck's own decoder, which the layers of Llama and Mistral fit, and its files are as small as its
parameters are few. Multiplied out it is an ordinary model of the teacher's architecture and size, any of those with linear maps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from transformers.configuration_utils import PreTrainedConfig

from limbeck.errors import BadModel
from limbeck.models.anatomy import Anatomy
from limbeck.models.build import build
from limbeck.models.decoder import LimbeckConfig
from limbeck.models.language_model import LanguageModel
from limbeck.models.mixers.low_rank import replace_linear
from limbeck.models.trim.model import lineage_of_vocabulary
from limbeck.students.convert import config_of, convert, obstacle, place_of
from limbeck.students.factor import Budget, Factors, factor
from limbeck.types import Batch

LINEAGE = "low_rank"


@torch.no_grad()
def low_rank(
    teacher: LanguageModel,
    batches: Sequence[Batch],
    *,
    budget: Budget,
    method: str = "whitened",
    dense: bool = False,
) -> LanguageModel:
    """A trainable student with the linear maps of the teacher's layers as factors, or multiplied out where it is ``dense``.

    ``batches`` are the calibration sample. Embeddings, head and norms are the teacher's, which is not changed. The lineage has
    the rank of each matrix and the number of entries kept apart. Raises as `factor`, and BadModel where a teacher does not fit
    limbeck's decoder, which factors need.
    """
    found = factor(teacher, batches, budget=budget, method=method)
    student = with_factors(teacher, found, dense=dense)
    facts: dict[str, Any] = (student.lineage or {})[LINEAGE]
    facts.update({"method": method, **asdict(budget)})
    return student


@torch.no_grad()
def with_factors(teacher: LanguageModel, found: Iterable[tuple[str, Factors]], *, dense: bool = False) -> LanguageModel:
    """The student of `low_rank` with factors that are given, by the name of the linear map in the teacher's decoder."""
    student = _copy(teacher) if dense else _ours(teacher)
    ranks: dict[str, list[int]] = {}
    for name, factors in found:
        ranks[name] = [factors.left.shape[1], len(factors.places)]
        if dense:
            student.decoder.get_submodule(name).weight.copy_(factors.matrix)
        else:
            _put(student, name, factors)
    student.name = f"{teacher.name}-low-rank"
    student.lineage = {"teacher": teacher.name, LINEAGE: {"dense": dense, "ranks": ranks}} | lineage_of_vocabulary(
        teacher
    )
    return student


def planned_config(config: PreTrainedConfig, budget: Budget) -> LimbeckConfig:
    """The configuration of a student of factors, from its teacher's alone.

    Raises BadModel for a teacher that does not fit limbeck's decoder, and BadShape for a matrix whose budget is below rank 1.
    """
    _check_fits(config, f"a {config.model_type} model")
    anatomy = Anatomy.of(config)
    sizes = anatomy.sizes
    planned = config_of(config, ["attention"] * sizes.layers)
    matrices = {name: [sizes.of(axis) for axis in axes] for name, axes in anatomy.inside.items() if len(axes) == 2}
    planned.factors = {
        place_of(f"layers.{layer}.{name}").removesuffix(".weight"): list(budget.of(m, n, name))
        for layer in range(sizes.layers)
        for name, (m, n) in matrices.items()
    }
    return planned


def stored_parameters(student: LanguageModel) -> int:
    """Parameters of a student as factors, also of one that is multiplied out. An entry kept apart counts twice."""
    facts: Mapping[str, Any] = (student.lineage or {})[LINEAGE]
    if not facts["dense"]:
        return student.parameters_count + sum(kept for _, kept in facts["ranks"].values())
    saved = 0
    for name, (rank, kept) in facts["ranks"].items():
        weight = student.decoder.get_submodule(name).weight
        saved += weight.numel() - rank * sum(weight.shape) - 2 * kept
    return student.parameters_count - saved


def _ours(teacher: LanguageModel) -> LanguageModel:
    """The teacher as limbeck's own decoder. Raises BadModel where it does not fit."""
    _check_fits(teacher.config, teacher.name)
    return convert(teacher, ["attention"] * teacher.config.num_hidden_layers)


def _check_fits(config: PreTrainedConfig, name: str) -> None:
    if why := obstacle(config):
        raise BadModel(
            f"{name}: factors are layers of limbeck's own decoder, which a {config.model_type} model does not fit: {why}. "
            "Factors multiplied out (limbeck shrink --low-rank with --dense) are an ordinary model, as large as the teacher"
        )


def _copy(teacher: LanguageModel) -> LanguageModel:
    """The teacher again, trainable, with weights of its own."""
    model = build(teacher.config, dtype=teacher.model.dtype).to(teacher.device)
    model.load_state_dict(teacher.model.state_dict())
    model.generation_config = copy.deepcopy(teacher.model.generation_config)
    return LanguageModel(model.requires_grad_(True).train(), teacher.tokenizer, teacher.name)


def _put(student: LanguageModel, name: str, found: Factors) -> None:
    """Puts factors in the place of a matrix of limbeck's decoder."""
    place = place_of(f"{name}.weight").removesuffix(".weight")
    rank, kept = found.left.shape[1], len(found.places)
    part = replace_linear(student.decoder, place, rank, kept)
    part.left.weight.copy_(found.left)
    part.right.weight.copy_(found.right)
    if part.values is not None:
        part.values.copy_(found.values)
        part.places.copy_(found.places)
    student.config.factors[place] = [rank, kept]
