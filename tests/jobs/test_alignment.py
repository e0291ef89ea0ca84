"""A student with a tokenizer of its own: bytes of tokens, common chunks, ALM on them, and the whole job."""

import json
import string
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import limbeck
from limbeck.corpora import Rows, build_stores, train_tokenizer
from limbeck.corpora.chunks import Side, chunks_of, cut
from limbeck.corpora.retokenise import retokenised
from limbeck.corpora.token_bytes import TokenBytes
from limbeck.divergence import kl
from limbeck.errors import BadCorpus, BadModel, BadObjective, BadSetting, Mismatch
from limbeck.jobs.distil import other_tokens
from limbeck.models.save import save
from limbeck.objectives import fused_backward, fused_nats, parse
from limbeck.objectives.fused import Sizes
from limbeck.teachers import alignment as aligned
from limbeck.teachers import logprobs as told
from limbeck.teachers.alignment import AlignedTeacher, write_aligned
from limbeck.teachers.draw import top_k
from limbeck.teachers.logprobs import LOG_P, Recorded, logprobs_of, measure_logprobs
from limbeck.teachers.rows import NumberedRows
from limbeck.types import Batch, Chunk, ChunkTargets, Head, Outputs, Signal, Sparse
from tests.helpers.models import batch, frozen, llama, texts, tokenizer, write_corpus, write_teacher

LENGTH = 16
ODD = ["Grüße 🦊 und 日本", " a leading space", "  two", "tab\tand\n\nlines  ", "a", " ", "<|eos|> spelled out", "ﬁ é"]


@pytest.fixture(scope="module")
def byte_level():
    return train_tokenizer([*texts(), "Grüße 🦊🦊 日本"], vocab=320)


def sentencepiece(kind: str = "metaspace", *, fallback: bool = True) -> PreTrainedTokenizerFast:
    """A BPE of letters and pieces with ▁, as newer ("metaspace") or older Llamas spell them."""
    pieces = ["<unk>", "<s>", "</s>"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    pieces += ["▁", *string.ascii_letters, "th", "the", "▁the", "▁▁", "▁a"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "▁"), ("▁", "a")]
    model = models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=fallback)
    found = Tokenizer(model)
    steps = [decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    if kind == "metaspace":
        found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        found.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), *steps])
    else:
        found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        found.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), *steps])
    return PreTrainedTokenizerFast(tokenizer_object=found, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def ids(tok: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tok(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "prepend"])
def test_the_bytes_of_tokens_are_those_of_the_text(kind, byte_level):
    tok = byte_level if kind == "byte-level" else sentencepiece(kind)
    spelled = TokenBytes(tok, name=kind)
    for text in [*ODD, *texts(5)]:
        tokens, content = ids(tok, text), text.encode()
        assert spelled.text(tokens, len(content)) == content, text
        ends = spelled.ends(tokens, content)
        assert ends[-1] == len(content)
        assert (np.diff(ends) >= 0).all()
        pieces = b"".join(content[a:b] for a, b in pairwise([0, *ends]))
        assert pieces == content
    fox = ids(tok, "🦊")
    parts = [spelled.of([token]) for token in fox]
    assert len(fox) > 1
    assert any(0x80 <= part[0] <= 0xBF for part in parts if part)  # a token begins inside a letter


@given(st.text(alphabet=st.characters(exclude_characters="▁", exclude_categories=["Cs"]), max_size=20))
def test_any_text_is_given_back(text):
    for tok in (sentencepiece(), sentencepiece("prepend")):
        spelled = TokenBytes(tok, name="pieces")
        assert spelled.text(ids(tok, text), len(text.encode())) == text.encode()


@pytest.mark.parametrize(
    ("kind", "begin", "do_not"),
    [
        ("byte-level", ("Ġthe", "Ċ", "<|eos|>"), ("t", ".")),
        ("metaspace", ("▁the", "▁", "<0x0A>", "</s>"), ("the", "t")),
    ],
)
def test_a_word_begins_with_a_blank_or_a_special_token(kind, begin, do_not, byte_level):
    tok = byte_level if kind == "byte-level" else sentencepiece(kind)
    found = TokenBytes(tok, name=kind).begin_words(len(tok) + 3)
    assert found[tok.convert_tokens_to_ids(begin)].all()
    assert not found[tok.convert_tokens_to_ids(do_not)].any()
    assert not found[len(tok) :].any()


def test_what_a_tokenizer_changes_is_seen():
    plain = sentencepiece(fallback=False)
    spelled = TokenBytes(plain, name="plain")
    assert spelled.ends(ids(plain, "a fox"), b"a fox") is not None
    assert spelled.ends(ids(plain, "a 🦊"), "a 🦊".encode()) is None  # an unknown token
    folding = sentencepiece()
    folding.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert TokenBytes(folding, name="folding").ends(ids(folding, "The"), b"The") is None


def test_a_tokenizer_of_another_kind_is_refused_by_name():
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1, "##re": 2}, unk_token="[UNK]"))
    pieces.decoder = decoders.WordPiece()
    with pytest.raises(Mismatch, match=r"bert: expected a byte-level .* fast tokenizer, .*got WordPiece"):
        TokenBytes(PreTrainedTokenizerFast(tokenizer_object=pieces), name="bert")


