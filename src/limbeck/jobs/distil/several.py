"""The teachers of a run that has several, one a domain: loaded, compared, and queried each for its own rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from limbeck.config import ONE_TEACHER
from limbeck.corpora import Rows, TokenStore
from limbeck.disk import shown
from limbeck.errors import BadSetting, Mismatch
from limbeck.host import on_host
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.mixture import blend_of
from limbeck.jobs.distil.domains import EXAMPLE, Domains
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.teacher import RunTeacher
from limbeck.jobs.distil.together import refuse_together
from limbeck.jobs.pair.trimmed import load_teacher
from limbeck.models.configuration import load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.sidecar import licence_of
from limbeck.models.source import resolve_description
from limbeck.planning.checks.finding import Finding
from limbeck.planning.checks.pair import finite_weights
from limbeck.planning.checks.vocabulary import one_template
from limbeck.planning.cost.several import SeveralSizes
from limbeck.planning.cost.size import Size
from limbeck.run.optim import Schedule
from limbeck.teachers.ref import LocalRef
from limbeck.teachers.routed import RoutedTeacher
from limbeck.types import Batch, Teacher


@dataclass(frozen=True)
class SeveralTeachers(RunTeacher):
    """Used instead of `RunTeacher` if there are several: ``models``, in the order of the ``domains``; ``about`` is the first.

    ``shares``: of the rows that each has; of the tokens, by the weights in --data, until the text is known (`reading`).
    """

    domains: Domains | None = None
    models: tuple[LanguageModel, ...] = ()
    shares: tuple[float, ...] = ()

    @classmethod
    def load(cls, request: DistilRequest, environment: Environment) -> SeveralTeachers:
        """All teachers of a request, in memory. Raises Mismatch for other tokens than the first teacher's."""
        domains = request.domains
        assert domains is not None, "a request with several teachers"
        models: list[LanguageModel] = []
        loaded: dict[LocalRef, LanguageModel] = {}  # a teacher of several domains is held once
        for name, ref in zip(domains.names, domains.teachers, strict=True):
            models.append(loaded.get(ref) or loaded.setdefault(ref, load_teacher(ref, environment)))
            _check_tokens(f"{name}={ref.name}", models[-1], models[0], domains)
        first, shares = models[0], domains.shares(request.settings.data)
        local = request.teacher
        assert isinstance(local, LocalRef), "checked by Domains.of"
        return cls(first, first, None, None, local, domains, tuple(models), shares)

    def within(self, length: int) -> SeveralTeachers:
        """The same. Raises Mismatch for one whose context is shorter than a row of so many tokens."""
        assert self.domains is not None
        for name, model in zip(self.domains.names, self.models, strict=True):
            if model.context < length:
                raise Mismatch(
                    f"--teacher {name}={shown(model.name)}: expected a context of {length} tokens, that of a row, got "
                    f"{model.context}: use --seq-len {model.context} or less"
                )
        return self

    def beside_first(self, *, chat: bool) -> list[Finding]:
        """The findings about the other teachers beside the first: damaged weights, and another way to write conversations."""
        assert self.domains is not None
        findings = list[Finding]()
        for name, model in zip(self.domains.names[1:], self.models[1:], strict=True):
            found = [*finite_weights([model]), *(one_template(self.about, model) if chat else ())]
            findings += [replace(one, message=f"{name}: {one.message}") for one in found]
        return findings

    @property
    def size(self) -> SeveralSizes:
        """The size of all teachers in memory beside the student."""
        sizes = {id(model): Size.of(model.config) for model in self.models}
        return SeveralSizes.together([sizes[id(model)] for model in self.models], self.shares, list(sizes.values()))

    @property
    def facts(self) -> dict[str, Any]:
        """The teachers, as run.json holds them: of each its domain, name, parameters, share of the rows, and stated licence."""
        assert self.domains is not None
        found = []
        each = zip(self.domains.names, self.domains.teachers, self.models, self.shares, strict=True)
        for name, ref, model, share in each:
            one = {"domain": name, "name": model.name, "parameters": model.parameters_count, "share": share}
            found.append(one | {"stated": licence_of(resolve_description(ref.config_source))})
        return {"domains": found}

    def reading(
        self, store: TokenStore, data: str, *, steps: int, rows: int, length: int, schedule: Schedule
    ) -> SeveralTeachers:
        """The same with the shares of the rows that a training of so many steps of ``rows`` rows reads."""
        assert self.domains is not None
        blend = blend_of(data, steps=steps, rows=rows, schedule=schedule)
        counts = Rows(store, length=length, blend=blend).counts(steps * rows)
        each = np.bincount(self.domains.of_source, weights=counts, minlength=len(self.models))
        return replace(self, shares=tuple((each / each.sum()).tolist()))

    def routed(self, store: TokenStore, teachers: Sequence[Teacher] = ()) -> RoutedTeacher:
        """The teachers (or ``teachers`` in their places), each of the rows of its sources in a store."""
        return RoutedTeacher(teachers or self.models, partial(self._route, store))

    def own(
        self, store: TokenStore, batches: Callable[[], Iterable[Batch]]
    ) -> list[tuple[LanguageModel, Callable[[], Iterable[Batch]]]]:
        """Each teacher, with a function that gives the rows of its domain among ``batches`` of a store."""
        routed = self.routed(store)

        def rows(number: int) -> Iterator[Batch]:
            parts = routed.batches(batches())
            return (part for part in parts if int(routed.route(part)[0]) == number)

        return [(model, partial(rows, number)) for number, model in enumerate(self.models)]

    def documents(self, store: TokenStore) -> list[Bool[np.ndarray, " documents"]]:
        """Which documents of a store are of each domain."""
        number = self._of(store.source_of(np.arange(store.documents)))
        return [number == n for n in range(len(self.models))]

    def _route(self, store: TokenStore, batch: Batch) -> Int[Tensor, " B"]:
        """The number of each row's teacher. A row is of one source; one that is padding alone counts as the first's."""
        documents = on_host(batch.document).amax(1).clamp(min=0).numpy()
        return torch.from_numpy(self._of(store.source_of(documents)))

    def _of(self, sources: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        assert self.domains is not None
        found: np.ndarray = np.array(self.domains.of_source)[sources]
        return found


def sizes_together(request: DistilRequest) -> SeveralSizes | None:
    """The size of several teachers together, from their configurations and the weights in --data; None of one."""
    domains = request.domains
    if domains is None:
        return None
    sizes = {ref: Size.of(load_config(ref.config_source)) for ref in domains.teachers}
    shares = domains.shares(request.settings.data)
    return SeveralSizes.together([sizes[ref] for ref in domains.teachers], shares, list(sizes.values()))


def _check_tokens(what: str, model: LanguageModel, first: LanguageModel, domains: Domains) -> None:
    theirs, ours = model.tokenizer.get_vocab(), first.tokenizer.get_vocab()
    if theirs != ours:
        same = sum(theirs.get(token) == number for token, number in ours.items())
        raise Mismatch(
            f"--teacher {shown(what)}: expected the tokens of the first teacher, {domains.names[0]}="
            f"{shown(domains.teachers[0].name)}, which the student has too: {len(ours):,} tokens; got {len(theirs):,}, of which "
            f"{same:,} are the same with the same id. Give teachers of one family, or distil one student from each"
        )


def check_domains(request: DistilRequest, environment: Environment) -> None:
    """Raises BadSetting for what does not go with several teachers, each with its reason."""
    settings = request.settings
    if request.domains is None:
        if settings.domain_weights != "tokens":
            raise BadSetting(
                f"--domain-weights {settings.domain_weights} is for several teachers, and here is one: give several, as in "
                f"{EXAMPLE}, or leave it out"
            )
        if named := [name for name in ONE_TEACHER if name in settings.baselines]:
            raise BadSetting(
                f"--baselines {named[0]} is the distillation from the first of several teachers, and here is one: give several, "
                f"as in {EXAMPLE}, or leave it out"
            )
        return
    what = f"--teacher {shown(settings.teacher)}"
    refuse_together(
        what,
        (
            (
                "--eval-data",
                settings.eval_data,
                "its documents have no domain; a part of each source is held out without it",
            ),
            ("--tokenizer", settings.tokenizer, "it is that of a model on a server, and these have their own"),
            (
                "--adapt-teacher",
                settings.adapt_teacher,
                "one teacher is tuned; tune each with limbeck tune, and give those",
            ),
            ("--cache-logits", settings.cache_logits, "captured logits are those of one teacher"),
            ("--tokenizer-align", settings.tokenizer_align, "its text is in the tokens of one teacher"),
            ("--vocab", settings.vocab, "a trimmed vocabulary is that of one teacher"),
            ("--mixers", settings.mixers, "layers are matched to those of one teacher"),
            ("--rounds", settings.rounds > 1, "students between rounds have one teacher"),
            ("--learngene", settings.learngene, "shared layers have one teacher"),
            ("several students", settings.is_family, "each has a run of its own"),
            ("--mesh shard", environment.world.sharded, "its processes compute each row together, with one teacher"),
        ),
    )
    if not request.needs_teacher:
        raise BadSetting(f"{what}: no objective queries a teacher: give one teacher, or an objective such as ForwardKL")
