"""Every figure among the results of README and docs/results/README.md is one of a committed file, at its printed precision.

``CLAIMS`` has the sentences with places for their figures, and where in the files these are. A sentence that is on neither page,
or a figure there that no sentence here has, fails. After a study was run again the message says the new sentence. The overview's
table and its picture are made by scripts, and have to be what these make today.
"""

import json
import re
import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from itertools import chain
from pathlib import Path
from statistics import median

import pytest

from limbeck.papers import recipe
from limbeck.papers.based.recipe import ratio_of
from limbeck.papers.capacity_gap.recipe import RATIO
from limbeck.papers.zoology_language.readings import ALL
from limbeck.probes.interval import wilson

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
TEXTS = ("stories", "stdlib")
NAMES = (
    "[s4d",
    "[law-smollm2",
    "SmolLM2-135M",
    "95 %",
    "1 + elu",
    "H3",
    "RWKV-4",
    "rank 2",
)  # digits that are no figures
# Studies that were added before they were run.
MADE_LATER = (
    "smollm2",
    "smollm2-chat",
    "quantised",
    "rates",
    "law-smollm2",
    "smollm2-stages",
    "values",
    "shapes",
    "scores",
)
FREE = re.compile(r"`[^`]*`|\]\([^)]*\)")  # code, and where links lead


@cache
def read(file):
    """A committed JSON, or readings by (model, name) with all seeds together."""
    text = (RESULTS / file).read_text(encoding="utf-8")
    if not file.endswith(".jsonl"):
        return json.loads(text)
    readings = [json.loads(line) for line in text.splitlines()]
    return {(r["model"], r["name"]): r for r in sorted(readings, key=lambda r: r["seed"] is None)}


def at(file, *path):
    """What stands at a place of a file; of an item of a list its name or its number."""
    found = read(file)
    for step in path:
        if isinstance(found, list) and isinstance(step, str):
            (found,) = [one for one in found if one["name"] == step]
        else:
            found = found[step]
    return found


def numbers(name, *path):
    return at(f"{name}/reproduction.json", "numbers", *path)


def bounds(interval):
    return interval["value"], interval["low"], interval["high"]


def percent(values):
    return [100 * value for value in values]


def figures(text, pattern):
    """The numbers of a pattern that a text has once."""
    (found,) = re.finditer(pattern, text)
    return [json.loads(value) for value in found.groups()]


def seen(name, claim, pattern):
    """Figures in what a page says was seen of a claim."""
    return figures(at(f"{name}/reproduction.json", "judged", claim, "seen"), pattern)


def sizes_by_depth(name, claim):
    """Layers, the size of a difference and the ends of its interval, without signs, of each depth."""
    found = re.findall(
        r"([\d.]+) \([+-]([\d.]+) to [+-]([\d.]+)\) with (\d+)",
        at(f"{name}/reproduction.json", "judged", claim, "seen"),
    )
    return [(int(layers), float(value), *sorted(map(float, ends))) for value, *ends, layers in found]


def seeds(name):
    return at(f"{name}/reproduction.json", "seeds")


def better(name):
    """A difference and half of its interval."""
    found = at("stories/verdict.json", "differences", name)
    return found["value"], (found["high"] - found["low"]) / 2


def of_file(name, *path):
    """Of a file of the flagship in llama.cpp."""
    return at("smollm2/files.json", "files", name, *path)


def medians(contender, key):
    return median(run[key] for run in at("performance/distil.json", "runs") if run["contender"] == contender)


def beside_trl(key, contender="limbeck"):
    return medians(contender, key) / medians("trl", key)


def packed(key):
    """A plain loop that packs its rows, beside limbeck."""
    return medians("packed", key) / medians("limbeck", key)


def valleys(text):
    fits = at(f"capacity-gap/{text}/capacity-gap.json", "numbers", "fits", "cut", "valleys")
    return [valley["ratio"] for valley in fits if valley["kind"] == "optimum"]


def coverages():
    laws = at("law-coverage/coverage.json", "laws").values()
    return [100 * one["coverage"] for law in laws for one in law["intervals"].values()]