def test_chunks_by_hand():
    """``abcdef``: ours a bc d ef, theirs abc def, framed on both sides; then a closing token on one side, a prefix on one."""
    found = cut(np.array([-1, 1, 3, 4, 6, 7]), np.array([-1, 3, 6, 7]), size=6)
    assert found.ours.tolist() == [-1, 0, 0, 1, 1, 2]
    assert found.theirs.tolist() == [-1, 0, 1, 2]
    assert found.sizes.tolist() == [0, 1, 2, 1, 2, 0]
    assert found.count == 3
    assert found.meets.tolist() == [-1, 1, -1, 2, -1, 3]  # after nothing, after abc, after all
    ends, log_p = found.log_p(np.array([np.nan, -1.0, -2.0, -4.0]))
    assert ends.tolist() == [True, False, True, False, True, True]
    assert log_p[ends].tolist()[1:] == [-1, -2, -4]
    assert np.isnan(log_p[~ends]).all()
    assert np.isnan(log_p[0])
    merged = found.merged(np.array([True, False, True, True]))  # a longer word might have been meant than abc
    assert (merged.ours.tolist(), merged.theirs.tolist(), merged.count) == ([-1, 0, 0, 0, 0, 1], [-1, 0, 0, 1], 2)
    assert found.merged(np.zeros(4, dtype=bool)).ours.tolist() == [-1, 0, 0, 0, 0, 0]
    assert found.merged(np.ones(4, dtype=bool)).ours.tolist() == found.ours.tolist()
    one_sided = cut(np.array([3, 6, 7]), np.array([0, 3, 6]), size=6)
    assert one_sided.meets.tolist() == [1, 2, -1]  # a space that was put before the text is no text
    assert one_sided.theirs.tolist() == [0, 0, 1]
    assert one_sided.log_p(np.array([-1.0, -2.0, np.nan]))[1].tolist()[0] == -3
    assert np.isnan(one_sided.log_p(np.array([-1.0, -2.0, np.nan]))[1][1:]).all()


@given(
    st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n)), st.sets(st.integers(1, n))))
)
def test_chunks_are_a_partition_at_all_common_boundaries(drawn):
    size, ours, theirs = drawn[0], sorted(drawn[1] | {drawn[0]}), sorted(drawn[2] | {drawn[0]})
    found = cut(np.array(ours), np.array(theirs), size=size)
    bounds = [
        [ends[i] for i in np.flatnonzero(np.diff(numbers, append=99))]
        for ends, numbers in ((ours, found.ours), (theirs, found.theirs))
    ]
    assert bounds[0] == bounds[1] == sorted(set(ours) & set(theirs))
    assert found.sizes.sum() == size


@pytest.fixture(scope="module")
def pair(tmp_path_factory, byte_level):
    """Two stores of one text: a student's of few tokens, and its teacher's."""
    folder = tmp_path_factory.mktemp("pair")
    small = tokenizer(262)
    store, _ = build_stores(str(write_corpus(folder)), small, folder / "ours", fraction=0.2)
    spelled = TokenBytes(small, name="small"), TokenBytes(byte_level, name="large")
    theirs = retokenised(store, spelled[0], byte_level, folder / "theirs", end=byte_level.eos_token_id)
    return Side(store, spelled[0]), Side(theirs, spelled[1]), folder


def test_a_store_in_other_tokens_has_the_same_documents_in_the_same_order(pair, byte_level):
    ours, theirs, folder = pair
    assert theirs.store.documents == ours.store.documents
    assert theirs.store.manifest["unread"] == 0
    for d in range(ours.store.documents):
        assert theirs.store.name_of(d) == ours.store.name_of(d)
        assert theirs.store.sha256_of(d) == ours.store.sha256_of(d)
        chunks = chunks_of(ours, theirs, d)
        assert chunks.sizes.sum() == ours.store.bytes_of(d)
    before = (folder / "theirs" / "manifest.json").stat().st_mtime_ns
    retokenised(ours.store, ours.spelled, byte_level, folder / "theirs", end=byte_level.eos_token_id)
    assert (folder / "theirs" / "manifest.json").stat().st_mtime_ns == before


def test_a_document_that_cannot_be_read_back_is_empty_and_counted(tmp_path, byte_level):
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in ["the cat", "a 🦊", *texts(8)]))
    lossy = sentencepiece(fallback=False)
    store, _ = build_stores(str(file), lossy, tmp_path / "ours", eval_source=str(file))
    sides = [TokenBytes(tok, name="") for tok in (lossy, byte_level)]
    theirs = retokenised(store, sides[0], byte_level, tmp_path / "theirs", end=byte_level.eos_token_id)
    assert theirs.manifest["unread"] == 1
    found = [chunks_of(Side(store, sides[0]), Side(theirs, sides[1]), d) for d in range(store.documents)]
    assert [chunks is None for chunks in found] == list(np.diff(theirs.starts) == 0)
    assert sum(chunks is None for chunks in found) == 1


