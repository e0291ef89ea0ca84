"""Made by docs/reference/generate.py from the settings; edit those."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal

from limbeck.objectives import Objective
from limbeck.results import (
    CaptureResult,
    DistilResult,
    DoctorResult,
    ExportResult,
    GrowResult,
    PilotResult,
    PlanResult,
    PredictResult,
    PretrainResult,
    ProbeResult,
    ReproduceResult,
    ShrinkResult,
    TuneResult,
)

def plan(
    *,
    params: int | str | None = None,
    shrink: float | None = None,
    bytes: int | str | None = None,
    body_params: int | str | None = None,
    tokens: int | str | None = None,
    candidates: str | Sequence[str] | None = None,
    teacher: str | None = None,
    teacher_tokens: int | str | None = None,
    text_tokens: int | str | None = None,
    pay_teacher: bool | None = True,
    epsilon: float | None = 0.005,
    points: str | PathLike[str] | None = None,
    vocab: int | str | Sequence[int | str] | None = None,
    samples: int | str | None = None,
    trainable: int | str | None = None,
    snr: float | None = None,
    device_memory: float | str | None = None,
    latency: float | str | None = None,
    gpu: str | None = None,
    seq_len: int | str | None = 4096,
    mixers: str | Sequence[str] | None = None,
    width: int | None = None,
    layers: int | None = None,
) -> PlanResult:
    """Choose a teacher for a student, or a student for a device, and say what it costs.

    Reads configurations alone, no weights. With --bytes: the shapes that fit a file. With --mixers: state, FLOPs
    and parameters of a mixture of layers, beside attention everywhere.

    Args:
        params: Parameters of the student. For example 250k, 6M or 1.3B.
        shrink: With --teacher: its parameters over those of the student.
        bytes: Most bytes of the student's weights, instead of a number of parameters: in the number format of its
            file, or in another, such as one of limbeck export --to gguf. For example 25MB or 12MB:q8_0.
        body_params: Parameters of the student without embeddings and head, instead of a number of all. For
            example 400M.
        tokens: Tokens that the student is trained on. For example 2M or 10B. Default: with --teacher 20 a
            parameter.
        candidates: Teachers to choose from: sizes, hub ids, folders. For example 1.5B,4B,Qwen/Qwen3-8B.
        teacher: One teacher, folder or hub id, for the question which student fits the device.
        teacher_tokens: Tokens that each teacher was trained on. Default: 20 for each of its parameters.
        text_tokens: Tokens of text that exist, if fewer than --tokens: the teacher reads them once, and its
            logits are kept.
        pay_teacher: Count the compute of the teacher's forward passes, or not (logits are there already).
            Default: yes.
        epsilon: Tolerance: a difference in loss that does not matter, in nats per token. Default: 0.005.
        points: Folder of a pilot or table of points, to fit a law to.
        vocab: Tokens of the vocabulary: with --teacher those that it is trimmed to (with --bytes several
            numbers), with --mixers those of the model. For example 8k or 4k,8k,16k. Default: all of the
            teacher's; with --mixers 2048.
        samples: Labelled samples, for the question when a linear read-out over-trains. For example 5000 or 20k.
        trainable: Numbers that are trained on them. For example 4096.
        snr: Variance of the labels that inputs explain, over that of their noise; 4 where noise is 20 % of the
            variance.
        device_memory: Memory that the student must fit into. For example 24GiB or 8GB.
        latency: Longest time of one token on the device; with --bytes and no device it is measured on this
            machine. For example 20ms.
        gpu: A device by name. For example L4, RTX-4090, A100-80, H100-SXM or H200.
        seq_len: Sequence length, the context of the model. For example 32k. Default: 4096.
        mixers: Layers of a decoder of limbeck's own, by pattern, repeated until full. For example
            conv,based,conv,swa:64 or attention*1,gdn*3.
        width: With --mixers: channels of the model.
        layers: With --mixers: number of layers, a multiple of the pattern.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """

def doctor(
    file: str | PathLike[str] | None = None,
    /,
    *,
    teacher: str | None = "builtin:stdlib",
    vocab: int | str | None = None,
    student: str | None = None,
    params: int | str | Sequence[int | str] | None = None,
    shrink: float | None = None,
    shape: str | None = None,
    bytes: int | str | None = None,
    body_params: int | str | None = None,
    rounds: int | None = 1,
    depths: int | str | Sequence[int] | None = None,
    learngene: str | None = None,
    experts: Literal["chosen", "merged"] | None = None,
    method: Literal["activation", "gradient", "wanda", "random"] | None = "activation",
    depth: Literal["influence", "angular", "greedy", "random"] | None = None,
    trained: Literal["full", "lora", "qlora"] | None = "full",
    rank: int | None = 16,
    any_teacher: bool | None = False,
    data: str | None = "python:stdlib",
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    skip_bad: int | None = None,
    eval_data: str | None = None,
    dedup: bool | None = False,
    seq_len: int | str | None = None,
    long_conversations: Literal["split", "drop"] | None = "split",
    text_tokens: int | str | None = None,
    frame: str | None = None,
    tokens: int | str | None = 500_000,
    batch_tokens: int | str | None = None,
    lr: float | None = None,
    schedule: Literal["wsd", "cosine", "constant"] | None = "wsd",
    warmup: float | None = 0.05,
    weight_decay: float | None = 0.01,
    max_grad_norm: float | None = 1.0,
    betas: str | tuple[float, float] | None = "0.9,0.95",
    save_every: int | str | None = None,
    average: str | None = None,
    eval_every: int | str | None = None,
    patience: int | None = None,
    weights: Literal["last", "best"] | None = None,
    track: Literal["trackio", "wandb", "tensorboard", "mlflow"] | None = None,
    optimizer: Literal["adamw", "adamw-bf16", "adamw-8bit"] | None = "adamw",
    weights_dtype: Literal["float32", "bfloat16"] | None = "float32",
    objective: str | Objective | Sequence[str | Objective] | None = "ForwardKL",
    mask_input: float | str | None = None,
    tokenizer_align: Literal["bytes", "tokens"] | None = None,
    adapt_teacher: int | str | None = None,
    qat: Literal["int8", "int4"] | None = None,
    domain_weights: Literal["tokens", "equal"] | None = "tokens",
    cache_logits: bool | None = None,
    seed: int | None = 0,
    rollouts: float | str | None = None,
    rollout_tokens: int | str | None = 128,
    rollout_temperature: float | None = 1.0,
    stop_when: str | None = None,
    seeds: int | None = 1,
    baselines: str | Sequence[str] | None = "cut,cut+ce,cut+ce@flops,fresh+kd",
    tasks: str | Sequence[str] | None = None,
    mixers: str | Sequence[str] | None = None,
    keep_attention: int | None = None,
    match: str | Sequence[str] | None = None,
    low_rank: float | None = None,
    factor: Literal["whitened", "asvd", "svd"] | None = "whitened",
    sparse: float | None = 0.0,
    tokenizer: str | None = None,
    in_flight: int | None = 32,
    time_limit: float | None = 120,
    device: str | None = "auto",
    text_processes: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] | None = "auto",
    threads: int | None = None,
    micro_batch: int | None = None,
    checkpointing: Literal["auto", "none", "layers"] | None = "auto",
    mesh: str | None = None,
    out: str | PathLike[str] | None = "runs/distil",
    student_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> DoctorResult:
    """Check that a teacher, a student and a dataset belong together, and say what the run would cost.

    Takes the flags of limbeck distil, and trains nothing.

    Args:
        file: A TOML run file with the same keys; keys given here win.
        teacher: Teacher: a folder, a .gguf file, a hub id, a folder of captured logits, builtin:stdlib or
            builtin:smollm2-135m. For example Qwen/Qwen3-8B. Default: builtin:stdlib.
        vocab: Trim the vocabulary of teacher and student: auto keeps the tokens that the text uses, auto:5 those
            used at least 5 times, a number the most frequent ones; bytes and special tokens always stay. For
            example auto or 8k. Default: all tokens.
        student: Model to start from: a folder or hub id. Default: a student pruned out of the teacher.
        params: Parameters of the student; several sizes are as many students. For example 250k, 1.3B or
            1B,600M,300M.
        shrink: Parameters of the teacher over those of the student. Default: 2.5.
        shape: Shape of the model, instead of a number of parameters. For example
            layers=4,hidden=48,heads=6,kv_heads=3,ffn=128.
        bytes: Most bytes of the student's weights, instead of a number of parameters: in the number format of its
            file, or in another, such as one of limbeck export --to gguf. For example 25MB or 12MB:q8_0.
        body_params: Parameters of the student without embeddings and head, instead of a number of all. For
            example 400M.
        rounds: Prune in so many rounds, with training between them; all share --tokens, half of which the last
            has. For example 2. Default: 1.
        depths: Students of so many layers of the teacher, each as wide as it is. For example 3,4,6.
        learngene: With --depths: expand all students from layers that are distilled once, with weights shared in
            so many stages (SWS) or linear in depth (TLEG); that takes half of --tokens. For example stages=3 or
            linear. Default: each is pruned out of the teacher.
        experts: How a mixture of experts becomes a dense student: the experts with the largest routing weights
            are chosen, or all are merged into as many. Default: chosen.
        method: What scores the heads, neurons and channels of which a pruned student keeps the best: activation,
            gradient, wanda, or random, a control. Default: activation.
        depth: What chooses the layers that a pruned student keeps: influence (of each block), angular (over
            consecutive layers), greedy (by measured loss, one after the other), or random. Default: influence;
            random with --method random.
        trained: What of the student is trained: all weights, or adapters of low rank, which are merged at the end
            and also kept as files of PEFT; with qlora on weights in 4 bits. Default: full.
        rank: With --trained lora or qlora: rank of the adapters, whose products are scaled by two. Default: 16.
        any_teacher: Continue with a teacher that predicts the text no better than the frequency of each token
            does.
        data: Dataset: .txt, .jsonl, .json (also .gz, .zst), .parquet, a folder, a glob, an address such as
            s3://BUCKET/FOLDER, hf:NAME[:CONFIG][/SPLIT], python:stdlib; several between commas, for a training
            each with a weight, in stages, and with the domain of its teacher. Records hold text, messages (with
            tools, weight), ShareGPT conversations, prompt and completion, or Alpaca's fields. For example
            a.jsonl:0.7,hf:b:0.3 or web:0.9,math:0.1; annealed: web:0.4,math:0.6. Default: python:stdlib.
        columns: Fields of the dataset that have other names than usual. For example text=body or
            prompt=question,completion=answer.
        skip_bad: Unreadable records of the dataset that may be left out. Default: 0, the first one is an error.
        eval_data: Held-out dataset. Default: a part of --data, split by document hash.
        dedup: Leave out documents whose content occurred before, compared by hash; of --data also those that
            --eval-data holds.
        seq_len: Sequence length. Default: 256 on a CPU, 1024 on a GPU, at most the model's context.
        long_conversations: What becomes of conversations longer than a sequence: split cuts them into pieces in
            which a completion keeps its prompt if both fit, drop leaves them out. Default: split.
        text_tokens: Tokens of the dataset that are used, from its start, in whole documents. For example 100k.
            Default: all of it.
        frame: Token that plain documents begin with: one of the teacher's, none, or auto. Default: auto, measured
            on a few documents where a teacher leaves a choice.
        tokens: Training tokens, in whole sequences. For example 2M or 10B. Default: 500k.
        batch_tokens: Tokens of one optimiser step. Default: as many as make about 400 steps.
        lr: Peak learning rate. Default: by the size of the student; converted students use one third of that.
        schedule: Learning rate schedule, after a warm-up. Default: wsd; cosine for pruned students of 100M
            parameters or more.
        warmup: Share of the steps, or number of steps, in which the learning rate rises to its peak. Default:
            0.05.
        weight_decay: Weight decay of matrices. Default: 0.01.
        max_grad_norm: Norm above which the gradient of a step is scaled down, 0 for never. Default: 1.0.
        betas: AdamW's decay rates of the means of gradients and of their squares. Default: 0.9,0.95.
        save_every: Steps, or minutes, after which a checkpoint is saved. For example 500 or 30min. Default: 200
            steps, and 10 minutes at the latest.
        average: Average the weights: ema:DECAY is an exponential average, last:SHARE the mean over the last share
            of the steps. For example ema:0.999 or last:0.2. Default: not averaged.
        eval_every: Steps after which the held-out loss is measured, on documents that take no part in the final
            evaluation. Default: six points of a training, on a few sequences.
        patience: With --eval-every: end a training after so many measurements in a row without a lower held-out
            loss.
        weights: With --eval-every: which weights become the student, those after the last step or those with the
            lowest held-out loss. Default: last; best with --patience.
        track: Send loss, learning rate, gradient norm and held-out loss to a tracker while training; settings and
            keys are those of its own environment variables. Default: none; metrics.jsonl has all.
        optimizer: Optimiser: AdamW with a state in float32 (8 bytes a parameter), in bfloat16 with stochastic
            rounding (4), or in 8 bits (2; extra quant). Default: adamw.
        weights_dtype: Number format in which weights are trained; bfloat16 keeps no copy in float32, and needs
            --optimizer adamw-bf16 or adamw-8bit. Default: float32.
        objective: Distillation loss, by name, as a weighted sum, or FILE.py:CLASS; several between commas are as
            many students. For example 'TAID(start=0.2)', '0.5*CrossEntropy + 0.5*ForwardKL' or 'ForwardKL, TAID'.
            Default: ForwardKL.
        mask_input: Share of the learned tokens that are replaced where the student reads them, while it predicts
            the true ones; it rises to this over the first part (warmup) of the training. By random tokens, or by
            the one of an ID. For example 0.4 or 0.2,token=0,warmup=0.5. Default: none; random tokens,
            warmup=0.67.
        tokenizer_align: The student has a tokenizer of its own: bytes trains it on the likelihoods of chunks of
            equal bytes (ALM, ULD), tokens on the teacher's distribution over tokens that both spell alike, and on
            the text where the next one is none (ForwardKL and others).
        adapt_teacher: Tune the teacher by adapters on so many tokens of the text before it teaches (teacher
            correction). For example 200k. Default: the teacher as given.
        qat: Train with quantised weights, as --to gguf:q8_0 (int8) or gguf:q4_0 (int4) of limbeck export writes
            them. Default: full precision.
        domain_weights: With several teachers: each token counts alike, or each domain has the same share of the
            loss of a step. Default: tokens.
        cache_logits: Compute the teacher's logits once and keep them, or compute them each time. Default: kept
            where the text is read often.
        seed: Seed of data order, new weights and samples. Default: 0.
        rollouts: Share of the rows of each step that the student generates itself, for the teacher to judge;
            0:0.5 rises to 0.5. For example 0.5 or 0:0.5. Default: none.
        rollout_tokens: With --rollouts: the longest text that the student generates from a prompt. Default: 128.
        rollout_temperature: With --rollouts: temperature at which the student generates; 1 is its own
            distribution. Default: 1.0.
        stop_when: With --rollouts: end the training once the student's own texts, measured with --eval-every,
            pass a limit: overlap, entropy (nats a token) or ended (share of the texts) below it, or tokens of a
            text above it. For example overlap:0.6,tokens:100. Default: never.
        seeds: Number of seeds, from --seed on. One names no winner, three do; more may be added later in the same
            --out. Default: 1.
        baselines: What the student is compared with: cut (pruned, untrained), cut+ce (trained on the text alone
            for equal tokens), cut+ce@flops (for equal compute), fresh+kd (a new model, distilled), attention
            (with --mixers), ptq (with --qat: quantised after the same training), off-policy and off-policy@flops
            (with --rollouts: distilled on the text alone), layers+kd (with --learngene: layers of the teacher,
            distilled for equal tokens), full and full@flops (with --trained lora: all weights, for equal tokens
            and for equal compute), uncorrected and uncorrected@flops (with --adapt-teacher: from the teacher as
            given), unmasked (with --mask-input: on plain input), one-teacher and one-teacher@flops (with several
            teachers: from the first alone), or none. Default: cut,cut+ce,cut+ce@flops,fresh+kd; with --mixers
            also attention, with --qat also ptq, with --mask-input also unmasked, with --rollouts also off-policy
            and off-policy@flops, with --learngene also layers+kd, with --trained lora also full and full@flops,
            with --trained qlora not fresh+kd, with --adapt-teacher also uncorrected and uncorrected@flops, with
            several teachers also one-teacher and one-teacher@flops.
        tasks: Measure all models on standard tasks too: names of lm-eval, and files (.jsonl, .yaml), between
            commas. They may be added later in the same --out. For example lambada_openai,piqa,mine.jsonl.
        mixers: Replace attention by these mixers, layer by layer, or by one of them with --keep-attention. For
            example attention*1,gdn*3.
        keep_attention: With --mixers: number of layers that keep attention, those whose loss harms recall most.
        match: With --mixers: what is matched to attention before distillation, mixers, blocks or none; a tenth of
            --tokens each. Default: mixers,blocks.
        low_rank: Keep this share of the parameters of each layer's matrices, as factors of low rank; layers and
            widths stay. For example 0.6.
        factor: With --low-rank: how factors are fitted: to what the matrix computes on --data, to its inputs'
            sizes, or to the matrix alone. Default: whitened.
        sparse: With --low-rank: share of a matrix's entries that are kept apart from its factors, within the same
            parameters. For example 0.02. Default: 0.0.
        tokenizer: Folder or hub id of the configuration and tokenizer of a teacher on a server.
        in_flight: Maximum concurrent requests. Default: 32.
        time_limit: Time limit of one request. Default: 120.
        device: Device of this process: auto, cpu, cuda or cuda:1. Default: auto.
        text_processes: Processes that tokenise the dataset; the result does not depend on their number. Default:
            one a core for 256 MiB of text or more and for datasets of the hub, else 1.
        dtype: Number format of the arithmetic (mixed precision with bfloat16); auto is bfloat16 where the device
            has units for it, on a CPU (AVX512-BF16, AMX) for models of 256 channels or more; a begun run keeps
            its own. Default: auto.
        threads: Threads of this process. Default: those of torch.
        micro_batch: Sequences that are computed at once in each process (micro-batch). Gradients are summed over
            them, so it changes results by rounding only; it is halved where memory runs out. Default: as many as
            make about 1,024 tokens on a CPU and 16,384 on a GPU, and fit.
        checkpointing: Gradient checkpointing: layers computes the decoder's layers twice instead of keeping their
            activations, with the same gradients; auto does so where that is the fastest way that fits into
            memory. Default: auto.
        mesh: How the processes of torchrun hold the weights: replicate, all on each; shard, a part on each; or
            shard=8,replicate=2, groups of processes that hold a part each. Default: replicate.
        out: Folder of the run. Default: runs/distil.
        student_dtype: Number format of the student's file. Default: that of the teacher.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """

