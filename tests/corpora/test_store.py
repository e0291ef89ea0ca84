"""A token store contains the tokenised text, is built once and again after any change, and detects damage."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from limbeck.corpora import (
    Reader,
    Records,
    TokenStore,
    build_held_out,
    build_stores,
    is_held_out,
    read,
    tokenised,
    train_tokenizer,
    writer,
)
from limbeck.corpora.found import notes_of
from limbeck.corpora.retokenise import text_of
from limbeck.corpora.stamp import stamp_of, without_paths
from limbeck.corpora.token_bytes import TokenBytes
from limbeck.corpora.tokenizer import BOS, EOS, READING
from limbeck.corpora.writer import Item, record_batch
from limbeck.disk import read_json, write_json
from limbeck.errors import BadCorpus, BadFolder
from limbeck.jobs.common.folder import same_corpus

TEXTS = [f"story {i}: " + "the cat sat on the mat. " * (i % 7) for i in range(60)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab=300)


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "stories.jsonl", TEXTS)


def texts_of(store, tokenizer):
    """Name → text, read back out of the tokens; the frame is checked on the way."""
    texts = {}
    for i in range(store.documents):
        tokens = store.slice(store.starts[i], store.starts[i + 1]).tolist()
        assert (tokens[0], tokens[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        texts[store.name_of(i)] = tokenizer.decode(tokens[1:-1])
        assert store.bytes_of(i) == len(texts[store.name_of(i)].encode())
    return texts


def stamp(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.arrow")}


def test_stores_hold_every_document_once_on_its_side(tokenizer, source, tmp_path):
    train, held_out = build_stores(source, tokenizer, tmp_path / "out", fraction=0.3)
    both = {}
    for store, side in ((train, False), (held_out, True)):
        texts = texts_of(store, tokenizer)
        both |= texts
        assert store.documents == len(texts)
        assert store.tokens == store.starts[-1]
        assert store.bytes == sum(store.bytes_of(i) for i in range(store.documents))
        assert store.predictions == store.tokens - store.documents
        assert all(is_held_out(d, fraction=0.3) is side for d in read(source) if d.name in texts)
    assert both == {d.name: d.text for d in read(source)}
    assert not (tmp_path / "out" / ".building").exists()


def test_order_is_that_of_the_hashes_not_of_the_file(tokenizer, source, tmp_path):
    one = build_held_out(source, tokenizer, tmp_path / "one")
    other = build_held_out(write(tmp_path / "turned.jsonl", TEXTS[::-1]), tokenizer, tmp_path / "other")
    assert (one.slice(0, one.tokens) == other.slice(0, other.tokens)).all()
    assert one.manifest["corpus_sha256"] == other.manifest["corpus_sha256"]
    assert [one.name_of(i) for i in range(one.documents)] != [d.name for d in read(source)]


def test_slices_cross_shards_and_are_views_within_one(tokenizer, source, tmp_path, monkeypatch):
    whole = build_held_out(source, tokenizer, tmp_path / "whole")
    monkeypatch.setattr(writer, "SHARD_DOCUMENTS", 7)
    monkeypatch.setattr(tokenised, "BLOCK_DOCUMENTS", 10)
    store = build_held_out(source, tokenizer, tmp_path / "out")
    assert len(store.manifest["shards"]) == 9
    assert texts_of(store, tokenizer) == texts_of(whole, tokenizer)
    stream = np.concatenate([store.slice(i, i + 1) for i in range(store.tokens)])
    generator = np.random.default_rng(0)
    for _ in range(50):
        start, stop = sorted(generator.integers(0, store.tokens + 1, 2))
        assert (store.slice(start, stop) == stream[start:stop]).all()
        assert store.learned(start, stop).all()
        assert len(store.learned(start, stop)) == stop - start
    assert whole.slice(3, 9).base is not None
    assert not whole.slice(3, 9).flags.writeable
    assert store.slice(4, 4).shape == (0,)


def test_tokens_take_two_bytes_where_two_hold_them(tokenizer, source, tmp_path):
    store = build_held_out(source, tokenizer, tmp_path / "out")
    assert store.slice(0, 2).dtype == np.uint16
    vast = train_tokenizer(TEXTS, vocab=300)
    vast.add_tokens([f"<{i}>" for i in range(2**16)])
    wide = build_held_out(source, vast, tmp_path / "wide")
    assert wide.slice(0, 2).dtype == np.uint32
    assert (wide.slice(0, wide.tokens) == store.slice(0, store.tokens)).all()


def test_any_arrow_reader_opens_a_shard(tokenizer, source, tmp_path):
    build_held_out(source, tokenizer, tmp_path)
    table = pa.ipc.open_file(str(tmp_path / "held_out" / "00000.arrow")).read_all()
    assert table.column_names == ["name", "tokens", "bytes", "sha256"]


@pytest.mark.parametrize("masked", [False, True])
def test_a_shard_is_what_arrow_converts_and_only_masks_need_its_converters(masked, monkeypatch):
    masks = [np.array([True, False]), None] if masked else [None, None]
    tokens = [np.array([3, 1], np.uint16), np.array([4, 1, 5], np.uint16)]
    items = [
        Item(name, bytes([n] * 32), some, mask, 7 * n)
        for n, (name, some, mask) in enumerate(zip(("", "é.txt"), tokens, masks, strict=True))
    ]
    columns = {
        "name": pa.array(["", "é.txt"]),
        "tokens": pa.array([[3, 1], [4, 1, 5]], pa.large_list(pa.uint16())),
        "bytes": pa.array([0, 7]),
        "sha256": pa.array([bytes(32), b"\1" * 32], pa.binary(32)),
    }
    if masked:
        columns["learned"] = pa.array([[True, False], [True, True, True]], pa.large_list(pa.bool_()))
    else:
        monkeypatch.delattr(pa, "array")  # which would load pandas
    assert record_batch(items).equals(pa.RecordBatch.from_pydict(columns))


def test_a_store_is_used_again_and_equal_when_opened(tokenizer, source, tmp_path):
    first = build_stores(source, tokenizer, tmp_path / "out", fraction=0.3)
    before = stamp(tmp_path / "out")
    second = build_stores(source, tokenizer, tmp_path / "out", fraction=0.3)
    assert stamp(tmp_path / "out") == before
    third = (TokenStore.open(tmp_path / "out" / side) for side in ("train", "held_out"))
    for one, two, three in zip(first, second, third, strict=True):
        assert one.manifest == two.manifest == three.manifest
        assert (one.slice(0, one.tokens) == three.slice(0, three.tokens)).all()


def test_a_store_does_not_say_where_its_text_was(tokenizer, source, tmp_path):
    build_stores(source, tokenizer, tmp_path / "out", fraction=0.3)
    manifest = json.loads((tmp_path / "out" / "train" / "manifest.json").read_text())
    (draw,) = manifest["made_from"]["draws"]
    ((place, size, time),) = draw["stamps"]
    file = Path(source).stat()
    assert place == hashlib.sha256(str(Path(source).resolve()).encode()).hexdigest()[:16]
    assert (size, time) == (file.st_size, file.st_mtime_ns)


def test_a_store_of_earlier_versions_with_the_path_in_its_stamp_is_used_again(tokenizer, source, tmp_path):
    out, now = tmp_path / "out", [str(Path(source).resolve()), *stamp_of(Path(source))[1:]]
    build_stores(source, tokenizer, out, fraction=0.3)
    before = stamp(out)
    for side in ("train", "held_out"):
        manifest = read_json(out / side / "manifest.json")
        manifest["made_from"]["draws"][0]["stamps"] = [now]
        write_json(out / side / "manifest.json", manifest)
    build_stores(source, tokenizer, out, fraction=0.3)
    assert stamp(out) == before
    assert without_paths([[*now, "passages"], ["python", "3.11"], ["hf:name", 1, 2]]) == [
        [*stamp_of(Path(source)), "passages"],
        ["python", "3.11"],
        ["hf:name", 1, 2],
    ]


def test_a_store_is_made_again_when_what_it_was_made_from_changes(tokenizer, source, tmp_path):
    out = tmp_path / "out"
    fraction, end = 0.3, None

    def changes(why, tokenizer=tokenizer):
        nonlocal before
        build_stores(source, Reader(tokenizer, end), out, fraction=fraction)
        assert stamp(out) != before, why
        before = stamp(out)

    before = {}
    changes("nothing was there")
    fraction = 0.4
    changes("fraction")
    end = tokenizer.bos_token_id
    changes("frame")
    changes("tokenizer", train_tokenizer(TEXTS, vocab=290))
    write(Path(source), [*TEXTS, "one more"])
    changes("source")
    os.utime(source, ns=(1, 1))
    changes("time")
    (out / "held_out" / "manifest.json").write_text("{", encoding="utf-8")
    changes("manifest")
    shard = out / "train" / "00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    changes("one bit")


def test_a_failed_build_leaves_the_old_store(tokenizer, source, tmp_path):
    build_stores(source, tokenizer, tmp_path / "out", fraction=0.3)
    before = stamp(tmp_path / "out")
    write(Path(source), TEXTS)
    with Path(source).open("a") as file:
        file.write("no json\n")
    with pytest.raises(BadCorpus, match=r"stories.jsonl:61: expected one JSON object"):
        build_stores(source, tokenizer, tmp_path / "out", fraction=0.3)
    assert stamp(tmp_path / "out") == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train", "held_out"}


def test_another_source_to_measure_on_leaves_all_to_train_and_counts_the_overlap(tokenizer, source, tmp_path):
    other = write(tmp_path / "other.jsonl", ["unseen", *TEXTS[:3]])
    train, held_out = build_stores(source, tokenizer, tmp_path / "out", eval_source=other)
    assert (train.documents, held_out.documents) == (len(TEXTS), 4)
    assert (train.manifest["overlap"], held_out.manifest["overlap"]) == (3, 0)


def test_held_out_modules_are_not_trained_on_even_with_another_source_to_measure_on(
    tokenizer, source, tmp_path, monkeypatch
):
    held_out = {d.name for d in read("python:stdlib") if is_held_out(d)}
    # the names say it all, so the texts need not be tokenised
    monkeypatch.setattr(tokenised, "encoded", lambda tokenizer, texts: [np.array([0, 1], np.uint32)] * len(texts))
    train, _ = build_stores("python:stdlib", tokenizer, tmp_path / "one", eval_source=source)
    assert held_out.isdisjoint(train.name_of(i) for i in range(train.documents))
    measured = build_held_out("python:stdlib", tokenizer, tmp_path / "two")
    assert held_out == {measured.name_of(i) for i in range(measured.documents)}


def test_conversations_keep_what_is_learned(tokenizer, tmp_path):
    chatty = train_tokenizer(TEXTS, vocab=300)
    chatty.chat_template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}<|eos|>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    messages = [{"role": "user", "content": "where?"}, {"role": "assistant", "content": "on the mat"}]
    path = tmp_path / "chat.jsonl"
    path.write_text(
        json.dumps({"messages": messages}) + "\n" + json.dumps({"text": "the cat"}) + "\n", encoding="utf-8"
    )
    store = build_held_out(str(path), chatty, tmp_path / "out")
    by_name = {store.name_of(i): i for i in range(2)}
    start, stop = store.starts[by_name["chat.jsonl:1"] :][:2]
    learned = store.slice(start, stop)[store.learned(start, stop)]
    assert chatty.decode(learned) == "on the mat<|eos|>"
    assert store.bytes_of(by_name["chat.jsonl:1"]) == len("on the mat")
    start, stop = store.starts[by_name["chat.jsonl:2"] :][:2]
    assert store.learned(start, stop).all()
    assert store.predictions == len(learned) + stop - start - 1


def test_damage_is_named_by_file(tokenizer, source, tmp_path):
    build_held_out(source, tokenizer, tmp_path)
    folder = tmp_path / "held_out"
    shard = folder / "00000.arrow"
    content = shard.read_bytes()
    shard.write_bytes(b"x" * len(content))
    with pytest.raises(
        BadCorpus, match=r"00000.arrow: expected an Arrow file, got .*: the token store is damaged, remove"
    ):
        TokenStore.open(folder)
    shard.write_bytes(content[:-8])
    with pytest.raises(BadCorpus, match=f"00000.arrow: expected {len(content)} bytes, got {len(content) - 8} bytes"):
        TokenStore.open(folder)
    shard.unlink()
    with pytest.raises(BadCorpus, match=f"00000.arrow: expected {len(content)} bytes, got no file"):
        TokenStore.open(folder)
    with pytest.raises(
        BadCorpus,
        match=r"manifest.json: expected a file of limbeck's, got: No such file or directory: .* to rebuild it",
    ):
        TokenStore.open(tmp_path)
    (folder / "manifest.json").write_text('{"format": 0}', encoding="utf-8")
    with pytest.raises(BadCorpus, match=r"manifest.json: invalid enum value 0 - at `\$.format`\. .* to rebuild it"):
        TokenStore.open(folder)


def test_a_flipped_bit_shows_in_the_checksum(tokenizer, source, tmp_path):
    store = build_held_out(source, tokenizer, tmp_path)
    shard = tmp_path / "held_out" / "00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(BadCorpus, match=r"00000.arrow: expected SHA-256 \w{12}…, got \w{12}…"):
        store.verify()


def test_a_side_without_documents_is_refused_with_the_remedy(tokenizer, tmp_path):
    source = write(tmp_path / "one.jsonl", ["a single text"])
    with pytest.raises(BadCorpus, match=r"held out to measure on, got none: of 1 document, split .* with --eval-data"):
        build_stores(source, tokenizer, tmp_path / "out", fraction=0.0)
    with pytest.raises(BadCorpus, match=r"expected documents to train on, got none: of 1 document,"):
        build_stores(source, tokenizer, tmp_path / "out", fraction=1.0)


def test_a_folder_that_cannot_be_written_is_named(tokenizer, source, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(
        BadFolder, match=r"cannot write .*file/out: Not a directory\. Give a folder you may write to with --out"
    ):
        build_stores(source, tokenizer, tmp_path / "file" / "out")


def test_progress_counts_documents_and_tokens(tokenizer, source, tmp_path, capsys):
    store = build_held_out(source, tokenizer, tmp_path / "out", progress=True)
    assert f"{store.documents} documents, {store.tokens:,} tokens" in " ".join(capsys.readouterr().err.split())


# What a text holds besides tokens


def lines(path: Path, *rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_prompts_are_read_and_their_completions_learned(tokenizer, tmp_path):
    source = lines(tmp_path / "a.jsonl", {"prompt": "ab", "completion": "cd"}, {"text": "ef"})
    store = build_held_out(source, tokenizer, tmp_path / "out")
    found = {}
    for document in range(store.documents):
        start, stop = int(store.starts[document]), int(store.starts[document + 1])
        tokens, learned = store.slice(start, stop), store.learned(start, stop)
        found[store.name_of(document)] = (
            tokenizer.decode(tokens),
            tokenizer.decode(tokens[learned]),
            store.bytes_of(document),
        )
    assert found == {
        "a.jsonl:1": ("<|bos|>abcd<|eos|>", "cd<|eos|>", 2),
        "a.jsonl:2": ("<|bos|>ef<|eos|>", "<|bos|>ef<|eos|>", 2),
    }
    assert store.predictions == 3 + 3  # the opening token is predicted by nothing
    assert store.manifest["read"]["forms"] == {"prompt and completion": 1, "text": 1}


def test_faulty_records_stop_a_build_or_are_skipped_and_counted(tokenizer, tmp_path):
    rows = [{"text": f"text {i}"} for i in range(20)]
    source = lines(tmp_path / "a.jsonl", *rows, {"body": "b"}, {"text": None})
    with pytest.raises(BadCorpus, match=r"2 records cannot be read\. Repair or remove them, or give --skip-bad 2:\n"):
        build_stores(source, tokenizer, tmp_path / "out")
    with pytest.raises(BadCorpus, match=r"2 records cannot be read, and --skip-bad 1 lets 1 be skipped"):
        build_stores(source, tokenizer, tmp_path / "out", records=Records(skip_bad=1))
    train, held_out = build_stores(source, tokenizer, tmp_path / "out", records=Records(skip_bad=2), fraction=0.3)
    assert train.documents + held_out.documents == 20
    assert train.manifest["read"]["skipped"] == 2
    assert "a.jsonl:21: expected 'text' or 'messages'" in train.manifest["read"]["skipped_first"][0]
    assert notes_of(train)[0].startswith("skipped: 2 records that cannot be read, the first ")
    with pytest.raises(BadCorpus, match="2 records cannot be read"):  # also where the store is there
        build_stores(source, tokenizer, tmp_path / "out", fraction=0.3)


def test_conversations_that_the_template_refuses_are_faulty_records(tokenizer, tmp_path):
    chatty = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token=BOS, eos_token=EOS)
    chatty.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": f"b{i}"}]} for i in range(5)
    ]
    source = lines(tmp_path / "a.jsonl", *rows, {"messages": rows[0]["messages"][:1]})
    with pytest.raises(BadCorpus, match=r"^a\.jsonl:6: expected a turn of the assistant to learn from, got none"):
        build_held_out(source, chatty, tmp_path / "out")
    assert build_held_out(source, chatty, tmp_path / "out", records=Records(skip_bad=1)).documents == 5


def test_a_text_with_a_token_without_a_row_is_refused_and_others_are_not(tokenizer, tmp_path):
    wide = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), bos_token=BOS, eos_token=EOS
    )
    rows, _ = len(wide), wide.add_tokens(["<image>"])
    source = lines(
        tmp_path / "a.jsonl", {"text": "one"}, {"text": "an <image>"}, {"prompt": "a", "completion": "<image>"}
    )
    with pytest.raises(
        BadCorpus, match=rf"a\.jsonl:2: contains the token '<image>' \(id {rows}\), but the model has rows only for"
    ):
        build_held_out(source, Reader(wide, vocab=rows), tmp_path / "out")
    assert (
        build_held_out(source, Reader(wide, vocab=rows), tmp_path / "out", records=Records(skip_bad=2)).documents == 1
    )
    assert build_held_out(source, Reader(wide, vocab=rows + 1), tmp_path / "out").documents == 3


def test_a_store_of_another_reading_is_made_again_and_a_run_of_one_not_continued(tokenizer, source, tmp_path):
    train, held_out = build_stores(source, tokenizer, tmp_path / "data", fraction=0.3)
    run: dict = {}
    (tmp_path / "run").mkdir()
    same_corpus(tmp_path / "run", run, train, held_out)
    same_corpus(tmp_path / "run", run, train, held_out)
    assert run["text"]["reading"] == READING
    old = run["text"] | {}
    del old["reading"]  # as versions before wrote it
    with pytest.raises(BadFolder, match="begun by a version of limbeck that made other tokens of the same text"):
        same_corpus(tmp_path / "run", {"text": old}, train, held_out)
    manifest = json.loads((tmp_path / "data" / "train" / "manifest.json").read_text())
    manifest["made_from"]["reading"] = READING - 1
    (tmp_path / "data" / "train" / "manifest.json").write_text(json.dumps(manifest))
    again, _ = build_stores(source, tokenizer, tmp_path / "data", fraction=0.3)
    assert again.manifest["made_from"]["reading"] == READING


def test_read_and_skipped_files_are_recorded_and_printed(tokenizer, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    lines(folder / "a.jsonl", {"text": "<|bos|>one", "title": "first"}, {"text": "two<|eos|>"})
    lines(folder / "b.JSON", {"instruction": "a", "output": "b"})
    (folder / "c.md").write_text("no")
    chatty = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token=BOS, eos_token=EOS)
    chatty.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    store = build_held_out(str(folder), chatty, tmp_path / "out")
    assert store.manifest["read"]["unread"] == {"title": 1}
    assert notes_of(store) == [
        "3 documents of 2 files (a.jsonl, b.JSON) are read as text (2) and as Alpaca (1)",
        "ignored: 1 file of other kinds (c.md)",
        "1 of 3 documents already begin with the opening token; it is not added again",
        "1 of 3 documents already end with the closing token; it is not added again",
    ]
    assert notes_of(build_held_out(lines(tmp_path / "a.jsonl", {"text": "one"}), chatty, tmp_path / "other")) == []


def test_a_text_that_has_its_frame_already_is_read_back(tokenizer, tmp_path):
    texts = ["<|bos|>one", "two<|eos|>", "<|bos|>three<|eos|>", "four"]
    store = build_held_out(lines(tmp_path / "a.jsonl", *({"text": t} for t in texts)), tokenizer, tmp_path / "out")
    spelled = TokenBytes(tokenizer, name="it")
    assert sorted(text_of(store, i, spelled).decode() for i in range(4)) == sorted(texts)


@pytest.mark.long
def test_one_long_text_is_split_into_passages_of_which_nothing_is_lost(tokenizer, tmp_path):
    paragraphs = [f"paragraph {i}\nof some lines\n\n" * 3 for i in range(3000)]
    (tmp_path / "a.txt").write_text("".join(paragraphs))
    train, held_out = build_stores(str(tmp_path / "a.txt"), tokenizer, tmp_path / "out")
    assert train.documents > 10 * held_out.documents > 0
    passages = {}
    for store in (train, held_out):
        for i in range(store.documents):
            passages[int(store.name_of(i).split(":")[1])] = store.slice(int(store.starts[i]), int(store.starts[i + 1]))
    text = [tokenizer.decode(passages[line]) for line in sorted(passages)]
    assert all(passage.startswith(BOS) for passage in text)
    assert "".join(passage.removeprefix(BOS) for passage in text) == "".join(paragraphs) + EOS  # the end ends once
    assert notes_of(train) == [f"{len(passages)} documents are read as passages of one text"]
    whole = build_held_out(str(tmp_path / "a.txt"), tokenizer, tmp_path / "whole")
    assert whole.documents == 1
    measured = {"eval_source": str(tmp_path / "a.txt")}
    assert build_stores(str(tmp_path / "a.txt"), tokenizer, tmp_path / "other", **measured)[0].documents == 1
    rest = build_held_out(str(tmp_path / "a.txt"), tokenizer, tmp_path / "rest", without=train.digests())
    assert rest.digests() == held_out.digests()
    (tmp_path / "c.txt").write_text("another text")
    both = build_held_out(
        f"{tmp_path / 'a.txt'},{tmp_path / 'c.txt'}", tokenizer, tmp_path / "both", without=train.digests()
    )
    assert both.manifest["left_out"] == train.documents
    assert both.documents == held_out.documents + 1
    with pytest.raises(BadCorpus, match="all 1 were in the training text"):  # which had it as one document
        build_held_out(str(tmp_path / "a.txt"), tokenizer, tmp_path / "none", without=whole.digests())
    (tmp_path / "b.txt").write_text("one\n<|endoftext|>\n" + "".join(paragraphs))
    assert len(list(read(str(tmp_path / "b.txt"), passages=True))) == 2


def test_documents_are_left_out_of_both_sides(tokenizer, tmp_path):
    lines = [json.dumps({"text": f"document {i} of some"}) for i in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    whole = build_stores(str(tmp_path / "a.jsonl"), tokenizer, tmp_path / "whole")
    gone = [frozenset(sorted(store.digests())[:3]) for store in whole]
    kept = build_stores(str(tmp_path / "a.jsonl"), tokenizer, tmp_path / "kept", without=gone[0] | gone[1])
    assert [store.digests() for store in kept] == [
        store.digests() - some for store, some in zip(whole, gone, strict=True)
    ]