def naive(ours: Side, theirs: Side, toks, log_p: np.ndarray) -> dict[int, tuple[list[int], float]]:
    """Chunks by the character offsets that the tokenizers themselves tell: last token → (its tokens, sum of log p)."""
    found = {}
    for d in range(ours.store.documents):
        starts = [int(side.store.starts[d]) for side in (ours, theirs)]
        text = ours.spelled.of(ours.store.slice(starts[0] + 1, int(ours.store.starts[d + 1]) - 1).tolist()).decode()
        ends = [
            [end for _, end in tok(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]]
            for tok in toks
        ]
        ends = [[*some, len(text) + 1] for some in ends]
        before = 0
        for bound in sorted(set(ends[0]) & set(ends[1])):
            mine, other = (
                [starts[k] + 1 + i for i, end in enumerate(ends[k]) if before < end <= bound] for k in (0, 1)
            )
            found[mine[-1]] = (mine, float(sum(log_p[i] for i in other)))
            before = bound
    return found


def read_by(rows: Rows) -> Callable[[np.ndarray], np.ndarray]:
    """Which token of the stream is read at each place of some rows."""
    return lambda numbers: rows.layout.places(numbers).token


def write(folder: Path, ours: Side, theirs: Side, log_p: np.ndarray) -> None:
    """The chunks of two stores with log p of each of their tokens."""
    layout = theirs.store.layout(LENGTH)

    def documents():
        for d in range(ours.store.documents):
            start, stop = int(theirs.store.starts[d]), int(theirs.store.starts[d + 1])
            values = log_p[start:stop]
            chunks = chunks_of(ours, theirs, d)
            meets = np.where(chunks.meets > 0, layout.predicted(start, stop)[0][chunks.meets], -1)
            yield int(ours.store.starts[d]), *chunks.log_p(values), meets

    write_aligned(folder, documents(), tokens=ours.store.tokens, facts=dict)


@pytest.mark.long
@pytest.mark.parametrize("length", [5, 16, 10_000])
def test_a_row_hears_of_the_chunks_that_are_whole_in_it(pair, tmp_path, byte_level, length):
    ours, theirs, _ = pair
    log_p = -np.random.default_rng(0).random(theirs.store.tokens)
    write(tmp_path, ours, theirs, log_p)
    rows = Rows(ours.store, length=length)
    teacher = AlignedTeacher(tmp_path, name="t", read=read_by(rows))
    expected = naive(ours, theirs, (tokenizer(262), byte_level), log_p)
    heard = 0
    for found in rows.in_order(4):
        weight = found.weight.clone()
        weight[0, :3] = 0
        said = teacher(Batch(**{**vars(found), "weight": weight}))
        place = torch.from_numpy(read_by(rows)(found.row.numpy()) + 1).flatten()
        segment = dict(
            zip(place.tolist(), rows.layout.places(found.row.numpy()).segment.flatten().tolist(), strict=True)
        )
        for number, value in enumerate(said.log_p.tolist()):
            mine = place[said.chunk == number].tolist()
            assert (mine, pytest.approx(value, rel=1e-6)) == expected[mine[-1]]
        heard += len(said.log_p)
        lost = set(expected) & set(place.tolist()) - set(place[said.chunk >= 0].tolist())
        for last in lost:  # cut between two pieces, or told to count nothing
            mine = expected[last][0]
            assert not set(mine) <= set(place[weight.flatten() > 0].tolist()) or len({segment[i] for i in mine}) > 1
    assert heard > 0.5 * len(expected) * (length > 5)


def test_with_one_tokenizer_chunks_are_tokens_and_log_p_is_the_teachers_own(tmp_path):
    """Where others slice without the shift: log p at a position is that of the token that follows it."""
    teacher = frozen(llama())
    store, _ = build_stores(str(write_corpus(tmp_path)), teacher.tokenizer, tmp_path / "data", fraction=0.2)
    spelled = TokenBytes(teacher.tokenizer, name="same")
    theirs = retokenised(store, spelled, teacher.tokenizer, tmp_path / "theirs", end=teacher.end)
    rows = Rows(store, length=LENGTH)
    values = measure_logprobs(
        teacher,
        NumberedRows(Rows(theirs, length=LENGTH).rows_of, LENGTH, rows.n_rows, batch_rows=4),
        tmp_path / "told",
        made_from={},
        kept=Recorded(largest=5, some=torch.arange(teacher.vocab) < 7),
    )
    place = theirs.layout(LENGTH).predicted(0, theirs.tokens)[0]
    flat = np.where(place < 0, np.nan, values.log_p.reshape(-1)[place])
    write(tmp_path / "aligned", Side(store, spelled), Side(theirs, spelled), flat)
    largest = values.largest.reshape(-1, 5)
    heard = AlignedTeacher(tmp_path / "aligned", name="t", read=read_by(rows), largest=largest)
    for found in rows.in_order(3):
        said, counted = heard(found), found.weight.flatten() > 0
        assert said.chunk[counted].tolist() == list(range(int(counted.sum())))
        assert (said.chunk[~counted] == -1).all()
        own = teacher(found).logits().log_softmax(-1).gather(-1, found.targets.reshape(-1, 1)).squeeze(-1)
        torch.testing.assert_close(said.log_p, own[counted], rtol=1e-4, atol=1e-5)
        p = teacher(found).logits().softmax(-1)
        torch.testing.assert_close(
            said.largest[counted], p.sort(descending=True).values[counted, :5], rtol=1e-3, atol=1e-5
        )
        assert (said.largest[~counted] == 0).all()
        mass = torch.from_numpy(values.mass[found.row.numpy()]).flatten()
        torch.testing.assert_close(mass[counted], p[counted, :7].sum(-1), rtol=1e-4, atol=1e-6)


