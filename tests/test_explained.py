"""Every figure on the pages of docs/explain is computed here, from a committed file or from a constant of the code.

``FIGURES`` has the sentences of each page with places for their figures, and what these are. Any other digit fails, but for
code, references, names and formulas (``NAMES``). The page about other tools is left out: its figures are theirs, at the commits
that it names.
"""

import inspect
import re
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location

import pytest

from limbeck.corpora import jsonl, layout, opening
from limbeck.corpora.tasks import synthetic
from limbeck.models import inside
from limbeck.models.source import resolve
from limbeck.objectives.uld import ULD
from limbeck.planning.cost.gpus import UTILISATION
from limbeck.run import optim
from limbeck.teachers.remote import served
from tests.test_headlines import RESULTS, at, without

EXPLAIN = RESULTS.parent / "explain"
FREE = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)|arXiv [\d.]+(?:, sec\. [\d.]+)?|^\d+\. |^#[^\n]*|^\*\*Held by[^\n]*",
    re.DOTALL | re.MULTILINE,
)
NAMES = {
    "cost-estimates.md": ["2 for each weight"],
    "data-mixtures.md": ["(j + 1/2) / w"],
    "gguf-files.md": ["Llama 3", "SHA-256", "Q4_1", "bfloat16", "1 part in 512"],
    "loaded-exports.md": ["q4_0"],
    "long-texts.md": ["GPT-2"],
    "measuring-recall.md": ["includes 0"],
    "measured-opening.md": ["SmolLM2-135M-Instruct"],
    "memory-of-a-step.md": ["bfloat16", "8 bits"],
    "mixers.md": ["1 is the recurrence", "float32"],
    "no-logits-matrix.md": ["float32"],
    "number-format.md": ["bfloat16", "AVX512-BF16", "float32"],
    "one-support.md": ["Qwen2.5", "151,936", "152,064", "is not 0", "float64"],
    "probes.md": ["An accuracy of 12 %"],
    "packing-without-a-mask.md": ["float32"],
    "pruning-by-table.md": [
        "gemma2, gemma3, glm4, gpt2",
        "olmo2, olmo3, phi3, qwen2, qwen3, smollm3",
        "qwen2_moe",
        "qwen3_moe",
    ],
    "quantised-training.md": ["4 bits", "Q4_0", "GPT-2", "float32", "bfloat16"],
    "queried-teachers.md": ["FP8, MXFP4"],
    "recall.md": ["almost 0", "includes 0"],
    "sampled-targets.md": ["min(1, p / tau)"],
    "scale.md": ["Llama 3 (", "H100", "Llama-3.1-Minitron", "Transformers 5.24"],
    "sharded-weights.md": ["bfloat16", "float32", "torchao (0.18)", "Moments in 8 bits"],
    "shift-once.md": ["t + 1", "weight 0", "exactly 0", "n - 1"],
    "student-folders.md": ["float32", "release 4", "bfloat16"],
    "stores-in-shards.md": ["SHA-256"],
    "streamed-teachers.md": ["bfloat16", "float32"],
    "synthetic-tasks.md": ["weight is 1"],
    "trimmed-vocabularies.md": ["SmolLM2-135M", "a 20M student", "SHA-256", "estimates 1 less"],
    "whole-documents.md": ["weight 0", "number -1"],
}


def formats():
    """Bytes a token of the codecs whose speed was measured."""
    found = [one for one in at("performance/caches.json", "formats") if not one["format"].startswith("plain array")]
    return [one["bytes"] for one in found]


def padding():
    """Shares of padding of rows of whole documents, by text and length."""
    texts = at("packing/results.json", "texts").values()
    return [row["padding"] for text in texts for row in text["rows"]["whole"].values()]


def builtin(pattern):
    return sum(file.stat().st_size for file in resolve("builtin:stdlib").glob(pattern))