def shrink(
    *,
    teacher: str | None = "builtin:stdlib",
    params: int | str | None = None,
    shrink: float | None = None,
    shape: str | None = None,
    bytes: int | str | None = None,
    body_params: int | str | None = None,
    vocab: int | str | None = None,
    experts: Literal["chosen", "merged"] | None = None,
    method: Literal["activation", "gradient", "wanda", "random"] | None = "activation",
    depth: Literal["influence", "angular", "greedy", "random"] | None = None,
    data: str | None = "python:stdlib",
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    skip_bad: int | None = None,
    seq_len: int | str | None = None,
    long_conversations: Literal["split", "drop"] | None = "split",
    frame: str | None = None,
    seed: int | None = 0,
    low_rank: float | None = None,
    factor: Literal["whitened", "asvd", "svd"] | None = "whitened",
    sparse: float | None = 0.0,
    dense: bool | None = False,
    device: str | None = "auto",
    student_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    out: str | PathLike[str] | None = "runs/shrink",
) -> ShrinkResult:
    """Prune a student out of a teacher, without training it.

    Structured pruning of layers, heads, channels and MLPs to a number of parameters or bytes; saves an ordinary
    model folder. With --low-rank, factors of its matrices instead.

    Args:
        teacher: Teacher: a folder, a .gguf file, a hub id, builtin:stdlib or builtin:smollm2-135m. For example
            Qwen/Qwen3-8B. Default: builtin:stdlib.
        params: Parameters of the student. For example 250k, 6M or 1.3B.
        shrink: Parameters of the teacher over those of the student. Default: 2.5.
        shape: Shape of the model, instead of a number of parameters. For example
            layers=4,hidden=48,heads=6,kv_heads=3,ffn=128.
        bytes: Most bytes of the student's weights, instead of a number of parameters: in the number format of its
            file, or in another, such as one of limbeck export --to gguf. For example 25MB or 12MB:q8_0.
        body_params: Parameters of the student without embeddings and head, instead of a number of all. For
            example 400M.
        vocab: Trim the vocabulary of teacher and student: auto keeps the tokens that the text uses, auto:5 those
            used at least 5 times, a number the most frequent ones; bytes and special tokens always stay. For
            example auto or 8k. Default: all tokens.
        experts: How a mixture of experts becomes a dense student: the experts with the largest routing weights
            are chosen, or all are merged into as many. Default: chosen.
        method: What scores the heads, neurons and channels of which a pruned student keeps the best: activation,
            gradient, wanda, or random, a control. Default: activation.
        depth: What chooses the layers that a pruned student keeps: influence (of each block), angular (over
            consecutive layers), greedy (by measured loss, one after the other), or random. Default: influence;
            random with --method random.
        data: Dataset on which importance is scored, in the forms that limbeck distil reads. For example
            a.jsonl:0.7,hf:b:0.3 or web:0.9,math:0.1; annealed: web:0.4,math:0.6. Default: python:stdlib.
        columns: Fields of the dataset that have other names than usual. For example text=body or
            prompt=question,completion=answer.
        skip_bad: Unreadable records of the dataset that may be left out. Default: 0, the first one is an error.
        seq_len: Sequence length. Default: 256 on a CPU, 1024 on a GPU, at most the model's context.
        long_conversations: What becomes of conversations longer than a sequence: split cuts them into pieces in
            which a completion keeps its prompt if both fit, drop leaves them out. Default: split.
        frame: Token that plain documents begin with: one of the teacher's, none, or auto. Default: auto, measured
            on a few documents where a teacher leaves a choice.
        seed: Seed of data order, new weights and samples. Default: 0.
        low_rank: Keep this share of the parameters of each layer's matrices, as factors of low rank; layers and
            widths stay. For example 0.6.
        factor: With --low-rank: how factors are fitted: to what the matrix computes on --data, to its inputs'
            sizes, or to the matrix alone. Default: whitened.
        sparse: With --low-rank: share of a matrix's entries that are kept apart from its factors, within the same
            parameters. For example 0.02. Default: 0.0.
        dense: With --low-rank: save the factors multiplied out: an ordinary model of the teacher's architecture
            and size.
        device: Device of this process: auto, cpu, cuda or cuda:1. Default: auto.
        student_dtype: Number format of the student's file. Default: that of the teacher.
        out: Folder of the student. Default: runs/shrink.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """

def grow(
    model: str,
    *,
    op: Literal["widen", "pad", "stack", "interleave", "mixture"] | None = "widen",
    shape: str | None = None,
    new_layers: Literal["copies", "identity"] | None = None,
    second: str | None = None,
    off_diagonal: Literal["orthogonal", "zero", "copy", "random"] | None = None,
    data: str | None = "python:stdlib",
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    skip_bad: int | None = None,
    seq_len: int | str | None = None,
    seed: int | None = 0,
    device: str | None = "auto",
    threads: int | None = None,
    out: str | PathLike[str] | None = "runs/grow",
) -> GrowResult:
    """Make a larger model of the same architecture out of a small trained one, without training it.

    Saves an ordinary model folder, and measures how far its logits are from the small model's; a model inside a
    run is measured on text that the run was not trained on. Layers that students share (limbeck distil
    --learngene) are expanded to --shape layers=INT.

    Args:
        model: Folder or hub id of the model, or RUN/shared/layers of limbeck distil --learngene.
        op: How it grows: widen copies channels, heads and neurons, pad adds new ones, and layers, that change no
            logit, stack repeats its layers, interleave puts new layers between them, mixture puts two trained
            models side by side. Default: widen.
        shape: Shape of the grown model; what it leaves out stays. For example
            layers=8,hidden=128,heads=8,ffn=256. Default: twice the widths; with stack and interleave twice the
            layers.
        new_layers: With --op stack or interleave: new layers are copies with their weights, or identities, which
            change no logit. Default: as published: copies with stack, identity with interleave.
        second: With --op mixture: another training of the same model, with another seed.
        off_diagonal: With --op mixture: what one of the two has of the other at first: mixtures of its layers
            orthogonal to each of them, nothing, copies, or random numbers. Default: orthogonal, as published.
        data: Text on which it is measured, in the forms that limbeck distil reads. For example
            a.jsonl:0.7,hf:b:0.3 or web:0.9,math:0.1; annealed: web:0.4,math:0.6. Default: python:stdlib.
        columns: Fields of the dataset that have other names than usual. For example text=body or
            prompt=question,completion=answer.
        skip_bad: Unreadable records of the dataset that may be left out. Default: 0, the first one is an error.
        seq_len: Sequence length. Default: 256 on a CPU, 1024 on a GPU, at most the model's context.
        seed: Seed of what makes copies differ. Default: 0.
        device: Device of this process: auto, cpu, cuda or cuda:1. Default: auto.
        threads: Threads of this process. Default: those of torch.
        out: Folder of the grown model. Default: runs/grow.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """

def distil(
    file: str | PathLike[str] | None = None,
    /,
    *,
    teacher: str | None = "builtin:stdlib",
    vocab: int | str | None = None,
    student: str | None = None,
    params: int | str | Sequence[int | str] | None = None,
    shrink: float | None = None,
    shape: str | None = None,
    bytes: int | str | None = None,
    body_params: int | str | None = None,
    rounds: int | None = 1,
    depths: int | str | Sequence[int] | None = None,
    learngene: str | None = None,
    experts: Literal["chosen", "merged"] | None = None,
    method: Literal["activation", "gradient", "wanda", "random"] | None = "activation",
    depth: Literal["influence", "angular", "greedy", "random"] | None = None,
    trained: Literal["full", "lora", "qlora"] | None = "full",
    rank: int | None = 16,
    any_teacher: bool | None = False,
    data: str | None = "python:stdlib",
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    skip_bad: int | None = None,
    eval_data: str | None = None,
    dedup: bool | None = False,
    seq_len: int | str | None = None,
    long_conversations: Literal["split", "drop"] | None = "split",
    text_tokens: int | str | None = None,
    frame: str | None = None,
    tokens: int | str | None = 500_000,
    batch_tokens: int | str | None = None,
    lr: float | None = None,
    schedule: Literal["wsd", "cosine", "constant"] | None = "wsd",
    warmup: float | None = 0.05,
    weight_decay: float | None = 0.01,
    max_grad_norm: float | None = 1.0,
    betas: str | tuple[float, float] | None = "0.9,0.95",
    save_every: int | str | None = None,
    average: str | None = None,
    eval_every: int | str | None = None,
    patience: int | None = None,
    weights: Literal["last", "best"] | None = None,
    track: Literal["trackio", "wandb", "tensorboard", "mlflow"] | None = None,
    optimizer: Literal["adamw", "adamw-bf16", "adamw-8bit"] | None = "adamw",
    weights_dtype: Literal["float32", "bfloat16"] | None = "float32",
    objective: str | Objective | Sequence[str | Objective] | None = "ForwardKL",
    mask_input: float | str | None = None,
    tokenizer_align: Literal["bytes", "tokens"] | None = None,
    adapt_teacher: int | str | None = None,
    qat: Literal["int8", "int4"] | None = None,
    domain_weights: Literal["tokens", "equal"] | None = "tokens",
    cache_logits: bool | None = None,
    seed: int | None = 0,
    rollouts: float | str | None = None,
    rollout_tokens: int | str | None = 128,
    rollout_temperature: float | None = 1.0,
    stop_when: str | None = None,
    seeds: int | None = 1,
    baselines: str | Sequence[str] | None = "cut,cut+ce,cut+ce@flops,fresh+kd",
    tasks: str | Sequence[str] | None = None,
    mixers: str | Sequence[str] | None = None,
    keep_attention: int | None = None,
    match: str | Sequence[str] | None = None,
    low_rank: float | None = None,
    factor: Literal["whitened", "asvd", "svd"] | None = "whitened",
    sparse: float | None = 0.0,
    tokenizer: str | None = None,
    in_flight: int | None = 32,
    time_limit: float | None = 120,
    device: str | None = "auto",
    text_processes: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] | None = "auto",
    threads: int | None = None,
    micro_batch: int | None = None,
    checkpointing: Literal["auto", "none", "layers"] | None = "auto",
    mesh: str | None = None,
    out: str | PathLike[str] | None = "runs/distil",
    student_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> DistilResult:
    """Make a small model out of a large one, and report what it is worth.

    Prunes a student out of the teacher unless one is given, trains it and its baselines, evaluates all of them on
    held-out text, and writes report.html. The same command continues a run that was stopped.

    Args:
        file: A TOML run file with the same keys; keys given here win.
        teacher: Teacher: a folder, a .gguf file, a hub id, a folder of captured logits,
            http://HOST:PORT/v1#MODEL, builtin:stdlib or builtin:smollm2-135m; for distil also several by domain,
            as in "math=A,code=B". For example Qwen/Qwen3-8B. Default: builtin:stdlib.
        vocab: Trim the vocabulary of teacher and student: auto keeps the tokens that the text uses, auto:5 those
            used at least 5 times, a number the most frequent ones; bytes and special tokens always stay. For
            example auto or 8k. Default: all tokens.
        student: Model to start from: a folder or hub id. Default: a student pruned out of the teacher.
        params: Parameters of the student; several sizes are as many students. For example 250k, 1.3B or
            1B,600M,300M.
        shrink: Parameters of the teacher over those of the student. Default: 2.5.
        shape: Shape of the model, instead of a number of parameters. For example
            layers=4,hidden=48,heads=6,kv_heads=3,ffn=128.
        bytes: Most bytes of the student's weights, instead of a number of parameters: in the number format of its
            file, or in another, such as one of limbeck export --to gguf. For example 25MB or 12MB:q8_0.
        body_params: Parameters of the student without embeddings and head, instead of a number of all. For
            example 400M.
        rounds: Prune in so many rounds, with training between them; all share --tokens, half of which the last
            has. For example 2. Default: 1.
        depths: Students of so many layers of the teacher, each as wide as it is. For example 3,4,6.
        learngene: With --depths: expand all students from layers that are distilled once, with weights shared in
            so many stages (SWS) or linear in depth (TLEG); that takes half of --tokens. For example stages=3 or
            linear. Default: each is pruned out of the teacher.
        experts: How a mixture of experts becomes a dense student: the experts with the largest routing weights
            are chosen, or all are merged into as many. Default: chosen.
        method: What scores the heads, neurons and channels of which a pruned student keeps the best: activation,
            gradient, wanda, or random, a control. Default: activation.
        depth: What chooses the layers that a pruned student keeps: influence (of each block), angular (over
            consecutive layers), greedy (by measured loss, one after the other), or random. Default: influence;
            random with --method random.
        trained: What of the student is trained: all weights, or adapters of low rank, which are merged at the end
            and also kept as files of PEFT; with qlora on weights in 4 bits. Default: full.
        rank: With --trained lora or qlora: rank of the adapters, whose products are scaled by two. Default: 16.
        any_teacher: Continue with a teacher that predicts the text no better than the frequency of each token
            does.
        data: Dataset: .txt, .jsonl, .json (also .gz, .zst), .parquet, a folder, a glob, an address such as
            s3://BUCKET/FOLDER, hf:NAME[:CONFIG][/SPLIT], python:stdlib; several between commas, for a training
            each with a weight, in stages, and with the domain of its teacher. Records hold text, messages (with
            tools, weight), ShareGPT conversations, prompt and completion, or Alpaca's fields. For example
            a.jsonl:0.7,hf:b:0.3 or web:0.9,math:0.1; annealed: web:0.4,math:0.6. Default: python:stdlib.
        columns: Fields of the dataset that have other names than usual. For example text=body or
            prompt=question,completion=answer.
        skip_bad: Unreadable records of the dataset that may be left out. Default: 0, the first one is an error.
        eval_data: Held-out dataset. Default: a part of --data, split by document hash.
        dedup: Leave out documents whose content occurred before, compared by hash; of --data also those that
            --eval-data holds.
        seq_len: Sequence length. Default: 256 on a CPU, 1024 on a GPU, at most the model's context.
        long_conversations: What becomes of conversations longer than a sequence: split cuts them into pieces in
            which a completion keeps its prompt if both fit, drop leaves them out. Default: split.
        text_tokens: Tokens of the dataset that are used, from its start, in whole documents. For example 100k.
            Default: all of it.
        frame: Token that plain documents begin with: one of the teacher's, none, or auto. Default: auto, measured
            on a few documents where a teacher leaves a choice.
        tokens: Training tokens, in whole sequences. For example 2M or 10B. Default: 500k.
        batch_tokens: Tokens of one optimiser step. Default: as many as make about 400 steps.
        lr: Peak learning rate. Default: by the size of the student; converted students use one third of that.
        schedule: Learning rate schedule, after a warm-up. Default: wsd; cosine for pruned students of 100M
            parameters or more.
        warmup: Share of the steps, or number of steps, in which the learning rate rises to its peak. Default:
            0.05.
        weight_decay: Weight decay of matrices. Default: 0.01.
        max_grad_norm: Norm above which the gradient of a step is scaled down, 0 for never. Default: 1.0.
        betas: AdamW's decay rates of the means of gradients and of their squares. Default: 0.9,0.95.
        save_every: Steps, or minutes, after which a checkpoint is saved. For example 500 or 30min. Default: 200
            steps, and 10 minutes at the latest.
        average: Average the weights: ema:DECAY is an exponential average, last:SHARE the mean over the last share
            of the steps. For example ema:0.999 or last:0.2. Default: not averaged.
        eval_every: Steps after which the held-out loss is measured, on documents that take no part in the final
            evaluation. Default: six points of a training, on a few sequences.
        patience: With --eval-every: end a training after so many measurements in a row without a lower held-out
            loss.
        weights: With --eval-every: which weights become the student, those after the last step or those with the
            lowest held-out loss. Default: last; best with --patience.
        track: Send loss, learning rate, gradient norm and held-out loss to a tracker while training; settings and
            keys are those of its own environment variables. Default: none; metrics.jsonl has all.
        optimizer: Optimiser: AdamW with a state in float32 (8 bytes a parameter), in bfloat16 with stochastic
            rounding (4), or in 8 bits (2; extra quant). Default: adamw.
        weights_dtype: Number format in which weights are trained; bfloat16 keeps no copy in float32, and needs
            --optimizer adamw-bf16 or adamw-8bit. Default: float32.
        objective: Distillation loss, by name, as a weighted sum, or FILE.py:CLASS; several between commas are as
            many students. For example 'TAID(start=0.2)', '0.5*CrossEntropy + 0.5*ForwardKL' or 'ForwardKL, TAID'.
            Default: ForwardKL.
        mask_input: Share of the learned tokens that are replaced where the student reads them, while it predicts
            the true ones; it rises to this over the first part (warmup) of the training. By random tokens, or by
            the one of an ID. For example 0.4 or 0.2,token=0,warmup=0.5. Default: none; random tokens,
            warmup=0.67.
        tokenizer_align: The student has a tokenizer of its own: bytes trains it on the likelihoods of chunks of
            equal bytes (ALM, ULD), tokens on the teacher's distribution over tokens that both spell alike, and on
            the text where the next one is none (ForwardKL and others).
        adapt_teacher: Tune the teacher by adapters on so many tokens of the text before it teaches (teacher
            correction). For example 200k. Default: the teacher as given.
        qat: Train with quantised weights, as --to gguf:q8_0 (int8) or gguf:q4_0 (int4) of limbeck export writes
            them. Default: full precision.
        domain_weights: With several teachers: each token counts alike, or each domain has the same share of the
            loss of a step. Default: tokens.
        cache_logits: Compute the teacher's logits once and keep them, or compute them each time. Default: kept
            where the text is read often.
        seed: Seed of data order, new weights and samples. Default: 0.
        rollouts: Share of the rows of each step that the student generates itself, for the teacher to judge;
            0:0.5 rises to 0.5. For example 0.5 or 0:0.5. Default: none.
        rollout_tokens: With --rollouts: the longest text that the student generates from a prompt. Default: 128.
        rollout_temperature: With --rollouts: temperature at which the student generates; 1 is its own
            distribution. Default: 1.0.
        stop_when: With --rollouts: end the training once the student's own texts, measured with --eval-every,
            pass a limit: overlap, entropy (nats a token) or ended (share of the texts) below it, or tokens of a
            text above it. For example overlap:0.6,tokens:100. Default: never.
        seeds: Number of seeds, from --seed on. One names no winner, three do; more may be added later in the same
            --out. Default: 1.
        baselines: What the student is compared with: cut (pruned, untrained), cut+ce (trained on the text alone
            for equal tokens), cut+ce@flops (for equal compute), fresh+kd (a new model, distilled), attention
            (with --mixers), ptq (with --qat: quantised after the same training), off-policy and off-policy@flops
            (with --rollouts: distilled on the text alone), layers+kd (with --learngene: layers of the teacher,
            distilled for equal tokens), full and full@flops (with --trained lora: all weights, for equal tokens
            and for equal compute), uncorrected and uncorrected@flops (with --adapt-teacher: from the teacher as
            given), unmasked (with --mask-input: on plain input), one-teacher and one-teacher@flops (with several
            teachers: from the first alone), or none. Default: cut,cut+ce,cut+ce@flops,fresh+kd; with --mixers
            also attention, with --qat also ptq, with --mask-input also unmasked, with --rollouts also off-policy
            and off-policy@flops, with --learngene also layers+kd, with --trained lora also full and full@flops,
            with --trained qlora not fresh+kd, with --adapt-teacher also uncorrected and uncorrected@flops, with
            several teachers also one-teacher and one-teacher@flops.
        tasks: Measure all models on standard tasks too: names of lm-eval, and files (.jsonl, .yaml), between
            commas. They may be added later in the same --out. For example lambada_openai,piqa,mine.jsonl.
        mixers: Replace attention by these mixers, layer by layer, or by one of them with --keep-attention. For
            example attention*1,gdn*3.
        keep_attention: With --mixers: number of layers that keep attention, those whose loss harms recall most.
        match: With --mixers: what is matched to attention before distillation, mixers, blocks or none; a tenth of
            --tokens each. Default: mixers,blocks.
        low_rank: Keep this share of the parameters of each layer's matrices, as factors of low rank; layers and
            widths stay. For example 0.6.
        factor: With --low-rank: how factors are fitted: to what the matrix computes on --data, to its inputs'
            sizes, or to the matrix alone. Default: whitened.
        sparse: With --low-rank: share of a matrix's entries that are kept apart from its factors, within the same
            parameters. For example 0.02. Default: 0.0.
        tokenizer: Folder or hub id of the configuration and tokenizer of a teacher on a server.
        in_flight: Maximum concurrent requests. Default: 32.
        time_limit: Time limit of one request. Default: 120.
        device: Device of this process: auto, cpu, cuda or cuda:1. Default: auto.
        text_processes: Processes that tokenise the dataset; the result does not depend on their number. Default:
            one a core for 256 MiB of text or more and for datasets of the hub, else 1.
        dtype: Number format of the arithmetic (mixed precision with bfloat16); auto is bfloat16 where the device
            has units for it, on a CPU (AVX512-BF16, AMX) for models of 256 channels or more; a begun run keeps
            its own. Default: auto.
        threads: Threads of this process. Default: those of torch.
        micro_batch: Sequences that are computed at once in each process (micro-batch). Gradients are summed over
            them, so it changes results by rounding only; it is halved where memory runs out. Default: as many as
            make about 1,024 tokens on a CPU and 16,384 on a GPU, and fit.
        checkpointing: Gradient checkpointing: layers computes the decoder's layers twice instead of keeping their
            activations, with the same gradients; auto does so where that is the fastest way that fits into
            memory. Default: auto.
        mesh: How the processes of torchrun hold the weights: replicate, all on each; shard, a part on each; or
            shard=8,replicate=2, groups of processes that hold a part each. Default: replicate.
        out: Folder of the run. Default: runs/distil.
        student_dtype: Number format of the student's file. Default: that of the teacher.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """

def tune(
    file: str | PathLike[str] | None = None,
    /,
    *,
    student: str,
    trained: Literal["full", "lora", "qlora", "lora-xs"] | None = "full",
    rank: int | None = 16,
    alpha: float | None = None,
    subspace: Literal["gradient", "sb", "weights", "random"] | None = "gradient",
    data: str | None = "python:stdlib",
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    skip_bad: int | None = None,
    eval_data: str | None = None,
    dedup: bool | None = False,
    seq_len: int | str | None = None,
    long_conversations: Literal["split", "drop"] | None = "split",
    frame: str | None = None,
    replay: str | None = None,
    tokens: int | str | None = 500_000,
    batch_tokens: int | str | None = None,
    lr: float | str | Sequence[float] | None = None,
    schedule: Literal["wsd", "cosine", "constant"] | None = "wsd",
    warmup: float | None = 0.05,
    weight_decay: float | None = 0.01,
    max_grad_norm: float | None = 1.0,
    betas: str | tuple[float, float] | None = "0.9,0.95",
    save_every: int | str | None = None,
    average: str | None = None,
    eval_every: int | str | None = None,
    patience: int | None = None,
    weights: Literal["last", "best"] | None = None,
    track: Literal["trackio", "wandb", "tensorboard", "mlflow"] | None = None,
    optimizer: Literal["adamw", "adamw-bf16", "adamw-8bit"] | None = "adamw",
    weights_dtype: Literal["float32", "bfloat16"] | None = "float32",
    stay: str | Objective | Sequence[str | Objective] | None = None,
    objective: str | Objective | Sequence[str | Objective] | None = "CrossEntropy",
    mask_input: float | str | None = None,
    seed: int | None = 0,
    reward: str | None = None,
    samples: int | None = 8,
    rollout_tokens: int | str | None = 128,
    seeds: int | None = 1,
    baselines: str | Sequence[str] | None = None,
    device: str | None = "auto",
    text_processes: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] | None = "auto",
    threads: int | None = None,
    micro_batch: int | None = None,
    checkpointing: Literal["auto", "none", "layers"] | None = "auto",
    mesh: str | None = None,
    out: str | PathLike[str] | None = "runs/tune",
) -> TuneResult:
    """Tune a model on instructions or other text, and report what it learned and what it forgot.

    Trains all weights or adapters, evaluates the model before and after on held-out text, and writes report.html.
    The same command continues a run that was stopped.

    Args:
        file: A TOML run file with the same keys; keys given here win.
        student: Model to tune: a folder, a hub id, builtin:stdlib or builtin:smollm2-135m. For example
            Qwen/Qwen3-0.6B.
        trained: What is trained: all weights, or adapters of low rank, which are merged at the end and also kept
            as files of PEFT; with qlora on weights in 4 bits, of lora-xs only a small square matrix for each
            layer. Default: full.
        rank: With --trained lora, qlora or lora-xs: rank of the adapters. Default: 16.
        alpha: With --trained lora, qlora or lora-xs: the adapters' products are scaled by alpha over the rank.
            Default: twice the rank, of lora-xs the rank.
        subspace: With --trained lora-xs: in which directions weights may move: those of the data's gradient, of
            AdamW's first step, from which it also begins (LoRA-SB), of the weights (LoRA-XS as published), or
            random ones. Default: gradient.
        data: Dataset: .txt, .jsonl, .json (also .gz, .zst), .parquet, a folder, a glob, an address such as
            s3://BUCKET/FOLDER, hf:NAME[:CONFIG][/SPLIT], python:stdlib; several between commas, for a training
            each with a weight, in stages, and with the domain of its teacher. Records hold text, messages (with
            tools, weight), ShareGPT conversations, prompt and completion, or Alpaca's fields. For example
            a.jsonl:0.7,hf:b:0.3 or web:0.9,math:0.1; annealed: web:0.4,math:0.6. Default: python:stdlib.
        columns: Fields of the dataset that have other names than usual. For example text=body or
            prompt=question,completion=answer.
        skip_bad: Unreadable records of the dataset that may be left out. Default: 0, the first one is an error.
        eval_data: Held-out dataset. Default: a part of --data, split by document hash.
        dedup: Leave out documents whose content occurred before, compared by hash; of --data also those that
            --eval-data holds.
        seq_len: Sequence length. Default: 256 on a CPU, 1024 on a GPU, at most the model's context.
        long_conversations: What becomes of conversations longer than a sequence: split cuts them into pieces in
            which a completion keeps its prompt if both fit, drop leaves them out. Default: split.
        frame: Token that plain documents begin with: one of the model's, none, or auto. Default: auto, measured
            on a few documents where a teacher leaves a choice.
        replay: Other text, such as the model was trained on before, and the share of the rows that are read of
            it, so that the model forgets less. For example old.jsonl:0.1. Default: none.
        tokens: Training tokens, in whole sequences. For example 2M or 10B. Default: 500k.
        batch_tokens: Tokens of one optimiser step. Default: as many as make about 400 steps.
        lr: Peak learning rate; of several the best is taken, by trainings of a quarter of the steps and held-out
            documents that judge nothing. For example 1e-3 or 3e-4,1e-3,3e-3. Default: by the size of the model;
            of adapters ten times that of all weights.
        schedule: Learning rate schedule, after a warm-up. Default: wsd; cosine for pruned students of 100M
            parameters or more.
        warmup: Share of the steps, or number of steps, in which the learning rate rises to its peak. Default:
            0.05.
        weight_decay: Weight decay of matrices. Default: 0.01.
        max_grad_norm: Norm above which the gradient of a step is scaled down, 0 for never. Default: 1.0.
        betas: AdamW's decay rates of the means of gradients and of their squares. Default: 0.9,0.95.
        save_every: Steps, or minutes, after which a checkpoint is saved. For example 500 or 30min. Default: 200
            steps, and 10 minutes at the latest.
        average: Average the weights: ema:DECAY is an exponential average, last:SHARE the mean over the last share
            of the steps. For example ema:0.999 or last:0.2. Default: not averaged.
        eval_every: Steps after which the held-out loss is measured, on documents that take no part in the final
            evaluation. Default: six points of a training, on a few sequences.
        patience: With --eval-every: end a training after so many measurements in a row without a lower held-out
            loss.
        weights: With --eval-every: which weights become the student, those after the last step or those with the
            lowest held-out loss. Default: last; best with --patience.
        track: Send loss, learning rate, gradient norm and held-out loss to a tracker while training; settings and
            keys are those of its own environment variables. Default: none; metrics.jsonl has all.
        optimizer: Optimiser: AdamW with a state in float32 (8 bytes a parameter), in bfloat16 with stochastic
            rounding (4), or in 8 bits (2; extra quant). Default: adamw.
        weights_dtype: Number format in which weights are trained; bfloat16 keeps no copy in float32, and needs
            --optimizer adamw-bf16 or adamw-8bit. Default: float32.
        stay: With --replay: objective of the rows of --replay instead of their cross-entropy: how far from the
            model before tuning. For example ForwardKL or '0.1*ForwardKL'.
        objective: Loss on the data, by name, as a weighted sum, or FILE.py:CLASS; the teacher of one that needs
            one is the model before tuning. DPO, APOZero and APODown learn preference pairs (chosen, rejected).
            For example 'CrossEntropy + 0.1*ForwardKL' or 'DPO(beta=0.1)'. Default: CrossEntropy.
        mask_input: Share of the learned tokens that are replaced where the student reads them, while it predicts
            the true ones; it rises to this over the first part (warmup) of the training. By random tokens, or by
            the one of an ID. For example 0.4 or 0.2,token=0,warmup=0.5. Default: none; random tokens,
            warmup=0.67.
        seed: Seed of data order, new weights and samples. Default: 0.
        reward: Learn by a reward of the model's own samples instead of from text (policy gradient): checks, the
            share of its record's checks that an answer passes, or with all=true 1 for all of them; latent,
            log-probability of the record's answer after a sampled rationale, which ends at a mark. beta weighs KL
            from the start. For example checks, 'checks(all=true)' or 'latent(mark=####)'. Default: none;
            beta=0.05, all=false, answer=1, mark=The answer is.
        samples: With --reward: answers that are sampled of each prompt; each is compared with the others.
            Default: 8.
        rollout_tokens: With --reward: the longest answer that is sampled. Default: 128.
        seeds: Number of seeds, from --seed on. One names no winner, three do; more may be added later in the same
            --out. Default: 1.
        baselines: What the tuned model is compared with, besides itself before: full (all weights, for equal
            tokens), full@flops (for equal compute), data-alone (without --replay, for equal tokens), chosen
            (cross-entropy on the preferred side of pairs alone, for equal tokens), unmasked (without
            --mask-input, for equal tokens), ce (with another objective: cross-entropy, for equal tokens), answers
            (with --reward: cross-entropy on the answers of the records, as many as are sampled), or none.
            Default: with lora or lora-xs full and full@flops, with --replay data-alone, with --mask-input
            unmasked, with another objective ce; of pairs chosen, with --replay data-alone; with --reward answers,
            where records have them.
        device: Device of this process: auto, cpu, cuda or cuda:1. Default: auto.
        text_processes: Processes that tokenise the dataset; the result does not depend on their number. Default:
            one a core for 256 MiB of text or more and for datasets of the hub, else 1.
        dtype: Number format of the arithmetic (mixed precision with bfloat16); auto is bfloat16 where the device
            has units for it, on a CPU (AVX512-BF16, AMX) for models of 256 channels or more; a begun run keeps
            its own. Default: auto.
        threads: Threads of this process. Default: those of torch.
        micro_batch: Sequences that are computed at once in each process (micro-batch). Gradients are summed over
            them, so it changes results by rounding only; it is halved where memory runs out. Default: as many as
            make about 1,024 tokens on a CPU and 16,384 on a GPU, and fit.
        checkpointing: Gradient checkpointing: layers computes the decoder's layers twice instead of keeping their
            activations, with the same gradients; auto does so where that is the fastest way that fits into
            memory. Default: auto.
        mesh: How the processes of torchrun hold the weights: replicate, all on each; shard, a part on each; or
            shard=8,replicate=2, groups of processes that hold a part each. Default: replicate.
        out: Folder of the run. Default: runs/tune.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """

def capture(
    file: str | PathLike[str] | None = None,
    /,
    *,
    teacher: str | None = "builtin:stdlib",
    vocab: int | str | None = None,
    params: int | str | Sequence[int | str] | None = None,
    qat: Literal["int8", "int4"] | None = None,
    any_teacher: bool | None = False,
    data: str | None = "python:stdlib",
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    skip_bad: int | None = None,
    eval_data: str | None = None,
    dedup: bool | None = False,
    seq_len: int | str | None = None,
    long_conversations: Literal["split", "drop"] | None = "split",
    tokens: int | str | None = None,
    text_tokens: int | str | None = None,
    frame: str | None = None,
    seed: int | None = 0,
    bytes_per_token: int | None = 48,
    codec: Literal["auto", "sampled", "top-k"] | None = "auto",
    text: bool | None = False,
    pairs: str | None = None,
    judge: Literal["author", "likelihood", "checks"] | None = "author",
    max_new_tokens: int | str | None = 256,
    temperature: float | None = 1.0,
    samples: int | None = 1,
    system: str | None = None,
    price: str | tuple[float, float] | None = None,
    tokenizer: str | None = None,
    in_flight: int | None = 32,
    time_limit: float | None = 120,
    device: str | None = "auto",
    text_processes: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] | None = "auto",
    threads: int | None = None,
    mesh: str | None = None,
    shard: str | tuple[int, int] | None = "1/1",
    ray: str | None = None,
    shards: int | str | None = None,
    stream: bool | None = False,
    device_memory: float | str | None = None,
    out: str | PathLike[str] | None = "runs/capture",
) -> CaptureResult:
    """Compute a teacher's logits on a dataset once, and keep them for any number of students.

    With --text: keep completions that the teacher generates. With --pairs: make preference pairs of a student's
    texts. The same command continues a capture that was stopped.

    Args:
        file: A TOML run file with the same keys; keys given here win.
        teacher: Teacher: a folder, a .gguf file, a hub id, http://HOST:PORT/v1#MODEL, builtin:stdlib or
            builtin:smollm2-135m. For example Qwen/Qwen3-8B. Default: builtin:stdlib.
        vocab: Trim the vocabulary of teacher and student: auto keeps the tokens that the text uses, auto:5 those
            used at least 5 times, a number the most frequent ones; bytes and special tokens always stay. For
            example auto or 8k. Default: all tokens.
        params: Sizes of students to prune now, for when the teacher is gone. For example 1B,600M.
        qat: With --params: shapes for limbeck distil --qat, whose rows blocks of quantised weights divide.
            Default: any shape.
        any_teacher: Continue with a teacher that predicts the text no better than the frequency of each token
            does.
        data: Dataset: .txt, .jsonl, .json (also .gz, .zst), .parquet, a folder, a glob, an address such as
            s3://BUCKET/FOLDER, hf:NAME[:CONFIG][/SPLIT], python:stdlib; several between commas, for a training
            each with a weight, in stages, and with the domain of its teacher. Records hold text, messages (with
            tools, weight), ShareGPT conversations, prompt and completion, or Alpaca's fields. For example
            a.jsonl:0.7,hf:b:0.3 or web:0.9,math:0.1; annealed: web:0.4,math:0.6. Default: python:stdlib.
        columns: Fields of the dataset that have other names than usual. For example text=body or
            prompt=question,completion=answer.
        skip_bad: Unreadable records of the dataset that may be left out. Default: 0, the first one is an error.
        eval_data: Held-out dataset. Default: a part of --data, split by document hash.
        dedup: Leave out documents whose content occurred before, compared by hash; of --data also those that
            --eval-data holds.
        seq_len: Sequence length. Default: 256 on a CPU, 1024 on a GPU, at most the model's context.
        long_conversations: What becomes of conversations longer than a sequence: split cuts them into pieces in
            which a completion keeps its prompt if both fit, drop leaves them out. Default: split.
        tokens: Tokens to compute logits for, or with --text and --pairs the most that each model generates. For
            example 2M or 10B. Default: all of --data.
        text_tokens: Tokens of the dataset that are used, from its start, in whole documents. For example 100k.
            Default: all of it.
        frame: Token that plain documents begin with: one of the teacher's, none, or auto. Default: auto, measured
            on a few documents where a teacher leaves a choice.
        seed: Seed of what is sampled. Default: 0.
        bytes_per_token: Bytes kept of each token's distribution. Default: 48.
        codec: How a distribution is kept: sampled (unbiased), top-k (the likeliest tokens and the mass of the
            rest), or auto, whichever is measured to be better. Default: auto.
        text: Generate completions of the prompts in --data, and keep the text instead of logits.
        pairs: Write preference pairs instead of logits: this student's completions of the prompts in --data,
            judged by --judge. A folder, a .gguf file or a hub id. Default: no pairs.
        judge: With --text or --pairs: what is preferred: author (the teacher's text to the student's), likelihood
            (the student's best to its worst, by the teacher's log-probability per token), or checks (one of the
            student's that passes to one that fails, of prompts with an 'answer' or constraints). --text takes
            checks alone, and keeps the completions that pass. Default: author.
        max_new_tokens: With --text or --pairs: the longest completion. Default: 256.
        temperature: With --text or --pairs: sampling temperature; 0 takes the likeliest token. Default: 1.0.
        samples: With --text or --pairs: completions of each prompt. Default: 1.
        system: With --text or --pairs: system message that the teacher reads before each conversation, and that
            what is kept does not have: a text, @FILE, or @FILE.toml with one for each value of the field
            'strategy', and patterns that its answers match. For example 'Think step by step.', @how.txt or
            @strategies.toml.
        price: With --text or --pairs: dollars for a million prompt tokens and a million generated tokens, to show
            what it costs. For example 0.15,0.60.
        tokenizer: Folder or hub id of the configuration and tokenizer of a teacher on a server.
        in_flight: Maximum concurrent requests. Default: 32.
        time_limit: Time limit of one request. Default: 120.
        device: Device of this process: auto, cpu, cuda or cuda:1. Default: auto.
        text_processes: Processes that tokenise the dataset; the result does not depend on their number. Default:
            one a core for 256 MiB of text or more and for datasets of the hub, else 1.
        dtype: Number format of the arithmetic (mixed precision with bfloat16); auto is bfloat16 where the device
            has units for it, on a CPU (AVX512-BF16, AMX) for models of 256 channels or more; a begun run keeps
            its own. Default: auto.
        threads: Threads of this process. Default: those of torch.
        mesh: How the processes of torchrun hold the weights: replicate, all on each; shard, a part on each; or
            shard=8,replicate=2, groups of processes that hold a part each. Default: replicate.
        shard: Which of how many machines this is. For example 3/16. Default: 1/1.
        ray: Address of a Ray cluster whose machines capture together, or auto for that of this machine; --out is
            on a disk that all share.
        shards: With --ray: parts of the capture that workers take one by one. Default: one for each worker: a
            GPU, or a core where there are none.
        stream: Read a teacher larger than memory from disk, layer by layer.
        device_memory: With --stream: memory that the teacher may take. For example 8GiB. Default: 80 % of what is
            free.
        out: Folder of the capture. Default: runs/capture.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """

def probe(
    model: str,
    *,
    data: str | None = "python:stdlib",
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    skip_bad: int | None = None,
    seq_len: int | str | None = None,
    long_conversations: Literal["split", "drop"] | None = "split",
    seed: int | None = 0,
    probe: str | Sequence[str] | None = "likelihood",
    teacher: str | None = None,
    task: str | None = None,
    tasks: str | Sequence[str] | None = None,
    target: str | None = None,
    guard: str | Sequence[str] | None = None,
    styles: str | None = None,
    successes: int | None = 4,
    max_samples: int | str | None = 100_000,
    device: str | None = "auto",
    mesh: str | None = None,
    threads: int | None = None,
    out: str | PathLike[str] | None = None,
) -> ProbeResult:
    """Measure a model: likelihood, calibration, cost, fidelity to a teacher, recall, arithmetic, or a task.

    A model inside a run is measured on text that the run was not trained on.

    Args:
        model: Folder or hub id of the model to measure.
        data: Dataset: .txt, .jsonl, .json (also .gz, .zst), .parquet, a folder, a glob, an address such as
            s3://BUCKET/FOLDER, hf:NAME[:CONFIG][/SPLIT], python:stdlib; several between commas, for a training
            each with a weight, in stages, and with the domain of its teacher. Records hold text, messages (with
            tools, weight), ShareGPT conversations, prompt and completion, or Alpaca's fields. For example
            a.jsonl:0.7,hf:b:0.3 or web:0.9,math:0.1; annealed: web:0.4,math:0.6. Default: python:stdlib.
        columns: Fields of the dataset that have other names than usual. For example text=body or
            prompt=question,completion=answer.
        skip_bad: Unreadable records of the dataset that may be left out. Default: 0, the first one is an error.
        seq_len: Sequence length. Default: 256 on a CPU, 1024 on a GPU, at most the model's context.
        long_conversations: What becomes of conversations longer than a sequence: split cuts them into pieces in
            which a completion keeps its prompt if both fit, drop leaves them out. Default: split.
        seed: Seed of samples and of the questions that are asked. Default: 0.
        probe: What to measure: likelihood, slices, change, tradeoff, tasks, constraints, style, values, mqar,
            reversal, arithmetic, listops; or pass-until alone. Default: likelihood.
        teacher: Compare with this teacher, of change and tradeoff with the model that training began with: folder
            or hub id.
        task: Of pass-until: addition, subtraction, base7, reverse-string, copy, or a JSONL file. Of reversal,
            constraints and style: a JSONL file.
        tasks: With --probe tasks: standard tasks: names of lm-eval, and files (.jsonl, .yaml), between commas.
            For example lambada_openai,piqa,mine.jsonl.
        target: With --probe tradeoff: what a model was specialised in, in the forms of --data: prompts with an
            answer beside them, of which the right completions count, or text, of which nats do. Its first 500
            items are read: give what was not trained on. For example sums.jsonl.
        guard: With --probe tradeoff: what it should still do, in the same forms, between commas. For example
            chat.jsonl,text.jsonl.
        styles: With --probe style: a strategy for each kind of task and a pattern that its answers match: a TOML
            file such as capture --system reads. For example strategies.toml.
        successes: With --probe pass-until: passes to wait for. Default: 4.
        max_samples: With --probe pass-until: the most completions of one instance. Default: 100k.
        device: Device of this process: auto, cpu, cuda or cuda:1. Default: auto.
        mesh: How the processes of torchrun hold the weights: replicate, all on each; shard, a part on each; or
            shard=8,replicate=2, groups of processes that hold a part each. Default: replicate.
        threads: Threads of this process. Default: those of torch.
        out: Folder to write the readings into.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """

def export(
    model: str,
    *,
    data: str | None = "python:stdlib",
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    skip_bad: int | None = None,
    device: str | None = "auto",
    threads: int | None = None,
    to: str | None = "folder",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = "auto",
    out: str | PathLike[str],
) -> ExportResult:
    """Write a model in other formats, run each by its own program and compare it with the model.

    A model inside a run is compared on text that the run was not trained on. Each format has a folder of its own;
    one alone is the folder of --out.

    Args:
        model: Folder or hub id of the model.
        data: Text on which the exports are compared with the model, in the forms that limbeck distil reads. For
            example a.jsonl:0.7,hf:b:0.3 or web:0.9,math:0.1; annealed: web:0.4,math:0.6. Default: python:stdlib.
        columns: Fields of the dataset that have other names than usual. For example text=body or
            prompt=question,completion=answer.
        skip_bad: Unreadable records of the dataset that may be left out. Default: 0, the first one is an error.
        device: Device of this process: auto, cpu, cuda or cuda:1. Default: auto.
        threads: Threads of this process. Default: those of torch.
        to: Formats, between commas: folder, gguf, gguf:f32, gguf:f16, gguf:bf16, gguf:q8_0, gguf:q4_0, onnx,
            int8, or those of packages that are installed. Default: folder.
        dtype: Number format of what is written; auto is that of the model. Default: auto.
        out: Folder to write.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """

def pilot(
    file: str | PathLike[str] | None = None,
    /,
    *,
    students: str | None = None,
    teachers: str | None = "6",
    any_teacher: bool | None = False,
    data: str | None = "python:stdlib",
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    skip_bad: int | None = None,
    scale: Literal["smoke", "small", "gpu"] | None = "small",
    objective: str | Objective | Sequence[str | Objective] | None = "0.5*CrossEntropy + 0.5*ForwardKL",
    law: bool | None = None,
    grow: bool | None = False,
    seed: int | None = 0,
    seeds: int | None = 3,
    workers: int | None = None,
    ray: str | None = None,
    out: str | PathLike[str] | None = "runs/pilot",
) -> PilotResult:
    """Train a ladder of small teachers and students on your data, to see which teacher is best.

    Args:
        file: A TOML run file with the same keys; keys given here win.
        students: Number of student sizes, or the sizes. For example 30k,60k,120k. Default: 3; 2 at scale gpu.
        teachers: Number of teacher sizes, or the sizes. For example 45k,90k,200k,600k. Default: 6.
        any_teacher: Continue with a teacher that predicts the text no better than the frequency of each token
            does.
        data: Dataset: .txt, .jsonl, .json (also .gz, .zst), .parquet, a folder, a glob, an address such as
            s3://BUCKET/FOLDER, hf:NAME[:CONFIG][/SPLIT], python:stdlib; several between commas, for a training
            each with a weight, in stages, and with the domain of its teacher. Records hold text, messages (with
            tools, weight), ShareGPT conversations, prompt and completion, or Alpaca's fields. For example
            a.jsonl:0.7,hf:b:0.3 or web:0.9,math:0.1; annealed: web:0.4,math:0.6. Default: python:stdlib.
        columns: Fields of the dataset that have other names than usual. For example text=body or
            prompt=question,completion=answer.
        skip_bad: Unreadable records of the dataset that may be left out. Default: 0, the first one is an error.
        scale: How large the models are: smoke takes a minute, small an hour or two on two cores, gpu needs one.
            Default: small.
        objective: Distillation loss, by name, as a weighted sum, or FILE.py:CLASS. Default: 0.5*CrossEntropy +
            0.5*ForwardKL.
        law: Also train what a distillation law needs: students for fewer tokens, teachers for more.
        grow: Grow each teacher but the smallest from the one below, and train it on 0.6 of the tokens; the
            results say what that saved.
        seed: Seed of data order, new weights and samples. Default: 0.
        seeds: Number of seeds, from --seed on. Default: 3.
        workers: Processes, of one thread each. Default: one a core.
        ray: Address of a Ray cluster to spread the work over.
        out: Folder of the pilot. Default: runs/pilot.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """

def predict(
    *,
    points: str | PathLike[str],
    task: str,
    params: int | str,
) -> PredictResult:
    """Predict the score of a larger model on a task from those of smaller ones, and check earlier predictions.

    Args:
        points: Folder of results of limbeck probe --probe pass-until.
        task: Which task of those measured there.
        params: Parameters of the model to predict. For example 6M or 1.3B.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """

def pretrain(
    file: str | PathLike[str] | None = None,
    /,
    *,
    start: str | None = None,
    vocab: int | str | None = 2048,
    params: int | str | None = None,
    shape: str | None = None,
    data: str | None = "python:stdlib",
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    skip_bad: int | None = None,
    eval_data: str | None = None,
    dedup: bool | None = False,
    seq_len: int | str | None = None,
    long_conversations: Literal["split", "drop"] | None = "split",
    tokens: int | str | None = 500_000,
    batch_tokens: int | str | None = None,
    lr: float | None = None,
    schedule: Literal["wsd", "cosine", "constant"] | None = "wsd",
    warmup: float | None = 0.05,
    weight_decay: float | None = 0.01,
    max_grad_norm: float | None = 1.0,
    betas: str | tuple[float, float] | None = "0.9,0.95",
    save_every: int | str | None = None,
    average: str | None = None,
    eval_every: int | str | None = None,
    patience: int | None = None,
    weights: Literal["last", "best"] | None = None,
    track: Literal["trackio", "wandb", "tensorboard", "mlflow"] | None = None,
    optimizer: Literal["adamw", "adamw-bf16", "adamw-8bit"] | None = "adamw",
    weights_dtype: Literal["float32", "bfloat16"] | None = "float32",
    seed: int | None = 0,
    mixers: str | Sequence[str] | None = None,
    width: int | None = None,
    layers: int | None = None,
    device: str | None = "auto",
    text_processes: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] | None = "auto",
    threads: int | None = None,
    micro_batch: int | None = None,
    checkpointing: Literal["auto", "none", "layers"] | None = "auto",
    mesh: str | None = None,
    out: str | PathLike[str] | None = "runs/pretrain",
) -> PretrainResult:
    """Train a model from scratch, with a tokenizer of its own.

    Args:
        file: A TOML run file with the same keys; keys given here win.
        start: Model to go on from, with its tokenizer, instead of new weights: a folder or hub id. Default:
            random weights and a new tokenizer.
        vocab: Tokens of the vocabulary, which is trained here. Default: 2048.
        params: Parameters of the model. For example 250k, 6M or 1.3B.
        shape: Shape of the model, instead of a number of parameters. For example
            layers=4,hidden=48,heads=6,kv_heads=3,ffn=128.
        data: Dataset: .txt, .jsonl, .json (also .gz, .zst), .parquet, a folder, a glob, an address such as
            s3://BUCKET/FOLDER, hf:NAME[:CONFIG][/SPLIT], python:stdlib; several between commas, for a training
            each with a weight, in stages, and with the domain of its teacher. Records hold text, messages (with
            tools, weight), ShareGPT conversations, prompt and completion, or Alpaca's fields. For example
            a.jsonl:0.7,hf:b:0.3 or web:0.9,math:0.1; annealed: web:0.4,math:0.6. Default: python:stdlib.
        columns: Fields of the dataset that have other names than usual. For example text=body or
            prompt=question,completion=answer.
        skip_bad: Unreadable records of the dataset that may be left out. Default: 0, the first one is an error.
        eval_data: Held-out dataset. Default: a part of --data, split by document hash.
        dedup: Leave out documents whose content occurred before, compared by hash; of --data also those that
            --eval-data holds.
        seq_len: Sequence length. Default: 256 on a CPU, 1024 on a GPU, at most the model's context.
        long_conversations: What becomes of conversations longer than a sequence: split cuts them into pieces in
            which a completion keeps its prompt if both fit, drop leaves them out. Default: split.
        tokens: Training tokens, in whole sequences. For example 2M or 10B. Default: 500k.
        batch_tokens: Tokens of one optimiser step. Default: as many as make about 400 steps.
        lr: Peak learning rate. Default: by the size of the student; converted students use one third of that.
        schedule: Learning rate schedule, after a warm-up. Default: wsd; cosine for pruned students of 100M
            parameters or more.
        warmup: Share of the steps, or number of steps, in which the learning rate rises to its peak. Default:
            0.05.
        weight_decay: Weight decay of matrices. Default: 0.01.
        max_grad_norm: Norm above which the gradient of a step is scaled down, 0 for never. Default: 1.0.
        betas: AdamW's decay rates of the means of gradients and of their squares. Default: 0.9,0.95.
        save_every: Steps, or minutes, after which a checkpoint is saved. For example 500 or 30min. Default: 200
            steps, and 10 minutes at the latest.
        average: Average the weights: ema:DECAY is an exponential average, last:SHARE the mean over the last share
            of the steps. For example ema:0.999 or last:0.2. Default: not averaged.
        eval_every: Steps after which the held-out loss is measured, on documents that take no part in the final
            evaluation. Default: six points of a training, on a few sequences.
        patience: With --eval-every: end a training after so many measurements in a row without a lower held-out
            loss.
        weights: With --eval-every: which weights become the student, those after the last step or those with the
            lowest held-out loss. Default: last; best with --patience.
        track: Send loss, learning rate, gradient norm and held-out loss to a tracker while training; settings and
            keys are those of its own environment variables. Default: none; metrics.jsonl has all.
        optimizer: Optimiser: AdamW with a state in float32 (8 bytes a parameter), in bfloat16 with stochastic
            rounding (4), or in 8 bits (2; extra quant). Default: adamw.
        weights_dtype: Number format in which weights are trained; bfloat16 keeps no copy in float32, and needs
            --optimizer adamw-bf16 or adamw-8bit. Default: float32.
        seed: Seed of data order, new weights and samples. Default: 0.
        mixers: Layers of a decoder of limbeck's own, by pattern, repeated until full. For example
            conv,based,conv,swa:64 or attention*1,gdn*3.
        width: With --mixers: channels of the model.
        layers: With --mixers: number of layers, a multiple of the pattern.
        device: Device of this process: auto, cpu, cuda or cuda:1. Default: auto.
        text_processes: Processes that tokenise the dataset; the result does not depend on their number. Default:
            one a core for 256 MiB of text or more and for datasets of the hub, else 1.
        dtype: Number format of the arithmetic (mixed precision with bfloat16); auto is bfloat16 where the device
            has units for it, on a CPU (AVX512-BF16, AMX) for models of 256 channels or more; a begun run keeps
            its own. Default: auto.
        threads: Threads of this process. Default: those of torch.
        micro_batch: Sequences that are computed at once in each process (micro-batch). Gradients are summed over
            them, so it changes results by rounding only; it is halved where memory runs out. Default: as many as
            make about 1,024 tokens on a CPU and 16,384 on a GPU, and fit.
        checkpointing: Gradient checkpointing: layers computes the decoder's layers twice instead of keeping their
            activations, with the same gradients; auto does so where that is the fastest way that fits into
            memory. Default: auto.
        mesh: How the processes of torchrun hold the weights: replicate, all on each; shard, a part on each; or
            shard=8,replicate=2, groups of processes that hold a part each. Default: replicate.
        out: Folder of the run. Default: runs/pretrain.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """

def reproduce(
    recipe: str,
    *,
    data: str | None = None,
    points: str | PathLike[str] | None = None,
    scale: Literal["smoke", "small", "gpu"] | None = "small",
    seed: int | None = 0,
    seeds: int | None = 3,
    workers: int | None = None,
    device: str | None = "auto",
    out: str | PathLike[str] | None = None,
) -> ReproduceResult:
    """Reproduce a published result: confirmed, refuted or inconclusive, by a criterion that stood before.

    Args:
        recipe: One of arithmetic, based, capacity-gap, compressor, distillation-law, generalization, latro,
            learngene, light-if, lora-sb, low-resource-code, masked-thought, minichat, minima, mixture-growth,
            open-mopd, orca2, pass-until, rethinking-opd, reversal, rich-lazy, robust-recovery, s4d,
            self-pretraining, sft-guide, specialize, taid-gap, zoology, zoology-language, or one of a package that
            is installed.
        data: Dataset to use instead of the recipe's own.
        points: Folder of a pilot to judge, instead of training one.
        scale: How large the models are: smoke takes a minute, small an hour or two on two cores, gpu needs one.
            Default: small.
        seed: Seed of data order, new weights and samples. Default: 0.
        seeds: Number of seeds, from --seed on. Default: 3.
        workers: Processes, of one thread each. Default: one a core.
        device: Device of this process: auto, cpu, cuda or cuda:1. Default: auto.
        out: Folder of the reproduction. Default: runs/RECIPE-SCALE.

    Raises a `limbeck.LimbeckError` that names the mistake and what to do.
    """
