"""Preference pairs: the forms of their records, both sides as one document, and rows that have both."""

import json

import numpy as np
import pytest
import torch

from limbeck.corpora import Rows
from limbeck.corpora.build import build_held_out, build_stores
from limbeck.corpora.document import Document, is_held_out
from limbeck.corpora.pair_rows import by_side, each_counts_once, preferred_of, sides_of
from limbeck.corpora.preference import split_pair
from limbeck.corpora.reading import Records
from limbeck.corpora.records import Columns, from_record
from limbeck.errors import BadCorpus, BadRecord
from tests.helpers.models import texts, tokenizer

TOK = tokenizer()
PAIRS = Columns(preference=True)
ASKED = "\n\nHuman: is it so?\n\nAssistant:"
USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "yes"), ("assistant", "no")))


def read(record) -> Document:
    document = from_record(record, name="1", where="", columns=PAIRS)
    assert document is not None
    return document


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "q: ", "chosen": "yes", "rejected": "no"}, ("q: ", "yes", "no")),
        ({"prompt": "is it so? ", "chosen": "is it so? no", "rejected": "is it so? yes"}, None),
        ({"prompt": "a b c d ", "chosen": "a b c d yes", "rejected": "a b c d no"}, ("a b c d ", "yes", "no")),
        ({"chosen": "The sky is blue.", "rejected": "The sky is black."}, ("The sky is", " blue.", " black.")),
        ({"chosen": "So: yes", "rejected": "So: yes sure"}, ("So:", " yes", " yes sure")),
        ({"chosen": f"{ASKED} I do", "rejected": f"{ASKED} I do not"}, (ASKED, " I do", " I do not")),
        ({"chosen": f"{ASKED} I see", "rejected": f"{ASKED} I say"}, (ASKED, " I see", " I say")),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, ([USER], [GOOD], [BAD])),
        ({"chosen": [USER, GOOD], "rejected": [USER, GOOD, USER, BAD]}, ([USER], [GOOD], [GOOD, USER, BAD])),
        ({"system": "s", "prompt": "q", "chosen": "yes", "rejected": "no"}, ([USER], [GOOD], [BAD])),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, ([USER], [GOOD], [BAD])),
        ({"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, ([USER], [GOOD], [BAD])),
        ({"prompt": [USER], "chosen": "yes", "rejected": "no"}, ([USER], [GOOD], [BAD])),
    ],
)
def test_a_pair_is_read_from_the_forms_of_trl(record, expected):
    assert split_pair(record, "pairs.jsonl:1") == (expected or tuple(record.values()))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "q", "chosen": "yes", "rejected": "yes"}, "got the same in 'chosen' and 'rejected'"),
        ({"prompt": "q", "chosen": "yes", "rejected": " "}, "expected a completion in 'rejected', got none"),
        ({"prompt": [USER], "chosen": [USER, GOOD], "rejected": [BAD]}, "'rejected' alone does not"),
        ({"prompt": "p", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "got a turn of the user"),
        ({"chosen": [USER, GOOD], "rejected": "no"}, "two texts or two lists of messages"),
        ({"prompt": "a b c d", "chosen": "a b c d yes", "rejected": "no"}, "'rejected' alone does not"),
        ({"system": "s", "chosen": "q yes", "rejected": "q no"}, "expected a 'prompt' beside 'system'"),
        ({"chosen": [USER], "rejected": [USER, BAD]}, "expected a completion in 'chosen', got none"),
        ({"text": "once"}, "expected a preference pair with 'chosen' and 'rejected'"),
    ],
)
def test_what_is_no_pair_is_refused(record, message):
    with pytest.raises(BadRecord, match=message):
        from_record(record, name="1", where="pairs.jsonl:1", columns=PAIRS)


def test_a_system_message_stands_before_a_prompt_that_is_text():
    record = {"system": "s", "prompt": "q", "chosen": "yes", "rejected": "no"}
    pair = read(record)
    assert pair.rejected is not None
    assert pair.messages is not None
    assert pair.messages == [{"role": "system", "content": "s"}, USER | {"weight": 0}, GOOD]
    assert pair.rejected.messages == [*pair.messages[:2], BAD]
    assert pair.asked == 2


