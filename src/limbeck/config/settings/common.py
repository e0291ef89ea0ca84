"""Settings that several commands share: text, training, the teacher, the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from limbeck.config.defaults import SEQ_LEN, SHRINK, STEPS, WIDE
from limbeck.config.flag import Flag
from limbeck.config.values import ByteBudget, Columns, Context, Count, MaskInput, MixerNames, Vocabulary

SkipBad = Annotated[int | None, Field(ge=0)]
Params = Annotated[
    Count | None,
    Flag(
        "Parameters of the student.",
        "Model",
        examples=("250k", "6M", "1.3B"),
        synonyms=("parameters", "num_params", "student_size", "prune_target_params", "target_params"),
    ),
]
BodyParams = Annotated[
    Count | None,
    Flag(
        "Parameters of the student without embeddings and head, instead of a number of all.",
        "Model",
        examples=("400M",),
        synonyms=("non_embedding_params", "body_parameters", "params_without_embeddings"),
    ),
]
WeightBytes = Annotated[
    ByteBudget,
    Flag(
        "Most bytes of the student's weights, instead of a number of parameters: in the number format of its file, or in "
        "another, such as one of limbeck export --to gguf.",
        "Model",
        name="bytes",
        examples=("25MB", "12MB:q8_0"),
        synonyms=("file_size", "max_bytes", "model_bytes", "target_size", "size_mb"),
    ),
]
AnyTeacher = Annotated[
    bool,
    Flag(
        "Continue with a teacher that predicts the text no better than the frequency of each token does.",
        "Model",
        last=True,
        synonyms=("force",),
    ),
]
Shape = Annotated[
    str | None,
    Flag(
        "Shape of the model, instead of a number of parameters.",
        "Model",
        metavar="NAME=INT,...",
        examples=("layers=4,hidden=48,heads=6,kv_heads=3,ffn=128",),
    ),
]
StudentShrink = Annotated[
    float | None,
    Flag(
        "Parameters of the teacher over those of the student.",
        "Model",
        metavar="RATIO",
        default=str(SHRINK),
        synonyms=("ratio", "compression", "compression_ratio", "prune_ratio", "sparsity"),
    ),
]
Mixers = Annotated[
    MixerNames,
    Flag(
        "Layers of a decoder of limbeck's own, by pattern, repeated until full.",
        "Mixture of layers",
        examples=("conv,based,conv,swa:64", "attention*1,gdn*3"),
        synonyms=("mixer", "hybrid_pattern", "layer_types"),
    ),
]
MeshText = Annotated[
    str | None,
    Flag(
        "How the processes of torchrun hold the weights: replicate, all on each; shard, a part on each; or "
        "shard=8,replicate=2, groups of processes that hold a part each.",
        "Machine",
        metavar="replicate|shard|NAME=INT,...",
        default="replicate",
        synonyms=("fsdp", "fsdp2", "sharding", "device_mesh", "parallelism", "strategy", "distributed_type"),
    ),
]
Width = Annotated[
    int | None,
    Field(ge=1, le=2**20),
    Flag(
        "Channels of the model.",
        "Mixture of layers",
        needs="--mixers",
        synonyms=("hidden_size", "d_model", "embed_dim"),
    ),
]
Layers = Annotated[
    int | None,
    Field(ge=1, le=2**16),
    Flag(
        "Number of layers, a multiple of the pattern.",
        "Mixture of layers",
        needs="--mixers",
        synonyms=("num_layers", "num_hidden_layers", "n_layers", "depth"),
    ),
]
Opening = Annotated[
    str | None,
    Flag(
        "Token that plain documents begin with: one of the teacher's, none, or auto.",
        "Data",
        metavar="TOKEN",
        default="auto, measured on a few documents where a teacher leaves a choice",
        synonyms=("bos_token", "add_bos_token", "prepend_bos"),
    ),
]
MaskedInput = Annotated[
    MaskInput,
    Flag(
        "Share of the learned tokens that are replaced where the student reads them, while it predicts the true ones; it rises "
        "to this over the first part (warmup) of the training. By random tokens, or by the one of an ID.",
        "Training",
        examples=("0.4", "0.2,token=0,warmup=0.5"),
        default="none; random tokens, warmup=0.67",
        synonyms=("masked_thought", "mask_rate", "input_masking", "token_dropout", "word_dropout", "noise_tokens"),
    ),
]
SeedCount = Field(ge=1, le=100)
RunSeeds = Annotated[
    int,
    SeedCount,
    Flag(
        "Number of seeds, from --seed on. One names no winner, three do; more may be added later in the same --out.",
        "Comparison",
        synonyms=("num_seeds", "n_seeds", "repeats", "trials"),
    ),
]
RunFolder = Annotated[
    Path,
    Flag(
        "Folder of the run.",
        "Output",
        metavar="FOLDER",
        synonyms=("output_dir", "output", "output_path", "save_dir"),
    ),
]


class Base(BaseModel):
    """The base settings of every command: strict keys, and a machine-readable result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    json_: Annotated[
        bool, Flag("Print the result as one JSON object, on the last line of stdout.", "Output", name="json", last=True)
    ] = Field(default=False, alias="json")


