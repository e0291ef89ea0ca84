"""The files of SmolLM2-135M-Instruct and of its students in llama.cpp: bytes, bits per byte, speed, and what they write.

usage: smollm2_files.py RUNS OUT reads RUNS/{20m,40m}-files, which `limbeck export` wrote, and writes OUT/files.json.

Bits per byte are of all held-out stories, each document read by itself in rows of at most 512 tokens, with the logits that
llama.cpp computes; the teacher has its whole vocabulary, so bits per byte are the unit. Documents begin with the token with which
the teacher has the fewest nats.

Speeds are of one thread, in rounds: in each round all files take their turn, and begin with another one. A ratio is that of
turns of the same round, with an interval over rounds. It is of tokens: `bytes_per_token` says how much text they are.

Texts continue one prompt, greedily and drawn at temperature 0.8 with one seed, both chosen beforehand.
"""

import math
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from shared import as_json, made_by, versions
from smollm2 import read_json
from smollm2_tasks import OPENING, SIZES, TEACHER

from limbeck.corpora import Rows
from limbeck.corpora.build import build_held_out
from limbeck.corpora.opening import begin_with
from limbeck.disk import write_json
from limbeck.exporters.gguf.runtime import LlamaCpp
from limbeck.jobs.common.folder import versions as machine_and_versions
from limbeck.models.gguf.shipped import SHIPPED
from limbeck.models.load import load
from limbeck.papers.based.recipe import ratio_of
from limbeck.probes import measure
from limbeck.probes.interval import difference_interval, mean_interval

KINDS = ("f32", "bf16", "q8_0", "q4_0")
LENGTH = 512  # tokens of a row, as in training
READ, WRITTEN, ROUNDS = 128, 64, 15  # tokens that are timed, and rounds
PROMPT = "Once upon a time, there was a little dog who"
NEW, TEMPERATURE, SEED, WRITER = 100, 0.8, 0, "q8_0"  # of the texts


class Reader:
    """A model's tokenizer, and the held-out stories in its tokens."""

    def __init__(self, model, text, folder):
        begin_with(model, OPENING)
        self.tokenizer = model.tokenizer
        self.store = build_held_out(str(text), model, folder)
        rows = Rows(self.store, length=LENGTH)
        self.batches = [rows.rows_of(np.arange(start, start + 1)) for start in range(rows.n_rows)]
        self.bytes = np.array([self.store.bytes_of(one) for one in range(self.store.documents)], dtype=np.float64)

    def prompt(self, text):
        """A beginning of a document in tokens."""
        return [
            self.tokenizer.convert_tokens_to_ids(OPENING),
            *self.tokenizer.encode(text, add_special_tokens=False),
        ]

    @property
    def timed(self):
        """The tokens that are read where time is taken."""
        return self.batches[0].tokens[0, :READ].tolist()


def files(runs, teacher):
    """Each file by its name, with whose it is."""
    found = {"teacher, Q4_1": ("teacher", teacher)}
    for size in SIZES:
        for kind in KINDS:
            (file,) = (runs / f"{size.lower()}-files" / f"gguf-{kind}").glob("*.gguf")
            found[f"{size}, {kind}"] = (size, file)
    return found


def quality(model, reader):
    """Nats of each document, over all of its tokens."""
    found = measure(model, None, reader.batches, documents=reader.store.documents)
    assert (found.tokens > 0).all(), "every document is read"
    return found


def continued(model, reader, *, temperature):
    """The text after the prompt."""
    random, tokens = np.random.default_rng(SEED), reader.prompt(PROMPT)
    start = len(tokens)
    while len(tokens) < start + NEW:
        logits = model.logits(tokens)[-1].astype(np.float64)[: len(reader.tokenizer)]
        if temperature:
            chances = np.exp((logits - logits.max()) / temperature)
            token = int(random.choice(len(chances), p=chances / chances.sum()))
        else:
            token = int(logits.argmax())
        if token == reader.tokenizer.eos_token_id:
            break
        tokens.append(token)
    return reader.tokenizer.decode(tokens[start:])