def test_texts_without_a_prompt_or_a_turn_are_noted():
    def form(**record):
        return read(record).form

    assert form(prompt="q", chosen="yes", rejected="no") == "preference pair"
    assert form(chosen=f"{ASKED} yes", rejected=f"{ASKED} no") == "preference pair"
    assert "without a prompt" in form(chosen="q yes", rejected="q no")


def test_pairs_are_no_text():
    with pytest.raises(BadRecord, match="an objective of pairs learns"):
        from_record({"chosen": "a", "rejected": "b"}, name="1", where="pairs.jsonl:1")


def test_a_prompt_is_on_one_side_of_the_split():
    def side(prompt, number):
        record = {"prompt": prompt, "chosen": f"yes {number}", "rejected": "no"}
        return is_held_out(read(record), fraction=0.5)

    sides = [{side(f"q{prompt}", number) for number in range(4)} for prompt in range(8)]
    assert all(len(found) == 1 for found in sides)
    assert len(set.union(*sides)) == 2


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The training store of 60 pairs."""
    place = tmp_path_factory.mktemp("pairs")
    rows = [{"prompt": t[:9], "chosen": t[9:30], "rejected": t[9:20][::-1] + "."} for t in texts(60, seed=5)]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build_stores(str(place / "pairs.jsonl"), TOK, place / "data", records=Records(PAIRS))[0]


def test_a_row_has_both_sides_of_a_pair_each_from_its_own_beginning(store):
    length = 48
    rows = Rows(store, length=length, counted=each_counts_once)
    batch = rows.rows_of(np.arange(rows.n_rows))
    side = sides_of(batch)
    assert torch.unique(side // 2, return_counts=True)[1].min() >= 2
    total = torch.zeros(int(side.max()) // 2 + 1).index_add_(0, (side // 2).clamp(min=0), batch.weight.flatten())
    torch.testing.assert_close(total, torch.ones_like(total))
    assert len(total) == store.documents == batch.document.unique().numel() - 1
    learned = by_side(batch).document.flatten()[batch.weight.flatten() > 0]
    for document in range(store.documents):
        start, second, stop = int(store.starts[document]), int(store.seconds[document]), int(store.starts[document + 1])
        for which, (low, high) in enumerate([(start, second), (second, stop)]):
            here = (by_side(batch).document == 2 * document + which).flatten()
            assert batch.tokens.flatten()[here].tolist() == store.slice(low, high - 1).tolist()
            assert batch.targets.flatten()[here].tolist() == store.slice(low + 1, high).tolist()
            assert batch.position.flatten()[here].tolist() == list(range(high - low - 1))
            assert int((learned == 2 * document + which).sum()) == int(store.learned(low, high).sum())


def test_a_store_knows_which_pairs_share_a_prompt(tmp_path):
    rows = [{"prompt": f"q{i % 3} ", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    built = build_held_out(str(tmp_path / "pairs.jsonl"), TOK, tmp_path / "data", records=Records(PAIRS))
    asked = [(int(built.name_of(i).rpartition(":")[2]) - 1) % 3 for i in range(built.documents)]
    assert len(asked) == 12
    assert len(set(zip(asked, built.prompts.tolist(), strict=True))) == 3


def test_a_pair_longer_than_a_row_is_left_out_and_counted(store):
    sizes = np.diff(store.starts) - 2
    length = int(np.median(sizes))
    layout = store.layout(length)
    assert layout.packed.left_out == int((sizes > length).sum()) > 0
    assert layout.packed.read == int(sizes[sizes <= length].sum())
    with pytest.raises(BadCorpus, match=f"a --seq-len of {sizes.min()} or more"):
        store.layout(4)


def test_the_preferred_sides_are_a_text_of_their_own(store):
    preferred = preferred_of(store, None)
    assert preferred.documents == store.documents
    assert preferred.slice(0, int(preferred.starts[1])).tolist() == store.slice(0, int(store.seconds[0])).tolist()
    assert preferred.predictions < store.predictions
    assert Rows(preferred, length=48).n_rows < Rows(store, length=48).n_rows


def test_the_preferred_sides_are_those_of_the_pairs_that_rows_have(store):
    length = int(np.median(np.diff(store.starts) - 2))
    read = np.flatnonzero(store.documents_in(store.layout(length).rows, length=length))
    assert 0 < len(read) < store.documents
    preferred = preferred_of(store, length)
    assert [preferred.sha256_of(i) for i in range(preferred.documents)] == [store.sha256_of(i) for i in read.tolist()]