class TextSettings(Base):
    """Where text comes from."""

    data: Annotated[
        str,
        Flag(
            "Dataset: .txt, .jsonl, .json (also .gz, .zst), .parquet, a folder, a glob, an address such as s3://BUCKET/FOLDER, "
            "hf:NAME[:CONFIG][/SPLIT], python:stdlib; several between commas, for a training each with a weight, in stages, and "
            "with the domain of its teacher. Records hold text, messages (with tools, weight), ShareGPT conversations, prompt "
            "and completion, or Alpaca's fields.",
            "Data",
            metavar="SOURCE,...",
            examples=("a.jsonl:0.7,hf:b:0.3", "web:0.9,math:0.1; annealed: web:0.4,math:0.6"),
            synonyms=(
                "dataset",
                "mixture",
                "data_mix",
                "blend",
                "datasets",
                "dataset_name",
                "train_data",
                "train_file",
                "text_file",
                "corpus",
                "data_path",
            ),
        ),
    ] = "python:stdlib"
    columns: Annotated[
        Columns,
        Flag(
            "Fields of the dataset that have other names than usual.",
            "Data",
            examples=("text=body", "prompt=question,completion=answer"),
            synonyms=("text_column", "dataset_text_field", "field_mapping", "column_mapping"),
        ),
    ] = None
    skip_bad: Annotated[
        SkipBad,
        Flag(
            "Unreadable records of the dataset that may be left out.",
            "Data",
            unit="records",
            default="0, the first one is an error",
            synonyms=("skip_errors", "ignore_errors", "max_bad_records"),
        ),
    ] = None


class SeededSettings(Base):
    """The first seed."""

    seed: Annotated[
        int,
        Field(ge=0, lt=2**32),
        Flag(
            "Seed of data order, new weights and samples.", "Training", last=True, synonyms=("random_seed", "rng_seed")
        ),
    ] = 0


class DeviceSettings(Base):
    """The device of the work."""

    device: Annotated[
        str,
        Flag("Device of this process: auto, cpu, cuda or cuda:1.", "Machine", metavar="DEVICE", synonyms=("gpu_id",)),
    ] = "auto"


class Settings(DeviceSettings, SeededSettings, TextSettings):
    """The settings of every job on a text."""

    eval_data: Annotated[
        str | None,
        Flag(
            "Held-out dataset.",
            "Data",
            metavar="SOURCE,...",
            default="a part of --data, split by document hash",
            synonyms=("validation_file", "eval_dataset", "valid_data", "test_data", "val_data"),
        ),
    ] = None
    dedup: Annotated[
        bool,
        Flag(
            "Leave out documents whose content occurred before, compared by hash; of --data also those that --eval-data holds.",
            "Data",
            synonyms=("deduplicate", "deduplication", "drop_duplicates", "decontaminate"),
        ),
    ] = Field(default=False, exclude=True)
    text_processes: Annotated[
        int | None,
        Field(ge=1, le=2**10),
        Flag(
            "Processes that tokenise the dataset; the result does not depend on their number.",
            "Machine",
            default="one a core for 256 MiB of text or more and for datasets of the hub, else 1",
            synonyms=("num_proc", "dataset_num_proc", "preprocessing_num_workers", "tokenize_workers"),
        ),
    ] = Field(default=None, exclude=True)
    length: Annotated[
        Context | None,
        Field(le=2**30),
        Flag(
            "Sequence length.",
            "Data",
            name="seq_len",
            old=("length",),
            unit="tokens",
            default=f"{SEQ_LEN['cpu']} on a CPU, {SEQ_LEN['cuda']} on a GPU, at most the model's context",
            synonyms=(
                "seq_length",
                "sequence_length",
                "max_length",
                "max_seq_length",
                "max_seq_len",
                "block_size",
                "context_length",
                "cutoff_len",
            ),
        ),
    ] = None
    long_conversations: Annotated[
        Literal["split", "drop"],
        Flag(
            "What becomes of conversations longer than a sequence: split cuts them into pieces in which a completion keeps its "
            "prompt if both fit, drop leaves them out.",
            "Data",
            synonyms=("truncation", "truncation_strategy"),
        ),
    ] = "split"
    tokens: Annotated[
        Count,
        Flag(
            "Training tokens, in whole sequences.",
            "Training",
            examples=("2M", "10B"),
            synonyms=(
                "max_steps",
                "steps",
                "epochs",
                "num_train_epochs",
                "num_epochs",
                "train_tokens",
                "max_tokens",
                "train_iters",
            ),
        ),
    ] = 500_000
    batch_tokens: Annotated[
        Count | None,
        Flag(
            "Tokens of one optimiser step.",
            "Training",
            metavar="COUNT",
            default=f"as many as make about {STEPS} steps",
            synonyms=(
                "batch_size",
                "global_batch_size",
                "gbs",
                "train_batch_size",
                "gradient_accumulation_steps",
            ),
        ),
    ] = None
    lr: Annotated[
        float | None,
        Field(gt=0, le=1),
        Flag(
            "Peak learning rate.",
            "Training",
            aliases=("learning_rate",),
            metavar="RATE",
            default="by the size of the student; converted students use one third of that",
            synonyms=("peak_lr", "max_lr", "learning_rates"),
        ),
    ] = None
    schedule: Annotated[
        Literal["wsd", "cosine", "constant"],
        Flag(
            "Learning rate schedule, after a warm-up.",
            "Training",
            default="{}; cosine for pruned students of 100M parameters or more",
            synonyms=(
                "lr_scheduler_type",
                "lr_scheduler",
                "scheduler",
                "lr_schedule",
            ),
        ),
    ] = "wsd"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Flag(
            "Number format of the arithmetic (mixed precision with bfloat16); auto is bfloat16 where the device "
            f"has units for it, on a CPU (AVX512-BF16, AMX) for models of {WIDE} channels or more; a begun run keeps its own.",
            "Machine",
            synonyms=("precision", "torch_dtype", "mixed_precision", "bf16", "fp16"),
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        Field(ge=1, le=2**16),
        Flag(
            "Threads of this process.",
            "Machine",
            default="those of torch",
            synonyms=("num_threads", "nproc", "num_workers"),
        ),
    ] = None
    out: Annotated[
        Path,
        Flag(
            "Folder of the run.",
            "Output",
            metavar="FOLDER",
            synonyms=("output_dir", "output", "output_path", "out_dir", "save_dir", "output_hf_path"),
        ),
    ] = Path("runs/distil")


