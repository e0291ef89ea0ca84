"""Settings of `limbeck distil`, and of `shrink` and `doctor`, which take the same student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from limbeck.config.flag import Flag
from limbeck.config.settings.common import (
    BodyParams,
    MaskedInput,
    MeshText,
    Params,
    RunSeeds,
    Shape,
    StudentShrink,
    TeacherSettings,
    WeightBytes,
)
from limbeck.config.settings.training import TrainingSettings
from limbeck.config.values import (
    ATTENTION,
    BASELINES,
    FULL,
    LAYERS,
    OFF_POLICY,
    ONE_TEACHER,
    PTQ,
    STAGES,
    UNCORRECTED,
    UNMASKED,
    Baselines,
    Count,
    Counts,
    Depths,
    Learngene,
    MixerNames,
    ObjectiveText,
    Rollouts,
    Stages,
    StopWhen,
    TaskNames,
    by_domain,
    split_objectives,
)

OBJECTIVE_SYNONYMS = (
    "loss",
    "loss_fn",
    "loss_type",
    "criterion",
    "kd_loss",
    "rlhf_type",
    "kd_ratio",
    "sft_alpha",
    "beta",
    "temperature",
)


class DistilSettings(TrainingSettings, TeacherSettings):
    """The keys of `limbeck distil`, which are also its flags. ``keep_attention`` and ``match`` belong to ``mixers``.

    ``cache_logits``: whether the teacher's logits are kept and used again, None where that is decided by how often they would be.
    """

    student: Annotated[
        str | None,
        Flag(
            "Model to start from: a folder or hub id.",
            "Model",
            metavar="MODEL",
            default="a student pruned out of the teacher",
            synonyms=("student_model", "student_model_name_or_path", "base_model"),
        ),
    ] = None
    params: Annotated[
        Counts,
        Flag(
            "Parameters of the student; several sizes are as many students.",
            "Model",
            examples=("250k", "1.3B", "1B,600M,300M"),
            synonyms=("parameters", "num_params", "student_size", "prune_target_params", "target_params"),
        ),
    ] = None
    shrink: StudentShrink = None
    shape: Shape = None
    weight_bytes: WeightBytes = Field(default=None, exclude=True)
    body_params: BodyParams = Field(default=None, exclude=True)
    rounds: Annotated[
        int,
        Flag(
            "Prune in so many rounds, with training between them; all share --tokens, half of which the last has.",
            "Model",
            unit="rounds",
            examples=("2",),
            synonyms=("iterations", "pruning_rounds", "num_rounds", "iterative_steps", "prune_iterations"),
        ),
    ] = Field(default=1, ge=1, le=8, exclude=True)
    depths: Annotated[
        Depths,
        Flag(
            "Students of so many layers of the teacher, each as wide as it is.",
            "Model",
            examples=("3,4,6",),
            synonyms=("num_layers", "layers", "num_hidden_layers", "n_layers"),
        ),
    ] = Field(default=None, exclude=True)
    learngene: Annotated[
        Learngene,
        Flag(
            "Expand all students from layers that are distilled once, with weights shared in so many stages (SWS) or linear in "
            "depth (TLEG); that takes half of --tokens.",
            "Model",
            needs="--depths",
            default="each is pruned out of the teacher",
            examples=("stages=3", "linear"),
            synonyms=("shared_layers", "weight_sharing", "sws", "tleg", "stages"),
        ),
    ] = Field(default=None, exclude=True)
    experts: Annotated[
        Literal["chosen", "merged"] | None,
        Flag(
            "How a mixture of experts becomes a dense student: the experts with the largest routing weights are chosen, or all "
            "are merged into as many.",
            "Model",
            default="chosen",
            synonyms=("moe_to_dense", "expert_merging", "num_experts"),
        ),
    ] = Field(default=None, exclude=True)
    method: Annotated[
        Literal["activation", "gradient", "wanda", "random"],
        Flag(
            "What scores the heads, neurons and channels of which a pruned student keeps the best: activation, gradient, wanda, "
            "or random, a control.",
            "Model",
            metavar="SCORE",
            synonyms=("importance", "pruning_method", "prune_method", "importance_score", "saliency"),
        ),
    ] = Field(default="activation", exclude=True)
    depth: Annotated[
        Literal["influence", "angular", "greedy", "random"] | None,
        Flag(
            "What chooses the layers that a pruned student keeps: influence (of each block), angular (over consecutive layers), "
            "greedy (by measured loss, one after the other), or random.",
            "Model",
            metavar="SCORE",
            default="influence; random with --method random",
            synonyms=("layer_importance", "drop_layers", "depth_pruning", "layer_method"),
        ),
    ] = Field(default=None, exclude=True)
    low_rank: Annotated[
        float | None,
        Field(gt=0, lt=1),
        Flag(
            "Keep this share of the parameters of each layer's matrices, as factors of low rank; layers and widths stay.",
            "Low rank",
            examples=("0.6",),
            synonyms=("rank_ratio", "svd", "compression_ratio", "keep", "param_ratio"),
        ),
    ] = Field(default=None, exclude=True)
    factor: Annotated[
        Literal["whitened", "asvd", "svd"],
        Flag(
            "How factors are fitted: to what the matrix computes on --data, to its inputs' sizes, or to the matrix alone.",
            "Low rank",
            needs="--low-rank",
        ),
    ] = Field(default="whitened", exclude=True)
    sparse: Annotated[
        float,
        Field(ge=0, lt=0.5),
        Flag(
            "Share of a matrix's entries that are kept apart from its factors, within the same parameters.",
            "Low rank",
            needs="--low-rank",
            examples=("0.02",),
        ),
    ] = Field(default=0.0, exclude=True)
    mixers: Annotated[
        MixerNames,
        Flag(
            "Replace attention by these mixers, layer by layer, or by one of them with --keep-attention.",
            "Mixture of layers",
            examples=("attention*1,gdn*3",),
            synonyms=("mixer", "hybrid_pattern", "layer_types"),
        ),
    ] = None
    keep_attention: Annotated[
        int | None,
        Field(ge=1, le=2**16),
        Flag(
            "Number of layers that keep attention, those whose loss harms recall most.",
            "Mixture of layers",
            needs="--mixers",
            unit="layers",
        ),
    ] = None
    match: Annotated[
        Stages,
        Flag(
            "What is matched to attention before distillation, mixers, blocks or none; a tenth of --tokens each.",
            "Mixture of layers",
            needs="--mixers",
            default=",".join(STAGES),
        ),
    ] = None
    trained: Annotated[
        Literal["full", "lora", "qlora"],
        Flag(
            "What of the student is trained: all weights, or adapters of low rank, which are merged at the end and also kept as "
            "files of PEFT; with qlora on weights in 4 bits.",
            "Model",
            synonyms=("finetuning_type", "peft", "peft_type", "use_peft", "use_lora", "adapter_type", "load_in_4bit"),
        ),
    ] = Field(default="full", exclude=True)
    rank: Annotated[
        int,
        Field(ge=1, le=2**16),
        Flag(
            "Rank of the adapters, whose products are scaled by two.",
            "Model",
            needs="--trained lora or qlora",
            synonyms=("r", "lora_r", "lora_rank", "lora_dim"),
        ),
    ] = Field(default=16, exclude=True)
    student_dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        Flag(
            "Number format of the student's file.",
            "Output",
            default="that of the teacher",
            synonyms=("save_dtype", "export_dtype"),
        ),
    ] = None
    objective: Annotated[
        ObjectiveText,
        Flag(
            "Distillation loss, by name, as a weighted sum, or FILE.py:CLASS; several between commas are as many students.",
            "Training",
            examples=("'TAID(start=0.2)'", "'0.5*CrossEntropy + 0.5*ForwardKL'", "'ForwardKL, TAID'"),
            synonyms=OBJECTIVE_SYNONYMS,
        ),
    ] = "ForwardKL"
    mask_input: MaskedInput = Field(default=None, exclude=True)
    tokenizer_align: Annotated[
        Literal["bytes", "tokens"] | None,
        Flag(
            "The student has a tokenizer of its own: bytes trains it on the likelihoods of chunks of equal bytes (ALM, ULD), "
            "tokens on the teacher's distribution over tokens that both spell alike, and on the text where the next one is "
            "none (ForwardKL and others).",
            "Training",
            synonyms=("cross_tokenizer", "use_uld_loss", "uld", "dtw"),
        ),
    ] = None
    adapt_teacher: Annotated[
        Count | None,
        Flag(
            "Tune the teacher by adapters on so many tokens of the text before it teaches (teacher correction).",
            "Training",
            unit="tokens",
            examples=("200k",),
            default="the teacher as given",
            synonyms=("teacher_correction", "correct_teacher", "finetune_teacher", "teacher_tuning"),
        ),
    ] = Field(default=None, exclude=True)
    qat: Annotated[
        Literal["int8", "int4"] | None,
        Flag(
            "Train with quantised weights, as --to gguf:q8_0 (int8) or gguf:q4_0 (int4) of limbeck export writes them.",
            "Training",
            default="full precision",
            synonyms=(
                "quantize",
                "quantization",
                "quant_cfg",
                "qat_scheme",
                "quantization_aware",
                "load_in_4bit",
                "load_in_8bit",
            ),
        ),
    ] = Field(default=None, exclude=True)
    rollouts: Annotated[
        Rollouts,
        Flag(
            "Share of the rows of each step that the student generates itself, for the teacher to judge; 0:0.5 rises to 0.5.",
            "On-policy",
            default="none",
            examples=("0.5", "0:0.5"),
            synonyms=("on_policy", "lmbda", "lambda", "student_data_fraction", "opd"),
        ),
    ] = Field(default=None, exclude=True)
    rollout_tokens: Annotated[
        Count,
        Flag(
            "The longest text that the student generates from a prompt.",
            "On-policy",
            needs="--rollouts",
            unit="tokens",
            synonyms=("max_completion_length", "max_new_tokens", "max_response_length"),
        ),
    ] = Field(default=128, exclude=True)
    rollout_temperature: Annotated[
        float,
        Field(gt=0, le=100),
        Flag(
            "Temperature at which the student generates; 1 is its own distribution.",
            "On-policy",
            needs="--rollouts",
            synonyms=("sampling_temperature",),
        ),
    ] = Field(default=1.0, exclude=True)
    stop_when: Annotated[
        StopWhen,
        Flag(
            "End the training once the student's own texts, measured with --eval-every, pass a limit: overlap, entropy (nats a "
            "token) or ended (share of the texts) below it, or tokens of a text above it.",
            "On-policy",
            needs="--rollouts",
            default="never",
            examples=("overlap:0.6,tokens:100",),
            synonyms=("stop_on", "stop_condition", "early_stop_rollouts", "max_mean_length"),
        ),
    ] = Field(default=None, exclude=True)
    domain_weights: Annotated[
        Literal["tokens", "equal"],
        Flag(
            "With several teachers: each token counts alike, or each domain has the same share of the loss of a step.",
            "Training",
            synonyms=("target_gradient_shares", "domain_weighting", "teacher_weights"),
        ),
    ] = Field(default="tokens", exclude=True)
    cache_logits: Annotated[
        bool | None,
        Flag(
            "Compute the teacher's logits once and keep them, or compute them each time.",
            "Training",
            off="no-cache-logits",
            default="kept where the text is read often",
            synonyms=("cache", "offline", "offline_logits"),
        ),
    ] = Field(default=None, exclude=True)
    seeds: RunSeeds = 1
    baselines: Annotated[
        Baselines,
        Flag(
            "What the student is compared with: cut (pruned, untrained), cut+ce (trained on the text alone for equal tokens), "
            "cut+ce@flops (for equal compute), fresh+kd (a new model, distilled), attention (with --mixers), ptq (with --qat: "
            "quantised after the same training), off-policy and off-policy@flops (with --rollouts: distilled on the text alone), "
            "layers+kd (with --learngene: layers of the teacher, distilled for equal tokens), full and full@flops (with "
            "--trained lora: all weights, for equal tokens and for equal compute), uncorrected and uncorrected@flops (with "
            "--adapt-teacher: from the teacher as given), unmasked (with --mask-input: on plain input), one-teacher and "
            "one-teacher@flops (with several teachers: from the first alone), or none.",
            "Comparison",
            default="{}; with --mixers also attention, with --qat also ptq, with --mask-input also unmasked, with "
            "--rollouts also off-policy and "
            "off-policy@flops, with --learngene also layers+kd, with --trained lora also full and full@flops, with --trained "
            "qlora not fresh+kd, with --adapt-teacher also uncorrected and uncorrected@flops, with several teachers also "
            "one-teacher and one-teacher@flops",
            synonyms=("baseline", "compare", "compare_with"),
        ),
    ] = BASELINES

    mesh: MeshText = None
    tasks: Annotated[
        TaskNames,
        Flag(
            "Measure all models on standard tasks too: names of lm-eval, and files (.jsonl, .yaml), between commas. They may be "
            "added later in the same --out.",
            "Comparison",
            metavar="NAME|FILE,...",
            examples=("lambada_openai,piqa,mine.jsonl",),
            synonyms=("benchmark", "benchmarks", "eval_tasks"),
        ),
    ] = Field(default=None, exclude=True)

    @property
    def objectives(self) -> tuple[str, ...]:
        """One, or several: then there is a student of each."""
        return split_objectives(self.objective)

    @property
    def compared(self) -> tuple[str, ...]:
        """The baselines. Unless some are named, of a student of other mixers also itself with attention everywhere, of one
        that is trained with quantised weights also itself quantised afterwards, of one from shared layers also the teacher's
        layers, of one that generates rows itself also the same distillation without these, at equal tokens and at equal
        compute, of one that reads corrupted tokens also the same training on the plain ones, of one that is trained by adapters
        also all its weights, in both ways, of one whose teacher is tuned first also from that teacher as given, in both ways, and
        of one of several teachers also from the first alone, in both ways. Beside adapters on weights in 4 bits, all weights of a
        student are trained only where that is named.
        """
        if "baselines" in self.model_fields_set:
            return self.baselines
        implied = {ATTENTION: self.mixers is not None, PTQ: self.qat is not None, LAYERS: self.learngene is not None}
        implied |= dict.fromkeys(OFF_POLICY, self.rollouts is not None)
        implied |= {UNMASKED: self.mask_input is not None}
        implied |= dict.fromkeys(FULL, self.trained == "lora")
        implied |= dict.fromkeys(UNCORRECTED, self.adapt_teacher is not None)
        implied |= dict.fromkeys(ONE_TEACHER, bool(by_domain(self.teacher)))
        usual = [name for name in self.baselines if self.trained != "qlora" or name != "fresh+kd"]
        return (*usual, *(name for name, there in implied.items() if there))

    @property
    def is_family(self) -> bool:
        """Whether the settings describe several students, of several sizes, depths or objectives."""
        return isinstance(self.params, tuple) or self.depths is not None or len(self.objectives) > 1


class ShrinkSettings(DistilSettings):
    """The keys of `limbeck shrink`, which are also its flags. It makes one student, of one size."""

    params: Params = None
    dense: Annotated[
        bool,
        Flag(
            "Save the factors multiplied out: an ordinary model of the teacher's architecture and size.",
            "Low rank",
            needs="--low-rank",
        ),
    ] = False
    out: Annotated[
        Path, Flag("Folder of the student.", "Output", metavar="FOLDER", synonyms=("output_dir", "output"))
    ] = Path("runs/shrink")
