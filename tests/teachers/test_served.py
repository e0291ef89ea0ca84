"""A teacher on a server: its queries, the checks of its responses, and its errors."""

import base64
import re
import shutil
import sys

import numpy as np
import pytest
import torch

import limbeck
from limbeck.corpora import Rows, TokenStore
from limbeck.disk import read_json, read_rows
from limbeck.errors import BadServer, BadSetting, LimbeckError, Mismatch
from limbeck.jobs.capture.verify import inspect, verify
from limbeck.jobs.common.captured import Captured
from limbeck.jobs.common.folder import command
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.models.weightless import save_without_weights
from limbeck.objectives import parse
from limbeck.objectives.fused import fused_backward, fused_nats
from limbeck.run.log import console
from limbeck.scrub import scrubbed
from limbeck.teachers.remote import http, served
from limbeck.teachers.remote.http import Address, RetryPolicy, is_served
from limbeck.teachers.remote.proxy import proxy_for
from limbeck.teachers.remote.served import _prompts, connect
from limbeck.types import Batch
from tests.helpers.models import batch, frozen, llama, tokenizer, write_corpus
from tests.helpers.served import KEY, serving

LENGTH = 16
HASTY = RetryPolicy(tries=5, limit=0.5, first=0.01, longest=0.05)


@pytest.fixture(scope="module")
def model():
    """An untrained model. Its log-probabilities are nearly uniform, so a wrong one that is certain would be visible."""
    made = frozen(llama(tok=tokenizer(), seed=2))
    made.model.model.norm.weight.data *= 0.2
    return made


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("LIMBECK_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def teacher_of(server, model, *, k: int = 8, **keys):
    return connect(Address.of(server.url), model.tokenizer, k=k, length=LENGTH, **({"retry": HASTY} | keys))


def check_against(model, one: Batch, signal) -> int:
    """Checks that positions with weight and a target have the model's top-k; gives the number of those without a target."""
    log_p = model(one).logits().log_softmax(-1)
    counts = one.weight.reshape(-1) > 0
    sure = counts & signal.known
    likeliest = log_p.topk(signal.ids.shape[1])
    torch.testing.assert_close(signal.log_p[sure], likeliest.values[sure], atol=2e-4, rtol=0)
    torch.testing.assert_close(log_p.gather(-1, signal.ids)[sure], signal.log_p[sure], atol=2e-4, rtol=0)
    others = log_p.scatter(-1, likeliest.indices, -torch.inf).logsumexp(-1)
    torch.testing.assert_close(signal.rest[sure], others[sure], atol=2e-3, rtol=0)
    return int((counts & ~signal.known).sum())


@pytest.mark.parametrize(("protocol", "named"), [("vllm", "vLLM"), ("sglang", "SGLang")])
def test_a_server_returns_the_log_probabilities_of_the_model_in_memory(model, protocol, named):
    """Rows of several documents, with the last position of each, for which a server returns nothing by default."""
    with serving(model, protocol) as server, teacher_of(server, model) as teacher:
        assert named in teacher.kind.name
        for seed in range(3):
            one = batch(4, LENGTH, vocab=model.vocab, seed=seed)
            one.weight[:, -1] = 1
            assert check_against(model, one, teacher(one)) == 0
    assert not teacher.missing


def test_echoed_texts_are_believed_where_they_mean_one_token(model):
    """Bytes that are not characters by themselves have the same text, so outcomes among them cannot be distinguished."""
    with serving(model, "openai") as server, teacher_of(server, model, k=2) as teacher:
        assert "OpenAI" in teacher.kind.name
        teacher.expect(10**9)
        known = 0
        for seed in range(6):
            one = batch(4, LENGTH, vocab=model.vocab, seed=seed)
            missing = check_against(model, one, teacher(one))
            known += int((one.weight > 0).sum()) - missing
        assert known > 20
        assert teacher.missing["text of several tokens"] > 20
        assert set(teacher.missing) <= {"text of several tokens", "damaged response"}
        teacher.expect(1000)
        with pytest.raises(
            BadServer, match=r"positions got no valid response.*text of several tokens.*vLLM or SGLang, whose"
        ):
            teacher(one)


FAULTS = (
    "reset",
    "busy",
    "broken",
    "torn",
    "garbled",
    "nan",
    "positive",
    "sum",
    "double",
    "short",
    "shifted",
    "slow",
    "drip",
)


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["vllm", "sglang"])
def test_no_wrong_answer_reaches_a_student(model, protocol):
    """Over a thousand queries per kind of server, a third of them with every known fault: the model's value or none."""
    likely = dict.fromkeys(FAULTS, 0.035) | {"slow": 0.006, "drip": 0.006, "busy": 0.01}
    with serving(model, protocol) as server:
        teacher = teacher_of(server, model, retry=RetryPolicy(tries=3, limit=0.4, first=0.01, longest=0.05))
        teacher.expect(10**9)
        server.faults = likely
        positions = missing = 0
        with teacher:
            for seed in range(3):  # much at once, since what is too slow costs its whole limit
                one = batch(135, LENGTH, vocab=model.vocab, seed=seed)
                one.weight[:, -1] = 1
                server.prepare([prompt.tokens for prompt in _prompts(one)])
                missing += check_against(model, one, teacher(one))
                positions += int((one.weight > 0).sum())
    assert sum(server.queries.values()) >= 1000
    assert all(server.faulted[name] for name in FAULTS)
    assert missing == teacher.missing.total()
    assert 0 < missing < positions  # how many depends on how slow the machine is
    assert server.most_in_flight <= 32


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("busy", "status 429: .*too many.*smaller --in-flight"),
        ("broken", "status 500: .*oh"),
        ("reset", "connection: .*check that the server runs"),
        ("slow", "time limit: no response within 0.2 s.*longer --time-limit"),
        ("drip", "time limit: no response within 0.2 s"),
        ("torn", "connection: HTTPException the response ends .* too early"),
        ("garbled", "damaged response"),
        ("nan", "damaged response"),
        ("positive", "no log-probabilities"),
        ("sum", "probabilities above 1"),
        ("double", "too few outcomes|response for other tokens"),
        ("short", r"it has \d+ places of \d+"),
        ("shifted", "response for other tokens"),
    ],
)
def test_a_server_that_keeps_failing_stops_the_run_with_the_reason(model, fault, named):
    with serving(model) as server:
        limit = 0.2 if fault in ("slow", "drip") else 5.0
        teacher = teacher_of(server, model, retry=RetryPolicy(tries=2, limit=limit, first=0.001, longest=0.002))
        teacher.expect(2000)
        server.faults = {fault: 1.0}
        one = batch(4, LENGTH, vocab=model.vocab)
        with (
            teacher,
            pytest.raises(BadServer, match=rf"of 2,000 positions got no valid response.*0.1 % allowed: .*{named}"),
        ):
            teacher(one)
        assert server.faulted[fault] >= 2 or fault == "slow"


