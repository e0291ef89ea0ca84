"""Throughput of a served teacher beside the server's own limit: the same questions by limbeck and by a bare client, in turn.

    python benchmarks/served.py                                                      # a tiny server on loopback
    python benchmarks/served.py --latency 0.3      # the same with answers made before, each held back for so many seconds
    python benchmarks/served.py --teacher http://host:8000/v1#model --tokenizer FOLDER

The bare client keeps as many connections and reads every answer to its end, but looks at none of it. A server that computes on
the processors of its client is slowed down by it; one that holds back answers made before is not, and can give no more than 32
of them in each latency.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue

import torch
from circumstances import made_by

from limbeck.models.weightless import load_without_weights, save_without_weights
from limbeck.teachers.remote.http import Address
from limbeck.teachers.remote.served import ServedTeacher, _prompts, connect
from limbeck.types import Batch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the server is that of the tests


def serve(folder: str, hidden: int, latency: float, ready: multiprocessing.Queue) -> None:
    """A process that serves a random model; says its address."""
    from tests.helpers.models import frozen, llama
    from tests.helpers.served import Handler, Tiny

    made: dict[bytes, bytes] = {}

    class Held(Handler):
        """Answers a question that was asked before from memory, when the latency is over."""

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            self.rfile, line = BytesIO(asked), self.rfile
            self.asked, begun = self.path.encode() + asked, time.monotonic()
            if self.asked in made:
                time.sleep(max(0.0, latency - (time.monotonic() - begun)))
                self.write(made[self.asked])
            else:
                super().do_POST()
            self.rfile = line

        def send(self, answer: dict, status: int = 200, headers: dict | None = None, *, fault: str = "") -> None:
            if status != 200 or self.command == "GET":
                super().send(answer, status, headers, fault=fault)
            else:
                made[self.asked] = json.dumps(answer).encode()
                self.write(made[self.asked])

        def write(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    torch.set_num_threads(1)
    model = frozen(llama(layers=4, hidden=hidden))
    model.model.get_output_embeddings().weight.data.mul_(
        0.01
    )  # nearly uniform: limbeck refuses what is worse than a guess
    save_without_weights(model, Path(folder))
    server = Tiny(model, "vllm")
    if latency:
        server.RequestHandlerClass = Held
    ready.put(server.url)
    server.serve_forever()


def rows(vocab: int, count: int, length: int, seed: int) -> Batch:
    """Rows of one document each."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocab, (count, length + 1), generator=generator)
    position = torch.arange(length).expand(count, length)
    weight = torch.ones(count, length)
    return Batch(tokens[:, :-1], tokens[:, 1:], weight, position, torch.zeros_like(position), torch.arange(count))


def bare(teacher: ServedTeacher, batch: Batch) -> float:
    """Seconds of the same questions by a client that does nothing else."""
    address = teacher.client.address
    path = teacher.kind.path(address.path, address.root)
    bodies = [json.dumps(teacher.kind.body(address.model, p.tokens, teacher.k)).encode() for p in _prompts(batch)]
    make = http.client.HTTPConnection if address.scheme == "http" else http.client.HTTPSConnection
    idle: SimpleQueue[http.client.HTTPConnection] = SimpleQueue()
    for _ in range(teacher.in_flight):
        idle.put(make(address.host, address.port))

    def ask(body: bytes) -> int:
        connection = idle.get()
        connection.request("POST", path, body=body, headers={"Content-Type": "application/json"})
        size = len(connection.getresponse().read())
        idle.put(connection)
        return size

    start = time.perf_counter()
    with ThreadPoolExecutor(teacher.in_flight) as pool:
        assert all(pool.map(ask, bodies))
    return time.perf_counter() - start


def ours(teacher: ServedTeacher, batch: Batch) -> float:
    """Seconds of the teacher's own call."""
    start = time.perf_counter()
    teacher(batch)
    assert not teacher.missing.total()
    return time.perf_counter() - start


def main() -> None:
    """Measures a server, by default one that it starts, and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher")
    parser.add_argument("--tokenizer", default=".bench/served")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--outcomes", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    server = None
    if options.teacher is None:
        fresh = multiprocessing.get_context("spawn")
        ready = fresh.Queue()
        server = fresh.Process(
            target=serve, args=(options.tokenizer, options.hidden, options.latency, ready), daemon=True
        )
        server.start()
        options.teacher = ready.get(timeout=120)
    torch.set_num_threads(1)
    about = load_without_weights(Path(options.tokenizer), name="served")
    ratios, pairs = [], []
    with connect(Address.of(options.teacher), about.tokenizer, k=options.outcomes, length=options.length) as teacher:
        # the server warms up
        ours(teacher, rows(about.vocab, options.rows, options.length, 0 if options.latency else 10**6))
        for pair in range(options.pairs):
            batch = rows(about.vocab, options.rows, options.length, 0 if options.latency else pair)
            order = (ours, bare) if pair % 2 else (bare, ours)
            seconds, busy = {}, {}
            for ask in order:
                begun = time.process_time()
                seconds[ask] = ask(teacher, batch)
                busy[ask] = time.process_time() - begun
            tokens = options.rows * options.length
            ratios.append(seconds[bare] / seconds[ours])
            pairs.append(
                {
                    "bare_tokens_per_s": tokens / seconds[bare],
                    "limbeck_tokens_per_s": tokens / seconds[ours],
                    "limbeck_tokens_per_cpu_s": tokens / busy[ours],
                }
            )
            print(
                f"pair {pair}: bare {tokens / seconds[bare]:,.0f} tokens/s, limbeck {tokens / seconds[ours]:,.0f} tokens/s, "
                f"ratio {ratios[-1]:.3f}, {tokens / busy[ours]:,.0f} tokens per CPU-second of limbeck's",
                flush=True,
            )
    most = teacher.in_flight * options.length / options.latency if options.latency else None
    if most is not None:
        print(f"the server can give {most:,.0f} tokens/s")
    print(f"median ratio {statistics.median(ratios):.3f} of {len(ratios)} pairs, {teacher.in_flight} in flight")
    if server is not None:
        server.terminate()
    if options.out:
        facts = {
            **made_by(),
            "tokens": options.rows * options.length,
            "most_tokens_per_s": most,
            "pairs": pairs,
        }
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
