"""What belongs into the files that a report is made of, part by part: what is there is of this kind, else the folder is refused.

Anything may be missing, and what is not named here is let through: other versions wrote more and less.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from limbeck.disk import Bare, Count

Positive = Annotated[int, Meta(gt=0, lt=2**53)]
Seconds = Annotated[float, Meta(ge=0, lt=1e12)]


class Aligned(TypedDict, total=False):
    """What a teacher with another tokenizer could tell of the text."""

    coverage: float


class Model(TypedDict, total=False):
    """A teacher or a student."""

    name: str
    parameters: Positive | None
    shape: str | dict[str, int | str] | None
    answers: str
    aligned: Aligned


class Plan(TypedDict, total=False):
    """How the student is trained."""

    steps: Count
    rows: Count
    length: Count
    tokens: Count
    learning_rate: float
    schedule: str


class Finding(TypedDict):
    """What the doctor found."""

    check: str
    level: str
    message: str
    remedy: str


class ConvertedLayer(TypedDict):
    """What became of a layer's attention."""

    mixer: str
    taken: str
    fresh: str


class Damage(TypedDict):
    """What a layer without attention loses; of no layer first."""

    layer: Count | None
    hits: float
    elsewhere: float
    damage: float


class Conversion(TypedDict):
    """What became of attention."""

    mixers: NotRequired[list[str]]
    converted: list[ConvertedLayer]
    tokens: dict[str, Count]
    error: dict[str, float]
    damage: list[Damage] | None
    attention_parameters: NotRequired[Positive]


class Kept(TypedDict):
    """Bytes that teacher and student keep of a text."""

    tokens: Count
    teacher: Annotated[float, Meta(gt=0)]
    student: Annotated[float, Meta(ge=0)]


class State(TypedDict):
    """What is kept of texts, and from which length on the student keeps fewer bytes."""

    kept: list[Kept]
    fewer_from: Count | None
    context: Count
    itemsize: Count


class Units(TypedDict, total=False):
    """Which units of the teacher a student has."""

    layers: list[Count]


class Lineage(TypedDict, total=False):
    """What a student was cut out of."""

    kept: Units
    method: str


class Run(TypedDict, total=False):
    """run.json."""

    signature: dict[str, Any]
    settings: dict[str, Any]
    command: str | list[str]
    versions: dict[str, str]
    started: str
    ended: str
    seconds: Seconds
    teacher: Model | None
    student: Model | None
    objective: str | None
    plan: Plan | None
    doctor: list[Finding]
    lineage: Lineage | None
    conversion: Conversion | None
    state: State | None
    verdict: str | None
    members: list[Bare]
    objectives: list[str]


class FamilySignature(TypedDict):
    """What decides a family's result, as far as its report has it."""

    seeds: Count


class Family(TypedDict):
    """run.json of a family."""

    signature: FamilySignature
    command: list[str]
    members: list[Bare]
    objectives: NotRequired[list[str]]


class MemberModel(TypedDict):
    """Teacher or student of one of a family."""

    name: str
    parameters: Positive


class MemberPlan(TypedDict):
    """How much one of a family is trained on."""

    tokens: Count


class Member(TypedDict):
    """run.json of one of a family, once it is trained."""

    teacher: MemberModel
    student: MemberModel
    objective: str
    plan: MemberPlan


class Difference(TypedDict):
    """What the student gained over another model."""

    name: str
    value: float | None
    unit: str
    low: float | None
    high: float | None
    seeds: Count
    chance: NotRequired[float | None]
    holm: NotRequired[float | None]
    outcome: NotRequired[str]


class Verdict(TypedDict):
    """verdict.json."""

    outcome: str
    text: str
    notes: list[str]
    differences: list[Difference]


class Step(TypedDict, total=False):
    """A row of metrics.jsonl; which losses it has depends on what was minimised."""

    step: Count
    tokens: Count
    loss_nats: float | None
    tokens_per_s: float | None
    peak_rss_gib: float | None


class Sample(TypedDict):
    """How a document goes on."""

    document: str
    prompt: str
    text: NotRequired[str]
    student: NotRequired[str]
    teacher: NotRequired[str]


class KLExample(TypedDict):
    """A prediction where student and teacher differ."""

    document: str
    before: str
    token: str
    after: str
    kl: float
    teacher_top: list[tuple[str, float]]
    student_top: list[tuple[str, float]]