def test_a_few_failed_queries_are_masked_and_counted(model):
    """One document of many, which is below a tenth of a percent."""
    with serving(model) as server, teacher_of(server, model, in_flight=1) as teacher:
        one = batch(4, LENGTH, vocab=model.vocab)
        teacher.expect(10**5, missing=3)
        server.faults = {"garbled": 1.0}
        alone = one.rows(slice(0, 1))
        signal = teacher(alone)
        counts = int((alone.weight > 0).sum())
        assert teacher.missing == {"damaged response": counts}
        assert not signal.known[alone.weight.reshape(-1) > 0].any()
        with pytest.raises(Mismatch, match="have no teacher target: give those weight 0 first"):
            signal.part(alone.weight.reshape(-1).nonzero().squeeze(-1)).require_known()
        teacher.expect(10**5, missing=100 - counts + 1)  # those of before count too
        with pytest.raises(BadServer, match=r"101 of 100,000 positions .* failed earlier"):
            teacher(alone)


def test_retry_after_is_waited_for(model):
    with serving(model) as server, teacher_of(server, model, in_flight=1) as teacher:
        server.faults, server.times = {"busy": 0.5}, []
        teacher(batch(4, LENGTH, vocab=model.vocab))
        gaps = np.diff(server.times)
        assert (gaps > 0.19).sum() >= server.faulted["busy"] > 0


def test_questions_in_flight_are_bounded(model):
    with serving(model) as server, teacher_of(server, model, in_flight=3) as teacher:
        teacher(batch(24, LENGTH, vocab=model.vocab))
        assert 1 < server.most_in_flight <= 3


