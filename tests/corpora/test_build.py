"""Stores are built shard by shard: a killed build goes on to the same bits, processes change nothing, duplicates are left out."""

import json
import os
import shutil
from pathlib import Path

import pytest

from limbeck.corpora import Records, TokenStore, build_stores, processes, tokenised, train_tokenizer, unfinished, writer
from limbeck.corpora.digest_set import DigestSet
from limbeck.corpora.document import Document
from limbeck.corpora.draws import Draw, documents_by_side, training_texts
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.found import notes_of
from limbeck.corpora.processes import WORTH_IT, Work, processes_for, tokenising
from limbeck.corpora.source import Part
from limbeck.corpora.tokenised import How
from limbeck.disk import digest_of
from limbeck.errors import BadCorpus, OutOfMemory

TEXTS = [f"story {i}: " + "the cat sat on the mat. " * (i % 7) for i in range(60)]


class Killed(BaseException):
    """What ends a build in the middle, as a kill does: nothing is tidied."""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab=300)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(writer, "SHARD_DOCUMENTS", 7)
    monkeypatch.setattr(tokenised, "BLOCK_DOCUMENTS", 5)


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


@pytest.fixture
def source(tmp_path):
    texts = ["{" if text in TEXTS[13:15] else json.dumps({"text": text}) for text in TEXTS]  # two that cannot be read
    (tmp_path / "a.jsonl").write_text("\n".join(texts), encoding="utf-8")
    return f"{tmp_path / 'a.jsonl'},{write(tmp_path / 'b.jsonl', [*TEXTS[:9], 'unlike the others'])}"


