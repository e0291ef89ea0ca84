"""What a teacher writes: what it would have written alone, in the order of the prompts, whatever fails on the way."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import limbeck
from limbeck.corpora import read
from limbeck.corpora.chat import conversation_so_far
from limbeck.corpora.document import Document
from limbeck.corpora.prompt import prompt_of, repeats
from limbeck.corpora.records import from_record
from limbeck.disk import read_json, read_lines
from limbeck.errors import BadCorpus, BadFolder, BadServer, BadSetting, LimbeckError, Mismatch
from limbeck.generation.generators import Batches, Sampling
from limbeck.generation.local import Continuation, generate
from limbeck.jobs.capture import completions
from limbeck.jobs.capture.journal import Journal
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.teachers.remote.http import RetryPolicy
from tests.helpers.held import held_elsewhere
from tests.helpers.models import frozen, llama, texts, tokenizer
from tests.helpers.served import KEY, serving
from tests.helpers.zoo import VOCAB, animal

CHAT = (
    "{% for m in messages %}{{ bos_token }}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }}assistant: {% endif %}"
)
LENGTHS = (3, 9, 1, 6, 6, 14)


def some_prompts(*, vocab: int = VOCAB, lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [[1, *generator.integers(4, vocab, size=length).tolist()] for length in lengths]


def uniforms(rows: int, max_new_tokens: int, *, seed: int = 0) -> np.ndarray:
    return np.stack([np.random.default_rng([seed, row]).random(max_new_tokens) for row in range(rows)])


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox"])
def test_the_likeliest_continuation_is_the_one_of_transformers(name):
    """Of prompts of different lengths in one batch, with positions, windows and caps of every architecture."""
    model = frozen(animal(name))
    endless = generate(model, some_prompts(), max_new_tokens=12, temperature=0, uniforms=uniforms(6, 12))
    stops = [2, endless[0].tokens[5]]
    model.model.generation_config.eos_token_id = stops
    found = generate(model, some_prompts(), max_new_tokens=12, temperature=0, uniforms=uniforms(6, 12))
    for beginning, continuation in zip(some_prompts(), found, strict=True):
        told = model.model.generate(
            torch.tensor([beginning]),
            attention_mask=torch.ones(1, len(beginning), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            suppress_tokens=list(range(VOCAB, 48)),  # rows of the head that are no tokens
        )[0, len(beginning) :].tolist()
        assert continuation.finished == (told[-1] in stops)
        assert list(continuation.tokens) == told[: len(told) - continuation.finished]
    assert found[0].finished


def test_generated_text_does_not_depend_on_other_prompts():
    model, most = frozen(animal("qwen3")), 16
    prompts, numbers = some_prompts(), uniforms(6, 16)
    together = generate(model, prompts, max_new_tokens=most, uniforms=numbers)
    alone = [
        generate(model, [p], max_new_tokens=most, uniforms=u[None])[0] for p, u in zip(prompts, numbers, strict=True)
    ]
    assert together == alone
    order = [5, 0, 3]
    assert generate(model, [prompts[i] for i in order], max_new_tokens=most, uniforms=numbers[order]) == [
        together[i] for i in order
    ]
    assert len({c.finished for c in together}) == 2  # some ended before others and left the batch
    assert generate(model, prompts, max_new_tokens=most, uniforms=uniforms(6, 16, seed=1)) != together


def test_prompts_of_several_temperatures_are_continued_together():
    model, prompts, numbers = frozen(animal("qwen3")), some_prompts(), uniforms(6, 16)

    def generated(temperature):
        return generate(model, prompts, max_new_tokens=16, temperature=temperature, uniforms=numbers)

    each = {temperature: generated(temperature) for temperature in (0.0, 0.5, 1.0)}
    mixed = [0.5, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert generated(mixed) == [each[temperature][place] for place, temperature in enumerate(mixed)]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_sampled_from_the_models_distribution(temperature):
    model, rows = frozen(animal("llama")), 4000
    (prompt,) = some_prompts(lengths=(5,))
    found = generate(
        model,
        [prompt] * rows,
        max_new_tokens=1,
        temperature=temperature,
        uniforms=np.random.default_rng(0).random((rows, 1)),
    )
    first = [2 if c.finished else c.tokens[0] for c in found]
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([prompt])).logits[0, -1, :VOCAB].double()
    p = (logits / temperature).softmax(-1).numpy()
    often = rows * p >= 5
    seen = np.bincount(first, minlength=VOCAB)
    if (~often).any():
        seen, p = np.append(seen[often], seen[~often].sum()), np.append(p[often], p[~often].sum())
    assert len(p) > 4
    assert chisquare(seen, rows * p).pvalue > 0.01


def test_batches_follow_from_the_prompts_and_keep_to_their_room():
    batches = Batches(rows=4, read=40, held=100)
    lengths = [3, 30, 9, 9, 12, 1]
    groups = list(batches.groups(lengths, Sampling(20, samples=2)))
    assert sorted(number for group in groups for number in group) == list(range(12))
    sizes = [[lengths[number // 2] for number in group] for group in groups]
    assert [max(size) for size in sizes] == sorted((max(size) for size in sizes), reverse=True)
    for size in sizes:
        assert len(size) == 1 or (len(size) * max(size) <= 40 and len(size) * (max(size) + 20) <= 100)
    assert Batches.of(frozen(animal("llama")), longest=30).held >= 30


def test_a_journal_goes_on_behind_its_last_whole_line(tmp_path):
    path = tmp_path / "part"
    with Journal(path, 4) as journal:
        for number in (2, 0):
            journal.add({"number": number, "text": "ü", "finish": "stop", "tokens": 3, "prompt_tokens": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"number": 1, "tokens": 7, "te')
    with Journal(path, 4) as journal:
        assert (journal.done, journal.tokens, journal.missing()) == (2, 6, [1, 3])
        journal.add({"number": 1, "text": "x", "finish": "stop", "tokens": 1, "prompt_tokens": 1})
        assert [journal.row(number)["text"] for number in (0, 1, 2)] == ["ü", "x", "ü"]
    assert path.read_bytes().startswith(whole)
    assert len(read_lines(path)) == 3
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(BadFolder, match="line 1: object missing required field `number`"):
        Journal(path, 4)
    with Journal(tmp_path / "none", 4):
        pass
    assert not (tmp_path / "none").exists()


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a teacher that can chat, and prompts."""
    folder = tmp_path_factory.mktemp("written")
    tok = tokenizer()
    tok.chat_template = CHAT
    save(llama(tok=tok, seed=2), folder / "teacher")
    user = [{"role": "user", "content": f"one two {i}"} for i in range(40)]
    lines(folder / "chat.jsonl", [{"messages": [message]} for message in user])
    lines(folder / "prompts.jsonl", [{"text": " ".join(t.split()[: 2 + i % 7])} for i, t in enumerate(texts(30))])
    return folder