@given(
    st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n)), st.sets(st.integers(1, n))))
)
def test_positions_meet_that_have_read_the_same_text(drawn):
    """Where the paper pairs by index: there the two have read the same only up to the first word that they split otherwise."""
    size, ours, theirs = drawn[0], [-1, *sorted(drawn[1] | {drawn[0]})], [-1, *sorted(drawn[2] | {drawn[0]})]
    found = cut(np.array(ours), np.array(theirs), size=size)
    read = [[max(0, end) for end in ends[:-1]] for ends in (ours, theirs)]  # before each token but the first
    for i, j in enumerate(found.meets[1:]):
        assert (j > 0) == (read[0][i] in read[1])
        assert j < 0 or read[0][i] == read[1][j - 1]


def some(*, weight: float = 0.7) -> tuple[Outputs, ChunkTargets, Batch]:
    """A student in float64 with padded rows in its head, and chunks over three rows."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 9, 8, dtype=torch.float64, generator=generator).requires_grad_()
    head = torch.randn(25, 8, dtype=torch.float64, generator=generator).requires_grad_()
    targets = torch.randint(23, (3, 9), generator=generator)
    weights = torch.full((3, 9), weight, dtype=torch.float64)
    weights[0, 3] = 0
    chunk = torch.tensor([[0, 0, 1, -1, 2, 2, 2, -1, -1], [3, 4, 5, 5, -1, -1, 6, 6, 6], [-1] * 9]).flatten()
    log_p = -6 * torch.rand(7, dtype=torch.float64, generator=generator)
    nothing = torch.zeros_like(targets)
    return (
        Outputs(hidden, Head(head), 23),
        ChunkTargets(chunk, log_p),
        Batch(targets, targets, weights, nothing, nothing, nothing[:, 0]),
    )


DIVERGENCES = ("kl", "reverse_kl", "jensen_shannon", "total_variation")


@pytest.mark.parametrize("temperature", [1.0, 100.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_fused_gradient_is_autograds_on_full_logits(temperature, divergence):
    outputs, said, found = some()
    objective = parse(f"0.3*CrossEntropy + 0.7*ALM(temperature={temperature}, divergence={divergence})")
    total = fused_backward(objective, outputs, said, found, scale=0.1, sizes=Sizes(4, 2))
    log_q = outputs.logits().log_softmax(-1).gather(-1, found.targets.reshape(-1, 1)).squeeze(-1)
    within = said.chunk >= 0
    of_chunk = torch.zeros(7, dtype=torch.float64).index_add(0, said.chunk[within], log_q[within])
    p, q = (
        torch.stack([(x - 1e-6) / temperature, (1 - ((x - 1e-6) / temperature).exp()).log()], -1)
        for x in (said.log_p, of_chunk)
    )
    nats = temperature * getattr(limbeck.divergence, divergence)(p, q)
    expected = 0.1 * (0.3 * (-log_q * found.weight.flatten()).sum() + 0.7 * 0.7 * nats.sum())
    gradients = torch.autograd.grad(expected, [outputs.hidden, outputs.head.weight])
    torch.testing.assert_close(total, expected.detach(), rtol=1e-9, atol=0)
    for got, gradient in zip((outputs.hidden.grad, outputs.head.weight.grad), gradients, strict=True):
        torch.testing.assert_close(got, gradient, rtol=1e-6, atol=1e-10)
    walked = fused_nats(objective, outputs, said, found)
    assert float((walked * found.weight).sum() * 0.1) == pytest.approx(float(total), rel=1e-6)


def sorted_some(*, k: int, known: int) -> tuple[Outputs, ChunkTargets, Batch]:
    """The same with a teacher's ``k`` largest probabilities of ``known``, at two positions of three."""
    outputs, said, found = some()
    generator = torch.Generator().manual_seed(2)
    p = torch.randn(27, known, dtype=torch.float64, generator=generator).mul(2).softmax(-1).sort(descending=True).values
    return outputs, replace(said, largest=p[:, :k] * (torch.arange(27) % 3 > 0)[:, None]), found


