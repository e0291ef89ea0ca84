"""Distilling the same student from the same teacher on the same documents: two plain loops, TRL's GKD trainer, limbeck twice.

    python benchmarks/distil.py                          # every contender three times, in turn
    python benchmarks/distil.py --documents 320 --repeats 1 --contenders limbeck
    python benchmarks/distil.py --dtype auto             # limbeck and the packed loop in bfloat16, where the processor has it

Each run is a fresh process with one thread, and what is counted is the CPU time of that process: on a machine that
others use too, wall time says more about them. What surprises: peak memory is counted from after imports and loading,
so it is what *training* takes; the steps of every contender are seen by one hook on torch's optimisers, so none is
changed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circumstances import made_by
from setting import LENGTH, Setting, encode, prepare, write_texts

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DOCUMENTS_PER_STEP = 8  # of the padded contenders; a packed step has as many tokens, to the nearest row
LEARNING_RATE = 2e-3
BETAS = (0.9, 0.95)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


@dataclass(frozen=True)
class Trained:
    """What a contender hands back: both models, and how many real tokens each step saw."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    tokens: list[int]


class Meter:
    """CPU seconds of each optimiser step, and memory above what the loaded models take.

    After each step the rate of a square product is measured too, outside the step's time: who shares the machine changes
    from second to second, so only a rate taken among the steps can be compared with them.
    """

    def __init__(self) -> None:
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.starts: list[float] = []  # of every step but the first
        self.ends: list[float] = []
        self.base = 0.0
        self._products: list[float] = []
        self._factors = torch.randn(2, 1024, 1024)
        self._product = torch.empty(1024, 1024)
        register_optimizer_step_post_hook(lambda *_: self._stepped())

    def _stepped(self) -> None:
        import torch

        self.ends.append(time.process_time())
        for _ in range(4):
            start = time.process_time()
            torch.mm(*self._factors, out=self._product)
            self._products.append(time.process_time() - start)
        self.starts.append(time.process_time())

    @property
    def steady(self) -> float:
        """CPU seconds of all steps but the first."""
        return sum(end - start for start, end in zip(self.starts, self.ends[1:], strict=False))

    @property
    def gemm(self) -> float:
        """FLOP per CPU second of a product of 1024 x 1024 matrices in float32, the median over the run."""
        return 2 * 1024**3 / statistics.median(self._products)

    def loaded(self, *models: PreTrainedModel) -> None:
        """Says that the models are there: what memory is taken now is not training's."""
        for model in models:
            for parameter in model.parameters():
                parameter.detach().sum()  # a mapped file takes memory only once it is read
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # puts the high-water mark back to what is held
        self.base = _status_mib("VmRSS")

    def peak(self) -> float:
        """MiB above the models, at most, so far."""
        return _status_mib("VmHWM") - self.base


def plain(folder: Path, setting: Setting, meter: Meter, *, half: bool) -> Trained:
    """The loop that one writes first: pad the documents of a step, full logits of both models, one divergence; in float32."""
    import torch
    from torch.nn.functional import kl_div
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(setting.student)
    student, teacher = _models(setting)
    meter.loaded(student, teacher)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0, fused=True)
    tokens = []
    for ids in _steps(encode(_texts(folder / "train.jsonl"), tokenizer)):
        batch, mask = _pad(ids)
        log_q = student(input_ids=batch, attention_mask=mask).logits[:, :-1].log_softmax(-1)
        with torch.no_grad():
            log_p = teacher(input_ids=batch, attention_mask=mask).logits[:, :-1].log_softmax(-1)
        _step(optimizer, student, kl_div(log_q, log_p, reduction="none", log_target=True), mask[:, 1:].float())
        tokens.append(sum(map(len, ids)))
    return Trained(student, teacher, tokens)