def captured(text, kind, objective=None):
    rows = at(f"caches/{text}.json", "rows")
    return [row for row in rows if row["kind"] == kind and row["objective"] == (objective or row["objective"])]


DRAWN = [row for text in TEXTS for row in captured(text, "drawn")]


def alone(text):
    found = [row["nats_above_live"]["value"] for row in captured(text, "likeliest without the rest")]
    return min(found), max(found)


def recalled(*arms):
    pairs = str(numbers("zoology", "judged_pairs"))
    return [
        [100 * run["by_pairs"][pairs]["accuracy"]["value"] for run in numbers("zoology", "arms", arm)] for arm in arms
    ]


def kib(bytes_):
    return bytes_ / 1024


def by_state(family):
    return numbers("based", "families", family)


def written_faster():
    longest = max(numbers("based", "decoding"), key=int)
    found = ratio_of(numbers("based", "decoding", longest)["tokens_per_s"])
    return int(longest), found.value, found.low, found.high


def small(name):
    return recipe(name).scales["small"]


def mrr(kind):
    return bounds(numbers("reversal", "kinds", kind, "asked_mrr"))


def told(model, name, folder="conversion"):
    return read(f"{folder}/readings.jsonl")[model, name]


def nats(model, folder="conversion"):
    return told(model, "held_out", folder)["value"]


def after_its_steps(one):
    return min(one["by_steps"].items(), key=lambda test: int(test[0]))[1]


def longer():
    """Upper bounds of the accuracy on longer sums, of each format and seed."""
    most = str(max(small("arithmetic").samples))
    tests = [after_its_steps(one) for by in numbers("arithmetic", "formats").values() for one in by[most]]
    return [100 * wilson(test["longer_right"], test["n"]).high for test in tests]


def ahead(arm, size="1M", *, page="zoology-language"):
    """By how many nats per token a language model without attention needs fewer than attention of its size."""
    return [-numbers(page, "arms", arm, size, "gap", ALL, end) for end in ("value", "high", "low")]


def selected():
    """The pretraining that held-out lists select."""
    return numbers("self-pretraining", "selected", "Transformer")


def sums_right(form):
    """Accuracies of a format after its steps, all numbers of samples that are judged and all seeds: the least and the most."""
    found, every = numbers("arithmetic", "formats"), []
    for samples in small("arithmetic").samples:
        tests = [after_its_steps(one) for one in found[form][str(samples)]]
        every += [100 * test["right"] / test["n"] for test in tests]
    return min(every), max(every)


def above(text, arm):
    (row,) = [row for row in at(f"alignment/{text}.json", "rows") if row["arm"] == arm]
    return row["above_cross_entropy"]["value"]