@pytest.mark.parametrize(("k", "known", "asked"), [(9, 40, 64), (9, 40, 4), (40, 40, 64), (12, 12, 64), (23, 23, 23)])
def test_the_fused_gradient_of_sorted_probabilities_is_autograds_on_full_logits(k, known, asked):
    """Truncated by what was kept or asked for, or whole, with the fewer outcomes on either side."""
    outputs, said, found = sorted_some(k=k, known=known)
    objective = parse(f"0.3*CrossEntropy + 0.5*ALM + 0.7*ULD(largest={asked})")
    total = fused_backward(objective, outputs, said, found, scale=0.1, sizes=Sizes(4, 2))
    hidden, head = (x.detach().clone().requires_grad_() for x in (outputs.hidden, outputs.head.weight))
    dense = Outputs(hidden, Head(head), 23)
    others = fused_backward(parse("0.3*CrossEntropy + 0.5*ALM"), dense, said, found, scale=0.1)
    q, p = dense.logits().softmax(-1).sort(descending=True).values, said.largest[:, :asked]
    size = max(23, p.shape[-1])
    q, p = (torch.nn.functional.pad(x, (0, size - x.shape[-1])) for x in (q, p))
    most = min(k, asked)
    gaps = (p - q)[:, :most].abs().sum(-1) + (p[:, :most].sum(-1) - q[:, :most].sum(-1)).abs()
    expected = 0.1 * 0.7 * (gaps * found.weight.flatten())[p[:, 0] > 0].sum()
    expected.backward()  # beside what the others left
    torch.testing.assert_close(total, expected.detach() + others, rtol=1e-9, atol=0)
    for got, gradient in zip((outputs.hidden.grad, outputs.head.weight.grad), (hidden.grad, head.grad), strict=True):
        torch.testing.assert_close(got, gradient, rtol=1e-6, atol=1e-10)
    walked = fused_nats(objective, outputs, said, found)
    assert float((walked * found.weight).sum() * 0.1) == pytest.approx(float(total), rel=1e-6)


@given(st.integers(0, 99), st.integers(1, 30))
def test_what_is_cut_off_hides_no_more_than_stated(seed, k):
    generator = torch.Generator().manual_seed(seed)
    logits, others = (3 * torch.randn(1, 30, dtype=torch.float64, generator=generator) for _ in range(2))
    nothing = Chunk(torch.zeros(1, dtype=torch.int64), torch.ones(1))
    whole, part = (float(parse(f"ULD(largest={n})")(logits, Signal(others), nothing)) for n in (30, k))
    left = min(1 - float(x.softmax(-1).topk(k).values.sum()) for x in (logits, others))
    assert part <= whole + 1e-12
    assert whole <= part + 2 * left + 1e-12
    assert whole <= 2


def test_renaming_outcomes_changes_nothing():
    """What ULD does not see, and why cross-entropy stands beside it."""
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    nothing = Chunk(torch.zeros(4, dtype=torch.int64), torch.ones(4))
    assert float(parse("ULD")(logits, Signal(logits.flip(-1)), nothing).abs().max()) < 1e-6


def test_rows_apart_or_together_are_the_same_loss():
    """Micro-batches, ranks and packing: a chunk is a matter of its row."""
    whole, said, found = some()
    objective = parse("CrossEntropy + ALM")
    together = fused_backward(objective, whole, said, found, scale=0.5)
    apart, total = some()[0], 0.0
    for row in (2, 0, 1):
        chunk = said.chunk.view(3, 9)[row]
        numbers = chunk[chunk >= 0].unique()
        renumbered = torch.where(chunk >= 0, torch.searchsorted(numbers, chunk.clamp(min=0)), -1)
        part = Outputs(apart.hidden[row : row + 1], apart.head, 23)
        told_row = ChunkTargets(renumbered, said.log_p[numbers])
        total += float(fused_backward(objective, part, told_row, found.rows(slice(row, row + 1)), scale=0.5))
    assert total == pytest.approx(float(together), rel=1e-12)
    torch.testing.assert_close(apart.hidden.grad, whole.hidden.grad)
    torch.testing.assert_close(apart.head.weight.grad, whole.head.weight.grad)


def own_tokens() -> tuple[Outputs, Outputs, Batch, ChunkTargets]:
    """Teacher and student of one tokenizer, and the teacher's log p of each token as chunks."""
    generator = torch.Generator().manual_seed(1)
    student, teacher = (
        Outputs(
            torch.randn(3, 16, 8, generator=generator, dtype=torch.float64).requires_grad_(),
            Head(torch.randn(300, 8, generator=generator, dtype=torch.float64)),
            300,
        )
        for _ in range(2)
    )
    found = batch()
    log_p = teacher.logits().log_softmax(-1).gather(-1, found.targets.reshape(-1, 1)).squeeze(-1).detach()
    counted = found.weight.flatten() > 0
    chunk = torch.where(counted, counted.cumsum(0) - 1, -1)
    largest = teacher.logits().detach().softmax(-1).topk(9).values * counted[:, None]
    return student, teacher, found, ChunkTargets(chunk, log_p[counted], largest)