def test_a_document_is_queried_up_to_its_last_position_with_weight(model):
    with serving(model) as server, teacher_of(server, model) as teacher:
        one = batch(2, LENGTH, vocab=model.vocab)
        one.weight[:] = 0
        one.weight[1, 0] = 1
        before = sum(server.queries.values())
        signal = teacher(one)
        assert sum(server.queries.values()) == before + 1
        assert signal.known.all()  # a position of weight 0 is not missing
        assert check_against(model, one, signal) == 0


def refused(error, match, model, protocol="vllm", tok=None, **keys):
    with serving(model, protocol, **keys) as server, pytest.raises(error, match=match):
        connect(Address.of(server.url), tok or model.tokenizer, k=4, length=LENGTH, retry=HASTY)


@pytest.mark.parametrize("protocol", ["vllm", "sglang", "openai"])
def test_another_tokenizer_is_refused(model, protocol):
    from limbeck.corpora import train_tokenizer

    other = train_tokenizer(
        [" ".join(["quick brown foxes jump over lazy hounds of the king"] * 40)], vocab=len(model.tokenizer)
    )
    refused(
        Mismatch, "another tokenizer than --tokenizer: it (tokenizes .* as|decodes token)", model, protocol, tok=other
    )


def test_requirements_of_a_server_are_checked_at_the_start(model):
    refused(BadServer, "has no model of that name; it serves another/model", model, shown="another/model")
    refused(BadServer, "the response is of 'other/model', not of 'tiny/llama'", model, faults={"other": 1.0})
    refused(
        BadServer,
        "expected log-probabilities of a prompt's tokens, but the server gives none. vLLM.*SGLang.*OpenAI",
        model,
        "nothing",
        most=0,
    )
    refused(
        Mismatch,
        r"has a context of 17 tokens, and a row needs two more than its length: use --seq-len 15 or less",
        model,
        context=17,
    )
    refused(BadServer, "redirects to http://elsewhere.example/v1 .* are not followed", model, faults={"moved": 1.0})
    with pytest.raises(BadServer, match="expected a server with a list of models at /v1/models, got connection"):
        connect(Address.of("http://127.0.0.1:9/v1#m"), model.tokenizer, k=4, length=LENGTH, retry=HASTY)


def test_a_server_that_becomes_another_model_stops_the_run(model):
    with serving(model) as server, teacher_of(server, model) as teacher:
        teacher.expect(10**9)
        server.faults = {"other": 1.0}
        with pytest.raises(BadServer, match=r"the response is of 'other/model'.* that it serves after the #"):
            teacher(batch(4, LENGTH, vocab=model.vocab))


def test_fewer_outcomes_are_requested_if_a_server_has_a_limit(model):
    with serving(model, most=20) as server, teacher_of(server, model, k=33) as teacher:
        assert teacher.k == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("localhost:8000/v1#m", "this one has no http:// or https://"),
        ("ftp://host/v1#m", "this one has no http:// or https://"),
        ("http://host:8000/v1", "names no model after a #"),
        ("http://me:secret@host/v1#m", "an API key is read from the environment"),
        ("http://host/v1?api_key=secret#m", "an API key is read from the environment"),
        ("http://u:pa#secret@host/v1#m", "an API key is read from the environment"),
        ("http://u:pa/secret@host/v1#m", "an API key is read from the environment"),
        ("http://host/v1#m?api_key=secret", "an API key is read from the environment"),
        ("http://host/v1#m&token=secret", "a model's name has no blank and none of"),
        ("http://host:secret/v1#m", "the host or port of this one cannot be read"),
        ("http://[::1/v1#m", "the host or port of this one cannot be read"),
    ],
)
def test_an_address_is_refused_by_its_form(text, message):
    assert is_served(text)
    with pytest.raises(BadSetting, match=rf"http://HOST:PORT/v1#MODEL.*{message}") as stop:
        Address.of(text)
    assert "secret" not in str(stop.value).replace("//host:secret", "")  # a port is none


@pytest.fixture(scope="module")
def here(tmp_path_factory, model):
    """A folder with a description of the teacher, a text, and a student in its tokens."""
    folder = tmp_path_factory.mktemp("served")
    save_without_weights(model, folder / "teacher")
    save(llama(hidden=16, tok=model.tokenizer, seed=5), folder / "student")
    write_corpus(folder, 24)
    return folder