STORIES = "stories/readings.jsonl"
STATES = ("conv, based 2", "conv, based 4", "conv, based 8")
WHOLE = r"^\+([\d.]+)% \(\+([\d.]+)% to \+([\d.]+)%\) on the whole"
DEPTH = ("depth, equal tokens", "gains", "stdlib")
CLAIMS = [
    # smollm2
    (
        "A student of {:.1f} MB has fewer bits per byte of them than the teacher's own file of {:.1f} MB, and writes {:.1f} "
        "times as fast in llama.cpp; one of {:.1f} MB writes {:.1f} times as fast and has {:.3f} ({:.3f} to {:.3f}) more",
        lambda: (
            of_file("40M, q8_0", "bytes") / 1e6,
            of_file("teacher, Q4_1", "bytes") / 1e6,
            of_file("40M, q8_0", "speed", "generation", "times_teacher", "value"),
            of_file("20M, q4_0", "bytes") / 1e6,
            of_file("20M, q4_0", "speed", "generation", "times_teacher", "value"),
            *bounds(of_file("20M, q4_0", "above_teacher")),
        ),
    ),
    # smollm2-chat
    (
        "Made small for chat, a student that learns from answers and logits has {:.2f} ({:.2f} to {:.2f}) nats per token fewer "
        "than one that learns from answers alone at equal compute; neither follows more constraints than by chance",
        lambda: bounds(at("smollm2-chat/results.json", "gains", "logits, equal compute")),
    ),
    # minima
    (
        "Of teachers for a student of {:.1f} k parameters the law's choice is {:.3f} ({:.3f} to {:.3f}) nats per token worse "
        "than the largest at equal tokens, and {:.3f} ({:.3f} to {:.3f}) better at equal compute",
        lambda: (
            numbers("minima", "plan", "student_parameters") / 1e3,
            *(-numbers("minima", "largest_less_law_nats", end) for end in ("value", "high", "low")),
            *bounds(numbers("minima", "largest_at_equal_flops_less_law_nats")),
        ),
    ),
    # law-smollm2
    (
        "Up to SmolLM2-135M, students of {:.1f}M parameters that are pruned out of their own teachers are {:.3f} ({:.3f} to "
        "{:.3f}) nats per token better from the law's choice than from the largest at equal tokens; from one start they are "
        "{:.3f} ({:.3f} to {:.3f}) worse",
        lambda: (
            at("law-smollm2/results.json", "models", "student", "parameters") / 1e6,
            *bounds(
                at("law-smollm2/results.json", "claims", "valley, pruned, equal tokens", "gains", "25m over 111m"),
            ),
            *bounds(
                at("law-smollm2/results.json", "claims", "valley, same start, equal tokens", "gains", "111m over 25m"),
            ),
        ),
    ),
    # taid-gap
    (
        "By TAID a student of {:.1f} k parameters gains {:.3f} ({:.3f} to {:.3f}) nats per doubling of its teacher, by forward "
        "KL {:.3f} ({:.3f} to {:.3f}); by skew KL it loses {:.3f} ({:.3f} to {:.3f})",
        lambda: (
            numbers("taid-gap", "student", "parameters") / 1e3,
            *bounds(numbers("taid-gap", "gain_nats_per_doubling", "TAID")),
            *bounds(numbers("taid-gap", "gain_nats_per_doubling", "forward KL")),
            *(-numbers("taid-gap", "gain_nats_per_doubling", "skew KL", end) for end in ("value", "high", "low")),
        ),
    ),
    # values
    (
        "Out of held-out Python a decoder of {:.0f} k parameters with attention reads back {:.0f} of the values that it is "
        "shown in {} rows, too few to compare mixers by; out of Wikipedia SmolLM2-135M-Instruct reads back {:.0f} % ({:.0f} to "
        "{:.0f})",
        lambda: (
            at("values/results.json", "arms", "equal tokens", "attention", "parameters") / 1e3,
            at("values/results.json", "claims", "python: context", "gains", "attention", "value"),
            at("values/results.json", "rows", "python", "rows", "512"),
            *percent(
                bounds(at("values/results.json", "converted", "SmolLM2-135M-Instruct", "lengths", "512", "back")),
            ),
        ),
    ),
    # lora-sb
    (
        "stands {:.3f} ({:.3f} to {:.3f}) nats per token behind LoRA on programs with other names",
        lambda: [-numbers("lora-sb", "arms", 1, "sb_over_it", end) for end in ("value", "high", "low")],
    ),
    (
        "the gradient's directions, which are {:.2f} ({:.2f} to {:.2f}) better than random ones",
        lambda: seen("lora-sb", 3, r"token \+([\d.]+) \(\+([\d.]+) to \+([\d.]+)\)"),
    ),
    # learngene
    (
        "at equal tokens in all ({} seeds): with {} layers they are {:.3f} ({:.3f} to {:.3f}) nats per token better than layers "
        "of the teacher, with {} they are {:.3f} ({:.3f} to {:.3f}) worse, with {} {:.3f} ({:.3f} to {:.3f})",
        lambda: (seeds("learngene"), *chain.from_iterable(sizes_by_depth("learngene", 2))),
    ),
    (
        "From random weights shared stages are {:.3f} to {:.3f} better than layers without sharing",
        lambda: (end(one[1] for one in sizes_by_depth("learngene", 0)) for end in (min, max)),
    ),
    # shapes
    (
        "with three small teachers and {} seeds of which each has its own start, none was shown to be better than shrinking "
        "every axis alike. Giving up layers first is worse with two of the teachers, on Python by {:.3f} ({:.3f} to {:.3f}) "
        "nats per token",
        lambda: (
            len(at("shapes/results.json", "seeds")),
            *(abs(at("shapes/results.json", "claims", *DEPTH, end)) for end in ("value", "high", "low")),
        ),
    ),
    # compressor
    (
        "Of {} shapes of equal bytes ({} seeds) those that take more FLOPs are worse (rank correlation {:.2f}, {:.2f} to "
        "{:.2f}), at equal training FLOPs as well. What Compressor's fitness chooses is {:.3f} ({:.3f} to {:.3f}) nats per token "
        "worse than the balanced shape that is planned",
        lambda: (
            len(at("compressor/reproduction.json", "numbers", "tokens_at_equal_flops")),
            seeds("compressor"),
            *seen("compressor", 4, r"correlation ([-+.\d]+) \(([-+.\d]+) to ([-+.\d]+)\)"),
            *(seen("compressor", 6, r"^-([.\d]+) \(-([.\d]+) to -([.\d]+)\)")[end] for end in (0, 2, 1)),
        ),
    ),
    # mixture-growth
    (
        "narrow ones that had been trained ({} seeds), at equal FLOPs with those counted: {:.3f} ({:.3f} to {:.3f}) nats per "
        "token worse than the same from random weights",
        lambda: (
            seeds("mixture-growth"),
            *(seen("mixture-growth", 1, r"lower by -([\d.]+) \(-([\d.]+) to -([\d.]+)\)")[end] for end in (0, 2, 1)),
        ),
    ),
    # rich-lazy
    (
        "those whose weights have moved least end best (rank correlation {:.2f}, {:.2f} at the least)",
        lambda: seen("rich-lazy", 3, r"correlation \+([\d.]+) \(\+([\d.]+) to"),
    ),
    (
        "starts of rank {} change their tangent kernel more than those of full rank: alignment {:.2f} ({:.2f} to {:.2f}) and "
        "{:.2f} ({:.2f} to {:.2f}) lower in two tasks",
        lambda: (
            min(row["rank"] for row in numbers("rich-lazy", "networks")),
            *seen("rich-lazy", 0, " in .*?".join(2 * [r"\+([\d.]+) \(\+([\d.]+) to \+([\d.]+)\)"])),
        ),
    ),
    # zoology-language
    (
        "Language models without attention are not behind it after {:.1f}M tokens of Python: with {:.0f}M parameters H3 needs "
        "{:.3f} ({:.3f} to {:.3f}) nats per token fewer, RWKV-4 {:.3f} ({:.3f} to {:.3f})",
        lambda: (
            numbers("zoology-language", "arms", "attention", "1M", "trained_tokens") / 1e6,
            numbers("zoology-language", "arms", "attention", "1M", "without_embeddings") / 1e6,
            *ahead("H3"),
            *ahead("RWKV-4"),
        ),
    ),
    (
        "After as many of stories, with {:.1f}M parameters, H3 needs {:.3f} ({:.3f} to {:.3f}) more, RWKV-4 {:.3f} ({:.3f} to "
        "{:.3f}) fewer",
        lambda: (
            numbers("zoology-language-stories", "arms", "attention", "0.3M", "without_embeddings") / 1e6,
            *bounds(numbers("zoology-language-stories", "arms", "H3", "0.3M", "gap", ALL)),
            *ahead("RWKV-4", "0.3M", page="zoology-language-stories"),
        ),
    ),
    # stories
    (
        "pruned to {:.2f} of its parameters and given {:.1f}M tokens ({} seeds, {} held-out stories, 95 % intervals)",
        lambda: (
            at(STORIES, ("student", "parameters"), "value") / at(STORIES, ("teacher", "parameters"), "value"),
            at("stories/run.json", "signature", "tokens") / 1e6,
            at("stories/verdict.json", "differences", 0, "seeds"),
            at("stories/verdict.json", "differences", 0, "n"),
        ),
    ),
    ("cross-entropy at equal tokens | {:.3f} ± {:.3f}", lambda: better("cut+ce - student")),
    ("cross-entropy at equal compute | {:.3f} ± {:.3f}", lambda: better("cut+ce@flops - student")),
    ("same distillation | {:.3f} ± {:.3f}", lambda: better("fresh+kd - student")),
    ("the pruned model without training | {:.3f} ± {:.3f}", lambda: better("cut - student")),
    (
        "The student stands at {:.3f} nats per token, its teacher at {:.3f}",
        lambda: [at(STORIES, (model, "held_out"), "value") for model in ("student", "teacher")],
    ),
    # performance
    (
        "limbeck makes {:.1f} times its real tokens per CPU-second in {:.2f} of its memory, and {:.1f} times from captured "
        "logits",
        lambda: (beside_trl("tokens_per_cpu_s"), beside_trl("peak_mib"), beside_trl("tokens_per_cpu_s", "cached")),
    ),
    (
        "a plain loop that packs its rows makes {:.2f} of limbeck's tokens in {:.1f} times its memory",
        lambda: [packed(key) for key in ("tokens_per_cpu_s", "peak_mib")],
    ),
    (
        "After {} steps, which compare speed and not quality, its student stands at {:.3f} nats held out and {:.4f} nats of KL "
        "to the teacher, TRL's at {:.3f} and {:.4f}",
        lambda: (
            medians("limbeck", "steps"),
            *(medians(one, key) for one in ("limbeck", "trl") for key in ("held_out_ce_nats", "held_out_kl_nats")),
        ),
    ),
    (
        "({:.0f}k tokens in all, {} new seeds), the student is better at equal compute by {:.3f} nats ({:.3f} to {:.3f}), and "
        "than cross-entropy at its best number of epochs by {:.3f} ({:.3f} to {:.3f}); a pass must be used {:.1f} times "
        "({:.1f} to {:.1f})",
        lambda: (
            at("stories/single-use/run.json", "signature", "tokens") / 1e3,
            len(at("stories/results.json", "seeds")),
            *bounds(at("stories/results.json", "student_better_by", "ten-uses", "cut+ce@flops")),
            *bounds(at("stories/results.json", "student_better_by", "ten-uses", "cross-entropy at its best (4)")),
            *bounds(at("stories/results.json", "break_even")),
        ),
    ),
    # capacity gap
    (
        "tried with {} small trainings each",
        lambda: {
            n for t in TEXTS for n in figures(at(f"capacity-gap/{t}/capacity-gap.json", "ours"), r"n = (\d+) trainings")
        },
    ),
    (
        "not {} times their size ({:.1f} and {:.1f} times on the one, {:.1f} and {:.1f} on the other; 95 % intervals {:.1f} to "
        "{:.1f}, {:.1f} to {:.1f}, {:.1f} to {:.1f}, {:.1f} to {:.1f})",
        lambda: (
            RATIO,
            *(valley["value"] for text in TEXTS for valley in valleys(text)),
            *(bound for text in TEXTS for valley in valleys(text) for bound in (valley["low"], valley["high"])),
        ),
    ),
    (
        "their intervals hold the truth in {:.0f} to {:.0f} % of {} made-up pilots",
        lambda: (min(coverages()), max(coverages()), at("law-coverage/coverage.json", "repetitions")),
    ),
    # caches
    (
        "logits captured in {} to {} bytes a token is equivalent to the live teacher's, within {} nats per token by the whole "
        "95 % interval, in {} of {} comparisons",
        lambda: (
            min(row["bytes"] for row in DRAWN),
            max(row["bytes"] for row in DRAWN),
            at("caches/stories.json", "margin_nats"),
            sum(row["equivalent"] is True for row in DRAWN),
            len(DRAWN),
        ),
    ),
    (
        "(forward KL on two teachers, {:.3f} and {:.3f} nats apart, TAID on one; {} seeds) and undecided in {} (one with TAID, "
        "both with a skewed KL, whose intervals reach to {:.3f} and {:.3f})",
        lambda: (
            *(abs(captured(text, "drawn", "ForwardKL")[0]["nats_above_live"]["value"]) for text in TEXTS),
            len(at("caches/stories.json", "seeds")),
            sum(row["equivalent"] is None for row in DRAWN),
            *sorted(captured(text, "drawn", "SkewKL")[0]["nats_above_live"]["high"] for text in TEXTS),
        ),
    ),
    (
        "cost it {:.3f} to {:.3f} and, of a flatter teacher, {:.3f} to {:.3f} nats",
        lambda: (*alone("stories"), *alone("stdlib")),
    ),
    # zoology
    (
        "(width {}, rows of {} tokens, {} pairs, {} seeds, equal steps)",
        lambda: (
            small("zoology").width,
            small("zoology").judged.length,
            numbers("zoology", "judged_pairs"),
            seeds("zoology"),
        ),
    ),
    (
        "with attention {:.1f} to {:.0f} % of the questions",
        lambda: [pick(chain(*recalled("attention", "conv, attention"))) for pick in (min, max)],
    ),
    (
        "{:.0f}, {:.0f} and {:.1f} % as its state grows from {:.0f} to {:.0f} and {:.0f} KiB",
        lambda: (
            *(sum(found) / len(found) for found in recalled(*STATES)),
            *(kib(numbers("zoology", "arms", arm)[0]["state_bytes"]) for arm in STATES),
        ),
    ),
    (
        "BaseConv, Hyena and H3 {:.0f} to {:.0f} %, where a guess has {:.1f} %",
        lambda: (
            *(pick(chain(*recalled("BaseConv", "Hyena", "H3"))) for pick in (min, max)),
            100 / numbers("zoology", "judged_pairs"),
        ),
    ),
    # based
    ("on rows of {} pairs ({} seeds), Based answers", lambda: (small("based").most, seeds("based"))),
    (
        "{:.0f}, {:.0f}, {:.0f}, {:.0f} and {:.1f} % as its state grows from {:.0f} to {:.0f} KiB",
        lambda: (
            *(100 * one["accuracy"][str(small("based").most)]["value"] for one in by_state("Based")),
            *(kib(by_state("Based")[i]["state_bytes"]) for i in (0, -1)),
        ),
    ),
    ("windows of as many bytes or more {:.0f} points fewer ({:.0f} to {:.0f})", lambda: seen("based", 2, WHOLE)),
    ("linear attention with 1 + elu {:.0f} fewer ({:.0f} to {:.0f})", lambda: seen("based", 3, WHOLE)),
    (
        "After {:,} tokens a decoder of Based layers writes {:.0f} times as fast as one of attention ({:.0f} to {:.0f})",
        written_faster,
    ),
    # reversal
    (
        "asked the other ({} things, {} seeds)",
        lambda: (
            sum(
                figures(
                    at("reversal/reproduction.json", "ours"), r"^(\d+) things were told both ways and (\d+) one way"
                )
            ),
            seeds("reversal"),
        ),
    ),
    (
        "(mean reciprocal rank {:.2f}, {:.2f} to {:.2f}, chance {:.2f})",
        lambda: (*mrr("concept"), numbers("reversal", "kinds", "concept", "seeds", 0, "chance", "mrr")),
    ),
    ("of two shared tokens it does not ({:.2f})", lambda: mrr("name")[:1]),
    ("brings some back ({:.2f}, {:.2f} to {:.2f})", lambda: mrr("layers")),
    # s4d
    (
        "State spaces by their spectrum ({} seeds): over a delay of {} steps",
        lambda: (seeds("s4d"), small("s4d").delays.long),
    ),
    (
        "complex ones explain {:.0f} points more of the variance than a real one ({:.0f} to {:.0f})",
        lambda: seen("s4d", 0, r"legs at 256 \+([\d.]+)% \(\+([\d.]+)% to \+([\d.]+)%\)"),
    ),
    (
        "the real one is better by {:.3f} nats a token ({:.3f} to {:.3f})",
        lambda: seen("s4d", 4, r"^\+([\d.]+) \(\+([\d.]+) to \+([\d.]+)\) nats better than lin"),
    ),
    # self-pretraining
    (
        "by a Transformer of {:.2f}M parameters at equal steps ({} seeds): {:.0f} % from scratch, {:.0f} % after pretraining",
        lambda: (
            numbers("self-pretraining", "trainings", 0, "parameters") / 1e6,
            seeds("self-pretraining"),
            100 * numbers("self-pretraining", "accuracy", "Transformer, scratch", "mean", "value"),
            100 * numbers("self-pretraining", "accuracy", f"Transformer, {selected()}", "mean", "value"),
        ),
    ),
    # arithmetic
    (
        "Three-digit sums ({} seeds): with a scratchpad {:.0f} to {:.0f} % right after {:,} to {:,} samples, "
        "units first {:.0f} to {:.0f} %, plain {:.0f} to {:.0f} %",
        lambda: (
            seeds("arithmetic"),
            *sums_right("simplified"),
            *small("arithmetic").samples,
            *sums_right("reverse"),
            *sums_right("plain"),
        ),
    ),
    ("none in any format (by the interval of each seed at most {:.1f} %)", lambda: [max(longer())]),
    # conversion
    (
        "after {:.0f}k tokens: {:.2f} nats worse than the teacher, {:.2f} than attention everywhere trained on equal tokens "
        "(which that makes {:.2f} worse than the teacher it starts as)",
        lambda: (
            *figures((RESULTS / "conversion.sh").read_text(encoding="utf-8"), r"--baselines attention --tokens (\d+)k"),
            nats("student") - nats("teacher"),
            -at("conversion/verdict.json", "differences", "attention - student", "value"),
            nats("attention") - nats("teacher"),
        ),
    ),
    (
        "{:.1f} where a pair of tokens that training saw {} to {} times repeats",
        lambda: (
            told("student", "recall_hits, seen 11-100")["value"]
            - told("attention", "recall_hits, seen 11-100")["value"],
            11,
            100,
        ),
    ),
    (
        "two layers keeping attention, {:.2f} and {:.2f} worse, and a passage read before is easier by {:.3f} nats ({:.3f} to "
        "{:.3f}; attention {:.3f})",
        lambda: (
            nats("student", "conversion/gdn") - nats("teacher", "conversion/gdn"),
            nats("student", "conversion/gdn") - nats("attention"),
            *bounds(told("student", "recalled", "conversion/gdn")),
            told("attention", "recalled")["value"],
        ),
    ),
    # alignment
    (
        "from random weights on {:.0f} kB of text, in bits per byte against cross-entropy alone (two teachers, {} seeds)",
        lambda: (at("alignment/stories.json", "text", "bytes") / 1e3, len(at("alignment/stories.json", "seeds"))),
    ),
    (
        "(`ALM`) {:.2f} and {:.2f}, a distribution over shared tokens {:.2f} and {:.2f}, all inconclusive; sorted probabilities "
        "(`ULD`) {:.2f} and {:.2f} worse, refuted on stories",
        lambda: [above(text, arm) for arm in ("ALM", "KL of shared tokens", "ULD") for text in ("stdlib", "stories")],
    ),
]


