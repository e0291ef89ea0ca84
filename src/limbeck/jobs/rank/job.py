"""`limbeck rank`: orders the completions of each prompt by how much their rationales help a student to the answer.

The gain of a rationale z for a question x with the answer y is log q(y|x,z) - log q(y|x), in nats and summed over the answer's
tokens, by the student q: the reward of LaTRO (Chen et al., arXiv 2411.04282) less what the student knows without z.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from limbeck.config import RankSettings
from limbeck.corpora import prompts_of
from limbeck.corpora.faults import BadRecords
from limbeck.ending import Ending, show_ending
from limbeck.jobs.common.environment import environment_of
from limbeck.jobs.common.text import columns_of
from limbeck.jobs.rank.candidates import WRONG, Candidate, candidates_of
from limbeck.jobs.rank.ranked import earlier, ranked, taken, write
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.report.words import counted, share
from limbeck.run.policy import rows_of, sums_of
from limbeck.run.samples import position_scores

_AT_ONCE = 32  # rows that are scored together
_PROBED = 8  # completions of a ranking that is there, whose gains are computed again first
_ROUNDING = 0.1  # nats, as bfloat16 may round a gain in another batch; what is written is compared exactly


def rank(settings: RankSettings) -> dict[str, Any]:
    """Ranks a file's completions and writes the best; gives ``{"out", "prompts", "completions", "written", "gain", ...}``.

    ``gain`` is the mean gain of what is written in nats an answer, ``gain_of_all`` that of all completions, ``helped`` the share
    of all whose gain is above 0, ``tokens`` and ``tokens_of_all`` how long the scored rationales are. ``cut`` counts rationales
    of which what states the answer was left out, ``alone`` prompts with one completion, ``wrong`` completions whose final answer
    is not the known one, ``left_out`` those without an answer, or too long, ``skipped`` records that cannot be read.

    Raises BadTask where none has an answer, or the known one, Mismatch where none fits the model's context, BadFolder for a file
    that is there with another content: before the scoring, unless it is a ranking of the same completions with gains as here.
    """
    environment = environment_of(settings, settings.student)
    bad = BadRecords(settings.skip_bad or 0)
    prompts = prompts_of(settings.data, columns=columns_of(settings), bad=bad)
    student = load(settings.student, device=environment.world.device, dtype=environment.dtype)
    left_out: Counter[str] = Counter()
    candidates = list(candidates_of(prompts, student, settings, left_out))
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(candidates):
        groups.setdefault(one.prompt.document.content, []).append(number)
    before = earlier(settings.out, [[candidates[number] for number in some] for some in groups.values()], settings.keep)
    _require_same(settings.out, student, before[:_PROBED], bf16=environment.bf16)
    gains = _gains(student, candidates, bf16=environment.bf16)
    kept = [
        (number, place, len(members))
        for members in groups.values()
        for place, number in enumerate(sorted(members, key=lambda one: (-gains[one], one))[: settings.keep], 1)
    ]
    write(settings.out, [ranked(candidates[number], gains[number], place, among) for number, place, among in kept])
    best = [number for number, *_ in kept]
    tokens = np.array([len(one.helped.sampled) for one in candidates])
    return {
        "out": str(settings.out),
        "prompts": len(groups),
        "completions": len(candidates),
        "written": len(kept),
        "gain": float(gains[best].mean()),
        "gain_of_all": float(gains.mean()),
        "helped": float((gains > 0).mean()),
        "tokens": float(tokens[best].mean()),
        "tokens_of_all": float(tokens.mean()),
        "cut": sum(not one.rationale.whole for one in candidates),
        "alone": sum(len(members) == 1 for members in groups.values()),
        "wrong": left_out[WRONG],
        "left_out": len(prompts) - len(candidates) - left_out[WRONG],
        "skipped": bad.count,
    }


def _gains(student: LanguageModel, candidates: Sequence[Candidate], *, bf16: bool) -> np.ndarray:
    """The gain of each candidate in nats, (n,); of similar lengths some are scored together."""
    rows = [row for one in candidates for row in (one.helped, one.alone)]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].prompt) - len(rows[i].sampled))
    found = np.zeros(len(rows))
    for begin in range(0, len(rows), _AT_ONCE):
        some = order[begin : begin + _AT_ONCE]
        batch, parts = rows_of([rows[i] for i in some])
        log_q, _ = position_scores(student, batch, bf16=bf16)
        found[some] = sums_of(log_q, parts, samples=1)[1][:, 0].numpy()
    helped, alone = found.reshape(-1, 2).T
    gain: np.ndarray = helped - alone
    return gain


def _require_same(out: Path, student: LanguageModel, before: Sequence[tuple[Candidate, float]], *, bf16: bool) -> None:
    """Raises BadFolder where a ranking that is there has clearly other gains than this student gives."""
    found = _gains(student, [one for one, _ in before], bf16=bf16)
    if any(abs(gain - own) > _ROUNDING for (_, gain), own in zip(before, found, strict=True)):
        raise taken(out)


def show(result: dict[str, Any], console: Console) -> None:
    """Prints what was ranked, and the command that tunes on it."""
    notes = [
        f"{result['written']:,} of {result['completions']:,} completions of {result['prompts']:,} prompts are written: their "
        f"rationales raise the student's log-probability of an answer by {result['gain']:.2f} nats, those of all by "
        f"{result['gain_of_all']:.2f}; {share(result['helped'])} of all raise it",
        f"a rationale, as scored, has {result['tokens']:.0f} tokens of those written and {result['tokens_of_all']:.0f} of all",
    ]
    if result["cut"]:
        notes.append(f"{result['cut']:,} rationales state the answer: they were scored up to the clause that does")
    if result["alone"]:
        notes.append(f"{result['alone']:,} prompts have one completion, of which none is better than another")
    if result["wrong"]:
        notes.append(
            f"left out: {counted(result['wrong'], 'completion')} whose final answer is not the known one, or is marked by nothing"
        )
    if result["left_out"]:
        notes.append(f"left out: {result['left_out']:,} completions without an answer, or too long for the student")
    if result["skipped"]:
        notes.append(f"skipped: {counted(result['skipped'], 'record')} that cannot be read")
    for note in notes:
        console.print(f"- {note}", soft_wrap=True)
    then = f"limbeck tune --student STUDENT --data {shlex.quote(result['out'])}"
    headline = "completions whose rationales this student can use"
    show_ending(Ending(headline, places={"ranked": Path(result["out"])}, then=then), console)
