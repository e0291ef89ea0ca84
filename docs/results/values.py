"""Which models read a value back out of real text, by bytes of state: decoders trained for it, and converted students.

usage: values.py run WORK ARTICLES OUT [WORKERS] trains what is missing in WORK, judges, and writes OUT/results.json, the page and
its picture; ARTICLES is a file with an article on each line. values.py converted WORK ARTICLES NAME=RUN,... measures the students
of runs of `limbeck distil` (or a model's folder, or builtin:NAME) on the articles, once; `run` shows them beside, without a
verdict. values.py beside WORK OUT adds those measured since to OUT.

What is judged, and how, is in values_criterion.py.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import values_criterion as criterion
from shared import made_by, versions
from values_criterion import ARMS, ATTENTION, BUDGETS, LENGTH, LENGTHS, SEEDS, SOURCES
from values_page import drawn, page
from values_trainings import measured, state_of, texts_in, trained

from limbeck.corpora.tasks.values import FORMS
from limbeck.disk import write_json, write_text
from limbeck.models.load import load
from limbeck.papers.lab.search import doubtful
from limbeck.planning.cost.size import Size
from limbeck.probes.interval import difference_interval, wilson


def converted(work, articles, runs):
    """Measures models that others trained: one file for each name, a result for each seed."""
    for name, run in (one.split("=", 1) for one in runs.split(",")):
        file = Path(work) / "converted" / f"{name}.json"
        if not file.exists():
            models = [load(model) for model in students(run)]
            found = [of_model(model, articles) for model in models]
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, found)
            print(name, len(found))


def students(run):
    """The students of a run, one a seed; what was given where it is a model."""
    folder = Path(run)
    if run.startswith("builtin:") or (folder / "config.json").is_file():
        return [run]
    return [str(one) for one in (folder / "student", *sorted(folder.glob("seeds/seed*/student")))]


def of_model(model, articles):
    """What a model reads back out of articles."""
    size = Size.of(model.model.config)
    return {
        "parameters": size.parameters,
        "state_bytes": state_of(size),
        "sources": {"wikipedia": measured(model, texts_in(articles))},
    }


def of_seeds(results, source, length):
    """What each seed came to on the rows of a source. Raises ValueError where they are not the same rows."""
    found = [one["sources"][source][str(length)] for one in results]
    if len({one["asked"] for one in found}) > 1:
        raise ValueError(
            f"{source}, {length} tokens: models were measured on other rows; remove what was measured, and run again"
        )
    return found


def chosen(seeds, form=None):
    """Which rows are of a form."""
    return np.array([form in (None, one) for one in seeds[0]["form"]])


def sums(seeds, key, rows):
    """Of each seed the sum of a column over the rows of each document, (seeds, documents)."""
    _, number = np.unique(np.array(seeds[0]["document"])[rows], return_inverse=True)
    return np.stack([np.bincount(number, weights=np.array(one[key], dtype=float)[rows]) for one in seeds])


def share(some, counts):
    """The share of rows over seeds, from sums by seed and document, as JSON. All or none: each document is one trial."""
    if some.sum() in (0, len(some) * counts.sum()):
        return asdict(wilson(len(counts) if some.sum() else 0, len(counts)))
    return asdict(difference_interval(some, np.zeros_like(some), counts))


def level(seeds, form=None):
    """Shares of exact answers with the entry, without it, and read back, and nats a token that the entry saves."""
    rows = chosen(seeds, form)
    shown, without, saved = (sums(seeds, key, rows) for key in ("shown", "without", "saved"))
    counts, tokens = criterion.rows_of(np.array(seeds[0]["document"])[rows]), sums(seeds[:1], "tokens", rows)[0]
    return {
        "shown": share(shown, counts),
        "without": share(without, counts),
        "back": asdict(difference_interval(shown, without, counts)),
        "saved": asdict(difference_interval(saved, np.zeros_like(saved), tokens)),
    }


def levels(results, source):
    """The levels of models on a source by length, and by form at the longest."""
    found = {str(length): level(of_seeds(results, source, length)) for length in lengths(results, source)}
    longest = of_seeds(results, source, lengths(results, source)[-1])
    return {"lengths": found, "forms": {form: level(longest, form) for form in FORMS if chosen(longest, form).any()}}


def lengths(results, source):
    """The lengths of rows that all seeds have."""
    return [length for length in LENGTHS if all(str(length) in one["sources"][source] for one in results)]


def judgements(results):
    """Of each source and claim: the verdict and its differences, as JSON."""
    diverged = {
        (budget, arm) for budget in BUDGETS for arm in ARMS if any(one["failed"] for one in results[budget][arm])
    }
    found = {}
    for source in SOURCES:
        every = [one for budget in BUDGETS for arm in ARMS for one in results[budget][arm]]
        rows = of_seeds(every, source, LENGTH)[0]["document"]
        read = {
            budget: {
                arm: np.stack(
                    [
                        criterion.back(one["shown"], one["without"], rows)
                        for one in of_seeds(results[budget][arm], source, LENGTH)
                    ]
                )
                for arm in ARMS
            }
            for budget in BUDGETS
        }
        found_here = criterion.judged(read, criterion.rows_of(rows), diverged=diverged)
        for claim, (verdict, gains) in found_here.items():
            some = {pair: asdict(one) | {"p": chance} for pair, (one, chance) in gains.items()}
            found[f"{source}: {claim}"] = {"verdict": verdict, "gains": some}
    return found


def about(results):
    """Of each arm at each budget what its models are, and what they cost."""
    return {
        budget: {
            arm: {key: some[0][key] for key in ("parameters", "trained_tokens", "flops", "state_bytes")}
            | {"failed": sum(bool(one["failed"]) for one in some)}
            for arm, some in arms.items()
        }
        for budget, arms in results.items()
    }


def asked(results):
    """Of each source how many documents, rows by length and entries a row there are."""
    found = {}
    for source in SOURCES:
        by_length = {length: of_seeds(results, source, length)[0] for length in lengths(results, source)}
        found[source] = {
            "documents": len(set(by_length[LENGTH]["document"])),
            "rows": {str(length): len(one["document"]) for length, one in by_length.items()},
            "entries": {str(length): float(np.mean(one["entries"])) for length, one in by_length.items()},
            "asked": {str(length): one["asked"] for length, one in by_length.items()},
        }
    return found


def judge(factors, results, cpu_seconds, others, out):
    """Writes what came out, the page and the picture."""
    same = results[BUDGETS[0]]
    result = {
        "criterion": criterion.digest(),
        "least": criterion.LEAST,
        "chance": criterion.CHANCE,
        "claims": judgements(results),
        "levels": {
            source: {
                budget: {arm: levels(some, source) for arm, some in arms.items()} for budget, arms in results.items()
            }
            for source in SOURCES
        },
        "arms": about(results),
        "rows": asked(same[ATTENTION]),
        "factors": factors,
        "doubt": doubtful(factors, criterion.FACTORS).strip(),
        "converted": of_others(others),
        "seeds": list(SEEDS),
        "cpu_seconds": cpu_seconds,
        "versions": versions("torch", "transformers"),
        **made_by("values.py", "run", "WORK", "ARTICLES", "docs/results/values"),
    }
    written(result, out)
    print(json.dumps({name: one["verdict"] for name, one in result["claims"].items()}, indent=1))


def of_others(others):
    """What models that others trained read back, as JSON."""
    return {
        name: {key: found[0][key] for key in ("parameters", "state_bytes")}
        | {"seeds": len(found)}
        | levels(found, "wikipedia")
        for name, found in others.items()
    }


def measured_in(work):
    """What `converted` measured in a folder, by name."""
    files = sorted((Path(work) / "converted").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def beside(others, out):
    """Adds models that others trained to results that are there."""
    result = json.loads((out / "results.json").read_text(encoding="utf-8"))
    added = of_others(others)
    result["converted"] = dict(sorted((result["converted"] | added).items()))
    written(result, out)
    print(", ".join(added))


def written(result, out):
    """Writes results, their page and their picture."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", result)
    write_text(out / "README.md", page(result))
    write_text(out / "state.svg", drawn(result))


def main(what, work, *rest):
    """Does what the usage says."""
    if what == "converted":
        converted(work, *rest)
    elif what == "beside":
        beside(measured_in(work), Path(rest[0]))
    else:
        articles, out, workers = rest[0], Path(rest[1]), int(rest[2]) if len(rest) > 2 else 1
        factors, results, seconds = trained(Path(work), articles, workers=workers)
        judge(factors, results, seconds, measured_in(work), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
