"""The plan of `limbeck tune --reward`, from settings, the configuration and the prompts, before any weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from limbeck.config import ANSWERS, TuneSettings, flag_of
from limbeck.corpora.mixture import Mixture
from limbeck.errors import BadSetting, Mismatch
from limbeck.jobs.common.adapters import planned_matrices, size_of
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import signature_of
from limbeck.jobs.tune.plan import adapters_of, check_formats
from limbeck.jobs.tune.reward.questions import Questions, questions_of
from limbeck.models.configuration import load_config
from limbeck.models.source import resolve_description
from limbeck.models.weightless import load_without_weights
from limbeck.planning.cost.adapters import AdapterSize, step_flops
from limbeck.planning.cost.size import Size
from limbeck.run.questions import Question
from limbeck.run.samples import Sampling, longest_row
from limbeck.students.adapters import AdapterPlan

PROMPTS, STEPS = (
    16,
    100,
)  # where --batch-tokens does not say: prompts of a step at most, and steps of a training at least

# Settings of a tuning on text, and why they would do nothing, or something else
_OF_TEXT = {
    "objective": "it is the loss on a text",
    "replay": "no text is read",
    "stay": "the reward's beta keeps the model near its start",
    "mask_input": "no text is read",
    "length": "rows are as long as a prompt with its answer, of which --rollout-tokens is the longest",
    "long_conversations": "prompts are read whole",
    "frame": "prompts begin as the chat template, or the tokenizer, begins them",
    "dedup": "prompts are read as they are",
    "text_processes": "prompts are read by one process",
    "eval_every": "the loss on held-out text says nothing of a reward",
    "patience": "the loss on held-out text says nothing of a reward",
    "weights": "the loss on held-out text says nothing of a reward",
    "subspace": "it is of the gradient of a text",
}


@dataclass(frozen=True)
class RewardPlan:
    """The plan of a tuning by a reward: ``steps`` of ``rows`` answers, in rows of at most ``length`` tokens.

    ``adapters`` None trains all weights; ``matrices`` are the shapes of the weights that get one.
    """

    settings: TuneSettings
    questions: Questions
    adapters: AdapterPlan | None
    size: Size
    matrices: tuple[tuple[int, ...], ...]
    length: int
    rows: int
    steps: int

    @classmethod
    def of(cls, settings: TuneSettings, environment: Environment) -> RewardPlan:
        """The plan of the settings. Raises a LimbeckError for settings, prompts or a model that do not fit."""
        _check(settings, environment)
        adapters = adapters_of(settings)
        check_formats(settings, adapters)
        config = load_config(settings.student)
        model = load_without_weights(resolve_description(settings.student), name=settings.student)
        questions = questions_of(settings, model)
        if ANSWERS in (settings.baselines or ()) and not questions.known:
            fits = " that fits the model's context with its prompt" if questions.long else ""
            raise BadSetting(
                f"--baselines {ANSWERS}: it learns the answers of the records, and none of {settings.data} has one{fits}: add "
                "'completion' or 'answer', or leave it out"
            )
        length = longest_row([*questions.train, *questions.held_out, *questions.choosing], settings.rollout_tokens)
        if length > model.context:
            raise Mismatch(
                f"rows of {length} tokens do not fit the context of {settings.student}, which is {model.context}"
            )
        matrices = () if adapters is None else planned_matrices(config, adapters, name=settings.student)
        rows, steps = _batch(settings, length, environment.world.size)
        return cls(settings, questions, adapters, Size.of(config), matrices, length, rows, steps)

    @property
    def reward(self) -> str:
        """The reward and its options, as text."""
        assert self.settings.reward is not None, "it is asked for"
        return self.settings.reward

    @property
    def longest(self) -> int:
        """The tokens of the longest row of any training, which memory is needed for: also of known answers that are learned."""
        known = self.questions.known if ANSWERS in self.compared else ()
        return max([self.length, *(len(one.prompt) + len(one.answer) for one in known)])

    @property
    def compared(self) -> tuple[str, ...]:
        """The baselines: those that are named, or the known answers where there are some."""
        if self.settings.baselines is not None:
            return self.settings.baselines
        return (ANSWERS,) if self.questions.known else ()

    def sampling(self, environment: Environment) -> Sampling:
        """How the model is sampled in each step."""
        return Sampling(self.settings.samples, self.settings.rollout_tokens, bf16=environment.bf16)

    @property
    def adapter_size(self) -> AdapterSize | None:
        """What the adapters cost, None where all weights are trained."""
        return None if self.adapters is None else size_of(self.adapters, self.matrices)

    @property
    def numbers(self) -> int:
        """How many numbers the adapters have; 0 where all weights are trained."""
        return self.adapter_size.numbers if self.adapter_size else 0

    def flops(self, tokens: float, *, sampled: bool) -> float:
        """FLOPs of training on rows of so many tokens: a forward and a backward pass.

        Where they are ``sampled``, also a pass that generates them, and one by the model and one by its start that scores them.
        """
        forward = self.size.forward_flops(self.length)
        return tokens * (step_flops(self.size, self.length, self.adapter_size) + (3 * forward if sampled else 0.0))

    def signature(self, environment: Environment) -> dict[str, Any]:
        """All that decides the result of the run, as run.json stores it."""
        settings = self.settings
        derived: dict[str, Any] = {
            "reward": self.reward,
            "samples": settings.samples,
            "questions": self.questions.digest,
        }
        derived |= {"rollout_tokens": settings.rollout_tokens, "length": self.length, "rows": self.rows}
        derived |= {"steps": self.steps, "bf16": environment.bf16, "baselines": list(self.compared)}
        return signature_of(settings, "tune", **derived)

    def tokens_of(self, questions: list[Question] | tuple[Question, ...]) -> int:
        """Tokens of prompts and known answers."""
        return sum(len(one.prompt) + len(one.answer) for one in questions)


def _check(settings: TuneSettings, environment: Environment) -> None:
    """Raises BadSetting for settings that a reward does not go with, each with its reason."""
    what = f"--reward {settings.reward}"
    for name, why in _OF_TEXT.items():
        if name in settings.model_fields_set and getattr(settings, name) is not None:
            raise BadSetting(f"{flag_of(TuneSettings, name)} does not go with {what}: {why}: leave it out")
    if settings.samples < 2:
        raise BadSetting(
            f"--samples {settings.samples}: an answer is compared with the others of its prompt, so a reward needs at least 2: "
            "give --samples 8"
        )
    if settings.trained == "lora-xs":
        raise BadSetting(
            f"--trained lora-xs freezes directions of the gradient of a text, and {what} reads none: give --trained lora, or "
            "leave it out"
        )
    if Mixture.of(settings.data) is not None:
        raise BadSetting(
            f"{what}: --data with weights is not read as prompts: give one source, or several joined by commas"
        )
    for name in settings.baselines or ():
        if name != ANSWERS:
            raise BadSetting(
                f"--baselines {name}: it is a tuning on text; with {what} there is {ANSWERS}, cross-entropy on known answers, or "
                "none"
            )
    if environment.world.sharded:
        raise BadSetting(
            f"{what}: its processes sample answers of different lengths, and --mesh {settings.mesh} spreads the weights: leave "
            "it out"
        )


def _batch(settings: TuneSettings, length: int, ranks: int) -> tuple[int, int]:
    """(answers of one step, steps): whole groups of samples for each process. Raises BadSetting for less than one step."""
    unit = settings.samples * ranks
    usual = min(PROMPTS * settings.samples * length, settings.tokens / STEPS)
    rows = max(1, round((settings.batch_tokens or usual) / length / unit)) * unit
    steps = round(settings.tokens / (rows * length))
    if steps == 0:
        raise BadSetting(
            f"--tokens {settings.tokens} is less than one step of {rows // settings.samples} prompts x {settings.samples} "
            f"answers in rows of {length} tokens: give {rows * length} or more, or smaller --batch-tokens, --samples or "
            "--rollout-tokens"
        )
    return rows, steps