def capture(here, server, out, **keys):
    usual = {"teacher": server.url, "tokenizer": str(here / "teacher"), "data": str(here / "text.jsonl")}
    usual |= {"length": LENGTH, "threads": 1, "bytes_per_token": 48, "out": here / out}
    return limbeck.capture(**(usual | keys))


@pytest.mark.long
def test_a_server_is_captured(here, model):
    with serving(model) as server:
        result = capture(here, server, "answers")
        again = sum(server.queries.values())
        assert capture(here, server, "answers")["rows"] == result["rows"]
        assert sum(server.queries.values()) < again + 10  # only the queries of the start
    captured = Captured(here / "answers")
    assert captured.logits.missing == 0
    assert "vLLM" in captured.logits.made_from["teacher"]
    store, _ = captured.stores()
    one = Rows(store, length=LENGTH).rows_of(np.arange(8))
    counts = one.weight.reshape(-1) > 0
    signal, log_p = captured.logits(one).part(counts), model(one).logits().log_softmax(-1)[counts]
    torch.testing.assert_close(signal.log_p, log_p.gather(-1, signal.ids), atol=0.05, rtol=0)
    facts = inspect(here / "answers")
    assert facts["certificate"]["damage"] is None
    assert facts["certificate"]["unanswered"] == facts["unanswered"] == 0
    assert verify(here / "answers", rows=2, seed=0, console=console)["ok"]


@pytest.mark.long
def test_a_student_learns_what_a_server_answered(here, model, monkeypatch):
    """A server fails for some documents. They are counted in the folder, and not learned."""
    with serving(model) as server:
        server.hopeless = lambda prompt: len(prompt) == LENGTH + 1 and sum(prompt) % 3 == 0
        monkeypatch.setattr(served, "MOST_MISSING", 0.5)
        capture(here, server, "holes", in_flight=4)
    answers = Captured(here / "holes").logits
    store, _ = Captured(here / "holes").stores()
    rows = Rows(store, length=LENGTH)
    whole = rows.rows_of(np.arange(rows.n_rows))
    counted = answers.masked(whole)
    assert answers.missing == int((whole.weight - counted.weight).sum()) > 0
    assert inspect(here / "holes")["certificate"]["unanswered"] == answers.missing
    lost = (whole.weight > 0) & (counted.weight == 0)
    teacher = answers(whole)
    student = load(here / "student", train=True)
    with pytest.raises(Mismatch, match="have no teacher target"):
        fused_backward(parse("ForwardKL"), student(whole), teacher, whole, scale=1.0)
    nats = fused_nats(parse("ForwardKL"), student(counted), teacher, counted)
    assert nats.isfinite().all()
    assert (nats[lost] == 0).all()
    usual = {
        "teacher": str(here / "holes"),
        "tokens": "600",
        "batch_tokens": 256,
        "threads": 1,
        "baselines": ("cut+ce",),
    }
    with pytest.raises(BadSetting, match="a student cannot be pruned without them: give a model with --student"):
        limbeck.distil(**usual, out=here / "cut")
    run = limbeck.distil(**usual, student=str(here / "student"), out=here / "run")
    assert "teacher" not in run["readings"]
    assert set(run["readings"]["student"]) & {"kl_teacher_student", "acceptance", "top1_agreement"} == {
        "top1_agreement"
    }
    assert all("teacher" not in row for row in read_rows(here / "run" / "samples.json"))
    assert f"{answers.missing:,} positions without logits" in (here / "run" / "run.json").read_text()


@pytest.mark.long
def test_a_server_teaches_a_student(here, model):
    """The server is queried once, at the start. The student equals that of separately captured logits, and continues alone."""
    keys = {"tokens": "600", "batch_tokens": 256, "threads": 1, "student": str(here / "student"), "baselines": ()}
    with serving(model) as server:
        capture(here, server, "apart", tokens="600")
        positions = server.queries.copy()
        served = {"teacher": server.url, "tokenizer": str(here / "teacher"), "data": str(here / "text.jsonl")}
        limbeck.distil(**keys, **served, length=LENGTH, out=here / "direct")
        assert sum(server.queries.values()) < 2.1 * sum(positions.values())
    limbeck.distil(**keys, teacher=str(here / "apart"), out=here / "of-answers")
    weights = [(here / name / "student" / "model.safetensors").read_bytes() for name in ("direct", "of-answers")]
    assert weights[0] == weights[1]
    shutil.rmtree(here / "direct" / "student")
    limbeck.distil(**keys, **served, length=LENGTH, out=here / "direct")
    assert (here / "direct" / "student" / "model.safetensors").read_bytes() == weights[0]