@cache
def scale():
    """The script of the page about scale."""
    spec = spec_from_file_location("scale", EXPLAIN / "scale.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def times_of(way):
    """Seconds of a step of a way of the page about scale: teacher, student, inside a machine, between them (fast, slow)."""
    return list(getattr(scale(), way).seconds().values())


def packing_a_second():
    return scale().codec("12 sampled")["encode_tokens_per_s"]


FIGURES = {
    "captured-logits.md": [("{} to {} bytes a token", lambda: (min(formats()), max(formats())))],
    "embedded-default.md": [
        ("a teacher of {:.0f}M parameters", lambda: [at("caches/stdlib.json", "teacher", "parameters") / 1e6]),
        ("{:.0f} MB in the package", lambda: [builtin("*") / 1e6]),
    ],
    "learning-rates.md": [
        ("measured here up to {:.0f}M parameters", lambda: [optim.TUNED["fresh"] / 1e6]),
        ("the same up to {:.0f}M", lambda: [optim.TUNED["made"] / 1e6]),
        ("From {:,.0f}M on a student", lambda: [optim.PUBLISHED / 1e6]),
        ("takes {}, as published", lambda: [f"{optim.RECOVERY:.0e}".replace("e-0", "e-")]),
        ("warns above {:.0f}M", lambda: [optim.TUNED["made"] / 1e6]),
        ("From {:.0f}M on its schedule is a cosine", lambda: [optim.COSINE / 1e6]),
        ("their rate is at most {}, in every training", lambda: [optim.SLOWEST]),
    ],
    "measured-opening.md": [
        (
            "a few documents decide: {} of them, the first {} tokens of each",
            lambda: (opening._DOCUMENTS, opening._TOKENS),
        )
    ],
    "no-logits-matrix.md": [
        ("For {:,} tokens and {}k entries", lambda: (8_192, 128)),
        ("takes {:.0f} GiB", lambda: [8_192 * 128 * 1024 * 4 / 2**30]),
    ],
    "reading-data.md": [("a number of more than {:,} digits", lambda: [jsonl._DIGITS])],
    "recall.md": [("the last {} tokens", lambda: [64])],
    "sampled-targets.md": [("takes {:,} bytes and more", lambda: [32_000 * 2])],
    "scale.md": [
        *(
            ("{}", lambda name=name: [FREE.sub("", scale().TABLES[name]())])
            for name in ("memory", "moved", "times", "disk")
        ),
        (
            "A student of {:.1f}B from a teacher of {:.1f}B on {} GPUs",
            lambda: (*(size.parameters / 1e9 for size in scale().sizes()), scale().GPUS),
        ),
        (
            "for the student {} of the {} layers of the {:.0f}B",
            lambda: (scale().sizes()[0].layers, scale().LAYERS_8B, scale().whole_8b() / 1e9),
        ),
        (
            "GPUs of {:.0f} GB, eight to a machine, at {:.0f} % of their peak",
            lambda: (scale().DEVICE.memory / 1e9, 100 * UTILISATION),
        ),
        (
            "A step has {} rows of {:,} tokens; the training reads {:.0f} billion",
            lambda: (scale().ROWS, scale().LENGTH, scale().TOKENS / 1e9),
        ),
        (
            "with one of {:.0f} Gb/s moving takes {:.1f} times the computing",
            lambda: (scale().SLOW * 8 / 1e9, times_of("FLAT")[4] / scale().FLAT.computing),
        ),
        (
            "its forward pass is {:.0f} % of the computing. Training takes {:.1f} days with it and {:.1f} days from captured",
            lambda: (
                100 * times_of("INNER")[0] / scale().INNER.computing,
                scale().training_days(scale().INNER),
                scale().training_days(scale().CACHED),
            ),
        ),
        ("Capturing takes {:.1f} days once", lambda: [scale().capture_days()]),
        (
            "adds {:.0f} % to the time of the other layers",
            lambda: [100 * scale().capture_seconds()[1] / scale().capture_seconds()[0]],
        ),
        ("{:.0f} tokens a second on a core", lambda: [packing_a_second()]),
        ("{:.0f} GB for each of {}", lambda: (scale().checkpoint() / 1e9, scale().GPUS)),
        ("with {0} rows a step, more than {0} GPUs", lambda: [scale().ROWS]),
        (
            "twice, {:,.0f} GB a step on each GPU, {:.1f} times what gathering its weights moves",
            lambda: (
                scale().tensor_parallel() / 1e9,
                scale().tensor_parallel() / scale().INNER.moved()["teacher's weights, gathered"][0],
            ),
        ),
        ("None of this was measured on {} GPUs", lambda: [scale().GPUS]),
        (
            "moving takes {:.0f} % of the time of computing",
            lambda: [100 * times_of("INNER")[2] / scale().INNER.computing],
        ),
    ],
    "served-teachers.md": [("More than {:.1f} % of them", lambda: [100 * served.MOST_MISSING])],
    "packing-without-a-mask.md": [("In bfloat16 documents of up to {:,} tokens", lambda: [inside.SHORT])],
    "streamed-teachers.md": [("A {}B teacher in bfloat16 has {} GB", lambda: (70, 70 * 2))],
    "synthetic-tasks.md": [("Blocks of {:,} rows", lambda: [synthetic.BLOCK])],
    "trimmed-vocabularies.md": [
        (
            "with its {:,} tokens of {} numbers, the embedding alone takes {:.1f}M parameters",
            lambda: (49_152, 576, 49_152 * 576 / 1e6),
        )
    ],
    "two-tokenizers.md": [
        (
            "The {} largest probabilities",
            lambda: [inspect.signature(ULD).parameters["largest"].default],
        )
    ],
    "whole-documents.md": [
        (
            "{:.1f} % of the learned tokens lacked a part of what came before them, in rows of {:,}",
            lambda: (
                100 * at("packing/results.json", "texts", "preference", "rows", "stream", "1024", "lacking"),
                1_024,
            ),
        ),
        ("blocks of about {:,} rows", lambda: [layout._BLOCK_ROWS]),
        ("up to {:.1f} % of all places", lambda: [100 * max(padding())]),
    ],
}
PAGES = sorted(page.name for page in EXPLAIN.glob("*.md") if page.name != "beside-others.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_of_a_page_is_computed(page):
    text = FREE.sub("", (EXPLAIN / page).read_text(encoding="utf-8"))
    said = [sentence.format(*values()) for sentence, values in FIGURES.get(page, [])]
    for part in [*said, *NAMES.get(page, [])]:
        assert part in text
    left = without(text, [*said, *NAMES.get(page, [])])
    assert re.findall(r".{0,40}\d.{0,40}", left) == []


def test_bytes_that_move_are_those_of_hand():
    """Of 8 GPUs a machine each gets 7 parts of 8 from the others: layers twice, ends once, for each micro-batch."""
    student, teacher = scale().sizes()
    ends = 2 * 128_256 * 4_096
    assert (
        student.parameters
        == 28 * (2 * 4_096 * 4_096 + 2 * 4_096 * 1_024 + 3 * 4_096 * 14_336 + 2 * 4_096) + ends + 4_096
    )
    way = scale().INNER
    assert way.passes * way.micro * 64 == 512 * 4_096
    moved = way.moved()
    assert moved["student's weights, gathered"] == (7 / 8 * 2 * (2 * student.parameters - ends) * way.passes, 0)
    assert moved["teacher's weights, gathered"] == (7 / 8 * 2 * teacher.parameters * way.passes, 0)
    assert moved["gradients, summed over shards"] == (7 / 8 * 4 * student.parameters * way.passes, 0)
    assert moved["gradients, summed over replicas"] == (0, 2 * 7 / 8 * 4 * student.parameters)


def test_every_page_with_figures_exists():
    assert set(FIGURES) | set(NAMES) <= set(PAGES)
