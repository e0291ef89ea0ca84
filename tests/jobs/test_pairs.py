"""`limbeck capture --pairs`: which two texts are a pair, whatever batch they were in, and what is left out and counted."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import limbeck
from limbeck import cli
from limbeck.corpora import Columns, Prompt, read
from limbeck.corpora.chat import conversation
from limbeck.corpora.document import Document
from limbeck.disk import read_json, read_lines
from limbeck.errors import BadCorpus, BadServer, BadSetting, BadTask, LimbeckError, Mismatch
from limbeck.generation import generators
from limbeck.generation.generators import Sampling
from limbeck.generation.local import decoded_completion, generate
from limbeck.jobs.capture import choosing, completions, pairs
from limbeck.jobs.capture.choosing import Candidate, by_author, by_checks, by_likelihood, record_of
from limbeck.jobs.capture.lengths import lengths
from limbeck.models import micro_batch
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.teachers.remote.http import RetryPolicy
from tests.helpers.models import llama, tokenizer
from tests.helpers.served import serving
from tests.jobs.test_generated import CHAT, lines

STOPS = [2, *range(40, 90)]  # so that random models end within a few tokens
MOST, PROMPTS, SAMPLES = 8, 20, 3
VOWEL = {"instruction_id_list": ["keywords:letter_frequency"]}
VOWEL["kwargs"] = [{"letter": "a", "let_relation": "at least", "let_frequency": 1}]  # type: ignore[list-item]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a teacher and a student that chat, and prompts as messages and as texts, each with a constraint."""
    folder = tmp_path_factory.mktemp("pairs")
    tok = tokenizer()
    tok.chat_template = CHAT
    for name, seed in (("teacher", 2), ("student", 3)):
        model = llama(tok=tok, seed=seed)
        model.model.generation_config.eos_token_id = STOPS
        save(model, folder / name)
    lines(
        folder / "chat.jsonl",
        [{"messages": [{"role": "user", "content": f"one two {i}"}], **VOWEL} for i in range(PROMPTS)],
    )
    lines(folder / "texts.jsonl", [{"text": f"the cat sat {i}"} for i in range(12)])
    return folder


def ask(here: Path, out: Path, judge: str, **keys: Any) -> Any:
    usual: dict[str, Any] = {"pairs": str(here / "student"), "data": str(here / "chat.jsonl"), "max_new_tokens": MOST}
    usual |= {"threads": 1, "samples": 1 if judge == "author" else SAMPLES, "judge": judge}
    if judge != "checks":
        usual |= {"teacher": str(here / "teacher")}
    return limbeck.capture(**(usual | {"out": out} | keys))


@pytest.fixture(scope="module")
def made(here, tmp_path_factory) -> dict[str, tuple[Any, Path]]:
    """The result and the folder of each judge."""
    place = tmp_path_factory.mktemp("made")
    return {judge: (ask(here, place / judge, judge), place / judge) for judge in ("author", "likelihood", "checks")}


def rows_of(made: tuple[Any, Path]) -> list[dict[str, Any]]:
    return read_lines(made[1] / "pairs.jsonl")


def texts_of(model: Any, sampling: Sampling) -> list[list[tuple[str, bool]]]:
    """Each prompt's texts, generated one by one, and whether they ended."""
    found = []
    for place in range(PROMPTS):
        ids = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": f"one two {place}"}], add_generation_prompt=True
        )["input_ids"]
        mine = []
        for number in range(place * sampling.samples, (place + 1) * sampling.samples):
            uniforms = sampling.random(number).random((1, MOST))
            (one,) = generate(model, [ids], max_new_tokens=MOST, temperature=1.0, uniforms=uniforms)
            mine.append((decoded_completion(model.tokenizer, ids, one.tokens), one.finished))
        found.append(mine)
    return found


@pytest.fixture(scope="module")
def sampled(here) -> list[list[tuple[str, bool]]]:
    """The student's texts of judges that take several."""
    return texts_of(load(here / "student"), Sampling(MOST, samples=SAMPLES).apart("student"))


