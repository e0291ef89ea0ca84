"""A teacher's distribution over the tokens that a student of another tokenizer has too, and the whole job with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import limbeck
from limbeck.corpora import Rows, TokenStore, build_stores, train_tokenizer
from limbeck.corpora.chunks import Side, chunks_of, cut
from limbeck.corpora.retokenise import retokenised
from limbeck.corpora.token_bytes import TokenBytes
from limbeck.disk import read_lines
from limbeck.errors import BadSetting
from limbeck.models.save import save
from limbeck.objectives import CrossEntropy, ForwardKL, fused_nats, parse
from limbeck.objectives.fused import value_and_gradient
from limbeck.teachers.alignment import AlignedTeacher, write_aligned
from limbeck.teachers.logprobs import Recorded, measure_logprobs
from limbeck.teachers.rows import NumberedRows
from limbeck.teachers.shared_tokens import SharedTokensTeacher, shared
from limbeck.types import Signal
from tests.helpers.models import frozen, llama, texts, tokenizer, write_corpus, write_teacher

LENGTH = 16
ACCEPTED = [
    "ReverseKL",
    "JensenShannon",
    "SkewKL",
    "SkewReverseKL",
    "TotalVariation",
    "TAID",
    "0.5*CrossEntropy + Ramp(of=ReverseKL())",
]


def begun(text):
    """An objective in the middle of its training."""
    found = parse(text)
    found.begin(10)
    return found


def test_tokens_that_are_alike_by_hand():
    # ours: open | a | bc | d | close; theirs: open | ab | c | d | close
    found = cut(np.array([-1, 1, 3, 4, 5]), np.array([-1, 2, 3, 4, 5]), size=4)
    assert found.single.tolist() == [False, False, False, True, True]
    ours_alone = cut(np.array([-1, 1, 2, 3]), np.array([-1, 1, 2]), size=2)  # they do not close the document
    assert ours_alone.single.tolist() == [False, True, True, False]


def test_what_a_teacher_says_of_tokens_that_a_student_has():
    same = np.array([4, -1, 7, 2])
    p, ids = shared(np.array([[0.5, 0.3, 0.2], [0.6, 0.4, 0.0]]), np.array([[1, 3, 0], [1, 2, 3]]), same)
    assert p.tolist() == pytest.approx(np.array([[0.3, 0.2, 0.0], [0.4, 0.0, 0.0]]), abs=1e-7)
    assert ids.tolist() == [[2, 4, 2], [7, 7, 7]]  # where nothing is left, one that is there
    assert shared(np.array([[0.9, 0.1]]), np.array([[1, 1]]), same)[0].max() == 0


def test_spellings_are_matched_once_and_special_tokens_by_their_place():
    first, second = tokenizer(300), train_tokenizer(texts(seed=5), vocab=400)
    ours, theirs = (TokenBytes(tok, name="t") for tok in (first, second))
    same = theirs.same_in(ours, ends=(second.eos_token_id, first.eos_token_id))
    met = np.flatnonzero(same >= 0)
    assert len(met) > 256
    assert len(set(same[met])) == len(met)
    assert same[second.eos_token_id] == first.eos_token_id
    for token in met:
        if token != second.eos_token_id:
            assert theirs.of([int(token)]) == ours.of([int(same[token])])
    text = ours.same_in(ours, ends=(None, None))
    assert np.array_equal(text, np.arange(len(text)))
    moved = ours.same_in(ours, ends=(first.eos_token_id, 7))  # another token closes documents there
    assert moved[first.eos_token_id] == 7
    assert moved[7] == -1


def teacher_of(tmp_path, student_tok, teacher, *, largest):
    """The targets for a student's rows, its rows, and the positions at which tokens are alike."""
    reads = llama(layers=1, seed=3, tok=student_tok)
    store, _ = build_stores(str(write_corpus(tmp_path)), student_tok, tmp_path / "data", fraction=0.2)
    spelled = [TokenBytes(tok, name="t") for tok in (student_tok, teacher.tokenizer)]
    theirs = retokenised(store, spelled[0], teacher.tokenizer, tmp_path / "theirs", end=teacher.end)
    rows, asked = Rows(store, length=LENGTH), Rows(theirs, length=LENGTH)
    found = measure_logprobs(
        teacher,
        NumberedRows(asked.rows_of, LENGTH, asked.n_rows, batch_rows=4),
        tmp_path / "told",
        made_from={},
        kept=Recorded(largest=largest, tokens=True),
    )
    layout, sides = theirs.layout(LENGTH), (Side(store, spelled[0]), Side(theirs, spelled[1]))

    def documents():
        for d in range(store.documents):
            start, stop = int(theirs.starts[d]), int(theirs.starts[d + 1])
            place, chunks = layout.predicted(start, stop)[0], chunks_of(*sides, d)
            meets = np.where((chunks.meets > 0) & chunks.single, place[chunks.meets], -1)
            yield int(store.starts[d]), *chunks.log_p(np.zeros(stop - start)), meets

    write_aligned(tmp_path / "aligned", documents(), tokens=store.tokens, facts=dict)
    read = lambda numbers: rows.layout.places(numbers).token  # noqa: E731
    aligned = AlignedTeacher(tmp_path / "aligned", name="t", read=read)
    same = spelled[1].same_in(spelled[0], ends=(teacher.end, reads.end))
    flat = [values.reshape(-1, largest) for values in (found.largest, found.tokens)]
    how = {"vocab": reads.vocab, "same": same, "largest": flat[0], "tokens": flat[1]}
    return SharedTokensTeacher(aligned, **how), rows, reads, aligned