@pytest.mark.long
def test_a_server_is_queried_for_what_a_mixture_takes(here, tmp_path, model, capsys):
    """Of each source the rows that its weight and --tokens ask for, and no others; the held-out text is that of all of it."""
    (tmp_path / "two").mkdir()
    data = f"{here / 'text.jsonl'}:1,{write_corpus(tmp_path / 'two', 90)}:3"
    keys = {"tokens": "1200", "batch_tokens": 256, "threads": 1, "student": str(here / "student"), "baselines": ()}
    with serving(model) as server:
        served = {"teacher": server.url, "tokenizer": str(here / "teacher"), "data": data, "length": LENGTH}
        limbeck.distil(**keys, **served, out=tmp_path / "run")
    captured = Captured(tmp_path / "run" / "captured")
    whole = TokenStore.open(captured.folder / "data" / "train")
    taken = 5 * 256 // LENGTH  # rows of five steps
    assert taken <= captured.logits.rows < taken + 2 * 3 < whole.layout(LENGTH).rows / 3
    shown = re.search(
        r"queried for what the mixture takes: ([\d,]+) tokens of .*, ([\d,]+) tokens of", capsys.readouterr().err
    )
    tokens = [int(number.replace(",", "")) for number in shown.groups()]
    assert [one["tokens"] for one in captured.stores()[0].manifest["sources"]] == tokens
    found = read_json(tmp_path / "run" / "run.json")["mixture"]
    assert all(0.8 < one["passes"] <= 1.05 for one in found)
    assert tokens[1] / sum(tokens) == pytest.approx(0.75, abs=0.05)


def test_a_pair_that_does_not_fit_is_an_error_before_any_query(here, model):
    save(llama(hidden=16, tok=tokenizer(vocab=280), seed=5), here / "other")
    with serving(model) as server:
        keys = {"teacher": server.url, "tokenizer": str(here / "teacher"), "data": str(here / "text.jsonl")}
        with pytest.raises(LimbeckError, match="tokenizer"):
            limbeck.distil(
                **keys, student=str(here / "other"), tokens="600", threads=1, length=LENGTH, out=here / "unfit"
            )
        assert not server.queries


@pytest.mark.long
def test_rows_leave_room_for_the_tokens_that_a_query_needs(here, tmp_path):
    """Without --seq-len, where the server's context is that of the model's configuration."""
    short = llama(hidden=16, tok=tokenizer(), seed=5)
    short.model.config.max_position_embeddings = 64
    save(short, tmp_path / "short")
    with serving(short, context=64) as server:
        keys = {"teacher": server.url, "tokenizer": str(tmp_path / "short"), "data": str(here / "text.jsonl")}
        limbeck.capture(**keys, out=tmp_path / "logits", threads=1)
        assert Captured(tmp_path / "logits").logits.length == 62
        with pytest.raises(
            Mismatch, match=r"which is 64 tokens, of which a query needs 2 besides the row. Use --seq-len 62 or less"
        ):
            limbeck.capture(**keys, out=tmp_path / "longer", length=64, threads=1)


@pytest.mark.parametrize("moment", ["connected", "sent"])
def test_a_client_that_is_closed_amid_a_request_leaves_no_connection_open(model, monkeypatch, moment):
    """A thread that has its connection and has not sent its request yet must not open another; nor may an AttributeError of the
    closed one reach the user."""
    with serving(model) as server:
        client = http.Client(Address.of(server.url), retry=HASTY, key=None, in_flight=1)
        connection, made = client._connection, []

        def closing(deadline):
            made.append(connection(deadline))
            if moment == "sent":
                monkeypatch.setattr(made[0], "request", lambda *args, **keys: client.close())
            else:
                client.close()
            return made[0]

        monkeypatch.setattr(client, "_connection", closing)
        with pytest.raises(http.QueryFailed, match="stopped"):
            client.query("/v1/models", None, lambda answer: answer)
    assert len(made) == 1
    assert made[0].sock is None