def lines(file: Path, records: list[dict]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("LIMBECK_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def ask(here: Path, out: str, **keys):
    usual = {"teacher": str(here / "teacher"), "data": str(here / "prompts.jsonl"), "threads": 1, "max_new_tokens": 8}
    return limbeck.capture(**(usual | {"text": True, "out": here / out} | keys))


def test_a_text_is_continued(here):
    found = ask(here, "greedy", temperature=0)
    model = load(here / "teacher")
    rows = read_lines(here / "greedy" / "text.jsonl")
    prompts = [document.text for document in read(str(here / "prompts.jsonl"))]
    assert [row["document"] for row in rows] == [f"prompts.jsonl:{i + 1}" for i in range(30)]
    for row in rows:
        prompt = prompts[row["prompt"]]
        ids = [model.tokenizer.bos_token_id, *model.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        (alone,) = generate(model, [ids], max_new_tokens=8, temperature=0, uniforms=np.zeros((1, 8)))
        assert row["text"] == prompt + model.tokenizer.decode(alone.tokens, skip_special_tokens=True).rstrip("\ufffd")
        assert (row["finish"], row["tokens"]) == (
            "stop" if alone.finished else "length",
            len(alone.tokens) + alone.finished,
        )
    assert found["samples"] == 30 == found["prompts"]
    assert found["tokens"] == sum(row["tokens"] for row in rows) == found["kept_tokens"]
    assert not (here / "greedy" / "text.jsonl.part").exists()


@pytest.mark.long
def test_samples_are_distinct_and_named_by_the_seed(here):
    found = ask(here, "thrice", samples=3, tokens=3 * 8 * 10 + 7)
    rows = read_lines(here / "thrice" / "text.jsonl")
    assert [(row["prompt"], row["sample"]) for row in rows] == [(i, k) for i in range(10) for k in range(3)]
    assert found["samples"] == 30
    assert found["distinct"] == len({row["text"] for row in rows}) > 25
    once = read_lines(Path(ask(here, "once")["text"]))
    assert [row["text"] for row in once[:10]] == [row["text"] for row in rows if row["sample"] == 0]
    other = read_lines(Path(ask(here, "other-seed", seed=1)["text"]))
    assert sum(a["text"] == b["text"] for a, b in zip(once, other, strict=True)) < 3


def test_a_conversation_is_answered(here, tmp_path):
    user, said = {"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on a mat"}
    data = lines(
        tmp_path / "chat.jsonl",
        [
            {"messages": [user, said]},
            {"messages": [user]},
            {"messages": [user, said, user]},
            {"messages": [user, said] * 2},
        ],
    )
    ask(here, "chat", data=str(data), temperature=0)
    rows = read_lines(here / "chat" / "text.jsonl")
    answers = [row["messages"][-1] for row in rows]
    assert [row["messages"][:-1] for row in rows] == [[user], [user], [user, said, user], [user, said, user]]
    assert all(answer["role"] == "assistant" for answer in answers)
    assert answers[0] == answers[1] != answers[2] == answers[3]
    model = load(here / "teacher")
    ids = model.tokenizer.apply_chat_template([user], add_generation_prompt=True)["input_ids"]
    (alone,) = generate(model, [ids], max_new_tokens=8, temperature=0, uniforms=np.zeros((1, 8)))
    assert answers[0]["content"] == model.tokenizer.decode(alone.tokens, skip_special_tokens=True).rstrip("\ufffd")
    alone_said = lines(tmp_path / "alone.jsonl", [{"messages": [said, said]}])
    with pytest.raises(BadCorpus, match=r"alone.jsonl:1: expected a turn before the assistant"):
        ask(here, "no", data=str(alone_said))


def test_what_is_empty_is_counted_and_left_out(here, monkeypatch):
    def nothing(model, prompts, **_):
        return [Continuation((), 2) if i % 2 else Continuation((60, 61), None) for i in range(len(prompts))]

    monkeypatch.setattr("limbeck.generation.generators.generate", nothing)
    found = ask(here, "half-empty")
    assert (found["samples"], found["empty"], found["stopped"]) == (15, 15, 0)
    assert (found["tokens"], found["kept_tokens"]) == (15 + 30, 30)
    assert len(read_lines(here / "half-empty" / "text.jsonl")) == 15


@pytest.mark.long
def test_a_capture_of_text_that_is_killed_goes_on_to_the_same_bytes(here):
    """Killed for real in the middle; and once more between the text and the note that it is whole."""
    data = lines(
        here / "many.jsonl", [json.loads(line) for line in (here / "prompts.jsonl").read_text().splitlines()] * 4
    )
    keys = {"data": str(data), "max_new_tokens": 30}
    whole = Path(ask(here, "whole", **keys)["text"]).read_bytes()
    flags = (
        "--teacher",
        here / "teacher",
        "--data",
        data,
        "--max-new-tokens",
        30,
        "--threads",
        1,
        "--any-teacher",
        "--out",
        here / "killed",
    )
    command = [sys.executable, "-m", "limbeck", "capture", "--text", *map(str, flags)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    part = here / "killed" / "text.jsonl.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(read_lines(part)) < 120
    before = read_lines(part)
    ask(here, "killed", **keys)
    assert (here / "killed" / "text.jsonl").read_bytes() == whole
    run = read_json(here / "killed" / "run.json")
    assert not part.exists()
    lines(part, before)
    (here / "killed" / "run.json").write_text(json.dumps({k: v for k, v in run.items() if k != "written"}))
    (here / "killed" / "text.jsonl").unlink()
    ask(here, "killed", **keys)
    assert (here / "killed" / "text.jsonl").read_bytes() == whole


def test_a_finished_capture_writes_nothing_again(here, monkeypatch):
    first = ask(here, "greedy", temperature=0)
    monkeypatch.setattr(completions, "load", None)
    assert ask(here, "greedy", temperature=0) == first
    with pytest.raises(BadFolder, match=r"holds another run's state \(temperature: 0.0 there, 1.0 now\)"):
        ask(here, "greedy")


def test_one_process_at_a_time_writes_into_a_folder(here):
    with held_elsewhere(here / "busy"), pytest.raises(BadFolder, match="another limbeck process"):
        ask(here, "busy")


@pytest.fixture(scope="module")
def model(here):
    return load(here / "teacher")


@pytest.fixture
def hasty(monkeypatch):
    """Little patience with a server."""
    retry = RetryPolicy(tries=6, limit=2.0, first=0.005, longest=0.02)
    monkeypatch.setattr(completions, "RetryPolicy", lambda limit: retry)


@pytest.mark.long
def test_a_server_writes_what_the_model_does(here, model):
    with serving(model) as server:
        found = ask(here, "served", teacher=server.url, temperature=0, price="1000,2000")
        body = server.last
    told = read_lines(here / "served" / "text.jsonl")
    assert told == read_lines(Path(ask(here, "greedy", temperature=0)["text"]))
    assert found["tokens"] == sum(row["tokens"] for row in told)
    assert (body["top_k"], body["top_p"], body["max_tokens"], body["temperature"]) == (-1, 1.0, 8, 0)
    with serving(model, "openai") as server:
        ask(here, "of-openai", teacher=server.url)
        assert set(server.last) == {"model", "prompt", "max_tokens", "temperature", "seed"}


FAULTS = ("reset", "busy", "broken", "torn", "garbled", "unfinished", "slow")


@pytest.mark.long
def test_faults_of_a_server_do_not_show_in_the_text(here, model, hasty):
    with serving(model) as server:
        ask(here, "smooth", teacher=server.url, data=str(here / "chat.jsonl"), samples=4)
        server.faults = dict.fromkeys(FAULTS, 0.03) | {"slow": 0.005, "torn": 0.05}
        ask(here, "rough", teacher=server.url, data=str(here / "chat.jsonl"), samples=4)
        assert sum(server.faulted.values()) > 10
    assert (here / "rough" / "text.jsonl").read_bytes() == (here / "smooth" / "text.jsonl").read_bytes()
    assert read_json(here / "rough" / "run.json")["repeated"] >= 10


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("busy", "status 429: .*too many.*smaller --in-flight"),
        ("broken", "status 500: .*oh"),
        ("reset", "connection: .*check that the server runs"),
        ("slow", "time limit: no response within 0.4 s.*longer --time-limit"),
        ("torn", "the response ends .* too early"),
        ("garbled", "damaged response"),
        ("unfinished", "it ended by 'abort'"),
    ],
)
def test_a_server_that_fails_for_good_stops_the_capture(here, model, monkeypatch, tmp_path, fault, named):
    retry = RetryPolicy(tries=2, limit=0.4 if fault == "slow" else 30.0, first=0.001, longest=0.002)
    monkeypatch.setattr(completions, "RetryPolicy", lambda limit: retry)
    said = rf"all of the first 3 prompts got no valid response.*{named}.*run the same command again"
    with serving(model, faults={fault: 1.0}) as server, pytest.raises(BadServer, match=said):
        ask(tmp_path, "out", teacher=server.url, data=str(here / "chat.jsonl"), samples=100)
    assert len(read_json(tmp_path / "out" / "run.json")["failed"]) == 3
    assert not list((tmp_path / "out").glob("text.jsonl*"))


def test_another_models_answer_stops_the_capture(here, model):
    with (
        serving(model, faults={"other": 0.3}) as server,
        pytest.raises(BadServer, match=r"other/model.* that it serves after the #"),
    ):
        ask(here, "other-model", teacher=server.url)


def test_a_system_message_is_read_by_the_teacher_and_is_not_in_the_text(here, model, tmp_path):
    """As in Orca 2 (arXiv 2311.11045): what was asked of the teacher is erased. An answer that repeats it is left out."""
    (tmp_path / "how.txt").write_text("one two three four five six seven\n")
    asked = lines(
        tmp_path / "asked.jsonl",
        [
            {"messages": [*own, {"role": "user", "content": f"one two {i}"}]}
            for i, own in enumerate(3 * [[], [{"role": "system", "content": "brief"}]])
        ],
    )
    keys = {"data": str(asked), "seed": 3}
    found = [
        ask(tmp_path, name, teacher=str(here / "teacher"), system=system, **keys)
        for name, system in (("file", f"@{tmp_path / 'how.txt'}"), ("text", "one two three four five six seven"))
    ]
    assert found[0]["leaked"] == 0
    rows = read_lines(tmp_path / "file" / "text.jsonl")
    assert rows == read_lines(tmp_path / "text" / "text.jsonl")
    whole = ["one two three four five six seven", "one two three four five six seven\n\nbrief"]
    loaded = load(here / "teacher")
    assert len(rows) > 3
    for row in rows:
        *own, answer = row["messages"]
        assert own == json.loads(asked.read_text().splitlines()[row["prompt"]])["messages"]
        read_by = [{"role": "system", "content": whole[row["prompt"] % 2]}, own[-1]]
        ids = conversation_so_far(loaded.tokenizer, Document("", messages=read_by))
        uniforms = Sampling(8, seed=3).random(row["prompt"]).random((1, 8))
        (alone,) = generate(loaded, [ids], max_new_tokens=8, temperature=1.0, uniforms=uniforms)
        text = loaded.tokenizer.decode(alone.tokens, skip_special_tokens=True).rstrip("\ufffd")
        assert answer == {"role": "assistant", "content": text}


def test_a_strategy_of_a_record_chooses_the_message_that_its_teacher_reads(here, tmp_path):
    """The field may have another name; the kept text has the name of the strategy beside the answer, and not its words."""
    (tmp_path / "how.toml").write_text('slow = "one two three four"\nfast = "five"\n')
    kinds = ["slow", "fast", "fast", "slow"]
    asked = lines(
        tmp_path / "asked.jsonl",
        [{"messages": [{"role": "user", "content": f"one {i}"}], "task": kind} for i, kind in enumerate(kinds)],
    )
    keys = {"teacher": str(here / "teacher"), "seed": 3}
    together = f"@{tmp_path / 'how.toml'}"
    ask(tmp_path, "all", data=str(asked), system=together, columns="strategy=task", **keys)
    rows = read_lines(tmp_path / "all" / "text.jsonl")
    assert [row["strategy"] for row in rows] == [kinds[row["prompt"]] for row in rows]
    assert {row["strategy"] for row in rows} == {"slow", "fast"}
    groups = {row["prompt"]: row["split_by"] for row in rows}
    assert len(set(groups.values())) == len(groups)
    assert all(row["split_by"] == groups[row["prompt"]] for row in rows)
    document = from_record({"prompt": "one?", "completion": "two", "split_by": "book"}, name="a", where="a:1")
    assert prompt_of(document).group == "book"
    for name, message in (("slow", "one two three four"), ("fast", "five")):
        ask(tmp_path, name, data=str(asked), system=message, **keys)
        alone = {row["prompt"]: row["messages"] for row in read_lines(tmp_path / name / "text.jsonl")}
        assert all(row["messages"] == alone[row["prompt"]] for row in rows if row["strategy"] == name)
    signature = read_json(tmp_path / "all" / "run.json")["signature"]
    assert signature["system"] == {"slow": "one two three four", "fast": "five"}


def test_answers_that_do_not_match_the_pattern_of_their_strategy_are_left_out_and_counted(here, tmp_path):
    asked = lines(
        tmp_path / "asked.jsonl",
        [{"messages": [{"role": "user", "content": f"one {i}"}], "strategy": "ab"[i % 2]} for i in range(8)],
    )
    keys = {"teacher": str(here / "teacher"), "data": str(asked), "seed": 3}
    how = tmp_path / "how.toml"
    how.write_text("a = 'wait'\n[b]\nsystem = 'be quick'\n")
    every = ask(tmp_path, "every", system=f"@{how}", **keys)
    how.write_text(how.read_text() + "pattern = '^[a-m]'\n")
    found = ask(tmp_path, "some", system=f"@{how}", **keys)
    rows, kept = (read_lines(tmp_path / name / "text.jsonl") for name in ("every", "some"))
    fit = [row for row in rows if row["strategy"] == "a" or "a" <= row["messages"][-1]["content"][0] <= "m"]
    assert kept == fit
    assert found["unfit"] == every["samples"] - found["samples"] > 0
    assert "unfit" not in every
    assert read_json(tmp_path / "some" / "run.json")["signature"]["patterns"] == {"b": "^[a-m]"}


def test_answers_that_repeat_the_system_message_are_left_out_and_counted(here, monkeypatch, tmp_path):
    monkeypatch.setattr(completions, "repeats", lambda answer, system: len(answer) % 2 == 0)
    keys = {"teacher": str(here / "teacher"), "data": str(here / "chat.jsonl")}
    found = ask(tmp_path, "out", system="be brief and clear", **keys)
    texts = [row["messages"][-1]["content"] for row in read_lines(tmp_path / "out" / "text.jsonl")]
    assert all(len(text) % 2 for text in texts)
    assert found["leaked"] > 0
    assert found["leaked"] + len(texts) + found["empty"] == 40
    assert len(read_json(tmp_path / "out" / "run.json")["leaked"]["text"]) % 2 == 0


@pytest.mark.parametrize(
    ("answer", "system", "found"),
    [
        ("As told: Think step by step!", "think step, by step", True),
        ("Think it over, step by step", "think step by step", False),
        ("two three four five six seven eight nine", "one two three four five six seven eight nine ten", True),
        ("two three four five six seven eight, then nine", "one two three four five six seven eight nine ten", False),
        ("be brief", "be brief", False),
        ("", "think step by step", False),
    ],
)
def test_an_answer_repeats_a_message_by_its_words_in_a_row(answer, system, found):
    assert repeats(answer, system) is found


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"system": " "}, "expected a message for the teacher"),
        ({"system": "@missing.txt"}, "expected a text file in UTF-8.*missing.txt"),
        ({"system": "be brief", "data": "prompts.jsonl"}, "prompts.jsonl:1: expected a conversation"),
        ({"columns": "strategy=task"}, "--columns strategy=task: a strategy chooses among several"),
        (
            {"system": "be brief", "columns": "strategy=task"},
            "--columns strategy=task: a strategy chooses among several",
        ),
        (
            {"toml": "slow = 'wait'"},
            r"chat.jsonl:1: expected a 'strategy' that --system has a message for \(slow\), got none",
        ),
        ({"toml": "slow = 'wait'", "data": "odd.jsonl"}, r"odd.jsonl:1: expected a 'strategy' .* got \[3\]"),
        ({"toml": "slow = ''"}, "expected a message for each strategy.*got slow = ''"),
        ({"toml": ""}, "expected a message for each strategy.*got none"),
        ({"toml": "[slow]\npattern = 'a'"}, "expected a message for each strategy.*got slow = None"),
        (
            {"toml": "slow = {system = 'wait', how = 'x'}"},
            "expected 'system' and 'pattern' of the strategy slow, got 'how'",
        ),
        (
            {"toml": "slow = {system = 'wait', pattern = '('}"},
            r"expected a regular expression as the pattern of slow, got '\('",
        ),
        (
            {"toml": "slow = {system = 'wait', pattern = 3}"},
            "expected a regular expression as the pattern of slow, got 3",
        ),
        ({"toml": "think!"}, "expected TOML with lines such as"),
    ],
)
def test_a_system_message_that_cannot_be_read_is_refused(here, tmp_path, keys, said):
    if "toml" in keys:
        (tmp_path / "how.toml").write_text(keys.pop("toml"))
        keys |= {"system": f"@{tmp_path / 'how.toml'}"}
    lines(here / "odd.jsonl", [{"messages": [{"role": "user", "content": "one"}], "strategy": [3]}])
    data = {"data": str(here / keys.pop("data", "chat.jsonl"))}
    with pytest.raises(LimbeckError, match=said):
        ask(tmp_path, "out", teacher=str(here / "teacher"), **data, **keys)


