"""The commands: what each does, which settings it takes. The command line, the API and the reference pages follow this table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from limbeck.config import settings
from limbeck.config.flag import SECTIONS, Setting, settings_in


@dataclass(frozen=True)
class Command:
    """One command. Without ``only`` it takes all settings of its class but ``without``; ``help`` is its own words for some.

    ``result`` is the class of what its Python function gives, "" for one that has none. ``models`` are settings that name models,
    which must be there before anything is loaded. ``file``: it takes a TOML run file.
    """

    name: str
    settings: type[settings.Base]
    summary: str
    details: str = ""
    result: str = ""
    file: bool = False
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    help: Mapping[str, str] = field(default_factory=dict)

    def taken(self) -> Iterator[Setting]:
        """The settings it takes, as help shows them: arguments by position, then section by section."""
        names = [*(self.only or settings_in(self.settings))]
        found = [settings_in(self.settings)[name] for name in names if name not in self.without]
        place = {name: number for number, name in enumerate(("", *SECTIONS))}
        yield from sorted(found, key=lambda setting: (place[setting.flag.section], setting.flag.last))

    def described(self, setting: Setting) -> str:
        """The description of a setting in this command."""
        return setting.described(self.help.get(setting.attribute, ""))


_TEXT = ("data", "columns", "skip_bad", "length", "long_conversations")
_BUILTIN = "builtin:stdlib or builtin:smollm2-135m"
_LOCAL = f"Teacher: a folder, a .gguf file, a hub id, {_BUILTIN}."
_MODELS = ("teacher", "student", "tokenizer")
_TEACHERS = ("teacher", "tokenizer")

COMMANDS = (
    Command(
        "plan",
        settings.PlanSettings,
        "Choose a teacher for a student, or a student for a device, and say what it costs.",
        "Reads configurations alone, no weights. With --bytes: the shapes that fit a file. With --mixers: state, FLOPs and "
        "parameters of a mixture of layers, beside attention everywhere.",
        result="PlanResult",
    ),
    Command(
        "doctor",
        settings.DistilSettings,
        "Check that a teacher, a student and a dataset belong together, and say what the run would cost.",
        "Takes the flags of limbeck distil, and trains nothing.",
        result="DoctorResult",
        file=True,
        models=_MODELS,
        help={"teacher": f"Teacher: a folder, a .gguf file, a hub id, a folder of captured logits, {_BUILTIN}."},
    ),
    Command(
        "shrink",
        settings.ShrinkSettings,
        "Prune a student out of a teacher, without training it.",
        "Structured pruning of layers, heads, channels and MLPs to a number of parameters or bytes; saves an ordinary model "
        "folder. With --low-rank, factors of its matrices instead.",
        result="ShrinkResult",
        only=(
            *(
                "teacher",
                "params",
                "shrink",
                "shape",
                "weight_bytes",
                "body_params",
                "vocab",
                "experts",
                "method",
                "depth",
                "low_rank",
                "factor",
                "sparse",
                "dense",
                "data",
                "columns",
                "skip_bad",
                "length",
            ),
            *("long_conversations", "frame", "student_dtype", "seed", "device", "out", "json_"),
        ),
        models=_MODELS,
        help={
            "teacher": _LOCAL,
            "params": "Parameters of the student.",
            "data": "Dataset on which importance is scored, in the forms that limbeck distil reads.",
        },
    ),
    Command(
        "grow",
        settings.GrowSettings,
        "Make a larger model of the same architecture out of a small trained one, without training it.",
        "Saves an ordinary model folder, and measures how far its logits are from the small model's; a model inside a run is "
        "measured on text that the run was not trained on. Layers that students share (limbeck distil --learngene) are expanded "
        "to --shape layers=INT.",
        result="GrowResult",
        only=(
            *("model", "op", "shape", "new_layers", "second", "off_diagonal", "data", "columns", "skip_bad", "length"),
            *("seed", "device", "threads", "out", "json_"),
        ),
        models=("model", "second"),
        help={
            "data": "Text on which it is measured, in the forms that limbeck distil reads.",
            "seed": "Seed of what makes copies differ.",
        },
    ),
    Command(
        "distil",
        settings.DistilSettings,
        "Make a small model out of a large one, and report what it is worth.",
        "Prunes a student out of the teacher unless one is given, trains it and its baselines, evaluates all of them on held-out "
        "text, and writes report.html. The same command continues a run that was stopped.",
        result="DistilResult",
        file=True,
        models=_MODELS,
    ),
    Command(
        "tune",
        settings.TuneSettings,
        "Tune a model on instructions or other text, and report what it learned and what it forgot.",
        "Trains all weights or adapters, evaluates the model before and after on held-out text, and writes report.html. The same "
        "command continues a run that was stopped.",
        result="TuneResult",
        file=True,
        models=("student",),
        help={
            "frame": "Token that plain documents begin with: one of the model's, none, or auto.",
        },
    ),
    Command(
        "capture",
        settings.CaptureSettings,
        "Compute a teacher's logits on a dataset once, and keep them for any number of students.",
        "With --text: keep completions that the teacher generates. With --pairs: make preference pairs of a student's texts. The "
        "same command continues a capture that was stopped.",
        result="CaptureResult",
        file=True,
        without=("batch_tokens", "lr", "schedule"),
        models=(*_TEACHERS, "pairs"),
        help={
            "teacher": f"Teacher: a folder, a .gguf file, a hub id, http://HOST:PORT/v1#MODEL, {_BUILTIN}.",
            "seed": "Seed of what is sampled.",
        },
    ),
    Command(
        "cache inspect",
        settings.InspectSettings,
        "Show what is in a folder of captured logits, and what it was made from.",
    ),
    Command(
        "cache verify",
        settings.VerifySettings,
        "Read all captured logits, and compute some again; exits with 1 where something is wrong.",
        help={"seed": "Seed of which sequences are computed again."},
    ),
    Command("cache merge", settings.MergeSettings, "Put the shards of several machines together."),
    Command(
        "cache choose",
        settings.CaptureSettings,
        "Measure what several codecs and sizes of captured logits lose, before any are captured.",
        only=("teacher", *_TEXT, "bytes_per_token", "kind", "seed", "device", "dtype", "threads", "json_"),
        models=_TEACHERS,
        help={
            "teacher": _LOCAL,
            "bytes_per_token": "A size to look at besides the usual ones, in bytes of each token.",
            "kind": "Look at one codec alone: sampled or top-k.",
            "seed": "Seed of what is sampled.",
        },
    ),
    Command(
        "constraints write",
        settings.ConstraintsSettings,
        "Write random prompts with constraints that a program checks, as a JSONL file.",
        "Each prompt asks for something and says what the answer must look like: its length, words that it has or lacks, JSON. "
        "Constraints of one prompt can be followed together. limbeck probe --probe constraints --task FILE measures a model on "
        "them.",
        help={"seed": "Seed of the prompts."},
    ),
    Command(
        "rank",
        settings.RankSettings,
        "Rank the completions of each prompt by how much their rationales help a student to the answer.",
        "Reads what limbeck capture --text --samples writes, or any prompts with completions, several of each. The gain of a "
        "rationale is how much it raises the student's log-probability of the answer, where what states the answer is left out. "
        "The best completions are written as they are, with their gain.",
        only=("student", "data", "columns", "skip_bad", "mark", "keep", "device", "dtype", "threads", "out", "json_"),
        models=("student",),
        help={
            "data": "Prompts with completions, in the forms that limbeck tune reads; the field answer is the known answer."
        },
    ),
    Command(
        "probe",
        settings.ProbeCommandSettings,
        "Measure a model: likelihood, calibration, cost, fidelity to a teacher, recall, arithmetic, or a task.",
        "A model inside a run is measured on text that the run was not trained on.",
        result="ProbeResult",
        only=(
            *(
                "model",
                "probe",
                "teacher",
                "task",
                "tasks",
                "target",
                "guard",
                "styles",
                "successes",
                "max_samples",
                *_TEXT,
                "seed",
                "device",
            ),
            *("mesh", "threads", "out", "json_"),
        ),
        models=("model", "teacher"),
        help={"seed": "Seed of samples and of the questions that are asked."},
    ),
    Command(
        "chat",
        settings.ChatSettings,
        "Let a model answer in the terminal, or two side by side.",
        "A model without a chat template continues what is written. Lines of a pipe are answered one by one; with "
        "--json each gives "
        "one JSON object.",
        only=("model", "beside", "max_new_tokens", "temperature", "seed", "device", "dtype", "threads", "json_"),
        models=("model", "beside"),
        help={"seed": "Seed of what is sampled."},
    ),
    Command(
        "export",
        settings.ExportSettings,
        "Write a model in other formats, run each by its own program and compare it with the model.",
        "A model inside a run is compared on text that the run was not trained on. Each format has a folder of its "
        "own; one alone is "
        "the folder of --out.",
        result="ExportResult",
        only=("model", "to", "dtype", "data", "columns", "skip_bad", "device", "threads", "out", "json_"),
        models=("model",),
        help={"data": "Text on which the exports are compared with the model, in the forms that limbeck distil reads."},
    ),
    Command(
        "import",
        settings.ImportSettings,
        "Make an ordinary model folder of a GGUF file, of a quantised model, or of adapters of PEFT and their base.",
        "Commands that take a model take a GGUF file itself, and keep such a folder in the user's cache; this writes one by "
        "name. A quantised model may teach as it is; students are cut out of what this writes.",
        models=("model", "base"),
    ),
    Command(
        "push",
        settings.PushSettings,
        "Send a student or an export to the Hugging Face hub, with its card.",
        "Only files of the model are sent. The card gets base model, licence, data sets, and the run's readings as model-index.",
    ),
    Command(
        "report",
        settings.FolderSettings,
        "Write report.html again, from the files of a run.",
        only=("folder",),
        help={"folder": "Folder of a run."},
    ),
    Command(
        "pilot",
        settings.PilotSettings,
        "Train a ladder of small teachers and students on your data, to see which teacher is best.",
        result="PilotResult",
        file=True,
    ),
    Command(
        "predict",
        settings.PredictSettings,
        "Predict the score of a larger model on a task from those of smaller ones, and check earlier predictions.",
        result="PredictResult",
    ),
    Command(
        "pretrain",
        settings.PretrainSettings,
        "Train a model from scratch, with a tokenizer of its own.",
        result="PretrainResult",
        file=True,
    ),
    Command(
        "reproduce",
        settings.ReproduceSettings,
        "Reproduce a published result: confirmed, refuted or inconclusive, by a criterion that stood before.",
        result="ReproduceResult",
    ),
    Command(
        "verify",
        settings.FolderSettings,
        "Compare every file of a folder with the checksum it got when it was written; exits with 1 where one is damaged.",
    ),
    Command(
        "selftest",
        settings.Base,
        "Check every objective on this machine against float64, in under a minute.",
        without=("json_",),
    ),
)

BY_NAME = {command.name: command for command in COMMANDS}
GROUPS = {
    "cache": "Look at, check, merge and choose captured logits.",
    "constraints": "Write prompts with constraints that a program checks.",
}
