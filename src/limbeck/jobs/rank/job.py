"""`limbeck rank`: orders the completions of each prompt by how much their rationales help a student to the answer.

The gain of a rationale z for a question x with the answer y is log q(y|x,z) - log q(y|x), in nats and summed over the answer's
tokens, by the student q: the reward of LaTRO (Chen et al., arXiv 2411.04282) less what the student knows without z.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from limbeck.config import RankSettings
from limbeck.corpora import Prompt, prompts_of
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.tasks.checked_prompts import first_answer
from limbeck.disk import write_text
from limbeck.ending import Ending, show_ending
from limbeck.errors import BadFolder, BadTask, Mismatch
from limbeck.jobs.common.environment import environment_of
from limbeck.jobs.common.text import columns_of
from limbeck.jobs.rank.rationales import Rationale, rationale_of
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.report.words import share
from limbeck.run.policy import Rollout, rows_of, sums_of
from limbeck.run.samples import position_scores

_AT_ONCE = 32  # candidates that are scored together


@dataclass(frozen=True)
class _Candidate:
    """A completion of a prompt, and its rationale with and without what it thinks, in tokens."""

    prompt: Prompt
    rationale: Rationale
    helped: Rollout
    alone: Rollout


def rank(settings: RankSettings) -> dict[str, Any]:
    """Ranks a file's completions and writes the best; gives ``{"out", "prompts", "completions", "written", "gain", ...}``.

    ``gain`` is the mean gain of what is written in nats an answer, ``gain_of_all`` that of all completions, ``helped`` the share
    of all whose gain is above 0, ``tokens`` and ``tokens_of_all`` how long the scored rationales are. ``cut`` counts rationales
    of which what states the answer was left out, ``alone`` prompts with one completion, ``left_out`` completions without an
    answer, or too long. Raises BadTask where none has an answer, Mismatch where none fits the model's context, BadFolder for a
    file that is there with another content.
    """
    environment = environment_of(settings, settings.student)
    bad = BadRecords(settings.skip_bad or 0)
    prompts = prompts_of(settings.data, columns=columns_of(settings), bad=bad)
    student = load(settings.student, device=environment.world.device, dtype=environment.dtype)
    candidates = list(_candidates(prompts, student, settings))
    gains = _gains(student, candidates, bf16=environment.bf16)
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(candidates):
        groups.setdefault(one.prompt.document.content, []).append(number)
    kept = [
        (number, place, len(members))
        for members in groups.values()
        for place, number in enumerate(sorted(members, key=lambda one: (-gains[one], one))[: settings.keep], 1)
    ]
    lines = [_record(candidates[number], gains[number], place, among) for number, place, among in kept]
    _write(settings.out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    best = [number for number, *_ in kept]
    tokens = np.array([len(one.helped.sampled) for one in candidates])
    return {
        "out": str(settings.out),
        "prompts": len(groups),
        "completions": len(candidates),
        "written": len(lines),
        "gain": float(gains[best].mean()),
        "gain_of_all": float(gains.mean()),
        "helped": float((gains > 0).mean()),
        "tokens": float(tokens[best].mean()),
        "tokens_of_all": float(tokens.mean()),
        "cut": sum(not one.rationale.whole for one in candidates),
        "alone": sum(len(members) == 1 for members in groups.values()),
        "left_out": len(prompts) - len(candidates),
    }


def _candidates(prompts: Sequence[Prompt], student: LanguageModel, settings: RankSettings) -> Iterator[_Candidate]:
    """The completions with an answer that fit. Raises BadTask where none has one, Mismatch where none fits."""
    found = fits = 0
    for prompt in prompts:
        asked = prompt.asked if isinstance(prompt.asked, str) else str(prompt.asked[-1].get("content"))
        known = first_answer(prompt.document.checked_by)
        rationale = prompt.known and rationale_of(asked, prompt.known, known=known, mark=settings.mark)
        if not rationale:
            continue
        found += 1
        candidate = _in_tokens(prompt, rationale, student)
        if (
            sum(map(len, (candidate.helped.prompt, candidate.helped.sampled, candidate.helped.answer)))
            <= student.context
        ):
            fits += 1
            yield candidate
    if not found:
        raise BadTask(
            f"{settings.data}: expected completions with an answer, an 'answer' beside each, or one after ####, 'answer is' or "
            f"in \\boxed{{}}, got none in {len(prompts):,} records: add them, or give another name with --columns answer=solution"
        )
    if not fits:
        raise Mismatch(
            f"{settings.data}: none of {found:,} completions fits the context of {student.name}, which is {student.context} "
            "tokens: shorten them, or take another student"
        )


def _in_tokens(prompt: Prompt, rationale: Rationale, student: LanguageModel) -> _Candidate:
    tokenizer, before = student.tokenizer, tuple(prompt.tokens(student.tokenizer))

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    space = rationale.mark[len(rationale.mark.rstrip()) :]  # many tokenizers join it to the next word
    mark, answer = rationale.mark.rstrip(), ids(space + rationale.answer)
    return _Candidate(
        prompt,
        rationale,
        Rollout(before, ids(rationale.thought + mark), answer),
        Rollout(before, ids(mark), answer),
    )


def _gains(student: LanguageModel, candidates: Sequence[_Candidate], *, bf16: bool) -> np.ndarray:
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


def _record(one: _Candidate, gain: float, place: int, among: int) -> dict[str, Any]:
    """A completion in the form in which it was read, with its gain in nats, its place, and among how many."""
    assert one.prompt.known is not None, "a candidate"
    about = {"gain_nats": round(gain, 4), "place": place, "among": among, "document": one.prompt.name}
    answer = first_answer(one.prompt.document.checked_by)
    return one.prompt.answered(one.prompt.known) | ({} if answer is None else {"answer": answer}) | about


def _write(out: Path, text: str) -> None:
    if out.is_dir() or (out.exists() and out.read_bytes() != text.encode()):
        raise BadFolder(f"{out} is there already, with another content: give a new file with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)


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
    if result["left_out"]:
        notes.append(f"left out: {result['left_out']:,} completions without an answer, or too long for the student")
    for note in notes:
        console.print(f"- {note}", soft_wrap=True)
    then = f"limbeck tune --student STUDENT --data {shlex.quote(result['out'])}"
    headline = "completions whose rationales this student can use"
    show_ending(Ending(headline, places={"ranked": Path(result["out"])}, then=then), console)