@pytest.mark.long
def test_a_prompt_without_a_completion_is_named_and_queried_again(here, model, hasty):
    """One of thirty is borne, two are not; what was answered is not asked for again."""
    prompts = [document.text for document in read(str(here / "prompts.jsonl"))]
    with serving(model) as server:
        whole = Path(ask(here, "all", teacher=server.url)["text"]).read_bytes()
        server.hopeless = lambda prompt: prompt in (prompts[28], prompts[29])
        said = r"2 of 30 samples got no valid response.*status 400: .*maximum context length.*prompts.jsonl:29.*smaller --max-new"
        with pytest.raises(BadServer, match=said):
            ask(here, "holes", teacher=server.url, in_flight=1)
        server.hopeless = lambda prompt: prompt == prompts[28]
        server.queries.clear()
        found = ask(here, "holes", teacher=server.url, in_flight=1)
        assert (found["failed"], found["samples"]) == (1, 29)
        (failed,) = read_json(here / "holes" / "run.json")["failed"]
        assert (failed["document"], failed["prompt"], failed["sample"]) == ("prompts.jsonl:29", 28, 0)
        assert "maximum context length" in failed["reason"]
        server.hopeless = lambda prompt: False
        assert ask(here, "holes", teacher=server.url, in_flight=1)["failed"] == 0
        assert server.queries["/v1/completions"] == 3  # both of before, and the last one again
    assert (here / "holes" / "text.jsonl").read_bytes() == whole