def results():
    """The results of README and overview without the table that a script makes, with a plain minus."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Results\n")[2].partition("\n## ")[0]
    before, _, rest = (RESULTS / "README.md").read_text(encoding="utf-8").partition(index().BEGIN)
    return "\n".join((readme, before, rest.partition(index().END)[2])).replace("\N{MINUS SIGN}", "-")


@cache
def script(name):
    """A script of docs/results as a module."""
    spec = spec_from_file_location(name, RESULTS / f"{name}.py")
    module = module_from_spec(spec)
    sys.path.insert(0, str(RESULTS))  # scripts import their neighbours
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(RESULTS))
    return module


def index():
    return script("index")


@pytest.mark.parametrize(("sentence", "values"), CLAIMS, ids=[sentence[:40] for sentence, _ in CLAIMS])
def test_a_figure_is_that_of_its_file(sentence, values):
    assert not re.search(r"\d", without(re.sub(r"{[^}]*}", "", sentence), NAMES)), (
        "its figures have to come from a file"
    )
    said = sentence.format(*values())
    assert said in results(), f"expected among the results: {said}"


def test_every_figure_has_a_file():
    left = without(FREE.sub("", results()), [FREE.sub("", sentence.format(*values())) for sentence, values in CLAIMS])
    left = without(left, NAMES)
    assert re.findall(r".{0,40}\d.{0,40}", left) == []


def test_the_tables_of_claims_are_those_of_the_files():
    made_later = sum((RESULTS / study / "results.json").exists() for study in MADE_LATER)
    assert len(index().pages()) == 13 + made_later
    for page in index().pages():
        assert index().written(page) == page.read_text(encoding="utf-8"), "run: python docs/results/index.py"


def test_the_figures_of_effects_are_those_of_the_files():
    figures = index().figures()
    assert len(figures) == 8 + (RESULTS / "smollm2-stages" / "results.json").exists()
    for file, picture in figures.items():
        assert file.read_text(encoding="utf-8") == picture, "run: python docs/results/index.py"


def test_every_verdict_of_a_paper_is_in_the_table():
    """The table leaves out none of the claims that were judged, whatever became of them."""
    table, judged = index().table(RESULTS / "README.md"), 0
    for file in RESULTS.rglob("*.json"):
        found = json.loads(file.read_text(encoding="utf-8"))
        for one in found.get("judged", []) if isinstance(found, dict) and "recipe" in found else []:
            short = recipe(found["recipe"]).short_of(one["claim"])
            assert short.claim != one["claim"]
            assert f"| {short.claim} | {one['verdict']} | {short.effect_of(one['seen'])} |" in table
            judged += 1
    assert judged == 96


def test_the_other_tables_of_pages_are_those_of_the_files():
    tables = script("tables")
    assert len(tables.TABLES) == 11 + (RESULTS / "smollm2-chat" / "results.json").exists()
    for name, made in tables.TABLES.items():
        page = RESULTS / name
        assert tables.named(page) == list(made)
        assert tables.written(page) == page.read_text(encoding="utf-8"), "run: python docs/results/tables.py"


PAGES = [RESULTS / "performance.md", *sorted(RESULTS.glob("*/README.md"))]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(RESULTS)) for page in PAGES])
def test_a_page_begins_with_a_sentence_a_table_of_short_cells_and_a_figure(page):
    """Below these stand criteria, numbers by seed, cost and differences. Notes on criteria may come before the table."""
    text = re.sub(r"<!-- .*? -->\n\n", "", page.read_text(encoding="utf-8"))
    title, sentence, *parts = text.split("\n\n")
    assert title.startswith("# ")
    assert re.fullmatch(r"[^|!#*\n][^\n]{20,240}\.", sentence)
    while not parts[0].startswith("|"):
        assert parts.pop(0).startswith(("**", *"123456789"))
    head, _, *lines = parts[0].splitlines()
    *study, claim, verdict, effect, n = [cell.strip() for cell in head.strip("|").split("|")]
    assert (claim, verdict, n) == ("claim", "verdict", "n")
    assert study in ([], ["study"])
    assert effect in ("effect, 95 % interval", "effect, least to most")
    assert lines
    assert all(len(cell) < 160 for line in lines for cell in line.split(" | "))
    (figure,) = re.findall(r"^!\[[^\]]+\]\((\S+)\)$", parts[1])
    assert (page.parent / figure).is_file()


def test_the_picture_of_uses_is_that_of_its_file():
    picture = (RESULTS / "headline.svg").read_text(encoding="utf-8")
    assert script("headline").drawn(read("stories/results.json")) == picture, "run: python docs/results/headline.py"


def without(text, parts):
    for part in parts:
        text = text.replace(part, "")
    return text
