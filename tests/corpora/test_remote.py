"""Files elsewhere are read as they stream, and datasets of the hub too: the same documents as from a disk."""

import gzip
import io
import json
import os
import sys
import zipfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile
from fsspec.utils import infer_storage_options

from limbeck.corpora import build_held_out, read, train_tokenizer
from limbeck.corpora.remote import found_at
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


class Hosts(MemoryFileSystem):
    """Machines whose paths do not name them, as those of sftp, ftp and hdfs."""

    protocol = "hosts"
    machines: dict[str, dict] = {}  # noqa: RUF012

    def __init__(self, host, **_):
        super().__init__()
        self.store, self.pseudo_dirs = self.machines.setdefault(host, {}), [""]

    @classmethod
    def _strip_protocol(cls, path):
        return infer_storage_options(path)["path"].rstrip("/")

    @staticmethod
    def _get_kwargs_from_urls(path):
        return {"host": infer_storage_options(path)["host"]}


class Accounts(Hosts):
    """Containers of accounts, as adlfs has them: the path begins with the container, and does not name the account."""

    protocol = "abfs"
    machines: dict[str, dict] = {}  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        found = infer_storage_options(path if path.startswith("abfs://") else f"abfs://{path.lstrip('/')}")
        return ((found.get("username") or found.get("host") or "") + found["path"]).rstrip("/")


@pytest.mark.parametrize(
    ("system", "folders"),
    [
        (Hosts, ("hosts://one/texts", "hosts://two/texts")),
        (Accounts, ("abfs://c@one.dfs.core.windows.net/texts", "abfs://c@two.dfs.core.windows.net/texts")),
    ],
)
def test_the_host_of_a_folder_is_that_of_its_files(system, folders, monkeypatch):
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, system.protocol, system)
    for folder in folders:
        fsspec.core.url_to_fs(folder)[0].pipe(fsspec.core.url_to_fs(f"{folder}/a.txt")[1], folder.encode())
    stamps = set()
    for folder in folders:
        (file,) = found_at(folder)
        assert str(file) == f"{folder}/a.txt"
        assert file.label == "a.txt"
        assert [d.text for d in read(folder)] == [d.text for d in read(str(file))] == [folder]
        stamps.add(file.stamp)
    assert len(stamps) == 2


def test_files_in_an_archive_elsewhere_are_read(bucket):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("in/a.jsonl", LINES)
        archive.writestr("b.txt", "three")
    bucket.pipe("/bucket/x.zip", packed.getvalue())
    address = "zip://in/*.jsonl::memory://bucket/x.zip"
    (file,) = found_at(address)
    assert str(file) == "zip://in/a.jsonl::memory://bucket/x.zip"
    assert [d.text for d in read(address)] == [d.text for d in read(str(file))] == ["one", "two"]
    assert file.version  # so that a store is made again where the archive changes
    assert [d.text for d in read("simplecache::memory://bucket/d.txt")] == ["three", "four"]
    (cached,) = found_at(f"simplecache::{address}")
    assert str(cached) == "simplecache::zip://in/a.jsonl::memory://bucket/x.zip"
    assert [d.text for d in read(str(cached))] == ["one", "two"]


@pytest.mark.parametrize(
    "address",
    [
        "s3://[x]",
        "s3://[x]/a.jsonl",
        "https://[::1/a.jsonl",
        "zip://a.jsonl::s3://[x]",
        "zip://::",
        "zip://a.jsonl::",
        "nosuch::memory://bucket/a.jsonl",
        "memory://bucket::::x",
    ],
)
def test_a_malformed_address_is_refused_in_words(address, bucket):
    message = message_of(address)
    assert "expected" in message or "needs another package" in message


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


@pytest.mark.parametrize(
    "address",
    [
        "https://me:key@host/a.jsonl",
        "https://host/a.jsonl?signature=key",
        "zip://a.jsonl::https://me:key@host/a.zip",
        "simplecache::https://host/a.jsonl?signature=key",
    ],
)
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


def test_joined_splits_are_read_one_after_the_other(tmp_path):
    folder = tmp_path / "stories"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["one", "two"]}), folder / "train.parquet")
    pq.write_table(pa.table({"text": ["three"]}), folder / "test.parquet")
    found = [(d.name, d.text) for d in read(f"hf:{folder}/train+test")]
    assert found == [
        (f"{folder}/train:1", "one"),
        (f"{folder}/train:2", "two"),
        (f"{folder}/test:1", "three"),
    ]
    assert [d.text for d in read(f"hf:{folder}:default/test+train")] == ["three", "one", "two"]
    stamps = {json.dumps(resolve(f"hf:{folder}/{split}")[0].stamp) for split in ("train", "test", "train+test")}
    assert len(stamps) == 3
    assert "split 'validation'" in message_of(f"hf:{folder}/train+validation")
