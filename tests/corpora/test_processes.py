"""Processes that tokenise end with the one that reads."""

import multiprocessing
import signal
from typing import Any, cast

import pytest

from limbeck.corpora import processes


@pytest.mark.parametrize("blocks", [0, 1], ids=["while it waits", "while it tokenises"])
def test_a_process_ends_without_a_word_once_the_one_that_reads_was_ended(blocks, monkeypatch):
    monkeypatch.setattr(processes, "tokenised", lambda documents, draw, how: documents)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")  # which it changes
    before = signal.getsignal(signal.SIGINT)
    reads, serves = multiprocessing.Pipe()
    for _ in range(blocks):
        reads.send((0, ["text"]))
    reads.close()
    try:
        processes._serve(cast(Any, serves), cast(Any, None), cast(Any, [None]))
    finally:
        signal.signal(signal.SIGINT, before)
