"""The tables of scale.md: a student of 7B from a teacher of 70B on 64 GPUs, by arithmetic.

Sizes are counted on configurations, memory is limbeck's own estimate, rates are of data sheets or measured (scale.json, and
docs/results/performance/caches.json).

usage: scale.py writes the tables between the marks of scale.md; scale.py --measure measures the rate of checksums before.
"""

import argparse
import hashlib
import json
import platform
import re
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from transformers import LlamaConfig

from limbeck.models.anatomy import Anatomy
from limbeck.models.micro_batch import MICRO_TOKENS
from limbeck.planning.cost.fitting import FULL, Asked, chosen, forward_share
from limbeck.planning.cost.gpus import gpu
from limbeck.planning.cost.memory import MemoryUse
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.training import Cost, estimate

HERE = Path(__file__).parent
MEASURED = HERE / "scale.json"
CACHES = HERE.parent / "results" / "performance" / "caches.json"

MACHINES, EACH = 8, 8
GPUS = MACHINES * EACH
DEVICE = gpu("H100-SXM")
# One direction, in bytes/s. NVLink: 900 GB/s both ways (H100 datasheet). Network of a machine: 8 adapters of 400 Gb/s (DGX H100
# datasheet), or one of 100 Gb/s.
INSIDE, NETWORK, SLOW = 900e9 / 2, 8 * 400e9 / 8, 100e9 / 8

LENGTH, ROWS = 4_096, 512  # tokens of a row, rows of a step
TOKENS = 94e9  # as Llama-3.1-Minitron was trained on (arXiv 2408.11796)
BATCH = LENGTH * ROWS
OWN = BATCH // GPUS  # tokens of a step on each GPU

_LLAMA = {"vocab_size": 128_256, "num_key_value_heads": 8, "tie_word_embeddings": False}
TEACHER = LlamaConfig(
    **_LLAMA, hidden_size=8_192, intermediate_size=28_672, num_hidden_layers=80, num_attention_heads=64
)
STUDENT = LlamaConfig(
    **_LLAMA, hidden_size=4_096, intermediate_size=14_336, num_hidden_layers=28, num_attention_heads=32
)

LAYERS_8B = 32  # of the model that the student is cut from, which has its widths


@cache
def sizes() -> tuple[Size, Size]:
    """(student, teacher)."""
    return Size.of_anatomy(Anatomy.of(STUDENT)), Size.of_anatomy(Anatomy.of(TEACHER))


def whole_8b() -> float:
    """Parameters of the model that the student is cut from."""
    student, _ = sizes()
    return student.parameters + (LAYERS_8B / student.layers - 1) * student.body