def test_with_one_tokenizer_it_is_the_dense_loss(tmp_path):
    """All probabilities are recorded, and each position is one token in both."""
    teacher = frozen(llama(seed=1))
    heard, rows, student, _ = teacher_of(tmp_path, teacher.tokenizer, teacher, largest=teacher.vocab)
    for found in rows.in_order(3):
        flat, signal = found.flat(), heard(found)
        counted = found.counted
        logits = student(found).logits().detach()[counted]
        chunk = flat.part(counted)
        dense = Signal(teacher(found).logits()[counted])
        for goal in (ForwardKL(), parse("0.5*CrossEntropy + 0.5*SkewKL")):
            ours = value_and_gradient(goal, logits.clone(), signal.part(counted), chunk)
            theirs = goal.value_and_gradient(logits.clone(), dense, chunk)
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_token_that_is_split_otherwise_is_learned_as_text(tmp_path):
    """At all other positions forward KL is cross-entropy; where tokens are alike it is from what both have, and the rest."""
    teacher = frozen(llama(seed=1, tok=train_tokenizer(texts(seed=5), vocab=400)))
    heard, rows, student, aligned = teacher_of(tmp_path, tokenizer(300), teacher, largest=9)
    alike = other = 0
    for found in rows.in_order(3):
        signal, counted = heard(found), found.counted
        signal.require_known(counted)
        outputs = student(found)
        kl, ce = (
            fused_nats(goal, outputs, signal if goal.needs_teacher else None, found).flatten()[counted]
            for goal in (ForwardKL(), CrossEntropy())
        )
        alone = (signal.weight == 1)[counted].any(-1)
        torch.testing.assert_close(kl[alone], ce[alone], rtol=1e-4, atol=1e-4)
        chunk, logits = found.flat().part(counted), outputs.logits().detach()[counted]
        for text in ACCEPTED:
            nats, gradient = value_and_gradient(begun(text), logits.clone(), signal.part(counted), chunk)
            assert nats.isfinite().all()
            assert gradient.isfinite().all()
            assert (nats > -1e-4).all()
        met = torch.from_numpy(aligned.positions(found))[counted] >= 0
        assert not (~alone & ~met).any()
        some = signal.part(counted[~alone])
        total = some.weight.sum(-1) + some.rest.exp()
        torch.testing.assert_close(total, torch.ones_like(total))
        for ids, weight in zip(some.ids.tolist(), some.weight.tolist(), strict=True):
            real = [i for i, p in zip(ids, weight, strict=True) if p > 0]
            assert len(set(real)) == len(real)
            assert set(ids) == set(real)  # padding is one of them
        alike, other = alike + int((~alone).sum()), other + int(alone.sum())
    assert alike > 50
    assert other > 50


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a teacher, a student with fewer tokens, and a corpus."""
    folder = tmp_path_factory.mktemp("shared")
    write_teacher(folder)
    write_corpus(folder)
    save(llama(layers=1, hidden=32, seed=3, tok=tokenizer(265)), folder / "student")
    return folder


def distil(here: Path, out: Path, **keys):
    usual = {"teacher": str(here / "teacher"), "student": str(here / "student"), "data": str(here / "text.jsonl")}
    usual |= {"tokens": "1k", "length": 32, "batch_tokens": 128, "threads": 1, "baselines": ()}
    usual |= {"objective": "0.5*CrossEntropy + 0.5*ForwardKL", "tokenizer_align": "tokens", "out": out}
    return limbeck.distil(**{key: value for key, value in (usual | keys).items() if value is not None})


def test_a_student_learns_a_distribution_over_tokens_of_both(here, tmp_path):
    out = tmp_path / "run"
    distil(here, out)
    facts = json.loads((out / "run.json").read_text())["teacher"]["aligned"]
    assert facts["kind"] == "tokens"
    assert 0.1 < facts["positions_met"] / facts["predictions"] < 1
    store = TokenStore.open(out / "data" / "train")
    read = store.documents_in(1024 // 32, length=32)
    learned = sum(int(store.starts[d + 1] - store.starts[d]) - 1 for d in np.flatnonzero(read))
    assert facts["predictions"] == learned  # all but the first token of each document
    assert 0.1 < facts["mass_met"] < 1
    page = (out / "report.html").read_text()
    assert "of the learned tokens have its distribution over tokens that both spell alike" in page
    assert "held-out bits per byte" in page
    names = {(one["model"], one["name"]) for one in read_lines(out / "readings.jsonl")}
    assert ("student", "bits_per_byte") in names
    assert ("student", "kl_teacher_student") not in names
    before = {p: p.stat().st_mtime_ns for p in [*out.rglob("*.safetensors"), *out.rglob("*.npy")]}
    distil(here, out)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_captured_outcomes_serve_where_they_are_the_largest(here, tmp_path):
    keys = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "length": 32, "threads": 1}
    limbeck.capture(**keys, tokens="1k", kind="coarse", out=tmp_path / "coarse")
    distil(here, tmp_path / "run", teacher=str(tmp_path / "coarse"), data=None, tokens="512")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["teacher"]["aligned"]["positions_met"] > 0
    limbeck.capture(**keys, tokens="1k", kind="drawn", out=tmp_path / "drawn")
    with pytest.raises(BadSetting, match=r"sampled outcomes a token, which do not give the teacher.s largest"):
        distil(here, tmp_path / "bad", teacher=str(tmp_path / "drawn"), data=None)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            {"objective": "CrossEntropy + ALM"},
            "likelihoods of the target.*, or ALM and ULD with --tokenizer-align bytes",
        ),
        ({"objective": "ForwardKL(temperature=2)"}, "--tokenizer-align tokens: .*no other temperature follows"),
        (
            {"objective": "ForwardKL, ForwardKL(temperature=2)"},
            "--tokenizer-align tokens: .*no other temperature follows",
        ),
        (
            {"objective": "CrossEntropy + ULD"},
            "sorted, they say nothing of a part .*, or ALM and ULD with --tokenizer-align bytes",
        ),
        ({"objective": "DKD"}, r"DKD.*outcomes of the teacher: [^.]*\. Use ForwardKL, SkewKL or TAID, or ALM"),
        ({"objective": "CrossEntropy"}, "needs no teacher, so there is nothing to align: take --objective ForwardKL"),
        ({"student": None, "shrink": 2.0}, "--tokenizer-align tokens is for a student with a tokenizer of its own"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(here, tmp_path, keys, says):
    with pytest.raises(BadSetting, match=says):
        distil(here, tmp_path / "bad", **keys)
    assert not (tmp_path / "bad" / "told").exists()