def test_conversations_go_to_a_server_and_what_it_keeps_back_is_counted(here, model):
    data = here / "chat.jsonl"
    with serving(model) as server:
        found = ask(here, "served-chat", teacher=server.url, data=str(data))
        assert found["stopped"] == found["samples"] == 40
        rows = read_lines(here / "served-chat" / "text.jsonl")
        assert rows[7]["messages"][-1] == {"role": "assistant", "content": "7 two one"}
        server.faults = {"empty": 0.2, "filtered": 0.3}
        found = ask(here, "kept-back", teacher=server.url, data=str(data))
        assert (found["empty"], found["filtered"]) == (server.faulted["empty"], server.faulted["filtered"])
    assert found["empty"] > 0 < found["filtered"]
    assert (
        found["samples"]
        == 40 - found["empty"] - found["filtered"]
        == len(read_lines(here / "kept-back" / "text.jsonl"))
    )


def test_functions_go_to_a_server_and_its_calls_are_kept(here, model, tmp_path):
    tools = [{"type": "function", "function": {"name": "weather_of"}}]
    kept = {"tools": tools, "chat_template_kwargs": {"enable_thinking": False}}
    rows = [{"messages": [{"role": "user", "content": f"of {i}"}]} | (kept if i else {}) for i in range(2)]
    (tmp_path / "tools.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(model) as server:
        found = ask(here, "tools", teacher=server.url, data=str(tmp_path / "tools.jsonl"))
    plain, called = read_lines(here / "tools" / "text.jsonl")
    assert found["stopped"] == 2
    assert plain["messages"][-1] == {"role": "assistant", "content": "0 of"}
    assert "tools" not in plain
    call = {"name": "weather_of", "arguments": '{"words": ["of", "1"]}'}
    assert called["messages"][-1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": call}],
    }
    assert {key: called[key] for key in kept} == kept


def test_prompts_of_records_with_completions_are_continued(here, tmp_path):
    rows = [{"prompt": f"once {i}", "completion": "no"} for i in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"body": "b"}]))
    with pytest.raises(BadCorpus, match=r"a\.jsonl:4: expected 'text' or 'messages'"):
        ask(here, "prompts", data=str(tmp_path / "a.jsonl"))
    ask(here, "prompts", data=str(tmp_path / "a.jsonl"), skip_bad=1)
    written = read_lines(here / "prompts" / "text.jsonl")
    assert [row["prompt"] for row in written if "completion" in row] == [row["prompt"] for row in rows]


