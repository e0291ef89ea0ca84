"""--vocab through the jobs: one trimmed vocabulary for teacher, student, captured logits and all that a run keeps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import limbeck
from limbeck.errors import BadFolder, BadSetting, Mismatch
from limbeck.jobs.common.captured import Captured
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.pair import trimmed
from limbeck.jobs.pair.trimmed import load_teacher, what_is_left_out
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.models.trim.folder import open_vocabulary
from limbeck.models.trim.model import trim
from limbeck.teachers.ref import LocalRef
from tests.helpers.models import batch, llama, texts, tokenizer
from tests.helpers.ranks import on_ranks
from tests.helpers.served import serving

FEW = ["the", "cat", "sat", "on", "a", "mat", "while", "one", "dog", "ran", "past"]
BASE, WHOLE = 259, 321  # bytes and special tokens, and all that the words of the tests lead to


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A teacher of 360 tokens, and a text of few words, which needs fewer."""
    folder = tmp_path_factory.mktemp("vocabulary")
    save(llama(layers=3, hidden=48, tok=tokenizer(360)), folder / "teacher")
    generator = np.random.default_rng(0)
    some = [" ".join(generator.choice(FEW, size=generator.integers(5, 60))) for _ in range(120)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
    (folder / "other.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(60)))
    return folder


def keys(here: Path, **more):
    usual = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "length": 32, "threads": 1}
    return usual | {"tokens": "1k", "batch_tokens": 128, "params": "15k", "baselines": (), "vocab": "auto"} | more


@pytest.fixture(scope="module")
def done(here) -> Path:
    limbeck.distil(**keys(here), out=here / "done")
    return here / "done"


def run_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.long
def test_a_run_has_one_trimmed_vocabulary(here, done):
    student, teacher = load(done / "student"), load(here / "teacher")
    vocabulary = open_vocabulary(done / "vocabulary")
    assert BASE < len(vocabulary.kept) < 330
    assert student.vocab == student.config.vocab_size == student.head.weight.shape[0] == len(vocabulary.kept)
    told = student.lineage["vocabulary"]
    assert told == {"of": "teacher", "tokens": [WHOLE, student.vocab], "kept_sha256": vocabulary.digest}
    run = run_of(done)
    assert run["signature"]["vocabulary"] == vocabulary.digest
    assert run["signature"]["vocab"] == "auto"
    facts = run["vocabulary"]
    assert facts["tokens"] == [WHOLE, student.vocab]
    assert facts["lost"] == 0
    for side in ("train", "held_out"):
        seen = facts["segmented"][side]
        assert seen["documents"] == seen["same"] > 0
        assert seen["tokens"][0] == seen["tokens"][1]
    assert facts["parameters"] == [WHOLE * 48, student.vocab * 48]
    text = "the dog ran past one mat"
    ids = student.tokenizer(text)["input_ids"]
    assert vocabulary.kept[ids].tolist() == teacher.tokenizer(text)["input_ids"]
    assert student.tokenizer.decode(student.tokenizer("any text: żółw 猫")["input_ids"], skip_special_tokens=True) == (
        "any text: żółw 猫"
    )


@pytest.mark.long
def test_what_the_teacher_says_of_other_tokens_is_measured_with_the_whole_head(here, done):
    """The mass that is left out is 1 less that of the kept tokens, on the documents that the vocabulary's folder names."""
    found = run_of(done)["vocabulary"]["left_out"]
    rows = json.loads((done / "vocabulary" / "vocabulary.json").read_text())["facts"]["measured"]
    kept, teacher = open_vocabulary(done / "vocabulary").kept, load(here / "teacher")
    left, nats, size = [], 0.0, 0
    for row in rows:
        tokens = torch.tensor(row["whole"]["tokens"])
        with torch.no_grad():
            log_p = teacher.model(tokens[None]).logits[0, :-1].log_softmax(-1)
        left.append(1 - log_p[:, kept].exp().sum(-1))
        nats -= float(log_p.gather(-1, tokens[1:, None]).sum())
        size += row["whole"]["bytes"]
    assert found["positions"] == sum(map(len, left))
    assert found["left_out"]["value"] == pytest.approx(float(torch.cat(left).mean()), rel=1e-4)
    assert found["worst"] == pytest.approx(float(torch.cat(left).max()), rel=1e-4)
    bits = found["bits_per_byte"]
    assert bits["whole"] == pytest.approx(nats / np.log(2) / size, rel=1e-5)
    gained = -float(torch.log1p(-torch.cat(left)).sum()) / np.log(2) / size  # all documents are segmented as before
    assert bits["whole"] - bits["trimmed"] == pytest.approx(gained, rel=1e-3)


@pytest.mark.long
def test_processes_read_their_parts_of_the_kept_rows(here, done, tmp_path):
    """No process reads more, and what is left out is measured as by one process."""
    shutil.copytree(done / "vocabulary", tmp_path / "vocabulary")
    vocabulary, rows = open_vocabulary(tmp_path / "vocabulary"), batch(3, vocab=BASE)
    whole = trim(load(here / "teacher"), vocabulary)

    def work(world):
        ref = LocalRef(str(here / "teacher"), vocabulary=tmp_path / "vocabulary")
        found = [load_teacher(ref, Environment(world, bf16=False)) for _ in range(2)]  # measured once
        held = max(sum(p.to_local().numel() for p in one.model.parameters()) for one in found)
        with torch.no_grad():
            return held, found[0].vocab, [one(rows).logits().tolist() for one in found]

    for held, vocab, logits in on_ranks(2, work):
        assert held <= 0.6 * whole.parameters_count
        assert vocab == whole.vocab
        assert logits[0] == logits[1]
        torch.testing.assert_close(torch.tensor(logits[0]), whole(rows).logits().detach(), rtol=0, atol=1e-5)
    found, expected = what_is_left_out(tmp_path / "vocabulary"), run_of(done)["vocabulary"]["left_out"]
    assert found["positions"] == expected["positions"]
    assert found["worst"] == pytest.approx(expected["worst"], rel=1e-4)
    assert found["left_out"]["value"] == pytest.approx(expected["left_out"]["value"], rel=1e-4)
    assert found["bits_per_byte"]["trimmed"] == pytest.approx(expected["bits_per_byte"]["trimmed"], rel=1e-5)


@pytest.mark.long
def test_a_teacher_is_trimmed_for_a_student_that_is(here, done):
    """Without --vocab: the student's folder says that its vocabulary was trimmed, and its tokens say to which."""
    more = {"vocab": None, "params": None, "student": str(done / "student"), "tokens": "300"}
    limbeck.distil(**keys(here, **more), out=here / "again")
    run = run_of(here / "again")
    assert run["vocabulary"]["kept_sha256"] == run_of(done)["vocabulary"]["kept_sha256"]
    assert load(here / "again" / "student").lineage["vocabulary"]["of"] == "teacher"
    assert (here / "again" / "vocabulary").is_dir()


@pytest.mark.long
def test_a_whole_student_is_trimmed_with_its_teacher(here, tmp_path):
    save(llama(layers=1, hidden=32, tok=tokenizer(360), seed=3), tmp_path / "small")
    more = {"params": None, "student": str(tmp_path / "small"), "tokens": "300"}
    limbeck.distil(**keys(here, **more), out=tmp_path / "out")
    vocabulary = open_vocabulary(tmp_path / "out" / "vocabulary")
    start, whole = load(tmp_path / "out" / "cut"), load(tmp_path / "small")
    assert start.head.weight.equal(whole.head.weight[vocabulary.kept])


@pytest.mark.long
def test_a_student_of_other_segmentation_is_refused(here, done, tmp_path):
    """Its tokens are among the teacher's, but a merge is missing."""
    student = load(done / "student")
    state = json.loads(student.tokenizer.backend_tokenizer.to_str())
    state["model"]["merges"] = state["model"]["merges"][1:]
    student.tokenizer._tokenizer = type(student.tokenizer.backend_tokenizer).from_str(json.dumps(state))
    save(student, tmp_path / "student")
    more = {"vocab": None, "params": None, "student": str(tmp_path / "student")}
    with pytest.raises(Mismatch, match="segments text in another way"):
        limbeck.distil(**keys(here, **more), out=tmp_path / "out")


@pytest.mark.long
def test_a_number_of_tokens_says_what_is_lost(here, tmp_path, capsys):
    limbeck.shrink(
        **{k: v for k, v in keys(here).items() if k in ("teacher", "data", "length")}, params="15k", vocab=275,
        out=tmp_path / "out",
    )  # fmt: skip
    said = " ".join(capsys.readouterr().err.split())
    student = load(tmp_path / "out")
    assert BASE < student.vocab <= 275
    assert student.lineage["vocabulary"]["tokens"] == [WHOLE, student.vocab]
    assert "of the training text's tokens are not kept" in said


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        (WHOLE, f"has {WHOLE} tokens, so nothing would be trimmed"),
        ("1k", f"has {WHOLE} tokens, so nothing would be trimmed"),
        (200, f"bytes and special tokens of teacher are {BASE}"),
        ("some", "expected auto"),
        ("auto:0", "expected auto"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused_before_anything_is_kept(here, tmp_path, vocab, message):
    with pytest.raises(BadSetting, match=message):
        limbeck.distil(**keys(here, vocab=vocab), out=tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.long
def test_another_vocabulary_does_not_take_a_run_over(here, done):
    before = run_of(done)
    for other in ({"vocab": "auto:50"}, {"vocab": 280}):
        with pytest.raises(BadFolder, match="another vocabulary"):
            limbeck.distil(**keys(here, **other), out=done)
    with pytest.raises(BadFolder, match="vocab"):
        limbeck.distil(**keys(here, vocab=None), out=done)
    assert run_of(done) == before
    assert open_vocabulary(done / "vocabulary").digest == before["signature"]["vocabulary"]


@pytest.mark.long
def test_the_same_command_goes_on(here, done):
    before = weights(done / "student")
    limbeck.distil(**keys(here), out=done)
    assert weights(done / "student") == before


@pytest.mark.long
def test_the_doctor_speaks_of_the_trimmed_student(here):
    found = limbeck.doctor(**keys(here))
    assert found.ok
    few = limbeck.doctor(**keys(here, vocab=None))
    assert [f["message"] for f in found.findings if f["check"] == "memory"] != []
    assert found.ok
    assert few.ok


@pytest.mark.long
def test_what_does_not_go_with_a_trimmed_vocabulary_is_said(here, tmp_path):
    with pytest.raises(BadSetting, match="which is not trimmed"):
        limbeck.distil(
            **keys(here, params=None, student=str(here / "teacher"), objective="ALM", tokenizer_align="bytes"),
            out=tmp_path / "a",
        )
    served = {"teacher": "http://host:1/v1#m", "tokenizer": str(here / "teacher"), "data": "x", "vocab": "auto"}
    for job, more in ((limbeck.capture, {}), (limbeck.distil, {"student": str(here / "teacher")})):
        with pytest.raises(BadSetting, match="a server, which gives log-probabilities of all its tokens"):
            job(**served, **more, out=tmp_path / "b")
    with pytest.raises(BadSetting, match="with --text"):
        limbeck.capture(teacher=str(here / "teacher"), data="x", vocab="auto", text=True, out=tmp_path / "c")


@pytest.mark.long
def test_captured_logits_are_over_the_trimmed_vocabulary(here, done, tmp_path):
    """And a student of them is cut out of the trimmed teacher."""
    asked = {key: value for key, value in keys(here).items() if key not in ("params", "baselines", "batch_tokens")}
    limbeck.capture(**asked, out=tmp_path / "captured", kind="drawn")
    captured = Captured(tmp_path / "captured")
    vocabulary = open_vocabulary(done / "vocabulary")
    assert captured.logits.vocab == captured.about.vocab == len(vocabulary.kept)
    assert captured.logits.made_from["vocabulary"] == vocabulary.digest
    expected = trim(load(here / "teacher"), vocabulary)
    found = captured.weights(device=expected.device, dtype=expected.model.dtype)
    assert found.head.weight.equal(expected.head.weight)
    more = {"teacher": str(tmp_path / "captured"), "data": None, "vocab": None, "length": None, "tokens": "300"}
    given = {key: value for key, value in keys(here, **more).items() if value is not None}
    limbeck.distil(**given, out=tmp_path / "out")
    assert run_of(tmp_path / "out")["vocabulary"]["kept_sha256"] == vocabulary.digest
    assert load(tmp_path / "out" / "student").vocab == len(vocabulary.kept)
    with pytest.raises(BadSetting, match="captured with --vocab auto"):
        limbeck.distil(**given, vocab=280, out=tmp_path / "other")


@pytest.mark.long
def test_shards_of_a_trimmed_capture_are_merged(here, tmp_path):
    from limbeck.jobs.capture.merge import merge

    asked = {key: value for key, value in keys(here).items() if key not in ("params", "baselines", "batch_tokens")}
    for part in (1, 2):
        limbeck.capture(**asked, kind="drawn", shard=f"{part}/2", out=tmp_path / f"part{part}")
    merge(tmp_path / "all", [tmp_path / "part1", tmp_path / "part2"])
    assert Captured(tmp_path / "all").vocabulary == tmp_path / "all" / "vocabulary"


@pytest.mark.long
def test_families_and_kept_logits_share_the_vocabulary(here, tmp_path):
    limbeck.distil(**keys(here, params="15k,13k", cache_logits=True), out=tmp_path / "family")
    (vocabulary,) = tmp_path.glob("family/vocabulary")
    digest = open_vocabulary(vocabulary).digest
    members = [run_of(file.parent) for file in tmp_path.glob("family/*/run.json") if file.parent.name != "captured"]
    assert len(members) == 2
    assert {member["vocabulary"]["kept_sha256"] for member in members} == {digest}
    assert len({load(file.parent).vocab for file in tmp_path.glob("family/*/student/config.json")}) == 1


@pytest.mark.long
def test_mixers_take_the_trimmed_vocabulary(here, tmp_path):
    limbeck.distil(**keys(here, params=None, mixers="attention,gdn,gdn", match="none"), out=tmp_path / "out")
    student = load(tmp_path / "out" / "student")
    assert student.vocab == len(open_vocabulary(tmp_path / "out" / "vocabulary").kept)
    assert student.lineage["vocabulary"]["of"] == "teacher"


@pytest.mark.long
def test_the_report_says_what_was_trimmed(here, done):
    from limbeck.report.vocabulary import vocabulary_note

    facts = run_of(done)["vocabulary"]
    note = next(note for note in json.loads((done / "verdict.json").read_text())["notes"] if "trimmed" in note)
    assert note == vocabulary_note(run_of(done))
    assert f"{facts['tokens'][1]:,} of the teacher's {WHOLE:,} tokens are kept" in note
    assert f"{facts['left_out']['bits_per_byte']['whole']:.4f} bits per byte" in note
    assert "compare runs of other vocabularies by bits per byte" in note
    assert vocabulary_note({}) == ""
    assert "tokens are kept" in (done / "report.html").read_text()


@pytest.mark.long
def test_a_probe_trims_the_teacher_of_a_trimmed_student(here, done):
    """The run itself measured the same of its trimmed teacher, on what it held out."""
    found = limbeck.probe(
        str(done / "student"), probe="likelihood", teacher=str(here / "teacher"), length=32, threads=1
    )
    rows = [json.loads(line) for line in (done / "readings.jsonl").read_text().splitlines()]
    expected = {row["name"]: row["value"] for row in rows if row["model"] == "student"}
    assert {"held_out", "acceptance"} <= found.readings.keys() & expected.keys()
    for name in ("held_out", "acceptance"):
        assert found.readings[name].value == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.parametrize(
    ("sizes", "suggested"),
    [({"rows": 8192}, True), ({"rows": 8192, "parameters": 30_000_000}, False), ({"rows": 2048}, False)],
)
def test_trimming_is_suggested_where_embeddings_exceed_a_third(sizes, suggested):
    from limbeck.planning.checks.vocabulary import embeddings
    from limbeck.planning.cost.size import Size

    size = Size(
        **{
            "parameters": 1_000_000,
            "embedding": 0,
            "multiplied": 0,
            "layers": 1,
            "hidden": 64,
            "attention": 64,
            "ffn": 64,
        }
        | {"rows": 0, "head": 0, "kv": 64}
        | sizes
    )
    found = list(embeddings(size))
    assert bool(found) == suggested
    if found:
        assert found[0].message == "52% of the student's 1,000,000 parameters are embeddings, of 8,192 tokens"
        assert "--vocab auto" in found[0].remedy


def captured(here, name: str, *, kind: str) -> Path:
    """Logits of all tokens, captured into a folder of this name."""
    asked = {
        key: value for key, value in keys(here).items() if key in ("teacher", "data", "length", "threads", "tokens")
    }
    limbeck.capture(**asked, kind=kind, out=here / name)
    return here / name


def of_captured(here, logits: Path) -> dict:
    """What distilling from captured logits is given."""
    more = {"teacher": str(logits), "data": None, "length": None, "tokens": "300"}
    return {key: value for key, value in keys(here, **more).items() if value is not None}


@pytest.fixture(scope="module")
def captured_whole(here) -> Path:
    """Sampled logits of all tokens."""
    return captured(here, "whole", kind="drawn")


@pytest.mark.long
def test_captured_logits_of_all_tokens_are_restricted(here, captured_whole, tmp_path):
    """Outcomes of dropped tokens count nothing, the others sum to 1; the text has the same rows with other ids."""
    import torch

    given = of_captured(here, captured_whole)
    limbeck.distil(**given, out=tmp_path / "out")
    kept = open_vocabulary(tmp_path / "out" / "vocabulary").kept
    run = run_of(tmp_path / "out")
    assert run["vocabulary"]["tokens"] == [WHOLE, len(kept)]
    assert load(tmp_path / "out" / "student").vocab == len(kept)
    whole, trimmed = Captured(captured_whole), Captured(captured_whole, trimmed=tmp_path / "out" / "vocabulary")
    for before, after in zip(whole.stores(), trimmed.stores(), strict=True):
        assert kept[after.slice(0, after.tokens)].tolist() == before.slice(0, before.tokens).tolist()
        assert kept[after.tokens_at(np.arange(9))].tolist() == before.tokens_at(np.arange(9)).tolist()
    from limbeck.corpora import Rows

    batch = Rows(trimmed.stores()[0], length=32).rows_of(np.arange(2))
    signal, theirs = trimmed.logits(batch), whole.logits(batch)
    dropped = torch.from_numpy(~np.isin(theirs.ids.numpy(), kept))
    assert dropped.any()
    assert (signal.weight[dropped] == 0).all()
    mass = torch.where(dropped, 0.0, theirs.weight).sum(-1)
    known = mass > 0
    torch.testing.assert_close(signal.weight.sum(-1), known.float())
    there = ~dropped & known[:, None]
    assert kept[signal.ids[there]].tolist() == theirs.ids[there].tolist()
    torch.testing.assert_close(signal.log_p[there], (theirs.log_p - mass[:, None].log())[there])
    assert trimmed.logits.masked(batch).weight.reshape(-1)[~known].sum() == 0
    before = weights(tmp_path / "out" / "student")
    limbeck.distil(**given, out=tmp_path / "out")  # goes on with the same vocabulary
    assert weights(tmp_path / "out" / "student") == before


def test_captured_text_keeps_all_of_its_tokens(here, captured_whole, tmp_path):
    given = of_captured(here, captured_whole)
    with pytest.raises(BadSetting, match="tokens of the captured text would be left out"):
        limbeck.distil(**given | {"vocab": 275}, out=tmp_path / "a")


@pytest.fixture(scope="module")
def captured_top(here) -> Path:
    """Top-k logits of all tokens."""
    return captured(here, "top", kind="coarse")


@pytest.mark.long
def test_top_logits_of_all_tokens_are_restricted_and_what_is_unknown_is_said(here, captured_top, tmp_path):
    from limbeck.corpora import Rows

    given = of_captured(here, captured_top)
    limbeck.distil(**given, out=tmp_path / "out")
    kept, found = (
        open_vocabulary(tmp_path / "out" / "vocabulary").kept,
        run_of(tmp_path / "out")["vocabulary"]["left_out"],
    )
    whole = Captured(captured_top)
    rows = Rows(whole.stores()[0], length=whole.logits.length)
    batch = rows.rows_of(np.arange(whole.logits.rows))
    signal, counted = whole.logits(batch), batch.weight.reshape(-1).bool().numpy()
    dropped = ~np.isin(signal.ids.numpy(), kept)
    mass = np.where(dropped, signal.weight.double().numpy(), 0).sum(-1)[counted]
    assert found["positions"] == counted.sum()
    assert found["left_out"]["value"] == pytest.approx(mass.mean(), rel=1e-6)
    assert found["worst"] == pytest.approx(mass.max(), rel=1e-6)
    assert found["rest"] == pytest.approx(float(signal.rest.double().exp().numpy()[counted].mean()), rel=1e-6)
    note = next(
        note for note in json.loads((tmp_path / "out" / "verdict.json").read_text())["notes"] if "trimmed" in note
    )
    assert "is beyond the captured outcomes and counts as kept" in note
    with pytest.raises(BadSetting, match="those that follow them were not captured"):
        limbeck.distil(**given | {"objective": "ULD"}, out=tmp_path / "b")


@pytest.mark.long
def test_a_servers_logits_are_captured_whole_and_restricted_then(here, tmp_path):
    save(llama(layers=1, hidden=32, tok=tokenizer(360), seed=3), tmp_path / "small")
    teacher = load(here / "teacher")
    teacher.model.model.norm.weight.data *= 0.2  # nearly uniform: an untrained one that is sure is no model of the text
    asked = {"data": str(here / "text.jsonl"), "length": 32, "threads": 1}
    with serving(teacher) as server:
        served = {"teacher": server.url, "tokenizer": str(here / "teacher")}
        limbeck.capture(**asked, **served, tokens="1k", out=tmp_path / "captured")
    more = {"student": str(tmp_path / "small"), "tokens": "300", "batch_tokens": 128, "baselines": (), "threads": 1}
    limbeck.distil(teacher=str(tmp_path / "captured"), vocab="auto", **more, out=tmp_path / "out")
    kept = open_vocabulary(tmp_path / "out" / "vocabulary").kept
    assert load(tmp_path / "out" / "student").vocab == len(kept) < WHOLE
    found = run_of(tmp_path / "out")["vocabulary"]["left_out"]
    assert 0 < found["left_out"]["value"] < 1
    assert 0 < found["rest"] < 1


@pytest.mark.long
def test_captured_logits_are_restricted_for_a_student_that_is_trimmed(here, done, captured_whole, tmp_path):
    """Without --vocab, as the live teacher is."""
    more = {
        "teacher": str(captured_whole),
        "data": None,
        "length": None,
        "tokens": "300",
        "vocab": None,
        "params": None,
    }
    given = {key: value for key, value in keys(here, **more).items() if value is not None}
    limbeck.distil(**given, student=str(done / "student"), out=tmp_path / "out")
    run = run_of(tmp_path / "out")
    assert run["vocabulary"]["kept_sha256"] == open_vocabulary(done / "vocabulary").digest
    before = weights(tmp_path / "out" / "student")
    limbeck.distil(**given, student=str(done / "student"), out=tmp_path / "out")
    assert weights(tmp_path / "out" / "student") == before
    assert limbeck.doctor(**given, student=str(done / "student")).ok


@pytest.mark.long
def test_captured_text_beyond_a_student_is_named(here, captured_whole, tmp_path):
    asked = {k: v for k, v in keys(here).items() if k in ("teacher", "data", "length")}
    limbeck.shrink(**asked, params="15k", vocab=275, out=tmp_path / "small")
    more = {
        "teacher": str(captured_whole),
        "data": None,
        "length": None,
        "tokens": "300",
        "vocab": None,
        "params": None,
    }
    given = {key: value for key, value in keys(here, **more).items() if value is not None}
    with pytest.raises(BadSetting, match=r"--student .* of the text in .* are not in it.*give the teacher itself"):
        limbeck.distil(**given, student=str(tmp_path / "small"), out=tmp_path / "out")


@pytest.mark.long
def test_a_streamed_teacher_is_trimmed_as_one_in_memory(here, done, tmp_path):
    """The same vocabulary, logits and measured mass, bit by bit but for the order of sums."""
    asked = {key: value for key, value in keys(here).items() if key not in ("params", "baselines", "batch_tokens")}
    for name, stream in (("memory", False), ("streamed", True)):
        limbeck.capture(**asked, kind="drawn", stream=stream, out=tmp_path / name)
    memory, streamed = Captured(tmp_path / "memory"), Captured(tmp_path / "streamed")
    assert streamed.about.vocab == memory.about.vocab == len(open_vocabulary(done / "vocabulary").kept)
    assert streamed.logits.made_from == memory.logits.made_from
    packed = [one.logits.packed(0) for one in (memory, streamed)]
    assert (packed[0] == packed[1]).mean() > 0.99
    left = [json.loads((tmp_path / name / "vocabulary.json").read_text()) for name in ("memory", "streamed")]
    assert left[0]["positions"] == left[1]["positions"] > 0
    for key in ("whole", "trimmed"):
        assert left[1]["bits_per_byte"][key] == pytest.approx(left[0]["bits_per_byte"][key], rel=1e-5)
    assert left[1]["worst"] == pytest.approx(left[0]["worst"], rel=1e-4)


@pytest.mark.long
def test_a_run_that_came_to_nothing_leaves_its_vocabulary_to_no_other(here, tmp_path):
    """It ends after its vocabulary was chosen; a run without --vocab in the same folder has all tokens."""
    out = tmp_path / "out"
    with pytest.raises(limbeck.LimbeckError):
        limbeck.distil(**keys(here, params="900k"), out=out)  # larger than the teacher
    assert (out / "vocabulary").is_dir()
    assert not (out / "run.json").exists()
    (out / "vocabulary.json").write_text("{}")
    limbeck.distil(**keys(here, vocab=None, tokens="300"), out=out)
    assert load(out / "student").vocab == WHOLE
    assert not (out / "vocabulary").exists()
    assert not (out / "vocabulary.json").exists()


@pytest.mark.parametrize(("mass", "warns"), [(0.039, True), (0.004, False)])
def test_much_probability_without_a_token_is_a_warning_with_its_remedy(tmp_path, monkeypatch, mass, warns):
    said: list[str] = []
    monkeypatch.setattr(trimmed.console, "print", said.append)
    interval = {"value": mass, "low": mass / 2, "high": mass * 2, "n": 9}
    bits = {"whole": 1.0, "trimmed": 1.1, "difference": interval}
    found = {"positions": 900, "left_out": interval, "worst": 0.5, "bits_per_byte": bits}
    trimmed._keep_measured(tmp_path / "left_out.json", found)
    assert len(said) == 1 + warns
    assert not warns or (said[1].startswith("warning: 3.9 % of the teacher's") and "--vocab N" in said[1])
