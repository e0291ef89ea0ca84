"""Files elsewhere are read as they stream, and datasets of the hub too: the same documents as from a disk."""

import gzip
import json
import os

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

from limbeck.corpora import build_held_out, read, train_tokenizer
from limbeck.corpora.source import resolve
from limbeck.errors import BadCorpus

LINES = "".join(json.dumps({"text": text}) + "\n" for text in ("one", "two"))


@pytest.fixture
def bucket():
    """Files of many kinds in fsspec's memory."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as file:
        file.write(LINES.encode())
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["five", "six"], "title": ["a", "b"]}), table)
    for name, content in {
        "a.jsonl": LINES.encode(),
        "b.jsonl.gz": gzip.compress(LINES.encode()),
        "c.jsonl.zst": packed.getvalue().to_pybytes(),
        "d.txt": b"three\n<|endoftext|>\nfour",
        "sub/e.parquet": table.getvalue().to_pybytes(),
        "f.csv": b"a,b",
        ".hidden.txt": b"no",
    }.items():
        system.pipe(f"/bucket/{name}", content)
    yield system
    system.store.clear()


def message_of(source: str) -> str:
    with pytest.raises(BadCorpus) as caught:
        list(read(source))
    return str(caught.value)


class Fetched(AbstractBufferedFile):
    """A file that comes in ranges, as those of http, S3 and the hub: its ``readline`` takes no limit."""

    def _fetch_range(self, start, end):
        return self.fs.cat_file(self.path, start, end)


class Ranges(MemoryFileSystem):
    protocol = "ranges"

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("ranges://", "memory://"))

    def _open(self, path, mode="rb", **_):
        return Fetched(self, path, mode, size=self.info(path)["size"])


def test_files_that_come_in_ranges_are_read_as_those_here(bucket):
    fsspec.register_implementation("ranges", Ranges, clobber=True)
    texts = [(d.name, d.text) for d in read("ranges://bucket")]
    assert texts == [(d.name, d.text) for d in read("memory://bucket")]
    assert len(texts) == 10


def test_a_folder_elsewhere_is_read_as_one_here(bucket):
    found = [(d.name, d.text) for d in read("memory://bucket")]
    assert found == [
        *(
            (f"{name}:{i}", text)
            for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst")
            for i, text in ((1, "one"), (2, "two"))
        ),
        *(("d.txt:1", "three"), ("d.txt:3", "four")),
        *(("sub/e.parquet:1", "five"), ("sub/e.parquet:2", "six")),
    ]
    parts = resolve("memory://bucket")
    assert parts[0].beside == ("f.csv",)
    assert [part.size for part in parts] == [len(LINES), None, None, 24, None]
    assert [d.text for d in read("memory://bucket/*.txt, memory://bucket/a.jsonl")] == ["three", "four", "one", "two"]
    assert next(iter(read("memory://bucket/sub"))).unread == ("title",)


def test_a_store_of_it_is_made_again_only_when_it_changes(bucket, tmp_path):
    tokenizer = train_tokenizer(["one two three"], vocab=280)
    store = build_held_out("memory://bucket/a.jsonl", tokenizer, tmp_path)
    shard = tmp_path / "held_out" / "00000.arrow"
    made = shard.stat().st_mtime_ns
    build_held_out("memory://bucket/a.jsonl", tokenizer, tmp_path)
    assert shard.stat().st_mtime_ns == made
    assert "bucket" not in json.dumps(store.manifest["made_from"]["draws"][0]["stamps"])
    bucket.pipe("/bucket/a.jsonl", LINES.encode() * 2)
    assert build_held_out("memory://bucket/a.jsonl", tokenizer, tmp_path).documents == 4


def test_what_cannot_be_read_elsewhere_is_named(bucket):
    assert "expected files, got none there" in message_of("memory://bucket/none.jsonl")
    assert "nosuch://bucket: expected files that can be read, got ValueError" in message_of("nosuch://bucket")
    assert "memory://bucket/f.csv: expected .txt, .jsonl, .json or .parquet files, got f.csv" in message_of(
        "memory://bucket/f.csv"
    )
    bucket.pipe("/bucket/bad.parquet", b"no parquet")
    assert "memory:///bucket/bad.parquet: expected a Parquet file, got one that cannot be read (" in message_of(
        "memory://bucket/bad.parquet"
    )
    bucket.pipe("/bucket/bad.jsonl.gz", gzip.compress(LINES.encode())[:-9])
    message = message_of("memory://bucket/bad.jsonl.gz")
    assert message.endswith("run the same command again, which goes on from what was tokenised")


@pytest.mark.parametrize("address", ["https://me:key@host/a.jsonl", "https://host/a.jsonl?signature=key"])
def test_an_address_with_credentials_is_refused_and_not_shown(address):
    message = message_of(address)
    assert "https://host: expected an address without credentials" in message
    assert "key" not in message.partition("expected")[0]
    assert "signature" not in message


def test_a_dataset_of_the_hub_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "stories"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["one", "two"], "title": ["a", "b"], "n": [1, 2]}), folder / "train.parquet")
    found = list(read(f"hf:{folder}"))
    assert [(d.text, d.unread) for d in found] == [("one", ("title",)), ("two", ("title",))]
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    stamp = resolve(f"hf:{folder}")[0].stamp
    assert resolve(f"hf:{folder}")[0].stamp == stamp
    os.utime(folder / "train.parquet", (1, 1))
    assert resolve(f"hf:{folder}")[0].stamp != stamp
