"""Tunes small models on instructions. Each training has the same text and tokens and a folder of its own.

Trainings run one after the other in this process. A stopped one continues.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedTokenizerFast

from limbeck.corpora import Rows, TokenStore, build_stores
from limbeck.disk import replacing
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.held_out import HeldOut
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.objectives.basic import CrossEntropy
from limbeck.papers.minima.instructions import TEMPLATE, write_instructions
from limbeck.probes import measure
from limbeck.run.optim import suggested_learning_rate
from limbeck.run.run import Plan, Run
from limbeck.run.save import checkpoints
from limbeck.run.world import alone

# A factor of the rate of training. MiniChat's 2e-5 is a fifteenth of MiniMA's 3e-4, too little for so short a tuning.
_RATE = 0.3


@dataclass(frozen=True)
class Tuning:
    """Instructions to train and to measure on, and the length of a tuning: ``tokens`` in rows of ``length``."""

    folder: Path
    learn: TokenStore
    held_out: TokenStore
    tokenizer: PreTrainedTokenizerFast
    tokens: int
    length: int
    batch_tokens: int
    machine: Environment

    def tune(self, student: Path, name: str, *, seed: int) -> Float[np.ndarray, "2 modules"]:
        """Tunes a student; gives nats and tokens of each held-out module's answers."""
        folder = self.folder / name
        file = folder / "modules.npy"
        if not file.exists():
            trained = self._train(student, folder, seed)
            measured = measure(trained, None, self._held_out().batches(), documents=self.held_out.documents)
            save(trained, folder / "student")
            for checkpoint in checkpoints(folder):
                shutil.rmtree(checkpoint, ignore_errors=True)
            with replacing(file) as temporary, temporary.open("wb") as opened:
                np.save(opened, self._by_module(np.stack([measured.nats, measured.tokens])))
        return np.load(file)

    @property
    def tokens_read(self) -> int:
        """The number of tokens of each tuning, questions included."""
        return self._steps * self._rows * self.length

    @property
    def _rows(self) -> int:
        return max(1, self.batch_tokens // self.length)

    @property
    def _steps(self) -> int:
        return max(1, self.tokens // (self._rows * self.length))

    def _train(self, student: Path, folder: Path, seed: int) -> LanguageModel:
        model = load(student, device="cpu", train=True)
        model.tokenizer = self.tokenizer
        model.model.to(self.machine.world.device)
        lr = _RATE * suggested_learning_rate(model.parameters_count)
        plan = Plan(steps=self._steps, rows=self._rows, lr=lr, bf16=self.machine.bf16)
        corpus = Rows(self.learn, length=self.length, seed=seed)
        Run(folder, f"tune {folder.name}", model, None, corpus, CrossEntropy(), plan, self.machine.world).train()
        return model

    def _held_out(self) -> HeldOut:
        return HeldOut(self.held_out, length=self.length, environment=self.machine, trained=4 * self.tokens)

    def _by_module(self, sums: Float[np.ndarray, "2 documents"]) -> Float[np.ndarray, "2 modules"]:
        """Joins the conversations about one module into one document, since they are not independent samples."""
        lines = (self.folder / "text" / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
        modules = [json.loads(line)["module"] for line in lines]
        names = sorted(set(modules))
        line_of = (int(self.held_out.name_of(i).rpartition(":")[2]) - 1 for i in range(self.held_out.documents))
        found = np.zeros((len(names), 2))
        np.add.at(found, np.array([names.index(modules[line]) for line in line_of]), sums.T)
        return found.T


def tuning(
    folder: Path, tokenizer: Path, *, tokens: int, length: int, batch_tokens: int, modules: int | None, device: str
) -> Tuning:
    """The instructions as tokens of a tokenizer, with a chat template for them."""
    where = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
    torch.set_flush_denormal(True)
    machine = Environment(alone(where), bf16=where.startswith("cuda"))
    loaded = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    loaded.chat_template = TEMPLATE
    learn, held_out = write_instructions(folder / "text", modules=modules)
    stores = build_stores(str(learn), loaded, folder / "data", eval_source=str(held_out))
    return Tuning(folder, *stores, loaded, tokens, length, batch_tokens, machine)
