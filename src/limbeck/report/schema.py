"""Types of the files that a report is made from; a file whose parts are of another type is refused.

Any part may be missing, and unknown parts are ignored: other versions of limbeck wrote more or fewer.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from limbeck.disk import Bare, Count

Positive = Annotated[int, Meta(gt=0, lt=2**53)]
Seconds = Annotated[float, Meta(ge=0, lt=1e12)]


class Aligned(TypedDict, total=False):
    """The share of the text for which a teacher with another tokenizer has targets."""

    coverage: float


class Model(TypedDict, total=False):
    """A teacher or a student."""

    name: str
    parameters: Positive | None
    shape: str | dict[str, int | str] | None
    answers: str
    aligned: Aligned


class Plan(TypedDict, total=False):
    """The training of the student."""

    steps: Count
    rows: Count
    length: Count
    tokens: Count
    learning_rate: float
    schedule: str
    eval_every: Count
    patience: Count | None
    stop_when: str


class Finding(TypedDict):
    """A finding of the checks before a run."""

    check: str
    level: str
    message: str
    remedy: str


class ConvertedLayer(TypedDict):
    """The mixer that replaced a layer's attention."""

    mixer: str
    taken: str
    fresh: str


class Damage(TypedDict):
    """The loss where one layer has no attention; the first is of no layer."""

    layer: Count | None
    hits: float
    elsewhere: float
    damage: float


class Conversion(TypedDict):
    """The mixers that replaced attention, and the errors of their matching."""

    mixers: NotRequired[list[str]]
    converted: list[ConvertedLayer]
    tokens: dict[str, Count]
    error: dict[str, float]
    damage: list[Damage] | None
    attention_parameters: NotRequired[Positive]


class Kept(TypedDict):
    """Bytes that teacher and student keep for a text."""

    tokens: Count
    teacher: Annotated[float, Meta(gt=0)]
    student: Annotated[float, Meta(ge=0)]


class State(TypedDict):
    """Bytes kept for texts, and the length from which the student keeps fewer."""

    kept: list[Kept]
    fewer_from: Count | None
    context: Count
    itemsize: Count


class Units(TypedDict, total=False):
    """Which units of the teacher a student has."""

    layers: list[Count]


class LowRank(TypedDict, total=False):
    """The factors that the matrices of a student's layers are: by name the rank and the number of entries kept apart."""

    method: str
    keep: float
    sparse: float
    dense: bool
    ranks: dict[str, list[Count]]


class Round(TypedDict):
    """A round of pruning before the last: the parameters that it left, and the tokens that they were trained on."""

    parameters: Count
    tokens: Count


class SharedLayers(TypedDict):
    """The shared layers that a student was expanded from, and what their training cost all students of the family together."""

    kind: str
    layers: Count
    stages: list[Count]
    parameters: NotRequired[Count]
    students: NotRequired[Positive]
    tokens: NotRequired[Count]
    flops: NotRequired[float]
    own_tokens: NotRequired[Count]
    own_flops: NotRequired[float]


class Lineage(TypedDict, total=False):
    """Which units of its teacher a student was pruned to, and how a mixture of ``experts`` became dense before that."""

    kept: Units
    method: str
    low_rank: LowRank
    rounds: list[Round]
    learngene: SharedLayers
    experts: dict[str, Any]


class Started(TypedDict):
    """The model from which `limbeck pretrain --start` went on, and the SHA-256 of its weights."""

    name: str
    weights: str


class Run(TypedDict, total=False):
    """run.json."""

    signature: dict[str, Any]
    settings: dict[str, Any]
    command: str | list[str]
    versions: dict[str, str]
    started: str
    ended: str
    seconds: Seconds
    start: Started | None
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
    """The part of a sweep's signature that its report shows."""

    seeds: Count


class Family(TypedDict):
    """run.json of a sweep."""

    signature: FamilySignature
    command: list[str]
    members: list[Bare]
    objectives: NotRequired[list[str]]


class MemberModel(TypedDict):
    """Teacher or student of one run of a sweep."""

    name: str
    parameters: Positive


class MemberPlan(TypedDict):
    """How much text one run of a sweep is trained on."""

    tokens: Count


class Member(TypedDict):
    """run.json of one run of a sweep, once it is trained."""

    teacher: MemberModel
    student: MemberModel
    objective: str
    plan: MemberPlan


class Difference(TypedDict):
    """The student's gain over another model."""

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
    lr: float | None
    grad_norm: float | None
    tokens_per_s: float | None
    peak_rss_gib: float | None
    rollouts: Count
    rollout_tokens: Count
    rollouts_ended: Count
    rollouts_cut: Count
    unanswered: Count
    row_tokens: Count
    passed: Count
    groups: Count
    groups_alike: Count
    reward_sum: float
    kl_sum: float
    entropy_sum: float
    contain_answer: Count


class Training(TypedDict):
    """training.json: how far a training went that could end early, and which of its weights were taken."""

    steps: Count
    of: Count
    tokens: Count
    patience: Count | None
    taken_step: Count
    stopped_by: NotRequired[str]


class Watched(TypedDict):
    """A row of held_out.jsonl: what was measured during a training."""

    step: Count
    tokens: Count
    loss_nats: float
    low: NotRequired[float]
    high: NotRequired[float]
    n: Count
    predictions: Count
    seconds: Seconds
    overlap: NotRequired[float]
    kl_own_texts: NotRequired[float]
    entropy_own_texts: NotRequired[float]
    texts_ended: NotRequired[float]
    tokens_own_texts: NotRequired[float]
    own_texts: NotRequired[Count]


class Answered(TypedDict):
    """Greedy answers to a held-out prompt by the tuned model and the model before, and whether they pass."""

    prompt: str
    student: str
    student_passed: bool
    cut: str
    cut_passed: bool


class Sample(TypedDict):
    """Continuations of a held-out document."""

    document: str
    prompt: str
    text: NotRequired[str]
    student: NotRequired[str]
    teacher: NotRequired[str]
    model: NotRequired[str]
    model_sampled: NotRequired[str]
    student_sampled: NotRequired[str]
    teacher_sampled: NotRequired[str]


class KLExample(TypedDict):
    """A prediction where student and teacher differ."""

    document: str
    before: str
    token: str
    after: str
    kl: float
    teacher_top: list[tuple[str, float]]
    student_top: list[tuple[str, float]]
