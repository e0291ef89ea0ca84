"""The contenders of `real_pair.py`: each distils the same start from the same teacher, in a process of its own.

    python benchmarks/pair_trainings.py JOB            # a Job as JSON; the last line printed is what was done, as JSON

All take AdamW with betas (0.9, 0.95), weight decay 0.01 on matrices, gradients clipped at norm 1, forward KL at temperature 1,
and the same learning rate: 5 % warm-up, then constant, and linearly to 0 in the last fifth of the steps.
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import AdamW
    from transformers import PreTrainedModel

BYTES_PER_TOKEN = 48  # of captured logits, as `limbeck capture` has it


@dataclass(frozen=True)
class Job:
    """What a contender gets. ``vocabulary`` is the folder of the trimmed vocabulary, where teacher and start have that one.

    ``data`` is JSON lines of text and its ids in all tokens of the teacher; ``tokens`` of them are read, in whole documents, and
    trained on ``epochs`` times. A step has about ``step_tokens``.
    """

    contender: str
    teacher: str
    start: str
    vocabulary: str | None
    data: str
    out: str
    tokens: int
    epochs: int
    seed: int
    bf16: bool
    length: int
    step_tokens: int
    rate: float

    @property
    def records(self) -> list[dict[str, Any]]:
        """The documents that are read."""
        found: list[dict[str, Any]] = []
        read = 0
        with open(self.data, encoding="utf-8") as file:
            for line in file:
                if read >= self.tokens:
                    break
                found.append(json.loads(line))
                read += len(found[-1]["ids"])
        return found


@dataclass(frozen=True)
class Done:
    """What a contender did: CPU seconds of the process until the models were loaded, of capture, and of training alone.

    ``read`` is how many tokens of text it had, ``trained`` how many places it trained on, padding left out.
    """

    steps: int
    read: int
    trained: int
    loaded_cpu_s: float
    capture_cpu_s: float
    training_cpu_s: float


def limbeck(job: Job) -> Done:
    """limbeck's Python API: logits captured once in 48 bytes each, then packed rows of them, for some epochs."""
    import torch

    from limbeck import Plan, Rows, Run, alone, load, save
    from limbeck.corpora.build import build_training
    from limbeck.models.trim.folder import open_vocabulary
    from limbeck.models.trim.model import trim
    from limbeck.objectives import ForwardKL
    from limbeck.run.micro import micro_rows
    from limbeck.teachers import Coding, NumberedRows, capture_outcomes
    from limbeck.teachers.codec import Sampled

    out = Path(job.out)
    teacher = load(job.teacher, dtype=torch.bfloat16 if job.bf16 else torch.float32)
    if job.vocabulary:
        teacher = trim(teacher, open_vocabulary(Path(job.vocabulary)))
    student = load(job.start, train=True)
    loaded = time.process_time()
    text = out / "text.jsonl"
    text.write_text("".join(json.dumps({"text": one["text"]}) + "\n" for one in job.records), encoding="utf-8")
    store = build_training(str(text), student, out / "tokens")
    rows = Rows(store, length=job.length)
    numbered = NumberedRows(rows.rows_of, job.length, rows.n_rows, micro_rows(job.length, torch.device("cpu")))
    coding = Coding(Sampled.within(teacher.vocab, BYTES_PER_TOKEN), job.seed)
    logits = capture_outcomes(teacher, numbered, out / "logits", coding=coding, made_from={})
    del teacher
    captured = time.process_time()
    corpus, order = (Rows(store, length=job.length, seed=job.seed) for _ in range(2))
    rows_a_step = max(1, round(job.step_tokens / job.length))
    steps = max(1, round(rows.n_rows * job.epochs / rows_a_step))
    plan = Plan(steps=steps, rows=rows_a_step, lr=job.rate, bf16=job.bf16)
    Run(out / "run", "limbeck", student, logits, corpus, ForwardKL(), plan, alone()).train()
    trained = time.process_time()
    save(student, out / "student")
    seen = sum(int((order.take(rows_a_step).document >= 0).sum()) for _ in range(steps))
    return Done(steps, store.tokens, seen, loaded, captured - loaded, trained - captured)


