"""A small server on loopback that answers as vLLM, SGLang and OpenAI's completions are documented to, by a tiny real model.

It does what a test asks it to do wrong: now and then, or always, by the name of a fault.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import torch

from limbeck.generation.local import decoded_completion, generate

MODEL = "tiny/llama"
KEY = "sk-secret-of-the-tests-8d1f"


class Tiny(ThreadingHTTPServer):
    """``speaks``: vllm, sglang or openai. ``faults`` maps a fault's name to how likely it hits a question."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, model, speaks: str, **keys) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.speaks = model, speaks
        self.faults: dict[str, float] = {}
        self.most, self.context, self.tokenize, self.shown, self.key = 50, 128, speaks == "vllm", MODEL, None
        self.hopeless = lambda prompt: False  # which prompts are refused for good
        self.ready: dict[tuple[int, ...], torch.Tensor] = {}
        self.texts = vars(model).setdefault("texts", {})  # tests of one model ask for the same again and again
        vars(self).update(keys)
        self.lock, self.random, self.queries, self.faulted = threading.Lock(), random.Random(0), Counter(), Counter()
        self.in_flight = self.most_in_flight = 0
        self.keys_seen: set[str | None] = set()
        self.times: list[float] = []
        self.last: dict = {}  # what was asked last
        self.through: list[tuple[str, str | None]] = []  # asked as a proxy: for what, by whom

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1#{MODEL}"

    def handle_error(self, request, client_address) -> None:
        """A client that went away is no news here."""

    @torch.no_grad()
    def prepare(self, prompts) -> None:
        """Computes what will be asked, those of a length together: a test of thousands of questions is not to take a minute."""
        for length in {len(prompt) for prompt in prompts}:
            alike = [list(prompt) for prompt in prompts if len(prompt) == length]
            logits = self.model.model(input_ids=torch.tensor(alike)).logits[:, :, : self.model.vocab]
            self.ready |= dict(zip(map(tuple, alike), logits.log_softmax(-1), strict=True))

    @torch.no_grad()
    def log_p(self, prompt: list[int]) -> torch.Tensor:
        if tuple(prompt) in self.ready:
            return self.ready[tuple(prompt)]
        with self.lock:
            return self.model.model(input_ids=torch.tensor([prompt])).logits[0, :, : self.model.vocab].log_softmax(-1)

    def written(self, body: dict) -> tuple[str, str, dict[str, int]]:
        """(text, why it ended, tokens) of a text that is continued."""
        tokenizer, most = self.model.tokenizer, body["max_tokens"]
        prompt = [tokenizer.bos_token_id, *tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]]
        key = (*prompt, -1, most, body["temperature"], body["seed"])
        if key not in self.texts:
            uniforms = np.random.default_rng(body["seed"]).random((1, most))
            (self.texts[key],) = generate(
                self.model, [prompt], max_new_tokens=most, temperature=body["temperature"], uniforms=uniforms
            )
        found = self.texts[key]
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(found.tokens) + found.finished}
        return decoded_completion(tokenizer, prompt, found.tokens), "stop" if found.finished else "length", usage

    def drawn_fault(self) -> str:
        with self.lock:
            for name, likely in self.faults.items():
                if self.random.random() < likely:
                    self.faulted[name] += 1
                    return name
        return ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms
    server: Tiny
    inside = False  # a question's time in flight

    def log_message(self, *_) -> None: ...

    def do_CONNECT(self) -> None:
        self.server.through.append((self.path, self.headers.get("Proxy-Authorization")))
        self.send({}, 407)

    def as_proxy(self) -> None:
        """A question to another host is answered as that host would."""
        if self.path.startswith("http://"):
            self.server.through.append((self.path, self.headers.get("Proxy-Authorization")))
            self.path = "/" + self.path.split("/", 3)[3]

    def do_GET(self) -> None:
        server = self.server
        self.as_proxy()
        if self.path == "/v1/models":
            entry = {"id": server.shown, "object": "model", "root": "somewhere/else", "owned_by": server.speaks}
            if server.speaks == "llamacpp":
                del entry["root"]
            self.send(
                {"object": "list", "data": [entry | ({"max_model_len": server.context} if server.context else {})]}
            )
        elif self.path == "/version" and server.speaks == "vllm":
            self.send({"version": "0.0.test"})
        elif self.path == "/get_model_info" and server.speaks == "sglang":
            self.send({"model_path": MODEL, "tokenizer_path": MODEL, "is_generation": True})
        else:
            self.send({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        server = self.server
        self.as_proxy()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers.get("Authorization")
        with server.lock:
            server.queries[self.path] += 1
            server.keys_seen.add(key)
            server.last = body
            server.in_flight += 1
            self.inside = True
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
            server.times.append(time.monotonic())
        try:
            if server.key and key != f"Bearer {server.key}":
                self.send({"error": f"wrong key, got {key}"}, 401)
            elif not self.refused(fault := server.drawn_fault()):
                self.answer(body, fault)
        finally:
            self.leave()

    def leave(self) -> None:
        """The question is in flight no more: its answer is about to be there, and another may come on another connection."""
        with self.server.lock:
            self.server.in_flight -= self.inside
            self.inside = False

    def refused(self, fault: str) -> bool:
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault == "busy":
            self.send({"error": "too many"}, 429, {"Retry-After": "0.2"})
        elif fault == "broken":
            self.send({"error": "oh"}, 500)
        elif fault == "moved":
            self.send({}, 307, {"Location": "http://elsewhere.example/v1"})
        else:
            if fault == "slow":
                time.sleep(1.0)
            elif fault in ("headers", "flood"):
                return self.endless(fault)
            return False
        return True

    def endless(self, fault: str) -> bool:
        """An answer without end: of headers, one now and then, or of a body."""
        self.close_connection = True
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"" if fault == "headers" else b"\r\n"))
            for number in range(10**9):
                self.wfile.write(b"X-%d: y\r\n" % number if fault == "headers" else b" " * 2**16)
                self.wfile.flush()
                time.sleep(0.1 if fault == "headers" else 0)
        return True

    def answer(self, body: dict, fault: str) -> None:
        server = self.server
        if self.path == "/tokenize" and server.speaks == "llamacpp":
            self.send({"tokens": [] if "content" not in body else [1]})  # it reads no "prompt"
        elif self.path == "/tokenize" and server.tokenize:
            ids = server.model.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
            self.send({"count": len(ids), "tokens": ids})
        elif self.path == "/generate" and server.speaks == "sglang":
            self.send(self.sglang(body, fault), fault=fault)
        elif self.path == "/v1/completions" and isinstance(body["prompt"], str):
            self.send_text(body, fault, body["prompt"])
        elif self.path == "/v1/completions" and server.speaks != "sglang":
            asked = body.get("prompt_logprobs" if server.speaks == "vllm" else "logprobs") or 0
            if server.hopeless(body["prompt"]):
                self.send({"error": {"message": "not this one"}}, 400)
            elif asked > server.most:
                self.send({"error": {"message": f"at most {server.most} logprobs"}}, 400)
            else:
                self.send(getattr(self, server.speaks)(body, fault), fault=fault)
        elif self.path == "/v1/chat/completions":
            self.send_text(body, fault, body["messages"])
        else:
            self.send({"detail": "Not Found"}, 404)

    def send_text(self, body: dict, fault: str, prompt: str | list[dict]) -> None:
        """Writes on from a text with the model; answers a conversation with its last words, the last one first."""
        server = self.server
        if server.hopeless(prompt):
            self.send({"error": {"message": "This model's maximum context length is 128 tokens"}}, 400)
            return
        if isinstance(prompt, str):
            with server.lock:
                text, finish, usage = server.written(body)
            choice = {"text": text}
        else:
            words = prompt[-1]["content"].split()
            choice = {"message": {"role": "assistant", "content": " ".join(reversed(words))}}
            finish, usage = "stop", {"prompt_tokens": len(words), "completion_tokens": len(words)}
            if body.get("tools"):  # it calls the first of them
                call = {"name": body["tools"][0]["function"]["name"], "arguments": json.dumps({"words": words})}
                calls = [{"id": "1", "type": "function", "function": call}]
                choice = {"message": {"role": "assistant", "content": None, "tool_calls": calls}}
                finish = "tool_calls"
        if fault in ("empty", "filtered"):
            choice = {"text": "", "message": {"role": "assistant", "content": None}}
        finish = {"filtered": "content_filter", "unfinished": "abort"}.get(fault, finish)
        model = {"other": "other/model", "echo": self.headers.get("Authorization")}.get(fault, MODEL)
        self.send({"model": model, "choices": [choice | {"finish_reason": finish}], "usage": usage}, fault=fault)

    def places(self, prompt: list[int], k: int, fault: str) -> list[list[tuple[int, float]]]:
        """The k likeliest at each place but the first, and the prompt's own token."""
        log_p = self.server.log_p(prompt)[:-1]
        top, ids = log_p.topk(min(k, log_p.shape[-1]))
        rows = []
        for place, (logs, tokens) in enumerate(zip(top.tolist(), ids.tolist(), strict=True)):
            own = prompt[place + 1]
            pairs = dict(zip(tokens, logs, strict=True)) | {own: float(log_p[place, own])}
            rows.append(list(pairs.items()))
        if fault == "alike":
            rows = [[(token, -float(np.log(self.server.model.vocab))) for token, _ in pairs] for pairs in rows]
        if fault == "unlikely":
            rows = [[(token, -9999.0) for token, _ in pairs] for pairs in rows]
        if fault == "foolish":  # sure of the wrong token at each place
            rows = [
                [(token, -20.0 - i if token == own else -0.1 - 5 * i) for i, (token, _) in enumerate(pairs)]
                for pairs, own in zip(rows, prompt[1:], strict=True)
            ]
        if fault in ("nan", "positive", "sum", "double"):
            at = len(rows) // 2
            worse = {"nan": float("nan"), "positive": 0.7, "sum": -0.01, "double": rows[at][0][1]}[fault]
            rows[at] = [
                (token, worse) if fault != "double" or i == 0 else (rows[at][0][0], worse)
                for i, (token, _) in enumerate(rows[at])
            ]
        if fault == "short":
            rows = rows[:-1]
        if fault == "shifted":
            rows = rows[1:] + rows[:1]
        return rows

    def vllm(self, body: dict, fault: str) -> dict:
        prompt, decode = body["prompt"], self.server.model.tokenizer.decode
        told = None
        if k := body.get("prompt_logprobs"):
            told = [None]
            for pairs in self.places(prompt, k, fault):
                told.append(
                    {
                        str(t): {"logprob": p, "rank": i + 1, "decoded_token": decode([t])}
                        for i, (t, p) in enumerate(pairs)
                    }
                )
        return {
            "model": "other/model" if fault == "other" else MODEL,
            "choices": [{"text": " x", "prompt_logprobs": told}],
        }

    def sglang(self, body: dict, fault: str) -> dict:
        prompt, texts = body["input_ids"], body.get("return_text_in_logprobs")
        tokenizer = self.server.model.tokenizer

        def triple(log_p, token):
            return [log_p, token, tokenizer.decode([token]) if texts else None]

        places = self.places(prompt, body["top_logprobs_num"], fault)
        own = [triple(None, prompt[0])] + [triple(dict(p).get(t), t) for p, t in zip(places, prompt[1:], strict=False)]
        top = [None] + [[triple(p, t) for t, p in pairs[: body["top_logprobs_num"]]] for pairs in places]
        if fault == "shifted":
            own = own[1:] + own[:1]
        return {"text": " x", "meta_info": {"input_token_logprobs": own, "input_top_logprobs": top}}

    def openai(self, body: dict, fault: str) -> dict:
        prompt, decode = body["prompt"], self.server.model.tokenizer.decode
        told = None
        if body.get("echo"):
            places = self.places(prompt, body["logprobs"], fault)
            top = [{decode([t]): p for t, p in pairs} for pairs in places]
            tokens = [decode([t]) for t in prompt]
            told = {"tokens": [*tokens, " x"], "top_logprobs": [None, *top, {" x": -1.0}]}
        return {"model": MODEL, "choices": [{"text": " x", "logprobs": told}]}

    def llamacpp(self, body: dict, fault: str) -> dict:
        """It passes over ``echo``, and tells of the token that it writes alone."""
        top = [{"id": 1, "token": " x", "bytes": [32, 120], "logprob": -1.0}]
        content = [top[0] | {"top_logprobs": top}] if body.get("logprobs") else []
        return {"model": MODEL, "choices": [{"text": " x", "logprobs": {"content": content}}]}

    def deaf(self, body: dict, fault: str) -> dict:
        """As OpenAI's completions, of what is written alone."""
        told = {"tokens": [" x"], "top_logprobs": [{" x": -1.0}], "token_logprobs": [-1.0]}
        return {"model": MODEL, "choices": [{"text": " x", "logprobs": told}]}

    def send(self, answer: dict, status: int = 200, headers: dict | None = None, *, fault: str = "") -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if fault == "torn":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif fault == "drip":
            for start in range(0, len(data), max(1, len(data) // 40)):
                self.wfile.write(data[start : start + max(1, len(data) // 40)])
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.leave()
            self.wfile.write(
                data[: len(data) // 2] + b"#" * (len(data) - len(data) // 2) if fault == "garbled" else data
            )


@contextmanager
def serving(model, speaks: str = "vllm", **keys):
    server = Tiny(model, speaks, **keys)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
