"""Settings of `limbeck tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from limbeck.config.flag import Flag
from limbeck.config.settings.common import MaskedInput, MeshText, Opening, RunFolder, RunSeeds, Settings
from limbeck.config.settings.distil import OBJECTIVE_SYNONYMS
from limbeck.config.settings.training import TrainingSettings
from limbeck.config.values import Count, LearningRates, ObjectiveText, Replay, RewardText, TunedBaselines


class TuneSettings(TrainingSettings, Settings):
    """The keys of `limbeck tune`, which are also its flags.

    ``baselines`` None stands for those that the settings give a reason for (`TunePlan.compared`).
    """

    student: Annotated[
        str,
        Flag(
            "Model to tune: a folder, a hub id, builtin:stdlib or builtin:smollm2-135m.",
            "Model",
            metavar="MODEL",
            examples=("Qwen/Qwen3-0.6B",),
            synonyms=("model", "model_name_or_path", "base_model", "pretrained_model_name_or_path", "teacher"),
        ),
    ]
    trained: Annotated[
        Literal["full", "lora", "qlora", "lora-xs"],
        Flag(
            "What is trained: all weights, or adapters of low rank, which are merged at the end and also kept as files of PEFT; "
            "with qlora on weights in 4 bits, of lora-xs only a small square matrix for each layer.",
            "Model",
            synonyms=(
                "method",
                "finetuning_type",
                "peft",
                "peft_type",
                "use_peft",
                "use_lora",
                "adapter_type",
                "load_in_4bit",
            ),
        ),
    ] = "full"
    rank: Annotated[
        int,
        Field(ge=1, le=2**16),
        Flag(
            "Rank of the adapters.",
            "Model",
            needs="--trained lora, qlora or lora-xs",
            synonyms=("r", "lora_r", "lora_rank", "lora_dim"),
        ),
    ] = 16
    alpha: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False),
        Flag(
            "The adapters' products are scaled by alpha over the rank.",
            "Model",
            needs="--trained lora, qlora or lora-xs",
            metavar="FLOAT",
            default="twice the rank, of lora-xs the rank",
            synonyms=("lora_alpha", "lora_scaling"),
        ),
    ] = None
    subspace: Annotated[
        Literal["gradient", "sb", "weights", "random"],
        Flag(
            "In which directions weights may move: those of the data's gradient, of AdamW's first step, from which it also "
            "begins (LoRA-SB), of the weights (LoRA-XS as published), or random ones.",
            "Model",
            needs="--trained lora-xs",
            synonyms=("init", "init_lora_weights", "lora_init"),
        ),
    ] = "gradient"
    frame: Opening = None
    replay: Annotated[
        Replay,
        Flag(
            "Other text, such as the model was trained on before, and the share of the rows that are read of it, so that the "
            "model forgets less.",
            "Data",
            examples=("old.jsonl:0.1",),
            default="none",
            synonyms=("replay_data", "rehearsal", "pretraining_data", "mix_in", "general_data"),
        ),
    ] = None
    stay: Annotated[
        ObjectiveText | None,
        Flag(
            "Objective of the rows of --replay instead of their cross-entropy: how far from the model before tuning.",
            "Training",
            needs="--replay",
            examples=("ForwardKL", "'0.1*ForwardKL'"),
            synonyms=("kl_coef", "kl_penalty", "kl_weight", "reference_kl"),
        ),
    ] = None
    objective: Annotated[
        ObjectiveText,
        Flag(
            "Loss on the data, by name, as a weighted sum, or FILE.py:CLASS; the teacher of one that needs one is the model "
            "before tuning. DPO, APOZero and APODown learn preference pairs (chosen, rejected).",
            "Training",
            examples=("'CrossEntropy + 0.1*ForwardKL'", "'DPO(beta=0.1)'"),
            synonyms=OBJECTIVE_SYNONYMS,
        ),
    ] = "CrossEntropy"
    mask_input: MaskedInput = Field(default=None, exclude=True)
    reward: Annotated[
        RewardText,
        Flag(
            "Learn by a reward of the model's own samples instead of from text (policy gradient): checks, the share of its "
            "record's checks that an answer passes, or with all=true 1 for all of them; latent, log-probability of the record's "
            "answer after a sampled rationale, which ends at a mark. beta weighs KL from the start.",
            "On-policy",
            default="none; beta=0.05, all=false, answer=1, mark=The answer is",
            examples=("checks", "'checks(all=true)'", "'latent(mark=####)'"),
            synonyms=("rl", "rlvr", "grpo", "rloo", "ppo", "reinforce", "reward_funcs", "reward_model"),
        ),
    ] = Field(default=None, exclude=True)
    samples: Annotated[
        int,
        Field(ge=1, le=10_000),
        Flag(
            "Answers that are sampled of each prompt; each is compared with the others.",
            "On-policy",
            needs="--reward",
            synonyms=("num_generations", "group_size", "num_return_sequences", "rloo_k", "n"),
        ),
    ] = Field(default=8, exclude=True)
    rollout_tokens: Annotated[
        Count,
        Flag(
            "The longest answer that is sampled.",
            "On-policy",
            needs="--reward",
            unit="tokens",
            synonyms=("max_completion_length", "max_new_tokens", "max_response_length"),
        ),
    ] = Field(default=128, exclude=True)
    lr: Annotated[
        LearningRates,
        Flag(
            "Peak learning rate; of several the best is taken, by trainings of a quarter of the steps and held-out documents "
            "that judge nothing.",
            "Training",
            aliases=("learning_rate",),
            default="by the size of the model; of adapters ten times that of all weights",
            examples=("1e-3", "3e-4,1e-3,3e-3"),
            synonyms=("peak_lr", "max_lr", "learning_rates", "sweep", "lr_sweep"),
        ),
    ] = None  # type: ignore[assignment]  # several, which other commands do not take
    seeds: RunSeeds = 1
    baselines: Annotated[
        TunedBaselines,
        Flag(
            "What the tuned model is compared with, besides itself before: full (all weights, for equal tokens), full@flops (for "
            "equal compute), data-alone (without --replay, for equal tokens), chosen (cross-entropy on the preferred side of "
            "pairs alone, for equal tokens), unmasked (without --mask-input, for equal tokens), ce (with another objective: "
            "cross-entropy, for equal tokens), answers (with --reward: cross-entropy on the answers of the records, as many as "
            "are sampled), or none.",
            "Comparison",
            default="with lora or lora-xs full and full@flops, with --replay data-alone, with --mask-input unmasked, with "
            "another objective ce; of pairs chosen, with --replay data-alone; with --reward answers, where records have them",
            synonyms=("baseline", "compare", "compare_with"),
        ),
    ] = None
    mesh: MeshText = None
    out: RunFolder = Path("runs/tune")