def test_the_key_goes_to_the_server_and_into_no_file(here, model, monkeypatch, capfd):
    monkeypatch.setenv("LIMBECK_API_KEY", KEY)
    with serving(model, key=KEY) as server:
        ask(here, "with-key", teacher=server.url)
        assert server.keys_seen == {f"Bearer {KEY}"}
        server.faults = {"echo": 1.0}
        with pytest.raises(BadServer, match=r"the response is of 'Bearer \*\*\*'"):
            ask(here, "echoed-key", teacher=server.url)
        server.key = "another"
        with pytest.raises(BadServer, match="refuses the key in the environment") as stop:
            ask(here, "wrong-key", teacher=server.url)
    said = capfd.readouterr()
    shown = [said.out, said.err, str(stop.value)]
    shown += [file.read_bytes().decode("latin1") for file in here.rglob("*") if file.is_file()]
    assert not any(KEY in text for text in shown)


def test_the_cost_is_reported_before_and_after(here, model, capfd):
    with serving(model) as server:
        found = ask(here, "priced", teacher=server.url, price="1000,2000")
        ask(here, "priced", teacher=server.url, price="1000,2000")
    said = capfd.readouterr().err
    assert "30 prompts" in said
    assert "at most 8 tokens are generated for each, 240 in all" in said
    assert "at most $0.48 for what is written, and about $" in said
    dollars = (found["prompt_tokens"] * 1000 + found["tokens"] * 2000) / 1e6
    assert said.count(f"{found['tokens']} written, 0 requests repeated, ${dollars:,.2f}") == 2
    assert f"next  limbeck distil --teacher STUDENT --student STUDENT --data {here / 'priced' / 'text.jsonl'}" in said


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        ({"bytes_per_token": 48}, BadSetting, "--bytes-per-token: .*with --text the teacher generates one"),
        ({"kind": "coarse"}, BadSetting, "--codec: .*leave out one of the two"),
        ({"stream": True}, BadSetting, "--stream: .*leave out one of the two"),
        ({"length": 16}, BadSetting, "--seq-len: "),
        ({"params": "6M"}, BadSetting, "--params: .*leave out one of the two"),
        ({"in_flight": 4}, BadSetting, "--in-flight: it is for a teacher on a server, and .*teacher is none"),
        ({"price": "1,2"}, BadSetting, "--price: it is for a teacher on a server"),
        (
            {"teacher": "http://host/v1#m", "price": "cheap"},
            BadSetting,
            "--price: expected dollars .* such as 0.15,0.60",
        ),
        ({"samples": 2, "temperature": 0}, BadSetting, "--samples 2: at --temperature 0 they would all be the same"),
        ({"tokens": 7}, BadSetting, "--tokens 7: 1 x 8 may be written to one prompt; give 8 or more"),
        (
            {"text": False, "max_new_tokens": 5},
            BadSetting,
            "--max-new-tokens: it sets how a model generates text; add --text or --pairs",
        ),
        (
            {"max_new_tokens": 126},
            Mismatch,
            r"prompts have no room for 126 tokens more in the context of teacher, which is 128",
        ),
        ({"teacher": "http://host/v1"}, BadSetting, "names no model after a #"),
        ({"teacher": "http://host/v1#m", "any_teacher": True}, BadSetting, "--any-teacher: .*http://host/v1#m writes"),
    ],
)
def test_flags_that_do_not_belong_together_are_refused(here, keys, error, said):
    with pytest.raises(error, match=said):
        ask(here, "refused", **keys)
    assert not list((here / "refused").glob("text.jsonl*"))