@pytest.mark.long
def test_a_capture_that_a_server_stopped_goes_on(here, model):
    """Captured rows are not queried again, and the logits equal those of an uninterrupted capture."""
    keys = {"in_flight": 1, "time_limit": 5.0}  # eight rows at once
    with serving(model) as server:
        capture(here, server, "at-once", **keys)
        all_queries = sum(server.queries.values())
        server.queries.clear()
        server.hopeless = lambda prompt: server.queries["/v1/completions"] > all_queries // 2
        with pytest.raises(BadServer, match=r"positions got no valid response.*status 400.*run the same command again"):
            capture(here, server, "stopped", **keys)
        first = sum(server.queries.values())
        server.hopeless = lambda prompt: False
        capture(here, server, "stopped", **keys)
        assert sum(server.queries.values()) - first < 0.75 * all_queries
    for file in (here / "at-once" / "answers").glob("*.arrow"):
        assert file.read_bytes() == (here / "stopped" / "answers" / file.name).read_bytes()


@pytest.mark.long
def test_a_key_is_shown_to_the_server_and_to_nobody_else(here, model, monkeypatch, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(model, key=KEY) as server:
        capture(here, server, "with-key", tokens="100")
        assert server.keys_seen == {f"Bearer {KEY}"}
        monkeypatch.setenv("LIMBECK_API_KEY", wrong := KEY + "-wrong")  # goes before the other; the server repeats it
        with pytest.raises(
            BadServer, match=r"refuses the key in the environment .*: set LIMBECK_API_KEY to a valid key"
        ) as stop:
            capture(here, server, "wrong-key", tokens="100")
        monkeypatch.delenv("LIMBECK_API_KEY")
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(BadServer, match="refuses no key"):
            capture(here, server, "no-key", tokens="100")
    message = capfd.readouterr()
    texts = [message.out, message.err, str(stop.value), repr(stop.value.__cause__)]
    texts += [file.read_bytes().decode("latin1") for file in here.rglob("*") if file.is_file()]
    assert len(texts) > 20
    assert not any(KEY in text or wrong in text for text in texts)


@pytest.mark.parametrize(
    ("key", "shown"),
    [(f"{KEY}\r\n", True), (f" {KEY} ", True), (f"{KEY}\r\nX: y", False), ("schlüssel", False)],
)
def test_a_key_is_without_blanks_or_refused_unshown(model, monkeypatch, key, shown):
    """Files that end lines as Windows does leave a carriage return behind a key."""
    monkeypatch.setenv("LIMBECK_API_KEY", key)
    with serving(model, key=KEY) as server:
        if shown:
            teacher_of(server, model).close()
            assert server.keys_seen == {f"Bearer {KEY}"}
            return
        with pytest.raises(
            BadSetting, match="LIMBECK_API_KEY: expected an API key of visible ASCII characters"
        ) as stop:
            teacher_of(server, model)
    assert key.split()[0] not in str(stop.value)


def test_what_is_printed_or_kept_holds_no_secret(monkeypatch):
    monkeypatch.setenv("LIMBECK_API_KEY", f"{KEY}\r\n")
    text = f"Invalid header b'Bearer {KEY}\\r\\n' http://me:pa#ss@h/v1?key=k1 api_key=k2&x=1 hf:a/b?revision=1"
    assert scrubbed(text) == "Invalid header b'Bearer ***\\r\\n' http://***@h/v1?*** api_key=***&x=1 hf:a/b?revision=1"
    monkeypatch.setattr(sys, "argv", ["limbeck", "distil", "--teacher", "http://me:secret@h/v1#m"])
    assert command() == ["limbeck", "distil", "--teacher", "http://***@h/v1#m"]


def test_a_proxy_of_the_environment_is_used(model, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving(model) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:s%3Acret@127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:s%3Acret@127.0.0.1:{server.server_port}")
        connect(Address.of("http://model.test/v1#tiny/llama"), model.tokenizer, k=4, length=LENGTH).close()
        who = "Basic " + base64.b64encode(b"me:s:cret").decode()
        assert ("http://model.test/v1/models", who) in server.through
        assert len(server.through) >= 5
        assert {them for _, them in server.through} == {who}
        with pytest.raises(BadServer, match=rf"407 .* through the proxy 127.0.0.1:{server.server_port}") as stop:
            connect(Address.of("https://model.test/v1#m"), model.tokenizer, k=4, length=LENGTH, retry=HASTY)
        assert "cret" not in str(stop.value)
        assert server.through[-1] == ("model.test:443", who)
        count = len(server.through)
        teacher_of(server, model).close()  # on this machine: past the proxy
        monkeypatch.setenv("NO_PROXY", "model.test")
        with pytest.raises(BadServer, match="connection"):
            connect(Address.of("http://model.test/v1#m"), model.tokenizer, k=4, length=LENGTH, retry=HASTY)
        assert len(server.through) == count
    monkeypatch.setenv("ALL_PROXY", "socks5://user:secret@h:1")
    monkeypatch.delenv("HTTP_PROXY")
    with pytest.raises(BadSetting, match=r"HTTP_PROXY=socks5://\*\*\*@h:1: expected an HTTP proxy"):
        proxy_for("http", "other.test")


@pytest.mark.parametrize("protocol", ["llamacpp", "deaf"])
def test_a_server_that_passes_over_echo_is_named_as_such(model, protocol):
    """The error does not blame the tokenizer: llama.cpp tokenises "content", which the query does not have."""
    named = {"llamacpp": "llama.cpp's server gives none", "deaf": "the server gives none.*no echo of the prompt"}[
        protocol
    ]
    refused(BadServer, f"{named}.*capture --text", model, protocol)


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "message"), [("headers", "time limit: no response within 0.5 s"), ("flood", "response too large")]
)
def test_an_answer_without_end_is_left(model, monkeypatch, fault, message):
    """A deadline ends an exchange, even if bytes arrive steadily, and a limit of bytes ends a fast one."""
    monkeypatch.setattr(http, "MOST_BYTES", 2**20)
    with serving(model) as server, teacher_of(server, model) as teacher:
        server.faults = {fault: 1.0}
        teacher.expect(10)
        with pytest.raises(BadServer, match=message):
            teacher(batch(1, LENGTH, vocab=model.vocab))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("alike", "outcomes of equal probability"),
        ("unlikely", "a top outcome below the smallest possible probability"),
        ("foolish", r"log-probabilities give 2\d\.\d+ nats per token over .*this is no model of the text"),
    ],
)
@pytest.mark.parametrize("protocol", ["vllm", "sglang"])
def test_nonsense_stops_a_capture(model, protocol, fault, message):
    def capture(teacher):
        for seed in range(10):
            teacher(batch(8, LENGTH, vocab=model.vocab, seed=seed))

    with serving(model, protocol) as server, teacher_of(server, model) as teacher:
        server.faults = {fault: 1.0}
        teacher.expect(2000)
        with pytest.raises(BadServer, match=message):
            capture(teacher)