class TeacherSettings(Settings):
    """The settings of a job with a teacher. ``tokenizer`` to ``time_limit`` (seconds of a request) are of a server.

    Of ``data`` the first ``text_tokens`` tokens are trained on, in whole documents.
    """

    teacher: Annotated[
        str,
        Flag(
            "Teacher: a folder, a .gguf file, a hub id, a folder of captured logits, http://HOST:PORT/v1#MODEL, builtin:stdlib "
            'or builtin:smollm2-135m; for distil also several by domain, as in "math=A,code=B".',
            "Model",
            metavar="MODEL",
            examples=("Qwen/Qwen3-8B",),
            synonyms=(
                "teacher_model",
                "teacher_model_name_or_path",
                "teacher_path",
                "teacher_hf_path",
                "model_name_or_path",
                "hf_model_name_or_path",
                "model",
                "teacher_model_server",
            ),
        ),
    ] = "builtin:stdlib"
    text_tokens: Annotated[
        Count | None,
        Flag(
            "Tokens of the dataset that are used, from its start, in whole documents.",
            "Data",
            examples=("100k",),
            default="all of it",
            synonyms=("max_samples", "max_train_samples", "data_limit"),
        ),
    ] = Field(default=None, exclude=True)
    vocab: Annotated[
        Vocabulary,
        Flag(
            "Trim the vocabulary of teacher and student: auto keeps the tokens that the text uses, auto:5 those used at least 5 "
            "times, a number the most frequent ones; bytes and special tokens always stay.",
            "Model",
            examples=("auto", "8k"),
            default="all tokens",
            synonyms=("vocab_size", "vocabulary", "trim_vocab", "vocabulary_size", "new_vocab_size"),
        ),
    ] = Field(default=None, exclude=True)
    frame: Opening = Field(default=None, exclude=True)
    any_teacher: AnyTeacher = False
    tokenizer: Annotated[
        str | None,
        Flag(
            "Folder or hub id of the configuration and tokenizer of a teacher on a server.",
            "Teacher on a server",
            needs="server",
            metavar="MODEL",
            synonyms=("tokenizer_name", "tokenizer_name_or_path", "teacher_tokenizer"),
        ),
    ] = None
    in_flight: Annotated[
        int,
        Field(ge=1, le=1024),
        Flag(
            "Maximum concurrent requests.",
            "Teacher on a server",
            needs="server",
            unit="requests",
            synonyms=("concurrency", "max_concurrency", "max_concurrent_requests", "num_requests"),
        ),
    ] = 32
    time_limit: Annotated[
        float,
        Field(gt=0, le=86_400),
        Flag(
            "Time limit of one request.",
            "Teacher on a server",
            needs="server",
            unit="seconds",
            synonyms=("timeout", "request_timeout"),
        ),
    ] = 120