def test_sorted_probabilities_are_the_same_loss_as_a_teacher_of_the_same_tokens():
    student, teacher, found, said = own_tokens()
    by_meeting = fused_backward(parse("ULD"), student, said, found, scale=1.0)
    gradient, student.hidden.grad = student.hidden.grad, None
    by_tokens = fused_backward(parse("ULD(largest=9)"), student, teacher, found, scale=1.0)
    torch.testing.assert_close(by_meeting, by_tokens)
    torch.testing.assert_close(gradient, student.hidden.grad)
    assert float(fused_backward(parse("ULD"), teacher, said, found, scale=1.0)) < 1e-9


def test_top_k_outcomes_can_be_sorted_and_sampled_ones_cannot():
    student, teacher, found, said = own_tokens()
    likely = top_k(teacher.logits().detach().log_softmax(-1), 9)
    whole = fused_backward(parse("ULD"), student, said, found, scale=1.0)
    torch.testing.assert_close(fused_backward(parse("ULD"), student, likely, found, scale=1.0), whole)
    with pytest.raises(Mismatch, match=r"sampled outcomes, which do not give the largest.*--codec top-k"):
        fused_backward(parse("ULD"), student, replace(likely, rest=None), found, scale=1.0)


def test_chunks_of_one_token_are_the_same_loss_as_a_teacher_of_the_same_tokens():
    objective = parse("ALM(temperature=1)")
    student, teacher, found, said = own_tokens()
    by_chunks = fused_backward(objective, student, said, found, scale=1.0)
    gradient, student.hidden.grad = student.hidden.grad, None
    by_tokens = fused_backward(objective, student, teacher, found, scale=1.0)
    torch.testing.assert_close(by_chunks, by_tokens)
    torch.testing.assert_close(gradient, student.hidden.grad)
    log_p, log_q = (o.logits().log_softmax(-1).gather(-1, found.targets.reshape(-1, 1)) for o in (teacher, student))
    two = [torch.cat([x, torch.log1p(-x.exp())], -1) for x in (log_p, log_q)]
    torch.testing.assert_close(by_tokens, (kl(*two) * found.weight.flatten()).sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_equal_to_its_teacher_has_no_loss(divergence):
    _, teacher, found, said = own_tokens()
    assert float(fused_backward(parse(f"ALM(divergence={divergence})"), teacher, said, found, scale=1.0)) < 1e-9
    limit = 1e-6 if divergence != "total_variation" else torch.inf  # it has a corner there
    assert float(teacher.hidden.grad.abs().max()) < limit


def test_certain_tokens_have_a_finite_loss():
    for log_p, log_q in ((0.0, 0.0), (0.0, -5.0), (-5.0, 0.0), (-300.0, -1e-9)):
        leaf = torch.tensor([log_q], requires_grad=True)
        (nats,) = parse("ALM").of_chunks(torch.tensor([log_p]), leaf)
        (slope,) = torch.autograd.grad(nats, leaf)
        assert torch.isfinite(nats)
        assert torch.isfinite(slope)


def test_what_compares_outcomes_is_refused():
    outputs, said, found = some()
    for text in ("ForwardKL + ALM", "TAID", "Ramp(of=ReverseKL())"):
        with pytest.raises(BadObjective, match=r"needs one tokenizer.*CrossEntropy \+ ALM"):
            fused_backward(parse(text), outputs, said, found, scale=1.0)
    assert float(fused_backward(parse("Ramp(of=ALM(), start=0.5)"), outputs, said, found, scale=1.0)) > 0
    heard = sorted_some(k=9, known=30)
    half, whole = (
        float(fused_backward(parse(text), *heard, scale=1.0)) for text in ("Ramp(of=ULD(), start=0.5)", "ULD")
    )
    assert 2 * half == pytest.approx(whole)
    with pytest.raises(BadObjective, match=r"largest must be a whole number >= 1, got 2.5"):
        parse("ULD(largest=2.5)")
    with pytest.raises(BadObjective, match="divergence must be one of kl, reverse_kl"):
        parse("ALM(divergence=euclid)")


class Stopping:
    """A teacher that is killed after so many questions."""

    def __init__(self, teacher, questions: int) -> None:
        self.name, self.vocab, self._teacher, self.left = teacher.name, teacher.vocab, teacher, questions

    def __call__(self, found: Batch) -> Outputs:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self._teacher(found)


def test_a_teacher_that_was_killed_goes_on_where_it_was(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(told, "_SAVE_EVERY", 2)
    teacher = frozen(llama(tok=tokenizer(262)))
    rows = Rows(pair[0].store, length=LENGTH)
    some, keys = NumberedRows(rows.rows_of, LENGTH, 20, batch_rows=2), {"made_from": {"teacher": "t"}}
    whole = measure_logprobs(teacher, some, tmp_path / "whole", **keys)
    with pytest.raises(KeyboardInterrupt):
        measure_logprobs(Stopping(teacher, 5), some, tmp_path / "killed", **keys)
    going_on = Stopping(teacher, 6)  # of ten questions four were saved
    np.testing.assert_array_equal(measure_logprobs(going_on, some, tmp_path / "killed", **keys).log_p, whole.log_p)
    assert going_on.left == 0
    measure_logprobs(Stopping(teacher, 0), some, tmp_path / "killed", **keys)  # is not asked again
    with pytest.raises(Mismatch, match="another teacher: 't' there, 'u' now"):
        measure_logprobs(teacher, some, tmp_path / "killed", made_from={"teacher": "u"})
    with pytest.raises(BadModel, match=r"expected teacher log-probabilities, found no told.json: remove .*aligned too"):
        told.logprobs_in(tmp_path / "elsewhere")
    damage(tmp_path / "killed" / "log_p.npy")
    with pytest.raises(BadModel, match="missing or damaged"):
        measure_logprobs(teacher, some, tmp_path / "killed", **keys)


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def test_damaged_chunks_are_refused(pair, tmp_path):
    ours, theirs, _ = pair
    write(tmp_path, ours, theirs, np.zeros(theirs.store.tokens))
    damage(tmp_path / aligned._LOG_P)
    with pytest.raises(BadModel, match=r"chunk_log_p.npy: expected SHA-256 .* it is missing or damaged"):
        AlignedTeacher(tmp_path, name="t", read=read_by(Rows(ours.store, length=LENGTH)))


def test_of_captured_answers_a_target_is_known_where_it_was_kept():
    found = batch(1, 4, vocab=9)
    found = Batch(**{**vars(found), "weight": torch.tensor([[1.0, 1.0, 0.0, 1.0]])})
    targets = found.targets.flatten()
    kept = torch.stack([targets, (targets + 1) % 9], -1)
    kept[1, 0] = (targets[1] + 2) % 9
    said = Sparse(kept, torch.log(torch.tensor([[0.5, 0.25]] * 4)), torch.tensor([[0.5, 0.25]] * 4), 9, torch.zeros(4))
    log_p = logprobs_of(found, said, LOG_P)["log_p"]
    more = logprobs_of(found, said, Recorded(largest=1, some=torch.arange(9) == targets[3]))
    assert more["largest"].flatten().tolist() == [0.5, 0.5, 0, 0.5]
    assert more["mass"][3] == 0.5
    assert more["mass"].isnan().tolist() == [False, False, True, False]
    assert log_p.isnan().tolist() == [False, True, True, False]
    assert log_p[0] == pytest.approx(np.log(0.5))


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a teacher, a student with fewer tokens, and a corpus."""
    folder = tmp_path_factory.mktemp("align")
    write_teacher(folder)
    write_corpus(folder)
    save(llama(layers=1, hidden=32, seed=3, tok=tokenizer(265)), folder / "student")
    return folder


def distil(here: Path, out: str, **keys):
    usual = {"teacher": str(here / "teacher"), "student": str(here / "student"), "data": str(here / "text.jsonl")}
    usual |= {"tokens": "2k", "length": 32, "batch_tokens": 128, "threads": 1, "baselines": ()}
    usual |= {"objective": "CrossEntropy + ALM", "tokenizer_align": "bytes", "out": here / out}
    return limbeck.distil(**{key: value for key, value in (usual | keys).items() if value is not None})


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def readings(out: Path) -> dict[tuple[str, str], float]:
    return {
        (r["model"], r["name"]): r["value"] for r in map(json.loads, (out / "readings.jsonl").read_text().splitlines())
    }


@pytest.mark.long
def test_a_student_learns_from_a_teacher_of_other_tokens(here, monkeypatch):
    """Stopped while the teacher is asked, continued, and given once more when all is done."""
    out = here / "out"
    with monkeypatch.context() as patch:
        patch.setattr(told, "_SAVE_EVERY", 1)
        patch.setattr(other_tokens._Lines, "__call__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            distil(here, "out", baselines=("cut+ce@flops",))
    assert json.loads((out / "told" / "done.json").read_text())["rows"] > 0
    result = distil(here, "out", baselines=("cut+ce@flops",))
    found = readings(out)
    assert {("teacher", "bits_per_byte"), ("student", "bits_per_byte"), ("student", "held_out")} <= set(found)
    assert not {"kl_teacher_student", "top1_agreement"} & {name for _, name in found}
    assert ("teacher", "held_out") not in found  # nats of other tokens
    assert found["student", "bits_per_byte"] < found["cut", "bits_per_byte"]
    run = json.loads((out / "run.json").read_text())
    facts = run["teacher"]["aligned"]
    assert 0.8 < facts["coverage"] < 1  # less what rows cut
    assert facts["unread"] == 0
    assert (
        facts["student_tokens"] > facts["chunks"] == facts["teacher_tokens"]
    )  # the teacher's were trained on the same words
    assert 0 < run["teacher"]["passes"] < 1.5  # documents are asked about whole, of which the student reads parts
    page = (out / "report.html").read_text()
    assert "of the learned bytes have a target" in page
    assert "held-out bits per byte" in page
    assert result["verdict"]
    before = {p: p.stat().st_mtime_ns for p in [*out.rglob("*.safetensors"), *out.rglob("*.npy")]}
    distil(here, "out", baselines=("cut+ce@flops",))
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.long
def test_the_same_text_is_read_from_captured_answers(here):
    """The text comes out of the capture's tokens; a coarse capture knows the targets that it kept."""
    limbeck.capture(
        teacher=str(here / "teacher"),
        data=str(here / "text.jsonl"),
        length=32,
        kind="coarse",
        threads=1,
        out=here / "answers",
    )
    goal = "CrossEntropy + ALM + ULD"
    distil(here, "captured", teacher=str(here / "answers"), data=None, objective=goal)
    facts = json.loads((here / "captured" / "run.json").read_text())["teacher"]["aligned"]
    assert 0 < facts["coverage"] < 0.9
    assert 0.1 < facts["mass_met"] < 1
    found = readings(here / "captured")
    assert found["teacher", "bits_per_byte"] > 0
    assert ("student", "kl_teacher_student") not in found


@pytest.mark.long
def test_a_family_of_objectives_hears_all_that_one_of_them_does(here, tmp_path):
    goals = "CrossEntropy + ALM(merge=0.2), CrossEntropy + ULD(largest=7), CrossEntropy + ULD(largest=300)"
    found = distil(here, str(tmp_path / "family"), objective=goals)
    assert len(found["members"]) == 3
    facts = [json.loads(f.read_text())["teacher"]["aligned"] for f in sorted((tmp_path / "family").glob("*/run.json"))]
    assert all(fact["mass_met"] == pytest.approx(1, abs=1e-3) for fact in facts)  # all that a teacher of 300 tokens has
    distil(here, str(tmp_path / "plain"), objective="CrossEntropy + ALM")
    plain = json.loads((tmp_path / "plain" / "run.json").read_text())["teacher"]["aligned"]
    assert facts[0]["chunks"] < plain["chunks"]


@pytest.mark.long
def test_sampled_logits_are_refused_for_sorted_probabilities(here, tmp_path):
    keys = {
        "teacher": str(here / "teacher"),
        "data": str(here / "text.jsonl"),
        "length": 32,
        "kind": "drawn",
        "threads": 1,
    }
    limbeck.capture(**keys, tokens="1k", out=tmp_path / "drawn")
    with pytest.raises(BadSetting, match=r"sampled outcomes a token, which do not give the teacher.s largest.*or ALM"):
        distil(here, str(tmp_path / "bad"), teacher=str(tmp_path / "drawn"), data=None, objective="CrossEntropy + ULD")


@pytest.mark.long
@pytest.mark.parametrize(
    ("keys", "error", "says"),
    [
        ({"objective": "ALM + ALM(merge=0.1)"}, BadSetting, "expected one threshold of merging, got 0.0 and 0.1"),
        ({"objective": "ALM, ALM(merge=0.1)"}, BadSetting, "expected one threshold of merging, got 0.0 and 0.1"),
        (
            {"objective": "ALM(merge=0.1)", "tokenizer_align": None},
            BadSetting,
            "with one tokenizer every token is a chunk",
        ),
        ({"student": None, "shrink": 2.0}, BadSetting, "name a student with --student"),
        ({"student": None, "params": "20k,30k"}, BadSetting, "name a student with --student"),
        ({"objective": "ForwardKL"}, BadObjective, r"--objective 'CrossEntropy \+ ALM'"),
        ({"objective": "CrossEntropy"}, BadSetting, "needs no teacher"),
        ({"tokenizer_align": "words"}, BadSetting, "--tokenizer-align"),
        ({"tokenizer_align": None}, Mismatch, "distil --tokenizer-align bytes"),
    ],
)
def test_an_impossible_alignment_is_an_error_before_anything_is_written(here, tmp_path, keys, error, says):
    with pytest.raises(error, match=says):
        distil(here, str(tmp_path / "bad"), **keys)
    assert not (tmp_path / "bad" / "told").exists()


def test_conversations_are_refused(here, tmp_path):
    chat = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": t}]} for t in texts(30)]
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in chat))
    with pytest.raises((Mismatch, BadCorpus), match=r"each model's template writes in its own way|one without"):
        distil(here, str(tmp_path / "bad"), data=str(file))


@pytest.mark.long
def test_the_doctor_looks_at_both_tokenizers(here):
    keys = {"teacher": str(here / "teacher"), "student": str(here / "student"), "data": str(here / "text.jsonl")}
    found = limbeck.doctor(**keys)
    assert not found["ok"]
    assert any("--tokenizer-align bytes" in (f["remedy"] or "") for f in found["findings"])
    found = limbeck.doctor(**keys, tokenizer_align="bytes")
    assert found["ok"]
    assert "100 % of 64 documents have the same bytes in both" in found["findings"][0]["message"]
    with pytest.raises(BadSetting, match="name a student with --student"):
        limbeck.doctor(teacher=keys["teacher"], data=keys["data"], tokenizer_align="bytes")