def turns(models, readers):
    """Tokens a second of each file in each round, of reading and of writing."""
    names = list(models)
    found: dict[str, dict[str, list[float]]] = {name: {"prefill": [], "generation": []} for name in names}
    for number in range(ROUNDS):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            tokens = readers[name].timed
            seconds = models[name].seconds(tokens, WRITTEN, 1)
            found[name]["prefill"].append(len(tokens) / seconds.prefill)
            found[name]["generation"].append(WRITTEN / seconds.generation)
    return found


def speeds(mine, teachers):
    """The rate over rounds, and the ratio to the teacher's, each with its interval; of the teacher itself the rate."""
    found = {}
    for what, rates in mine.items():
        found[what] = {
            "tokens_per_s": as_rounds(ratio_of([rates, [1.0] * len(rates)])),
            "times_teacher": None if mine is teachers else as_rounds(ratio_of([rates, teachers[what]])),
            "turns": rates,
        }
    return found


def as_rounds(interval):
    """An interval over rounds as it is kept."""
    found = as_json(interval)
    return {**{key: found[key] for key in ("value", "low", "high")}, "rounds": found["documents"]}


def exported(file):
    """What `limbeck export` compared of a student's file."""
    record = file.parent / "export.json"
    if not record.is_file():
        return None
    (found,) = read_json(record)["exports"]
    return {"notes": found["notes"]} | {key: found["compared"][key] for key in ("kl", "same", "difference", "tokens")}


def row(name, whose, file, reader, measured, teacher):
    """What is known of a file but its speed."""
    bits = measured.nats / math.log(2)
    more = difference_interval(bits[None], teacher.nats[None] / math.log(2), reader.bytes)
    return {
        "name": name,
        "model": whose,
        "bytes": file.stat().st_size,
        "bits_per_byte": as_json(mean_interval(bits, reader.bytes)),
        "above_teacher": None if measured is teacher else as_json(more),
        "tokens": int(measured.tokens.sum()),
        "bytes_per_token": float(reader.bytes.sum() / measured.tokens.sum()),
        "exported": exported(file),
    }


def main(runs, out):
    """Measures all files, and writes what came out."""
    runs, out = Path(runs), Path(out)
    with tempfile.TemporaryDirectory() as folder:
        sources = {"teacher": TEACHER} | {size: str(runs / size.lower() / "student") for size in SIZES}
        text = runs / "text" / "held_out.jsonl"
        by_model = {name: Reader(load(source), text, Path(folder) / name) for name, source in sources.items()}
        found = files(runs, SHIPPED["smollm2-135m"].file())
        readers = {name: by_model[whose] for name, (whose, _) in found.items()}
        models = {name: LlamaCpp(file) for name, (_, file) in found.items()}
        try:
            timed = turns(models, readers)
            measured = {name: quality(models[name], readers[name]) for name in found}
            teacher = next(iter(found))
            assert all((reader.bytes == readers[teacher].bytes).all() for reader in readers.values()), (
                "the same stories"
            )
            rows = [
                row(name, whose, file, readers[name], measured[name], measured[teacher])
                | {"speed": speeds(timed[name], timed[teacher])}
                for name, (whose, file) in found.items()
            ]
            writers = [teacher, *(f"{size}, {WRITER}" for size in SIZES)]
            texts = {
                name: {
                    how: continued(models[name], readers[name], temperature=temperature)
                    for how, temperature in (("greedy", 0.0), ("drawn", TEMPERATURE))
                }
                for name in writers
            }
        finally:
            for model in models.values():
                model.close()
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "files.json",
        made_by("smollm2_files.py", "RUNS", "docs/results/smollm2")
        | {
            "versions": versions("torch") | {"xllamacpp": version("xllamacpp")},
            "machine": machine_and_versions()["machine"],
            "documents": readers[teacher].store.documents,
            "text_bytes": int(readers[teacher].bytes.sum()),
            "timed": {"read": READ, "written": WRITTEN, "threads": 1},
            "files": rows,
            "texts": {"prompt": PROMPT, "temperature": TEMPERATURE, "seed": SEED, "new": NEW, "by": texts},
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