def packed(folder: Path, setting: Setting, meter: Meter, *, half: bool) -> Trained:
    """The same loop without padding: documents joined, cut in rows, and kept apart by positions that start anew.

    As many rows a step as hold the tokens of a padded step.
    """
    import torch
    from torch.nn.functional import kl_div
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(setting.student)
    student, teacher = _models(setting)
    meter.loaded(student, teacher)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0, fused=True)
    documents = encode(_texts(folder / "train.jsonl"), tokenizer)
    joined = torch.tensor([token for ids in documents for token in ids])
    position = torch.cat([torch.arange(len(ids)) for ids in documents])
    padded_steps = -(-len(documents) // DOCUMENTS_PER_STEP)
    rows = max(1, round(len(joined) / LENGTH / padded_steps))
    tokens = []
    for start in range(0, len(joined) - 1, rows * LENGTH):
        index = torch.arange(start, min(start + rows * LENGTH, len(joined) - 1))
        index = torch.cat([index, index.new_full((-len(index) % LENGTH,), -1)]).view(
            -1, LENGTH
        )  # the last row is filled up
        real = index >= 0
        inside = torch.where(real, position[index], 0)
        place = torch.minimum(inside, torch.arange(LENGTH))  # a document that a row cuts begins anew there
        weight = (real & (position[(index + 1).clamp(max=len(joined) - 1)] != 0)).float()
        batch = torch.where(real, joined[index], 0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            log_q = student(input_ids=batch, position_ids=place).logits.log_softmax(-1)
            with torch.no_grad():
                log_p = teacher(input_ids=batch, position_ids=place).logits.log_softmax(-1)
            parts = kl_div(log_q, log_p, reduction="none", log_target=True)
        _step(optimizer, student, parts, weight)
        tokens.append(int(real.sum()))
    return Trained(student, teacher, tokens)


def _step(optimizer: Optimizer, student: PreTrainedModel, parts: Tensor, weight: Tensor) -> None:
    """A step by a divergence, given by outcome."""
    import torch

    ((parts.sum(-1) * weight).sum() / weight.sum()).backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def gkd_arguments(folder: Path, **own: Any) -> Any:
    """The settings of TRL's GKD trainer: the steps of the other contenders in float32, in the order of the documents."""
    from trl.experimental.gkd import GKDConfig

    return GKDConfig(
        output_dir=str(folder / "trl"),
        temperature=1.0,
        max_length=LENGTH,
        per_device_train_batch_size=DOCUMENTS_PER_STEP,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        **own,
    )


def trl(folder: Path, setting: Setting, meter: Meter, *, half: bool) -> Trained:
    """TRL's GKD trainer, off policy (lmbda 0), forward KL (beta 0), in the order of the documents; in float32."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.experimental.gkd import GKDTrainer

    tokenizer = AutoTokenizer.from_pretrained(setting.student)
    student, teacher = _models(setting)
    meter.loaded(student, teacher)
    documents = encode(_texts(folder / "train.jsonl"), tokenizer)
    # the first token is the prompt; all that follow are learned
    rows = [{"prompt": "", "input_ids": ids, "completion_mask": [0] + [1] * (len(ids) - 1)} for ids in documents]
    arguments = gkd_arguments(folder, lmbda=0.0, beta=0.0)
    GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    ).train()
    return Trained(student, teacher, [sum(map(len, ids)) for ids in _steps(documents)])


def limbeck(folder: Path, setting: Setting, meter: Meter, *, half: bool, cached: bool = False) -> Trained:
    """limbeck through its Python API: the documents packed whole in rows, an epoch to the nearest step.

    A step has as many rows as hold the tokens of a padded step, so all contenders take equally many steps. ``cached``: from 12
    sampled outcomes of each position, which are captured before the first step.
    """
    import torch

    from limbeck.corpora import Rows, build_stores
    from limbeck.models.load import load
    from limbeck.objectives import ForwardKL
    from limbeck.run.run import Plan, Run
    from limbeck.run.world import alone
    from limbeck.teachers.cache import Coding, capture_outcomes
    from limbeck.teachers.codec import Sampled
    from limbeck.teachers.rows import NumberedRows

    teacher = load(setting.teacher, dtype=torch.bfloat16 if half else torch.float32)
    student = load(setting.student, train=True)
    store, _ = build_stores(
        str(folder / "train.jsonl"),
        student,
        folder / "tokens",
        eval_source=str(folder / "held_out.jsonl"),
    )
    corpus, order = Rows(store, length=LENGTH), Rows(store, length=LENGTH)
    if cached:
        numbered = NumberedRows(corpus.rows_of, LENGTH, corpus.n_rows, 16)
        coding = Coding(Sampled(teacher.vocab, 12), seed=0)
        logits = capture_outcomes(teacher, numbered, folder / "logits", coding=coding, made_from={})
    meter.loaded(student.model, teacher.model)
    padded_steps = -(-store.documents // DOCUMENTS_PER_STEP)
    rows = max(1, round(corpus.n_rows / padded_steps))
    steps = round(corpus.n_rows / rows)
    plan = Plan(steps=steps, rows=rows, lr=LEARNING_RATE, schedule="constant", weight_decay=0.0, bf16=half)
    (folder / "run").mkdir()
    told = logits if cached else teacher
    Run(folder / "run", "limbeck", student, told, corpus, ForwardKL(), plan, alone()).train()
    tokens = [int((order.take(rows).document >= 0).sum()) for _ in range(steps)]
    return Trained(student.model, _models(setting)[1], tokens)


CONTENDERS: dict[str, Callable[..., Trained]] = {
    "plain": plain,
    "packed": packed,
    "trl": trl,
    "limbeck": limbeck,
    "cached": partial(limbeck, cached=True),
}


def run_one(name: str, folder: Path, setting: Setting, dtype: str) -> dict[str, float | int | str]:
    """Runs a contender in this process and measures it."""
    if name in ("limbeck", "cached"):
        import limbeck  # noqa: F401  (as in any program of its users, before torch: it chooses huge pages)
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    meter = Meter()
    half = dtype == "auto" and name not in ("plain", "trl") and has_bfloat16()
    trained = CONTENDERS[name](folder, setting, meter, half=half)
    peak, steps = meter.peak(), len(meter.ends)
    assert steps == len(trained.tokens), f"{name}: {steps} optimiser steps, {len(trained.tokens)} expected"
    rate = sum(trained.tokens[1:]) / meter.steady
    flops = floor_flops(trained, encode(_texts(folder / "train.jsonl"), _tokenizer(setting)))
    cross_entropy, divergence = held_out_nats(trained, encode(_texts(folder / "held_out.jsonl"), _tokenizer(setting)))
    return {
        "contender": name,
        "format": "bfloat16" if half else "float32",
        "steps": steps,
        "tokens": sum(trained.tokens),
        "tokens_per_cpu_s": rate,
        "floor_share": rate * flops / meter.gemm,
        "peak_mib": peak,
        "models_mib": meter.base,
        "first_step_cpu_s": meter.ends[0],
        "held_out_ce_nats": cross_entropy,
        "held_out_kl_nats": divergence,
        "gemm_gflop_per_cpu_s": meter.gemm / 1e9,
        "floor_mflop_per_token": flops / 1e6,
    }


def has_bfloat16() -> bool:
    """Whether the processor has units for products in bfloat16."""
    import torch

    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def floor_flops(trained: Trained, documents: list[list[int]]) -> float:
    """FLOP per real token that no implementation can avoid: 6 N of the student, 2 N of the teacher, and attention.

    N counts the weights of matrix products, the head among them (tied to the embeddings here); attention is 4 x width x
    layers per pair of tokens that see each other, forward, and twice that again backward.
    """
    pairs = sum(len(ids) * (len(ids) + 1) / 2 for ids in documents) / sum(map(len, documents))

    def forward(model: PreTrainedModel) -> float:
        products = sum(p.numel() for p in model.parameters() if p.ndim == 2)
        return 2 * products + 4 * model.config.hidden_size * model.config.num_hidden_layers * pairs

    return 3 * forward(trained.student) + forward(trained.teacher)


def held_out_nats(trained: Trained, documents: list[list[int]]) -> tuple[float, float]:
    """(cross-entropy, KL(teacher || student)) in nats per token of documents nobody learned from."""
    import torch

    trained.student.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for ids in _steps(documents):
            batch, mask = _pad(ids)
            log_q, log_p = (
                model(input_ids=batch, attention_mask=mask).logits[:, :-1].log_softmax(-1)
                for model in (trained.student, trained.teacher)
            )
            weight = mask[:, 1:].bool()
            nll = -log_q.gather(-1, batch[:, 1:, None]).squeeze(-1)[weight]
            kl = (log_p.exp() * (log_p - log_q)).sum(-1)[weight]
            sums += torch.stack([nll.sum(), kl.sum(), weight.sum()]).double()
    return float(sums[0] / sums[2]), float(sums[1] / sums[2])


def _models(setting: Setting) -> tuple[PreTrainedModel, PreTrainedModel]:
    import torch
    from transformers import AutoModelForCausalLM

    student, teacher = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (setting.student, setting.teacher)
    )
    return student.train(), teacher.eval().requires_grad_(False)


def _tokenizer(setting: Setting) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(setting.student)


def _texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def _steps(documents: list[list[int]]) -> Iterable[list[list[int]]]:
    for start in range(0, len(documents), DOCUMENTS_PER_STEP):
        yield documents[start : start + DOCUMENTS_PER_STEP]


def _pad(documents: list[list[int]]) -> tuple[Tensor, Tensor]:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    batch = pad_sequence([torch.tensor(ids) for ids in documents], batch_first=True)
    mask = pad_sequence([torch.ones(len(ids), dtype=torch.long) for ids in documents], batch_first=True)
    return batch, mask


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def run_all(names: list[str], repeats: int, documents: int, setting: Setting, dtype: str) -> list[dict[str, Any]]:
    """All contenders in turn, again and again, each in a process of its own."""
    results = []
    for repeat in range(repeats):
        for name in names:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                write_texts(folder / "train.jsonl", setting.texts(setting.train, documents))
                write_texts(folder / "held_out.jsonl", setting.texts(setting.held_out, 64))
                command = [sys.executable, __file__, "--dtype", dtype, "--one", name, str(folder), str(setting.folder)]
                done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-4000:]}")
            results.append({"repeat": repeat, **json.loads(done.stdout.splitlines()[-1])})
            row = results[-1]
            print(f"{repeat} {name:8} {row['tokens_per_cpu_s']:6.0f} tokens/CPU-s", file=sys.stderr, flush=True)
    return results


COLUMNS = (
    ("tokens_per_cpu_s", "real tokens per CPU-s", ".0f"),
    ("floor_share", "of the floor", ".0%"),
    ("peak_mib", "peak above models, MiB", ".0f"),
    ("first_step_cpu_s", "CPU s to first step", ".1f"),
    ("held_out_ce_nats", "held-out CE, nats", ".3f"),
    ("held_out_kl_nats", "held-out KL, nats", ".3f"),
)


def table(results: list[dict[str, Any]]) -> str:
    """Medians and, in brackets, smallest and largest of each contender, then the ratios to TRL."""
    names = list(dict.fromkeys(row["contender"] for row in results))
    of = {name: [row for row in results if row["contender"] == name] for name in names}
    lines = ["| contender | runs | steps | " + " | ".join(title for _, title, _ in COLUMNS) + " |"]
    lines.append("|---" * (len(COLUMNS) + 3) + "|")
    for name, rows in of.items():
        cells = [name, str(len(rows)), str(rows[0]["steps"])]
        for key, _, form in COLUMNS:
            values = [row[key] for row in rows]
            spread = f" ({min(values):{form}}..{max(values):{form}})" if max(values) > min(values) else ""
            cells.append(f"{statistics.median(values):{form}}{spread}")
        lines.append("| " + " | ".join(cells) + " |")
    medians = {name: _medians(rows) for name, rows in of.items()}
    for other in (name for name in ("trl", "packed") if name in of):
        for name in (name for name in names if name != other):
            ours, theirs = medians[name], medians[other]
            lines.append(
                f"\n{name} / {other}: {ours['tokens_per_cpu_s'] / theirs['tokens_per_cpu_s']:.2f}x the tokens per CPU-s, "
                f"{ours['peak_mib'] / theirs['peak_mib']:.2f}x the peak above the models, "
                f"{ours['first_step_cpu_s'] / theirs['first_step_cpu_s']:.2f}x the CPU time to the first step, "
                f"held-out CE {ours['held_out_ce_nats'] - theirs['held_out_ce_nats']:+.3f} nats, "
                f"KL {ours['held_out_kl_nats'] / theirs['held_out_kl_nats']:.2f}x"
            )
    return "\n".join(lines)


def _medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key, *_ in COLUMNS}


def circumstances(setting: Setting, documents: int) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        **made_by("transformers", "trl", "accelerate", "datasets", "tokenizers"),
        "cores": os.cpu_count(),
        "threads": 1,
        "seed": 0,
        "documents": documents,
        "setting": {k: str(v) for k, v in asdict(setting).items()},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--documents", type=int, default=160, help="documents of the one epoch, at most 4000")
    parser.add_argument("--teacher-seconds", type=float, default=60.0, help="CPU seconds of training, the first time")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parents[1] / ".bench" / "distil")
    parser.add_argument("--json", type=Path, help="where the results go; FOLDER/results.json if not given")
    parser.add_argument(
        "--dtype",
        choices=("float32", "auto"),
        default="float32",
        help="auto: limbeck and the packed loop in bfloat16 where the processor has units for it (default float32)",
    )
    parser.add_argument("--one", nargs=3, metavar=("NAME", "RUN", "SETTING"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, folder, setting_folder = arguments.one
        print(json.dumps(run_one(name, Path(folder), Setting(Path(setting_folder)), arguments.dtype)))
        return
    os.environ.update(ENVIRONMENT)
    setting = prepare(arguments.folder, seconds=arguments.teacher_seconds)
    results = run_all(arguments.contenders, arguments.repeats, arguments.documents, setting, arguments.dtype)
    path = arguments.json or arguments.folder / "results.json"
    path.write_text(json.dumps({**circumstances(setting, arguments.documents), "runs": results}, indent=1) + "\n")
    print(table(results))
    print(f"\n{path}")


if __name__ == "__main__":
    main()
