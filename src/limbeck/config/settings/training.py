"""Settings of how a model is trained, which `limbeck distil`, `tune` and `pretrain` share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from limbeck.config.defaults import BETAS, SAVE_MINUTES, SAVE_STEPS, WARMUP, WEIGHT_DECAY
from limbeck.config.flag import Flag
from limbeck.config.settings.common import Base
from limbeck.config.values import Average, Betas, Count, SaveInterval, Warmup


class TrainingSettings(Base):
    """The settings of the optimiser, and of what is kept and measured during a training.

    They are of a later version than other settings: a run's signature has those that are not the default.
    """

    warmup: Annotated[
        Warmup,
        Flag(
            "Share of the steps, or number of steps, in which the learning rate rises to its peak.",
            "Training",
            metavar="SHARE|STEPS",
            synonyms=("warmup_ratio", "warmup_steps", "num_warmup_steps", "lr_warmup_steps"),
        ),
    ] = Field(default=WARMUP, exclude=True)
    weight_decay: Annotated[
        float,
        Field(ge=0, le=1),
        Flag("Weight decay of matrices.", "Training", metavar="FLOAT", synonyms=("wd", "decay", "adam_weight_decay")),
    ] = Field(default=WEIGHT_DECAY, exclude=True)
    max_grad_norm: Annotated[
        float,
        Field(ge=0, allow_inf_nan=False),
        Flag(
            "Norm above which the gradient of a step is scaled down, 0 for never.",
            "Training",
            metavar="FLOAT",
            synonyms=("clip", "grad_clip", "gradient_clip_val", "clip_grad_norm", "max_norm"),
        ),
    ] = Field(default=1.0, exclude=True)
    betas: Annotated[
        Betas,
        Flag(
            "AdamW's decay rates of the means of gradients and of their squares.",
            "Training",
            synonyms=("adam_betas", "adam_beta1", "adam_beta2", "beta1", "beta2"),
        ),
    ] = Field(default=BETAS, exclude=True)
    save_every: Annotated[
        SaveInterval | None,
        Flag(
            "Steps, or minutes, after which a checkpoint is saved.",
            "Training",
            metavar="STEPS|TIME",
            examples=("500", "30min"),
            default=f"{SAVE_STEPS} steps, and {SAVE_MINUTES:g} minutes at the latest",
            synonyms=("save_steps", "save_interval", "checkpoint_every", "checkpoint_interval", "save_strategy"),
        ),
    ] = Field(default=None, exclude=True)
    average: Annotated[
        Average,
        Flag(
            "Average the weights: ema:DECAY is an exponential average, last:SHARE the mean over the last share of the steps.",
            "Training",
            metavar="ema|last[:FLOAT]",
            examples=("ema:0.999", "last:0.2"),
            default="not averaged",
            synonyms=("ema", "ema_decay", "use_ema", "swa", "weight_averaging", "model_averaging"),
        ),
    ] = Field(default=None, exclude=True)
    eval_every: Annotated[
        Count | None,
        Flag(
            "Steps after which the held-out loss is measured, on documents that take no part in the final evaluation.",
            "Training",
            metavar="STEPS",
            default="six points of a training, on a few sequences",
            synonyms=("eval_steps", "eval_interval", "evaluation_strategy", "eval_strategy", "val_check_interval"),
        ),
    ] = Field(default=None, exclude=True)
    patience: Annotated[
        int | None,
        Field(ge=1, le=10**6),
        Flag(
            "End a training after so many measurements in a row without a lower held-out loss.",
            "Training",
            needs="--eval-every",
            metavar="INT",
            synonyms=("early_stopping_patience", "early_stopping", "early_stop"),
        ),
    ] = Field(default=None, exclude=True)
    weights: Annotated[
        Literal["last", "best"] | None,
        Flag(
            "Which weights become the student, those after the last step or those with the lowest held-out loss.",
            "Training",
            needs="--eval-every",
            default="last; best with --patience",
            synonyms=("load_best_model_at_end", "best_model", "save_best", "select"),
        ),
    ] = Field(default=None, exclude=True)
    track: Annotated[
        Literal["trackio", "wandb", "tensorboard", "mlflow"] | None,
        Flag(
            "Send loss, learning rate, gradient norm and held-out loss to a tracker while training; settings and keys are those "
            "of its own environment variables.",
            "Training",
            default="none; metrics.jsonl has all",
            synonyms=("report_to", "logger", "tracker", "log_with", "wandb_project", "wandb", "tensorboard"),
        ),
    ] = Field(default=None, exclude=True)
    micro_batch: Annotated[
        int | None,
        Field(ge=1, le=2**20),
        Flag(
            "Sequences that are computed at once in each process (micro-batch). Gradients are summed over them, so it changes "
            "results by rounding only; it is halved where memory runs out.",
            "Machine",
            metavar="INT",
            default="as many as make about 1,024 tokens on a CPU and 16,384 on a GPU, and fit",
            synonyms=("micro_batch_size", "per_device_train_batch_size", "mbs", "device_batch_size"),
        ),
    ] = Field(default=None, exclude=True)
    checkpointing: Annotated[
        Literal["auto", "none", "layers"],
        Flag(
            "Gradient checkpointing: layers computes the decoder's layers twice instead of keeping their activations, with the "
            "same gradients; auto does so where that is the fastest way that fits into memory.",
            "Machine",
            synonyms=("gradient_checkpointing", "activation_checkpointing", "recompute", "use_gradient_checkpointing"),
        ),
    ] = Field(default="auto", exclude=True)
    optimizer: Annotated[
        Literal["adamw", "adamw-bf16", "adamw-8bit"],
        Flag(
            "Optimiser: AdamW with a state in float32 (8 bytes a parameter), in bfloat16 with stochastic rounding (4), or in 8 "
            "bits (2; extra quant).",
            "Training",
            synonyms=("optim", "optimiser", "optimizer_type", "use_8bit_adam", "paged_adamw_8bit", "adam8bit"),
        ),
    ] = Field(default="adamw", exclude=True)
    weights_dtype: Annotated[
        Literal["float32", "bfloat16"],
        Flag(
            "Number format in which weights are trained; bfloat16 keeps no copy in float32, and needs --optimizer adamw-bf16 or "
            "adamw-8bit.",
            "Training",
            synonyms=("master_weights", "pure_bf16", "full_bf16", "master_dtype"),
        ),
    ] = Field(default="float32", exclude=True)