def packed(job: Job) -> Done:
    """The loop one writes first, packed: documents joined and cut in rows, kept apart by positions; full logits, live teacher."""
    import torch
    from torch.nn.functional import kl_div

    student, teacher = models(job)
    loaded = time.process_time()
    documents = [one["ids"] for one in job.records]
    random.Random(job.seed).shuffle(documents)
    joined = torch.tensor([token for ids in documents for token in ids])
    places = torch.cat([torch.arange(len(ids)) for ids in documents])
    span = max(1, round(job.step_tokens / job.length)) * job.length
    starts = range(0, len(joined) - 1, span)
    optimizer = adamw(student, job)
    for step, start in enumerate(starts):
        for group in optimizer.param_groups:
            group["lr"] = job.rate * share_of_peak(step, len(starts))
        batch, position, weight = rows_from(joined, places, start, span, job.length)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=job.bf16):
            log_q = student(input_ids=batch, position_ids=position, use_cache=False).logits.log_softmax(-1)
            with torch.no_grad():
                log_p = teacher(input_ids=batch, position_ids=position, use_cache=False).logits.log_softmax(-1)
            nats = kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
        ((nats * weight).sum() / weight.sum()).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    trained = time.process_time()
    keep(student, job)
    return Done(len(starts), len(joined), len(joined) - 1, loaded, 0.0, trained - loaded)


def rows_from(joined: Tensor, places: Tensor, start: int, span: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, positions, weights) of the rows of a step; a document that a row cuts begins anew there."""
    import torch

    index = torch.arange(start, min(start + span, len(joined) - 1))
    index = torch.cat([index, index.new_full((-len(index) % length,), -1)]).view(-1, length)
    real = index >= 0
    position = torch.minimum(torch.where(real, places[index], 0), torch.arange(length))
    weight = (real & (places[(index + 1).clamp(max=len(joined) - 1)] != 0)).float()
    return torch.where(real, joined[index], 0), position, weight


def trl(job: Job) -> Done:
    """TRL's GKD trainer, off policy (lmbda 0), forward KL (beta 0); documents of a step have about one length."""
    from datasets import Dataset
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import AutoTokenizer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    student, teacher = models(job)
    loaded = time.process_time()
    documents = [one["ids"][: job.length] for one in job.records]
    read = sum(map(len, documents))
    together = max(1, round(job.step_tokens * len(documents) / read))
    steps = -(-len(documents) // together)
    # the first token is the prompt; all that follow are learned
    rows = [{"prompt": "", "input_ids": ids, "completion_mask": [0] + [1] * (len(ids) - 1)} for ids in documents]
    settings = GKDConfig(
        output_dir=str(Path(job.out) / "trl"),
        lmbda=0.0,
        beta=0.0,
        temperature=1.0,
        max_length=job.length,
        per_device_train_batch_size=together,
        num_train_epochs=1,
        train_sampling_strategy="group_by_length",
        max_grad_norm=1.0,
        bf16=job.bf16,
        gradient_checkpointing=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job.seed,
    )
    optimizer = adamw(student, job)
    trainer = GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(job.start),
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: share_of_peak(min(step, steps - 1), steps))),
    )
    trainer.train()
    trained = time.process_time()
    assert trainer.state.global_step == steps, f"{trainer.state.global_step} steps, expected {steps}"
    keep(student, job)
    return Done(steps, read, read, loaded, 0.0, trained - loaded)


CONTENDERS = {"limbeck": limbeck, "packed": packed, "trl": trl}


def models(job: Job) -> tuple[PreTrainedModel, PreTrainedModel]:
    """(student, teacher) as Transformers loads them: the student in float32, the teacher in the format of the arithmetic."""
    import torch
    from transformers import AutoModelForCausalLM

    student = AutoModelForCausalLM.from_pretrained(job.start, dtype=torch.float32)
    teacher = AutoModelForCausalLM.from_pretrained(job.teacher, dtype=torch.bfloat16 if job.bf16 else torch.float32)
    return student.train(), teacher.eval().requires_grad_(False)


def adamw(student: PreTrainedModel, job: Job) -> AdamW:
    """The optimiser that limbeck has."""
    import torch

    groups = [
        {"params": [p for p in student.parameters() if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in student.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=job.rate, betas=(0.9, 0.95), fused=True)


def share_of_peak(step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0, as a share of the peak."""
    rise = max(1, round(0.05 * steps))
    if step < rise:
        return (step + 1) / rise
    return min(1.0, (steps - step) / max(1, round(0.2 * steps)))


def keep(student: PreTrainedModel, job: Job) -> None:
    """Saves what was trained."""
    from transformers import AutoTokenizer

    folder = Path(job.out) / "student"
    student.save_pretrained(folder)
    AutoTokenizer.from_pretrained(job.start).save_pretrained(folder)


def main() -> None:
    """Does a job, and prints what was done."""
    job = Job(**json.loads(sys.argv[1]))
    if job.contender == "limbeck":
        import limbeck  # noqa: F401  (as in any program of its users, before torch: it chooses huge pages)
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(job.seed)
    done = CONTENDERS[job.contender](job)
    print(json.dumps(vars(done)))


if __name__ == "__main__":
    main()
