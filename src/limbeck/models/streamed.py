"""A language model larger than memory: its layers are read from disk one after the other, and many rows pass each of them.

Transformers' own forward of the decoder runs for every layer and micro-batch, with all layers but that one letting hidden
states through: so masks, rotary embeddings and whatever else a layer is given are what the architecture makes of these few
rows, and never exist for more of them. The hidden states between two layers wait in memory or in a file. What an architecture
could do that breaks this is tried out when it is loaded: a change of the hidden states between layers, or an argument of a
layer that hangs on more than positions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.errors import BadModel
from limbeck.models.load import (
    NOT_FINITE,
    OTHER_HEAD,
    SEES_ACROSS,
    SEES_AHEAD,
    LanguageModel,
    check_finite,
    is_quantised,
    load_config,
    load_tokenizer,
    read_generation,
    shown_name,
)
from limbeck.models.memory import MemoryBudget
from limbeck.models.parts import ALIGNED, Part, States, give_back, read_into
from limbeck.models.skeleton import embedding_of, head_of, layers_of, matched, needs_of, skeleton
from limbeck.models.source import Stored, check_tokenizer, resolve, stored_tensors
from limbeck.types import Batch, Head, Outputs

_FREE_SHARE = 0.8  # of the memory that is free, taken where no limit is given

MORE_THAN_HIDDEN = "its layers give more than hidden states; capture without --stream"


def load_streamed(
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    memory: float | None = None,
    length: int,
    spill: Path,
    beside: Callable[[int], int] = lambda vocab: 0,
) -> StreamedModel:
    """A frozen model that takes ``memory`` bytes of its device at most, asked about rows of ``length`` tokens.

    Without ``memory`` it takes 80 % of what is free. ``spill`` is the folder of the file that hidden states wait in where they
    must; ``beside`` gives the bytes that whoever asks keeps meanwhile, by the vocabulary. Raises what `load` raises, and
    BadSetting for too little memory. Reads all weights once, to check them.
    """
    folder = resolve(name)
    config = load_config(folder)
    if is_quantised(config):
        raise BadModel(
            f"{folder}: its weights are quantised, and a layer read alone would need them whole: capture without --stream"
        )
    stored = stored_tensors(folder)
    check_tokenizer(folder)
    model = skeleton(config, dtype=dtype)
    read_generation(model, folder)
    about = LanguageModel(model, load_tokenizer(folder), shown_name(name))
    tensors = matched(folder, model, stored)
    device = torch.device(device)
    limit = memory or _FREE_SHARE * _free(device)
    needs = needs_of(model, length=length, beside=beside(about.vocab))
    free = psutil.virtual_memory().available
    room = MemoryBudget.of(
        needs, limit=limit, length=length, kind="cuda" if device.type == "cuda" else "cpu", free=free
    )
    streamed = StreamedModel(about, tensors, folder=folder, device=device, room=room, spill=spill)
    streamed.verify()
    return streamed


def _free(device: torch.device) -> float:
    return float(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)


@dataclass
class _Step:
    """One run of the decoder's forward: which layer computes, on what; what came to the first layer, and what it gave.

    ``layer`` -1 is none (the embedding alone), and the number of layers what follows them. ``seen`` are the calls of layers
    where they are asked for.
    """

    layer: int
    hidden: Tensor | None = None
    arrived: Tensor | None = None
    left: Any = None
    seen: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


class StreamedModel:
    """A model on disk that answers batches: a `Patient`. ``about`` tells what it is, without weights."""

    def __init__(
        self,
        about: LanguageModel,
        tensors: Mapping[str, Stored],
        *,
        folder: Path,
        device: torch.device,
        room: MemoryBudget,
        spill: Path,
    ) -> None:
        """``folder`` is where the weights are, for messages."""
        self.about, self.name, self.vocab = about, about.name, about.vocab
        self.device, self.room = device, room
        self._folder, self._spill = folder, spill
        self._layers = layers_of(about.model)
        self._step = _Step(-1)
        self._unchecked = set(tensors)  # names of tensors that were not yet looked at for NaN
        names = {id(module): name for name, module in about.model.named_modules()}
        self._parts = [Part.of(layer, names[id(layer)], tensors) for layer in self._layers]
        self._embedding = Part.of(embedding_of(about.model), names[id(embedding_of(about.model))], tensors)
        self._head = Part.of(head_of(about.model), names[id(head_of(about.model))], tensors)
        parts = (*self._parts, self._embedding, self._head)
        taken = {name for part in parts for name in part.names.values()}
        rest = {name: name for name in tensors.keys() - taken}
        self._load_for_good(Part(about.model, rest, {name: tensors[name] for name in rest}))
        for number, layer in enumerate(self._layers):
            vars(layer)["forward"] = self._stand_in(number, layer.forward)

    def __call__(self, batch: Batch) -> Outputs:
        """Hidden states of a batch, all of them in memory, and the head that reads them."""
        return next(self.each([batch]))[1]

    @torch.no_grad()
    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Outputs]]:
        """The answers to batches one after the other; as many as make a block go through the weights together.

        Whoever lets go of an answer before taking the next keeps the head from being in memory twice.
        """
        for block in self._blocks(batches):
            with closing(self._states(block)) as states:
                give_back()
                self._enter(block, states)
                give_back()
                for number in self._loaded_layers():
                    self._push(number, block, states)
                give_back()
                yield from self._leave(block, states)

    @torch.no_grad()
    def seconds(self, batch: Batch, *, rows: int) -> float:
        """About how long ``rows`` rows like those of a batch take: from reading one layer and computing with it."""
        sample = batch.to(self.device).rows(slice(0, self._rows(batch)))
        hidden = torch.zeros((*sample.tokens.shape, self._width), dtype=self.about.model.dtype, device=self.device)
        start = time.perf_counter()
        values = self._read(self._parts[0], self._buffer(self._parts[:1]))
        reading = time.perf_counter() - start
        with self._parts[0].holding(values, self.device):
            start = time.perf_counter()
            float(self._run(0, hidden, sample.position).sum())  # waits for the device
            computing = (time.perf_counter() - start) / len(sample.tokens)
        passes = -(-rows * batch.tokens.shape[1] // self.room.block_tokens)
        parts = (passes * reading, rows * computing)
        return len(self._layers) * (max(parts) if self.room.ahead else sum(parts))

    # One block

    def _blocks(self, batches: Iterable[Batch]) -> Iterator[list[Batch]]:
        block: list[Batch] = []
        for batch in batches:
            block.append(batch.to(self.device))
            if sum(one.tokens.numel() for one in block) >= self.room.block_tokens:
                yield block
                block = []
        if block:
            yield block

    def _states(self, block: Sequence[Batch]) -> States:
        spill = self._spill if self.room.spilled else None
        return States([(*batch.tokens.shape, self._width) for batch in block], self.about.model.dtype, spill)

    def _enter(self, block: Sequence[Batch], states: States) -> None:
        """From tokens to what the first layer is given."""
        with self._embedding.holding(self._read(self._embedding), self.device):
            for number, batch in enumerate(block):
                for part in self._micro(batch):
                    states.put(number, part, self._embed(batch.tokens[part], batch.position[part]))

    def _push(self, layer: int, block: Sequence[Batch], states: States) -> None:
        """All of a block through one layer."""
        for number, batch in enumerate(block):
            for part in self._micro(batch):
                hidden = states.get(number, part).to(self.device)
                states.put(number, part, self._run(layer, hidden, batch.position[part]))

    def _leave(self, block: Sequence[Batch], states: States) -> Iterator[tuple[Batch, Outputs]]:
        """From what the last layer gave to answers."""
        head = self._loaded_head()
        for number, batch in enumerate(block):
            hidden = torch.cat(
                [
                    self._decode(
                        _Step(len(self._layers), states.get(number, part).to(self.device)), batch.position[part]
                    )
                    for part in self._micro(batch)
                ]
            )
            yield batch, Outputs(hidden, head, self.vocab)
            del hidden

    def _loaded_layers(self) -> Iterator[int]:
        """The number of each layer while it has its weights; the next is read meanwhile where there is room for two."""
        ahead = self.room.ahead
        buffers = [self._buffer(self._parts) for _ in range(2 if ahead else 1)]
        with ThreadPoolExecutor(1) as reader:

            def read(number: int) -> Any:
                if number == len(self._parts):
                    return None
                return reader.submit(self._read, self._parts[number], buffers[number % len(buffers)])

            reading = read(0)
            for number, part in enumerate(self._parts):
                values = reading.result()
                if ahead:
                    reading = read(number + 1)
                with part.holding(values, self.device):
                    del values
                    yield number
                if not ahead:
                    reading = read(number + 1)

    def _micro(self, batch: Batch) -> Iterator[slice]:
        rows = self._rows(batch)
        return (slice(start, start + rows) for start in range(0, len(batch.tokens), rows))

    def _rows(self, batch: Batch) -> int:
        return max(1, self.room.micro_tokens // batch.tokens.shape[1])

    @property
    def _width(self) -> int:
        return int(self.about.config.get_text_config().hidden_size)

    # The decoder's own forward

    def _stand_in(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """What a layer does when it is called: nothing, but in the one step that is its own."""

        def stand_in(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            step = self._step
            step.seen.append((hidden, args, kwargs))
            if number == 0:
                step.arrived = hidden
            if number == step.layer:
                step.left = forward(step.hidden, *args, **kwargs)
            return step.hidden if step.layer == len(self._layers) else hidden

        return stand_in

    def _decode(
        self, step: _Step, position: Int[Tensor, "B T"], *, model: nn.Module | None = None, **given: Tensor
    ) -> Any:
        """Runs the decoder (or the ``model`` around it) for one step; gives its last hidden states (or logits)."""
        self._step = step
        given = given or {"inputs_embeds": step.hidden}  # type: ignore[dict-item]
        # No attention mask on purpose, as in LanguageModel: only then are restarts in the positions looked for.
        outputs = (model or self.about.model.base_model)(
            position_ids=position, attention_mask=None, use_cache=False, **given
        )
        self._step = _Step(-1)
        return outputs.last_hidden_state if model is None else outputs.logits

    def _embed(self, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        step = _Step(-1)
        self._decode(step, position, input_ids=tokens)
        assert step.arrived is not None
        return step.arrived

    def _run(self, layer: int, hidden: Float[Tensor, "B T D"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        step = _Step(layer, hidden)
        self._decode(step, position)
        if not isinstance(step.left, Tensor):
            raise self.about.refused(MORE_THAN_HIDDEN)
        return step.left

    # Reading

    def _buffer(self, parts: Sequence[Part]) -> Tensor:
        return torch.empty(max(part.bytes(self.about.model.dtype) for part in parts), dtype=torch.uint8)

    def _read(self, part: Part, buffer: Tensor | None = None) -> dict[str, Tensor]:
        """A part's tensors from disk, in a buffer or in one of their own."""
        buffer = self._buffer([part]) if buffer is None else buffer
        values, start = {}, 0
        for local, name in part.names.items():
            stored = part.stored[local]
            size = math.prod(stored.shape) * self.about.model.dtype.itemsize
            target = buffer[start : start + size].view(self.about.model.dtype)
            read_into(target, stored)
            if name in self._unchecked:
                check_finite(self._folder, name, target)
            self._unchecked.discard(name)
            values[local] = target.view(stored.shape)
            start += -(-size // ALIGNED) * ALIGNED
        return values

    def _loaded_head(self) -> Head:
        with self._head.holding(self._read(self._head), self.device):
            head = self.about.head
            return replace(head, weight=head.weight.detach())

    def _load_for_good(self, part: Part) -> None:
        values = {name: tensor.to(self.device) for name, tensor in self._read(part).items()}
        part.module.load_state_dict(values, strict=False, assign=True)
        for module in part.module.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(self.device)

    # What is tried out

    @torch.no_grad()
    def verify(self) -> None:
        """Reads all weights once, and tries on a few tokens what `LanguageModel.verify` tries.

        Besides, that streaming is the same as asking a model in memory: that nothing happens to hidden states between layers,
        and that what a layer is given besides them hangs on positions alone. Raises BadModel with the reason.
        """
        tokens, position = self._trial()
        hidden = self._verify_calls(tokens, position)
        self._verify_head(hidden, position)
        nowhere = torch.full_like(tokens, -1)
        weight = torch.ones(tokens.shape, device=tokens.device)
        alone, other, packed, second = self(Batch(tokens, tokens, weight, position, nowhere, nowhere[:, 0])).hidden
        half = tokens.shape[1] // 2
        if self.about.differ(alone[:half], other[:half]):
            raise self.about.refused(SEES_AHEAD)
        if self.about.chunked or self.about.differ(packed[half:], second[:half]):
            raise self.about.refused(f"{SEES_ACROSS}; capture without --stream, which runs each alone")

    def _trial(self) -> tuple[Int[Tensor, "4 8"], Int[Tensor, "4 8"]]:
        """Tokens and positions of four rows: one document, another that begins like it, both halves packed, the second half."""
        generator = torch.Generator().manual_seed(0)
        first, second, other = torch.randint(self.vocab, (3, 4), generator=generator)
        rows = [(first, second), (first, other), (first, second), (second, other)]
        position = torch.arange(8).repeat(4, 1)
        position[2, 4:] -= 4
        return torch.stack([torch.cat(row) for row in rows]).to(self.device), position.to(self.device)

    def _verify_calls(self, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Looks at how layers are called, from tokens and from hidden states; gives what the first is given of tokens."""
        by_tokens = _Step(-1)
        try:
            with self._embedding.holding(self._read(self._embedding), self.device):
                self._decode(by_tokens, position, input_ids=tokens)
            if by_tokens.arrived is None:
                raise self.about.refused("its layers are not called one after the other; capture without --stream")
            by_hidden = _Step(-1, by_tokens.arrived)
            self._decode(by_hidden, position)
        except (TypeError, AttributeError) as error:
            raise self.about.refused(f"its decoder does not take positions and hidden states ({error})") from error
        for step in (by_tokens, by_hidden):
            if len(step.seen) != len(self._layers) or any(hidden is not step.arrived for hidden, *_ in step.seen):
                raise self.about.refused("it changes hidden states between layers; capture without --stream")
        for (_, *given), (_, *again) in zip(by_tokens.seen, by_hidden.seen, strict=True):
            if not _same(given, again):
                raise self.about.refused(
                    "its layers are given more than hidden states and what follows from positions; capture without --stream"
                )
        return by_tokens.arrived

    def _verify_head(self, hidden: Float[Tensor, "B T D"], position: Int[Tensor, "B T"]) -> None:
        end = len(self._layers)
        with self._head.holding(self._read(self._head), self.device):
            last = self._decode(_Step(end, hidden), position)
            if last.shape != hidden.shape:
                raise self.about.refused(MORE_THAN_HIDDEN)
            model = self.about.model
            theirs = self._decode(_Step(end, hidden), position, model=model, inputs_embeds=hidden)
            ours = self.about.head.logits(last)
        if not (torch.isfinite(ours[..., : self.vocab]).all() and torch.isfinite(theirs[..., : self.vocab]).all()):
            raise self.about.refused(NOT_FINITE)
        if self.about.differ(ours[..., : self.vocab], theirs[..., : self.vocab]):
            raise self.about.refused(OTHER_HEAD)


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments of a layer are equal and nothing that layers could write into for one another."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return all(_same(a[key], b[key]) for key in a)
    return bool(a is None or isinstance(a, bool | int | float | str)) and a == b
