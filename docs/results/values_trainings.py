"""The trainings of the study values: decoders of some layers on Python, and what each reads back out of held-out text.

Each training is kept in its folder with what every row came to; the same command continues.
"""

import json
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import values_criterion as criterion
from values_criterion import ARMS, BUDGETS, SEEDS

from limbeck.jobs.common.folder import text_of_run
from limbeck.papers.lab.rates import best_rates
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.papers.lab.text import rows_of_training, text_of
from limbeck.papers.lab.trainings import Trainings
from limbeck.papers.zoology_language.training import LanguageCell, new_decoder, train_decoder, tune_language
from limbeck.planning.cost.size import Size
from limbeck.probes.values import measure_values, pooled, rows_by_length, texts_of
from limbeck.run.optim import suggested_learning_rate

FLOAT32 = 4
TUNED_ROWS = 200  # rows of training text by which a learning rate is chosen


def cell_of(arm, vocab, *, factor=1.0, seed=0, steps=1):
    """A training of an arm."""
    slug = arm.lower().replace(",", "").replace(" ", "-")
    return LanguageCell(
        name=f"{slug}-factor{factor:g}-steps{steps}-seed{seed}",
        mixers=ARMS[arm],
        parameters=criterion.PARAMETERS,
        vocab=vocab,
        width=criterion.WIDTH,
        layers=criterion.LAYERS,
        heads=criterion.HEADS,
        length=criterion.LENGTH,
        steps=steps,
        rate=factor * suggested_learning_rate(criterion.PARAMETERS + vocab * criterion.WIDTH),
        seed=seed,
        rows=criterion.ROWS_OF_STEP,
        measured=TUNED_ROWS,
    )


def sizes_of(vocab):
    """The size of each arm."""
    return {arm: Size.of(new_decoder(cell_of(arm, vocab)).config) for arm in ARMS}


def cells_of(vocab, factors):
    """By budget and arm: a training for each seed. Where two budgets have as many steps, they are the same trainings."""
    flops = {arm: size.forward_flops(criterion.LENGTH) for arm, size in sizes_of(vocab).items()}
    return {
        budget: {
            arm: [
                cell_of(arm, vocab, factor=factors[arm], seed=seed, steps=criterion.steps_at(budget, flops, arm))
                for seed in SEEDS
            ]
            for arm in ARMS
        }
        for budget in BUDGETS
    }


def trained(work, articles, *, source="python:stdlib", workers=1, device="cpu"):
    """Trains what is missing. Gives the chosen factors of the learning rate, the results by budget and arm, and CPU seconds."""
    text = work / "text"
    vocab = text_of(text, source, vocab=criterion.VOCAB, length=criterion.LENGTH)
    context = RecipeContext(work, "small", None, SEEDS[0], len(SEEDS), workers, device)
    tuning = Trainings(replace(context, out=work / "tuning"), partial(tune_language, folder=text))
    tried = {
        arm: {
            factor: cell_of(arm, vocab, factor=factor, seed=criterion.TUNING_SEED, steps=criterion.TUNING_STEPS)
            for factor in criterion.FACTORS
        }
        for arm in ARMS
    }
    factors = best_rates(tuning, tried, nats)
    cells = cells_of(vocab, factors)
    trainings = Trainings(context, partial(train_values, folder=text, articles=str(articles)))
    trainings.do(cell for arms in cells.values() for some in arms.values() for cell in some)
    results = {
        budget: {arm: [trainings.result(cell) for cell in some] for arm, some in arms.items()}
        for budget, arms in cells.items()
    }
    return factors, results, trainings.cpu_seconds() + tuning.cpu_seconds()


def nats(result):
    """Nats per token of the documents that a training was measured on."""
    return sum(map(sum, result["nats"])) / sum(map(sum, result["tokens"]))


def train_values(cell, device, *, folder, articles):
    """Trains a decoder on the text in the folder, and gives what it reads back out of held-out modules and of articles."""
    corpus, _, _ = rows_of_training(folder, length=cell.length, seed=cell.seed, measured=1)
    done = train_decoder(cell, corpus, device, folder=folder)
    _, held_out = text_of_run(folder)
    size = Size.of(done.decoder.config)
    return {
        "parameters": size.parameters,
        "trained_tokens": done.tokens,
        "flops": 3 * size.forward_flops(cell.length) * done.tokens,
        "failed": done.trained.failed,
        "state_bytes": state_of(size),
        "sources": {
            "python": measured(done.model, texts_of(held_out, done.model)),
            "wikipedia": measured(done.model, texts_in(articles)),
        },
    }


def state_of(size):
    """Bytes of state after as many tokens as rows have, by length."""
    return {str(length): size.state_bytes(length, FLOAT32) for length in criterion.LENGTHS}


def texts_in(articles):
    """Articles of a file that has one on each line."""
    return [line for line in Path(articles).read_text(encoding="utf-8").splitlines() if line.strip()]


def measured(model, texts):
    """By length: of each row its form, the document it asks about, and whether its answer is exact, with the entry and without.

    Also the nats that the entry saves and the tokens of the answer. ``asked`` is the digest of all rows.
    """
    found = {}
    drawn = rows_by_length(model, texts, seed=criterion.ROWS_SEED, rows=criterion.ROWS)
    for length, by_form in drawn.items():
        if length not in criterion.LENGTHS:
            continue
        scores = pooled([measure_values(model, rows) for rows in by_form.values()])
        every = [row for rows in by_form.values() for row in rows]
        asked = [(row.question.prompt, row.question.answer, row.without.prompt) for row in every]
        found[str(length)] = {
            "asked": sha256(json.dumps(asked).encode()).hexdigest()[:16],
            "form": [form for form, rows in by_form.items() for _ in rows],
            "document": scores.document.tolist(),
            "entries": [row.entries for row in every],
            "shown": scores.shown.exact.astype(int).tolist(),
            "without": scores.without.exact.astype(int).tolist(),
            "saved": (scores.without.nats - scores.shown.nats).tolist(),
            "tokens": scores.shown.tokens.astype(int).tolist(),
        }
    return found