def test_a_mistake_found_late_does_not_keep_the_folder(here):
    with pytest.raises(LimbeckError, match="no room for 126 tokens"):
        ask(here, "mended", max_new_tokens=126)
    assert ask(here, "mended")["samples"] == 30


@pytest.mark.long
def test_students_of_any_kind_learn_generated_text(here, tmp_path):
    """One of another architecture beside its teacher, one of another tokenizer beside itself, one from scratch."""
    data = lines(tmp_path / "prompts.jsonl", [{"text": " ".join(t.split()[:3])} for t in texts(150, seed=3)])
    text = ask(here, "corpus", data=str(data), max_new_tokens=30)["text"]
    usual = {"data": text, "tokens": "600", "batch_tokens": 128, "length": 16, "threads": 1}
    compared = usual | {"objective": "CrossEntropy", "baselines": ()}
    save(gpt2(load(here / "teacher").tokenizer), tmp_path / "gpt2")
    beside = limbeck.distil(
        **compared, teacher=str(here / "teacher"), student=str(tmp_path / "gpt2"), out=tmp_path / "a"
    )
    assert load(Path(beside["student"])).config.model_type == "gpt2"
    save(gpt2(tokenizer(280)), tmp_path / "other")
    other = str(tmp_path / "other")
    assert limbeck.distil(**compared, teacher=other, student=other, out=tmp_path / "b")["student"]
    assert limbeck.pretrain(
        **usual, shape="layers=1,hidden=16,heads=2,kv_heads=1,ffn=16", vocab=280, out=tmp_path / "c"
    )["model"]


def gpt2(tok):
    from transformers import GPT2Config

    from limbeck.models.build import new_model

    ids = {"bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id}
    config = GPT2Config(vocab_size=len(tok), n_positions=64, n_embd=16, n_layer=1, n_head=2, **ids)
    return new_model(config, tok, 0)