@pytest.mark.long
def test_flags_of_a_served_teacher(here, model):
    with pytest.raises(BadSetting, match=r"a server does not give its tokenizer: give the .* with --tokenizer"):
        limbeck.capture(teacher="http://host/v1#m", out=here / "no")
    with pytest.raises(BadSetting, match="--codec sampled: a server gives its top tokens"):
        limbeck.capture(teacher="http://host/v1#m", tokenizer="x", kind="drawn", out=here / "no")
    with pytest.raises(BadSetting, match="only a teacher on a server needs it"):
        limbeck.capture(teacher=str(here / "teacher"), tokenizer="x", out=here / "no")
    with pytest.raises(BadSetting, match=r"a server does not give its tokenizer: give the .* with --tokenizer"):
        limbeck.distil(teacher="http://host/v1#m", out=here / "no")
    with pytest.raises(BadSetting, match="give a model with --student"):
        limbeck.distil(teacher="http://host/v1#m", tokenizer=str(here / "teacher"), out=here / "no")
    with pytest.raises(BadSetting, match="the doctor looks at models that are here"):
        limbeck.doctor(teacher="http://host/v1#m", tokenizer=str(here / "teacher"))
    with pytest.raises(BadSetting, match="names no model after a #"):
        limbeck.distil(teacher="http://host/v1", out=here / "no")
    assert not (here / "no").exists()