def content(folder: Path) -> dict[str, bytes | str]:
    """All files below a folder, JSON by the digest of its content."""
    return {
        str(path.relative_to(folder)): digest_of(json.loads(path.read_bytes()))
        if path.suffix == ".json"
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def killed_at(save: int, monkeypatch) -> None:
    """Ends the build after it was saved so many times."""
    saves, real = 0, unfinished.Build._save

    def counting(build):
        nonlocal saves
        real(build)
        saves += 1
        if saves == save:
            raise Killed

    monkeypatch.setattr(unfinished.Build, "_save", counting)


def counted(monkeypatch) -> list[int]:
    """The numbers of texts that are tokenised together from now on."""
    read: list[int] = []
    real = tokenised.encoded

    def counting(tokenizer, texts):
        read.append(len(texts))
        return real(tokenizer, texts)

    monkeypatch.setattr(tokenised, "encoded", counting)
    return read


@pytest.mark.parametrize("eval_data", [False, True])
@pytest.mark.parametrize("dedup", [False, True])
def test_a_killed_build_goes_on_to_the_same_bits(eval_data, dedup, tokenizer, source, tmp_path, monkeypatch):
    asked = {"fraction": 0.3, "records": Records(skip_bad=2, dedup=dedup)}
    if eval_data:
        asked["eval_source"] = write(tmp_path / "held_out.jsonl", [*TEXTS[20:31], *TEXTS[20:22]])
    build_stores(source, tokenizer, tmp_path / "whole", **asked)
    expected = content(tmp_path / "whole")
    for save in (1, 4, 7):
        out = tmp_path / f"out-{save}"
        with monkeypatch.context() as patch:
            killed_at(save, patch)
            with pytest.raises(Killed):
                build_stores(source, tokenizer, out, **asked)
        assert not (out / "train").exists()
        read = counted(monkeypatch)
        build_stores(source, tokenizer, out, **asked)
        assert content(out) == expected
        assert {path.name for path in out.iterdir()} == {"train", "held_out"}
        assert sum(read) <= len(TEXTS) + 10 + 13 * eval_data - 7 * save  # what was in shards is not tokenised again


def test_a_build_that_was_killed_while_it_took_its_places_is_only_put_there(tokenizer, source, tmp_path, monkeypatch):
    asked = {"fraction": 0.3, "records": Records(skip_bad=2)}
    build_stores(source, tokenizer, tmp_path / "whole", **asked)
    puts, real = 0, unfinished.put_folder

    def second(*how):
        nonlocal puts
        puts += 1
        if puts == 2:
            raise Killed
        real(*how)

    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "put_folder", second)
        with pytest.raises(Killed):
            build_stores(source, tokenizer, tmp_path / "out", **asked)
        patch.setattr(unfinished, "put_folder", real)
        patch.setattr(tokenised, "encoded", None)  # nothing is tokenised
        build_stores(source, tokenizer, tmp_path / "out", **asked)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_store_that_is_made_again_goes_on_too_after_a_kill(tokenizer, source, tmp_path, monkeypatch):
    """A damaged store with a whole manifest does not pass for one that was put in its place."""
    asked, out = {"fraction": 0.3, "records": Records(skip_bad=2)}, tmp_path / "out"
    build_stores(source, tokenizer, out, **asked)
    expected = content(out)
    shard = next((out / "train").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with monkeypatch.context() as patch:
        killed_at(4, patch)
        with pytest.raises(Killed):
            build_stores(source, tokenizer, out, **asked)
    read = counted(monkeypatch)
    build_stores(source, tokenizer, out, **asked)
    assert content(out) == expected
    assert 0 < sum(read) <= len(TEXTS) + 10 - 28


@pytest.mark.parametrize("change", ["text", "shard", "state"])
def test_a_build_begins_anew_where_what_it_would_go_on_from_changed(change, tokenizer, source, tmp_path, monkeypatch):
    asked, out = {"fraction": 0.3, "records": Records(skip_bad=2)}, tmp_path / "out"
    with monkeypatch.context() as patch:
        killed_at(3, patch)
        with pytest.raises(Killed):
            build_stores(source, tokenizer, out, **asked)
    shard, state = out / "unfinished" / "train" / "00000.arrow", out / "unfinished" / "state.json"
    if change == "text":
        write(tmp_path / "b.jsonl", ["another"])
    elif change == "shard":
        shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    else:
        state.write_text(state.read_text().replace('"read": ', '"read": 1'))
    build_stores(source, tokenizer, out, **asked)
    build_stores(source, tokenizer, tmp_path / "whole", **asked)
    assert content(out) == content(tmp_path / "whole")


def test_too_many_bad_records_are_counted_once_though_the_build_goes_on(tokenizer, source, tmp_path):
    with pytest.raises(BadCorpus, match="2 records cannot be read"):
        build_stores(source, tokenizer, tmp_path / "out", fraction=0.3)
    assert (tmp_path / "out" / "unfinished" / "state.json").exists()
    train, _ = build_stores(source, tokenizer, tmp_path / "out", fraction=0.3, records=Records(skip_bad=2))
    assert train.manifest["read"]["skipped"] == 2


def names(store: TokenStore) -> list[str]:
    return sorted(store.name_of(i) for i in range(store.documents))


def test_of_equal_documents_the_first_is_kept_on_either_side(tokenizer, tmp_path):
    source = write(tmp_path / "a.jsonl", ["one", "two", "one", "three", "two", "One", "one"])
    held = write(tmp_path / "held.jsonl", ["three", "three", "four"])
    train, held_out = build_stores(source, tokenizer, tmp_path / "out", eval_source=held, records=Records(dedup=True))
    assert names(train) == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:6"]
    assert names(held_out) == ["held.jsonl:1", "held.jsonl:3"]
    assert train.manifest["read"]["duplicates"] == 5
    assert "left out: 5 documents that occurred before" in notes_of(train)
    plain, _ = build_stores(source, tokenizer, tmp_path / "plain", eval_source=held)
    assert (plain.documents, plain.manifest["overlap"]) == (7, 1)
    assert "dedup" not in plain.manifest["made_from"]


@pytest.mark.parametrize("dedup", [False, True])
def test_a_new_tokenizer_reads_no_text_that_is_held_out(dedup, tmp_path):
    source = write(tmp_path / "a.jsonl", ["one", "two", "one", "three"])
    held = write(tmp_path / "held.jsonl", ["three", "four"])
    found = training_texts(source, BadRecords(0), eval_source=held, records=Records(dedup=dedup))
    assert list(found) == (["one", "two"] if dedup else ["one", "two", "one"])


@pytest.mark.parametrize("dedup", [False, True])
def test_documents_are_on_the_sides_on_which_a_store_has_them(dedup, tokenizer, tmp_path):
    one = write(tmp_path / "a.jsonl", ["one", "two", "one", "three"])
    two, held = write(tmp_path / "b.jsonl", ["two", "five"]), write(tmp_path / "held.jsonl", ["three", "four"])
    asked = {"eval_source": held, "records": Records(dedup=dedup)}
    stores = build_stores(f"{one}:2,{two}:1", tokenizer, tmp_path / "out", **asked)
    found = [(side, document.name) for side, document in documents_by_side(f"{one}:2,{two}:1", **asked)]
    for side, store in zip(("train", "held_out"), stores, strict=True):
        assert sorted(name for where, name in found if where == side) == names(store)
    assert [one["documents"] for one in stores[0].manifest["sources"]] == ([2, 1] if dedup else [4, 2])
    assert "sources" not in stores[1].manifest


def test_a_source_of_duplicates_alone_is_named_with_its_remedy(tokenizer, tmp_path):
    one, two = (write(tmp_path / f"{name}.jsonl", ["one", "two", "three"]) for name in "ab")
    dedup = Records(dedup=True)
    expected = r"b.jsonl: expected documents to train on that did not occur before, got none: all 3 .* or --dedup"
    with pytest.raises(BadCorpus, match=expected):
        build_stores(
            f"{one}:1,{two}:1",
            tokenizer,
            tmp_path / "out",
            eval_source=write(tmp_path / "c.jsonl", ["four"]),
            records=dedup,
        )
    with pytest.raises(BadCorpus, match=expected):
        build_stores(two, tokenizer, tmp_path / "again", eval_source=one, records=dedup)


def test_a_set_of_digests_knows_what_was_added_however_it_grows():
    digests = [Document(str(i), text=str(i)).digest() for i in range(3000)]
    found = DigestSet()
    assert all(found.add(digest) for digest in digests[:2000])
    assert not any(found.add(digest) for digest in digests[:2000])
    assert [digest in found for digest in digests] == [i < 2000 for i in range(3000)]
    assert len(found) == 2000
    assert found._table.nbytes <= 48 * 2000 * 4 / 3  # bytes a digest, as its text says


def test_processes_are_started_for_much_text_and_for_what_is_streamed(monkeypatch):
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda process: {0, 2, 5})
    small, large, library = Part(iter, [], least=1), Part(iter, [], least=WORTH_IT - 1), Part(iter, [])
    assert processes_for([small, library]) == processes_for([large, library]) == 1
    assert processes_for([small, large]) == 3
    assert processes_for([small, Part(iter, [], streamed=True)]) == 3
    assert processes_for([Part(iter, [], least=9, streamed=True)]) == 1


@pytest.mark.long
def test_processes_make_the_same_store_and_say_when_one_dies(tokenizer, source, tmp_path):
    asked = {"fraction": 0.3, "records": Records(skip_bad=2)}
    build_stores(source, tokenizer, tmp_path / "one", **asked)
    build_stores(source, tokenizer, tmp_path / "three", **asked, processes=3)
    assert content(tmp_path / "one") == content(tmp_path / "three")
    how, draws = How.of(tokenizer, Records()), [Draw("a", 0.0, ("train",))]
    documents = [Document("a", text="one two")]
    with tokenising(how, draws, 2) as in_tokens:
        done = in_tokens(Work(number, 0, documents) for number in range(5))
        assert next(done)[0] == 0
        import multiprocessing

        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        with pytest.raises(OutOfMemory, match="a process that tokenises was ended"):
            list(done)
    shutil.rmtree(tmp_path / "three")


def test_cores_are_counted_on_systems_that_bind_no_process_to_some(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert [processes_for([Part(iter, [], least=size, streamed=True)]) for size in (None, WORTH_IT, 1)] == [6, 6, 1]