def test_the_teachers_text_is_preferred_and_is_that_of_a_capture_of_text(here, made, tmp_path):
    keys: dict[str, Any] = {"teacher": str(here / "teacher"), "any_teacher": True, "threads": 1}
    keys["data"] = str(here / "chat.jsonl")
    limbeck.capture(text=True, max_new_tokens=MOST, out=tmp_path / "text", **keys)
    theirs = {row["prompt"]: row for row in read_lines(tmp_path / "text" / "text.jsonl")}
    ours = texts_of(load(here / "student"), Sampling(MOST).apart("student"))
    expected = [
        (i, theirs[i]["messages"][-1]["content"], mine)
        for i, ((mine, _),) in enumerate(ours)
        if i in theirs and theirs[i]["finish"] == "stop" and mine.strip()
    ]
    rows = rows_of(made["author"])
    assert len(rows) > 5
    assert [(int(r["document"].split(":")[1]) - 1, r["chosen"], r["rejected"]) for r in rows] == [
        (i, *([{"role": "assistant", "content": text}] for text in sides)) for i, *sides in expected
    ]
    assert rows[0]["prompt"] == [{"role": "user", "content": f"one two {expected[0][0]}"}]


def test_best_and_worst_are_those_of_the_teachers_log_probability(here, made, sampled):
    teacher, expected = load(here / "teacher"), []
    for place, some in enumerate(sampled):
        scored = []
        for text in dict.fromkeys(text for text, ended in some if ended and text.strip()):
            messages = [{"role": "user", "content": f"one two {place}"}, {"role": "assistant", "content": text}]
            read_by = conversation(teacher.tokenizer, Document("", messages=messages))
            with torch.no_grad():
                logits = teacher.model(input_ids=torch.tensor([read_by.tokens])).logits[0, :-1].double()
            log_p = logits.log_softmax(-1).gather(-1, torch.tensor(read_by.tokens[1:])[:, None]).squeeze(-1)
            scored.append((float(log_p[torch.from_numpy(read_by.learned[1:])].mean()), text))
        if len(scored) > 1:
            expected.append((place, max(scored), min(scored)))
    rows = rows_of(made["likelihood"])
    assert len(rows) > 5
    assert [(r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in rows] == [
        (best[1], worst[1]) for _, best, worst in expected
    ]
    found = np.array([[r["score_chosen"], r["score_rejected"]] for r in rows])
    np.testing.assert_allclose(found, [[best[0], worst[0]] for _, best, worst in expected], rtol=1e-5)


def test_the_first_text_that_passes_is_preferred_to_the_first_that_fails(made, sampled):
    expected = []
    for some in sampled:
        passes = [ended and "a" in text.lower() for text, ended in some]
        failing = [text for (text, _), right in zip(some, passes, strict=True) if not right and text.strip()]
        if any(passes) and failing:
            expected.append((some[passes.index(True)][0], failing[0]))
    rows = rows_of(made["checks"])
    assert len(rows) > 5
    assert [(r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in rows] == expected
    assert {(r["score_chosen"], r["score_rejected"]) for r in rows} == {(1.0, 0.0)}


def test_with_text_what_passes_its_check_is_kept(here, tmp_path):
    """Rejection sampling: of the teacher's completions those that ended and pass, as they are without checks."""
    keys: dict[str, Any] = {"text": True, "teacher": str(here / "teacher"), "any_teacher": True, "threads": 1}
    keys |= {"data": str(here / "chat.jsonl"), "max_new_tokens": MOST, "samples": SAMPLES, "tokens": 8 * MOST * SAMPLES}
    limbeck.capture(out=tmp_path / "all", **keys)
    result = limbeck.capture(out=tmp_path / "passed", judge="checks", **keys)
    everything = read_lines(tmp_path / "all" / "text.jsonl")
    passed = [row for row in everything if row["finish"] == "stop" and "a" in row["messages"][-1]["content"].lower()]
    assert 0 < len(passed) < len(everything)
    assert read_lines(tmp_path / "passed" / "text.jsonl") == passed
    assert (result["samples"], result["rejected"], result["unchecked"]) == (
        len(passed),
        len(everything) - len(passed),
        0,
    )
    with pytest.raises(LimbeckError, match="holds another run's state"):
        limbeck.capture(out=tmp_path / "passed", **keys)


@pytest.mark.parametrize("judge", ["author", "likelihood", "checks"])
def test_all_prompts_are_counted_and_pairs_are_read_as_they_are(made, judge):
    result, out = made[judge]
    assert result.samples == len(rows_of(made[judge])) == len([*read(str(result.pairs), Columns(preference=True))])
    assert result["left_out"]
    assert result.samples + sum(result["left_out"].values()) == PROMPTS
    assert read_json(out / "run.json")["written"] == {k: v for k, v in result.items() if k not in ("out", "pairs")}
    assert ("score_length_correlation" in result.to_dict()) is (judge != "author")
    rows = rows_of(made[judge])
    assert result["chosen_tokens"]["value"] == pytest.approx(np.mean([r["tokens_chosen"] for r in rows]))
    assert result["rejected_tokens"]["value"] == pytest.approx(np.mean([r["tokens_rejected"] for r in rows]))
    assert not list(out.glob("*.part"))


@pytest.mark.parametrize("judge", [pytest.param("author", marks=pytest.mark.long), "likelihood"])
def test_pairs_do_not_depend_on_batches_and_a_stopped_run_goes_on(here, made, tmp_path, monkeypatch, judge):
    """In smaller batches the sides are the same. Stopped before it is whole, and cut off after two thirds of each journal."""
    monkeypatch.setitem(generators._MOST_ROWS, "cpu", 5)
    monkeypatch.setitem(micro_batch.MICRO_TOKENS, "cpu", 64)
    file = tmp_path / "out" / "pairs.jsonl"
    with monkeypatch.context() as stop:
        stop.setattr(pairs, "sums", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(here, file.parent, judge)
    sides = [[(row["chosen"], row["rejected"]) for row in rows] for rows in (read_lines(file), rows_of(made[judge]))]
    assert sides[0] == sides[1]
    whole = file.read_bytes()
    file.unlink()
    parts = sorted(file.parent.glob("*.part"))
    assert len(parts) == 2
    for part in parts:
        content = part.read_bytes()
        part.write_bytes(content[: 2 * len(content) // 3])
    monkeypatch.setitem(generators._MOST_ROWS, "cpu", 32)  # a run goes on in its own batches
    assert ask(here, file.parent, judge)["left_out"] == made[judge][0]["left_out"]
    assert file.read_bytes() == whole
    assert not list(file.parent.glob("*.part"))


def interrupted(*_):
    raise KeyboardInterrupt


def test_finished_pairs_are_not_made_again_and_another_judge_needs_another_folder(here, made, monkeypatch):
    result, out = made["author"]
    monkeypatch.setattr(completions, "load", None)
    assert ask(here, out, "author") == result
    with pytest.raises(LimbeckError, match=r"holds another run's state \(.*judge: 'author' there, 'likelihood' now"):
        ask(here, out, "likelihood")


def test_the_command_line_says_where_the_pairs_are(here, made, monkeypatch, capsys):
    out = made["checks"][1]
    flags = f"--pairs {here}/student --judge checks --samples {SAMPLES} --max-new-tokens {MOST} --threads 1"
    monkeypatch.setattr(
        sys, "argv", ["limbeck", "capture", *flags.split(), f"--data={here}/chat.jsonl", f"--out={out}"]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"pairs: {out}/pairs.jsonl\n"


def test_texts_are_continued(here, tmp_path):
    result = ask(here, tmp_path / "out", "likelihood", data=str(here / "texts.jsonl"))
    rows = read_lines(result.pairs)
    assert rows[0]["prompt"].startswith("the cat sat ")
    assert len([*read(str(result.pairs), Columns(preference=True))]) == len(rows) > 0


def test_a_server_judges_as_the_same_model_here(here, made, tmp_path):
    keys = {"tokenizer": str(here / "teacher")}
    with serving(load(here / "teacher")) as server:
        found = ask(here, tmp_path / "out", "likelihood", teacher=server.url, **keys)
    rows, same = read_lines(found.pairs), rows_of(made["likelihood"])
    assert [(r["chosen"], r["rejected"]) for r in rows] == [(r["chosen"], r["rejected"]) for r in same]


def test_a_server_without_log_probabilities_is_refused_before_anything_is_generated(here, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "RetryPolicy", lambda limit: RetryPolicy(tries=1, limit=2.0))
    with serving(load(here / "teacher"), "llamacpp") as server, pytest.raises(BadServer, match="log-probabilities"):
        ask(here, tmp_path / "out", "likelihood", teacher=server.url, tokenizer=str(here / "teacher"))
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_server_that_stops_scoring_ends_the_command_and_is_asked_again(here, made, tmp_path):
    """What it refuses are texts, which begin with another token than what it is tried with."""
    begin = load(here / "teacher").tokenizer.bos_token_id
    keys = {"tokenizer": str(here / "teacher")}
    with serving(load(here / "teacher")) as server:
        server.hopeless = lambda prompt: prompt[0] == begin
        with pytest.raises(
            BadServer, match=r"texts got no score, more than the 0.1 % allowed: status 400: .*not this one"
        ):
            ask(here, tmp_path / "out", "likelihood", teacher=server.url, **keys)
        server.hopeless = lambda prompt: False
        found = ask(here, tmp_path / "out", "likelihood", teacher=server.url, **keys)
    assert (found["failed"], found.samples) == (0, made["likelihood"][0].samples)


def test_a_served_teacher_writes_what_is_preferred_and_a_kill_after_its_last_text_changes_nothing(
    here, tmp_path, monkeypatch
):
    """A kill leaves no time to count what was sent again."""
    file = tmp_path / "out" / "run.json"
    with serving(load(here / "teacher")) as server:
        with monkeypatch.context() as stop:
            stop.setattr(pairs, "sums", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ask(here, file.parent, "author", teacher=server.url)
        run = read_json(file)
        file.write_text(json.dumps({key: run[key] for key in run.keys() - {"repeated", "failed"}}))
        found = ask(here, file.parent, "author", teacher=server.url)
        chosen = {row["chosen"][0]["content"] for row in read_lines(found.pairs)}
    assert chosen <= {f"{i} two one" for i in range(PROMPTS)}
    assert found.samples > 5


@pytest.mark.parametrize("judge", ["author", "likelihood"])
def test_a_teacher_that_knows_nothing_is_refused(here, tmp_path, judge):
    with pytest.raises(Mismatch, match="it predicts this text no better than the frequencies of its tokens do"):
        ask(here, tmp_path / "out", judge, any_teacher=False)
    assert not list((tmp_path / "out").glob("teacher.jsonl*"))


@pytest.mark.parametrize(
    ("judge", "context", "error", "said"),
    [
        ("author", None, BadCorpus, "chat template"),
        ("likelihood", None, BadCorpus, "chat template"),
        ("author", 12, Mismatch, "20 of 20 prompts have no room for 8 tokens more in the context of .*, which is 12"),
    ],
)
def test_what_the_teacher_cannot_read_is_said_before_the_student_generates(here, tmp_path, judge, context, error, said):
    tok = tokenizer()
    if context:
        tok.chat_template = CHAT
    model = llama(tok=tok, seed=2)
    model.model.config.max_position_embeddings = context or 64
    save(model, tmp_path / "teacher")
    with pytest.raises(error, match=said):
        ask(here, tmp_path / "out", judge, teacher=str(tmp_path / "teacher"))
    assert not list((tmp_path / "out").glob("student*"))


def one(number: int, text: str, *, score: float | None = None, ended: bool = True, problem: str = "") -> Candidate:
    return Candidate(number, text, ended, len(text), score=score, problem=problem)


BAD = one(2, " ", score=0.0, problem=choosing.BLANK)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (by_likelihood([one(0, "a", score=-1.0), one(1, "b", score=-3.0), one(2, "c", score=-2.0)]), (0, 1)),
        (by_likelihood([one(0, "a", score=-1.0), one(1, "b", score=-1.0 - 1e-7)]), "tied"),
        (by_likelihood([one(0, "a", score=-1.0), one(1, "a\n", score=-3.0)]), "same"),
        (by_likelihood([one(0, "a", score=-1.0), one(1, "b", ended=False)]), "unjudged"),
        (by_checks([one(0, "a", score=0.0), one(1, "b", score=1.0), one(2, "c", score=1.0)]), (1, 0)),
        (by_checks([one(0, "a", score=1.0), one(1, "b", score=1.0)]), "all_pass"),
        (by_checks([one(0, "a", score=0.0), BAD]), "none_passes"),
        (by_checks([one(0, "a", score=1.0), BAD]), "blank"),
        (by_checks([one(0, "a"), one(1, "b")]), "unchecked"),
        (by_author(one(0, "a"), one(0, "b", ended=False)), (0, 0)),
        (by_author(one(0, "a", ended=False), one(0, "b")), "cut_off"),
        (by_author(one(0, "a "), one(0, "a")), "same"),
        (by_author(one(0, "a"), BAD), "blank"),
        (by_author(one(0, "a", problem="leaked"), one(0, "b")), "leaked"),
        (by_author(None, one(0, "b")), "missing"),
    ],
)
def test_a_pair_or_why_there_is_none(found, expected):
    assert (found if isinstance(found, str) else tuple(side.number for side in found)) == expected


def test_a_text_that_repeats_its_prompt_is_no_side():
    """A reader of TRL's formats takes a prompt that a completion begins with out of it, or refuses the record."""
    prompt = Prompt(Document("a", text="the cat sat on", prompt=14))
    both, neither = (one(0, "the cat sat on a mat"), one(1, "the cat sat on it")), (one(0, " a mat"), one(1, " it"))
    assert record_of(prompt, both) == record_of(prompt, (both[0], neither[1])) == "repeats_prompt"
    assert record_of(prompt, neither) == {"prompt": "the cat sat on", "chosen": " a mat", "rejected": " it"}


def test_lengths_of_both_sides_by_hand():
    """Two pairs of one prompt, one of another: 2 : 4, 6 : 2 | 3 : 3; scores go up with length in one prompt, down in another."""
    some = [[(one(0, "aa"), one(1, "bbbb")), (one(2, "a" * 6), one(3, "bb"))], [(one(4, "aaa"), one(5, "bbb"))], []]
    judged = [[one(0, "a", score=1.0), one(1, "aaa", score=3.0)], [one(2, "aa", score=5.0), one(3, "aaaa", score=4.0)]]
    found = lengths(some, judged)
    assert {name: reading["value"] for name, reading in found.items()} == pytest.approx(
        {
            "chosen_tokens": 11 / 3,
            "rejected_tokens": 3.0,
            "longer_chosen": 0.5,  # 0, 1 and one half
            "score_length_correlation": (1 * 1 * 2 - 0.5 * 1 * 2) / ((2 + 0.5) * (2 + 2)) ** 0.5,
        }
    )
    assert [reading["n"] for reading in found.values()] == [2, 2, 2, 2]
    assert found["chosen_tokens"]["low"] is None  # two prompts give no interval
    assert lengths([[]], [[]]) == {}


@pytest.mark.parametrize(
    ("judge", "keys", "error", "said"),
    [
        (
            "likelihood",
            {"samples": 1},
            BadSetting,
            "--samples 1: --judge likelihood .* at least 2 .*; give --samples 4",
        ),
        ("checks", {"teacher": "teacher"}, BadSetting, "--teacher: no teacher reads what --judge checks judges"),
        ("checks", {"data": "texts.jsonl"}, BadTask, "texts.jsonl: expected prompts with a check, .* got none in 12"),
        ("author", {"text": True}, BadSetting, "--text and --pairs"),
        (
            "author",
            {"pairs": "http://host/v1#m"},
            BadSetting,
            "--pairs http://host/v1#m: expected the student's folder",
        ),
        ("author", {"bytes_per_token": 48}, BadSetting, "--bytes-per-token: .*with --pairs the student generates"),
        ("author", {"tokenizer": "teacher"}, BadSetting, "--tokenizer .*only a teacher on a server needs it"),
        (
            "author",
            {"pairs": None},
            BadSetting,
            "--max-new-tokens: it sets how a model generates text; add --text or --pairs",
        ),
        ("checks", {"any_teacher": True}, BadSetting, "--any-teacher: no teacher reads what --judge checks judges"),
        ("author", {"columns": "answer=x"}, BadSetting, "--columns answer=...: only --judge checks reads"),
        ("author", {"text": True, "pairs": None}, BadSetting, "--judge author: it says what is preferred in pairs"),
        (
            "checks",
            {"text": True, "pairs": None, "data": "texts.jsonl", "teacher": "teacher"},
            BadTask,
            "prompts with a check",
        ),
        ("author", {"pairs": "a=b"}, BadSetting, "--pairs a=b: teachers by domain .*: give one student here"),
        ("likelihood", {"price": "1,2"}, BadSetting, "--price: it is for a teacher on a server"),
    ],
)
def test_flags_that_do_not_belong_together_are_refused(here, tmp_path, judge, keys, error, said):
    keys = {k: str(here / v) if k in ("teacher", "data", "tokenizer") else v for k, v in keys.items()}
    if keys.get("pairs", "") is None:
        keys["samples"] = 1
    with pytest.raises(error, match=said):
        ask(here, tmp_path / "out", judge, **keys)
    assert not list((tmp_path / "out").glob("pairs.jsonl*"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"answer": True}, "chat.jsonl:1: expected 'answer' to be a text or a number"),
        ({"answer": []}, "chat.jsonl:1: expected 'answer' to be a text or a number, or a list of such, got null"),
        ({"instruction_id_list": ["no:such"], "kwargs": [{}]}, "chat.jsonl:1: unknown constraint 'no:such'"),
        ({"instruction_id_list": ["punctuation:no_comma"]}, "expected 'instruction_id_list' and 'kwargs' to be lists"),
    ],
)
def test_a_faulty_check_is_refused(here, tmp_path, fields, said):
    data = lines(tmp_path / "chat.jsonl", [{"messages": [{"role": "user", "content": "one"}], **fields}])
    with pytest.raises(BadTask, match=said):
        ask(here, tmp_path / "out", "checks", data=str(data))


@pytest.mark.long
def test_a_killed_capture_of_pairs_goes_on_to_the_same_bytes_and_a_student_is_tuned_on_them(here, tmp_path):
    """Killed for real while the student generates, and again before the pairs are whole; then DPO on what came out."""
    many = [{"messages": [{"role": "user", "content": f"one two {i}"}]} for i in range(150)]
    keys = {"data": str(lines(tmp_path / "many.jsonl", many)), "max_new_tokens": 30}
    whole = ask(here, tmp_path / "whole", "likelihood", **keys)
    flags = f"--pairs {here}/student --teacher {here}/teacher --judge likelihood --samples {SAMPLES} --threads 1 --any-teacher"
    flags += f" --data {keys['data']} --max-new-tokens 30 --out {tmp_path}/killed"
    for name in ("student", "scores"):
        command = [sys.executable, "-m", "limbeck", "capture", *flags.split()]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        part = tmp_path / "killed" / f"{name}.jsonl.part"
        while process.poll() is None and not (part.exists() and part.stat().st_size):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    ask(here, tmp_path / "killed", "likelihood", **keys)
    assert (tmp_path / "killed" / "pairs.jsonl").read_bytes() == (whole.out / "pairs.jsonl").read_bytes()
    tuned = limbeck.tune(
        student=str(here / "student"),
        data=str(whole.pairs),
        objective="DPO",
        seq_len=128,
        tokens=1500,
        batch_tokens=256,
        threads=1,
        baselines="none",
        out=tmp_path / "tuned",
    )
    assert "pair_accuracy" in tuned.readings["student"]
