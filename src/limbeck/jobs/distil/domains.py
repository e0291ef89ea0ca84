"""Several teachers, one a domain (`limbeck distil --teacher "math=A,code=B" --data "math=a.jsonl,code=b.jsonl"`).

Each source of --data has the name of a domain, and its rows are distilled from the teacher of that name. The first teacher is the
one that a student is pruned from, and the one of the baselines `ONE_TEACHER`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from limbeck.config import DistilSettings, by_domain
from limbeck.corpora.mixture import Mixture, unnamed
from limbeck.disk import shown
from limbeck.errors import BadSetting
from limbeck.teachers.ref import CapturedRef, LocalRef, teacher_ref

EXAMPLE = '--teacher "math=A,code=B" --data "math=a.jsonl:0.5,code=b.jsonl:0.5"'


@dataclass(frozen=True)
class Domains:
    """The ``names`` of domains and the teacher of each, in the order of --teacher.

    ``sources`` are those of the mixture in its order, ``of_source`` the number of each one's domain.
    """

    names: tuple[str, ...]
    teachers: tuple[LocalRef, ...]
    sources: tuple[str, ...]
    of_source: tuple[int, ...]

    @classmethod
    def of(cls, settings: DistilSettings) -> tuple[DistilSettings, Domains | None]:
        """(settings with --data without names and --teacher without spaces, the domains); None for one teacher.

        Raises BadSetting for domains without a teacher or a source, and for teachers that are not models on this machine.
        """
        pieces = by_domain(settings.teacher)
        if not pieces:
            return settings, None
        plainly, named = unnamed(settings.data)
        names = tuple(name for name, _ in pieces)
        _check_names(settings, pieces, named)
        teachers = tuple(_local(name, teacher) for name, teacher in pieces)
        of_source = tuple(names.index(name) for name, _ in named)
        sources = tuple(source for _, source in named)
        written = ",".join(f"{name}={teacher}" for name, teacher in pieces)
        return settings.model_copy(update={"teacher": written, "data": plainly}), cls(
            names, teachers, sources, of_source
        )

    @property
    def signature(self) -> dict[str, list[list[str]]]:
        """What a run's signature holds of them: the domain of each source."""
        return {"domains": [[self.names[n], s] for n, s in zip(self.of_source, self.sources, strict=True)]}

    def alone(self, settings: DistilSettings, number: int) -> DistilSettings:
        """The settings of a run with the teacher of one domain alone, on its sources."""
        own = [source for n, source in zip(self.of_source, self.sources, strict=True) if n == number]
        data = ",".join(own) if len(own) == 1 else ",".join(f"{source}:1" for source in own)
        update = {"teacher": self.teachers[number].name, "data": data}
        return settings.model_copy(update=update)

    def shares(self, data: str) -> tuple[float, ...]:
        """The share of the tokens of each teacher, from the weights in --data; about, where a stage is "annealed"."""
        mixture = Mixture.of(data)
        assert mixture is not None, "named sources have weights"
        tokens, found = mixture.budgets(10**6, 0.8), [0.0] * len(self.names)
        for number, some in zip(self.of_source, tokens, strict=True):
            found[number] += some / sum(tokens)
        return tuple(found)


def _check_names(
    settings: DistilSettings, pieces: tuple[tuple[str, str], ...], named: tuple[tuple[str, str], ...]
) -> None:
    """Raises BadSetting unless each teacher and each source has a domain, and each domain both."""
    what, names = f"--teacher {shown(settings.teacher)}", tuple(name for name, _ in pieces)
    if len(names) == 1:
        raise BadSetting(f"{what}: expected two domains or more, got one: one teacher needs no name: --teacher MODEL")
    if "" in names or len(set(names)) < len(names):
        came = _nameless(pieces) if "" in names else f"{next(n for n in names if names.count(n) > 1)} twice"
        raise BadSetting(f"{what}: expected a domain before each teacher, each once, got {came}: as in {EXAMPLE}")
    if nameless := [source for name, source in named if not name]:
        raise BadSetting(
            f"--data: expected the domain of each source, one of {', '.join(names)}, got none of {shown(nameless[0])}: as in "
            f"{EXAMPLE}; records of one file by a field: {names[0]}=where:domain={names[0]}:all.jsonl"
        )
    found = {name for name, _ in named}
    if without := sorted(found - set(names)):
        raise BadSetting(
            f"{what}: expected a teacher for each domain of --data, got none for {', '.join(without)}: add one, or leave the "
            "source out"
        )
    if without := [name for name in names if name not in found]:
        raise BadSetting(
            f"--data: expected a source for each teacher, got none for {', '.join(without)}: add one, or leave the teacher out"
        )


def _nameless(pieces: tuple[tuple[str, str], ...]) -> str:
    """What a teacher without a domain is, in words: the rest of a path that has a comma, where there is such a path."""
    at = next(n for n, (name, _) in enumerate(pieces) if not name)
    for end in range(len(pieces), at, -1):
        path = ",".join(teacher for _, teacher in pieces[at - 1 : end])
        if os.path.lexists(path):
            return (
                f"the path {shown(path)}: one with a comma cannot be one of several, so rename the folder or link to it"
            )
    return f"a teacher without one, {shown(pieces[at][1])}"


def _local(name: str, teacher: str) -> LocalRef:
    """A teacher of several. Raises BadSetting for one that is no model on this machine."""
    ref = teacher_ref(teacher) if teacher else None
    if isinstance(ref, LocalRef):
        return ref
    came = "nothing" if ref is None else "captured logits" if isinstance(ref, CapturedRef) else "a model on a server"
    raise BadSetting(
        f"--teacher {name}={shown(teacher)}: expected a model on this machine for each domain, got {came}: give its folder or "
        "hub id. Captured logits and servers teach one at a time, with --teacher alone"
    )