@dataclass(frozen=True)
class Way:
    """A way of training: weights over ``shards`` processes, with a ``live`` teacher or its captured logits."""

    name: str
    shards: int
    live: bool

    @property
    def teacher(self) -> Size | None:
        return sizes()[1] if self.live else None

    def cost(self, use: MemoryUse) -> Cost:
        return estimate(
            sizes()[0],
            self.teacher,
            length=LENGTH,
            tokens=round(TOKENS),
            batch_tokens=OWN,
            itemsize=2,
            device="cuda",
            use=use,
            config=STUDENT,
            shards=self.shards,
        )

    @cache  # noqa: B019 (three of them)
    def use(self) -> MemoryUse:
        """How memory is used: the fastest way that fits, as limbeck chooses it; the smallest where none does."""
        usual = MICRO_TOKENS["cuda"] // LENGTH
        asked = Asked(usual, LENGTH, forward_share(sizes()[0], self.teacher, LENGTH))
        return chosen(asked, lambda use, _: self.cost(use).bytes, FULL * DEVICE.memory)

    @property
    def micro(self) -> int:
        """Tokens that a GPU computes at once."""
        return LENGTH * (self.use().rows or MICRO_TOKENS["cuda"] // LENGTH)

    @property
    def passes(self) -> int:
        """Micro-batches of a step."""
        return OWN // self.micro

    def moved(self) -> dict[str, tuple[float, float]]:
        """By kind the bytes of a step: what one GPU gets from others, and one machine from the network, at least."""
        student, teacher = sizes()
        inside, outside = 1 - 1 / self.shards, 1 - EACH / max(self.shards, EACH)
        ends = student.embedding + student.head
        twice = 2 * (student.parameters - ends) + ends  # layers for each pass, embedding and head once
        gathered = {"student's weights, gathered": 2.0 * twice * self.passes}
        if self.live:
            gathered |= {"teacher's weights, gathered": 2.0 * teacher.parameters * self.passes}
        gathered |= {"gradients, summed over shards": 4.0 * student.parameters * self.passes}
        kinds = {name: (size * inside, size * outside) for name, size in gathered.items()}
        replicas = GPUS // self.shards
        between = 2 * (1 - 1 / replicas) * 4 * student.parameters  # a sum is reduced, then spread
        return kinds | {"gradients, summed over replicas": (0.0, between)}

    def seconds(self) -> dict[str, float]:
        """By part the seconds of a step: computing at the assumed share of the peak, moving at the links' peak."""
        theirs = sizes()[1].forward_flops(LENGTH) if self.live else 0.0
        ours = self.cost(self.use()).flops_per_token - theirs
        inside, outside = (sum(kind[side] for kind in self.moved().values()) for side in (0, 1))
        return {
            "teacher's forward pass": DEVICE.training_seconds(theirs * OWN),
            "student's passes": DEVICE.training_seconds(ours * OWN),
            "moving inside a machine": inside / INSIDE,
            "moving between machines, 8 adapters of 400 Gb/s": outside / NETWORK,
            "moving between machines, one of 100 Gb/s": outside / SLOW,
        }

    @property
    def computing(self) -> float:
        """Seconds of a step without moving anything."""
        return sum(list(self.seconds().values())[:2])


REPLICATED = Way("`replicate`, live", 1, live=True)
INNER = Way("`shard=8,replicate=8`, live", EACH, live=True)
FLAT = Way("`shard`, live", GPUS, live=True)
CACHED = Way("`shard=8,replicate=8`, captured", EACH, live=False)


def tensor_parallel() -> float:
    """Bytes that each GPU moves a step where the teacher's layers are split inside a machine.

    Every layer sums the hidden states of all rows of the machine twice, in half precision.
    """
    hidden = 2 * TEACHER.hidden_size * OWN * EACH
    return 2 * TEACHER.num_hidden_layers * hidden * 2 * (EACH - 1) / EACH


def measured() -> dict:
    """What was measured here, as scale.json has it."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def codec(name: str) -> dict:
    """The measured codec of this name on the larger vocabulary."""
    found = json.loads(CACHES.read_text(encoding="utf-8"))["formats"]
    return next(one for one in found if one["format"] == name and one["vocab"] > 2**16)


def checkpoint() -> float:
    """Bytes of a checkpoint: weights and two moments in float32."""
    return 12.0 * sizes()[0].parameters


def capture_seconds() -> tuple[float, float]:
    """Seconds a token of a capture on one machine: all layers on 8 GPUs, and the head on the first alone."""
    teacher = sizes()[1]
    head = 2.0 * teacher.rows * teacher.hidden
    body = teacher.forward_flops(LENGTH) - head
    return DEVICE.training_seconds(body) / EACH, DEVICE.training_seconds(head)


def capture_days() -> float:
    """Days of capturing all tokens with one shard of the text for each machine."""
    return sum(capture_seconds()) * TOKENS / MACHINES / 86_400


def training_days(way: Way) -> float:
    """Days of training on all tokens."""
    return way.computing * TOKENS / BATCH / 86_400


def _table(head: str, rows: list[list[str]]) -> str:
    columns = head.split("|")
    lines = [[one.strip() for one in columns], ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _gb(size: float) -> str:
    return "–" if size == 0 else f"{size / 1e9:.1f}" if size < 100e9 else f"{size / 1e9:,.0f}"


def memory() -> str:
    """The table of bytes on each GPU, part by part."""
    ways = (REPLICATED, INNER, FLAT, CACHED)
    parts = [way.cost(way.use()).bytes for way in ways]
    names = list(dict.fromkeys(name for part in parts for name in part))
    rows = [[name, *(_gb(part.get(name, 0)) for part in parts)] for name in names if any(p.get(name) for p in parts)]
    rows.append(["**sum**", *(f"**{_gb(sum(part.values()))}**" for part in parts)])
    how = [f"{way.use().rows or 'usual'} rows{', layers twice' if way.use().checkpointed else ''}" for way in ways]
    return _table("GB on each GPU|" + "|".join(way.name for way in ways), [["computed at once", *how], *rows])


def moved() -> str:
    """The table of bytes that move in a step, inside a machine and between machines."""
    ways = (INNER, FLAT, CACHED)
    kinds = [way.moved() for way in ways]
    names = list(dict.fromkeys(name for kind in kinds for name in kind))
    pairs = [[kind.get(name, (0.0, 0.0)) for kind in kinds] for name in names]
    rows = [[name, *(f"{_gb(a)} / {_gb(b)}" for a, b in pair)] for name, pair in zip(names, pairs, strict=True)]
    return _table("GB a step, each GPU inside / each machine outside|" + "|".join(way.name for way in ways), rows)


def times() -> str:
    """The table of seconds of a step."""
    ways = (INNER, FLAT, CACHED)
    found = [way.seconds() for way in ways]
    rows = [[name, *(f"{part[name]:.2f}" if part[name] else "–" for part in found)] for name in found[0]]
    return _table("seconds a step|" + "|".join(way.name for way in ways), rows)


def disk() -> str:
    """The table of bytes on disk."""
    student, _ = sizes()
    rate = measured()["sha256_bytes_per_cpu_s"]
    sampled, top = codec("12 sampled"), codec("top-64")
    kept = checkpoint()

    def line(what: str, size: float, each: str) -> list[str]:
        return [what, f"{size / 1e9:,.0f} GB" if size < 1e12 else f"{size / 1e12:,.1f} TB", each]

    return _table(
        "what|bytes|of it",
        [
            line("text, as tokens", 4 * TOKENS, "4 bytes a token"),
            line("captured logits, 12 sampled", sampled["bytes"] * TOKENS, f"{sampled['bytes']} bytes a token"),
            line("captured logits, 64 top-k and the rest", top["bytes"] * TOKENS, f"{top['bytes']} bytes a token"),
            line(
                "captured logits, whole", student.cached_bytes() * TOKENS, f"{student.cached_bytes():,} bytes a token"
            ),
            line(
                "a checkpoint",
                kept,
                f"{kept / GPUS / 1e9:.1f} GB of each process, whose checksum takes {kept / GPUS / rate:.1f} CPU-seconds",
            ),
            line(
                "the teacher, read at the start",
                2.0 * sizes()[1].parameters * MACHINES,
                f"{2 * sizes()[1].parameters / 1e9:.0f} GB by each machine",
            ),
        ],
    )


TABLES = {"memory": memory, "moved": moved, "times": times, "disk": disk}
MARKS = re.compile(r"(<!-- table (\w+): begin -->\n\n).*?(\n\n<!-- table \2: end -->)", re.DOTALL)


def written(text: str) -> str:
    """The page with its tables of today."""
    return MARKS.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def measure() -> None:
    """Measures SHA-256 on one core, the median of five rounds, as limbeck hashes files."""
    block, rates = bytes(2**26), []
    for _ in range(5):
        start = time.process_time()
        hashlib.sha256(block).hexdigest()
        rates.append(len(block) / (time.process_time() - start))
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    found = {"sha256_bytes_per_cpu_s": round(sorted(rates)[2]), "processor": cpu, "python": platform.python_version()}
    MEASURED.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true")
    if parser.parse_args().measure:
        measure()
    page = HERE / "scale.md"
    page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
