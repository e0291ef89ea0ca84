"""A language model larger than memory: limbeck reads its layers from disk one by one, and runs many sequences through each.

Transformers' own forward of the decoder runs for every layer and micro-batch; all other layers pass hidden states through
unchanged. So the architecture itself makes masks, rotary embeddings and other arguments of a layer, and only for the
sequences of a micro-batch. Hidden states between two layers wait in memory or in a file. Loading checks what would break this:
a change of hidden states between layers, or an argument of a layer that depends on more than positions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.config.defaults import FREE_SHARE
from limbeck.models.inside import packed
from limbeck.models.language_model import LanguageModel
from limbeck.models.memory import MemoryBudget
from limbeck.models.parts import ALIGNED, Part, States, give_back, read_into
from limbeck.models.skeleton import IN_MEMORY, embedding_of, head_of, layers_of, needs_of
from limbeck.models.source import Stored
from limbeck.models.stored import StoredModel
from limbeck.models.trim.model import Vocabulary
from limbeck.models.verify import ACROSS_DOCUMENTS, NOT_CAUSAL, NOT_FINITE, OTHER_HEAD, differ, refused
from limbeck.models.weights import check_finite
from limbeck.types import Batch, Head, Outputs

MORE_THAN_HIDDEN = f"its layers return more than hidden states: {IN_MEMORY}"


def load_streamed(
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    memory: float | None = None,
    length: int,
    spill: Path,
    caller_bytes: Callable[[int], int] = lambda vocab: 0,
    kept: int = 0,
) -> StreamedModel:
    """A frozen model that uses at most ``memory`` bytes of its device, for sequences of ``length`` tokens.

    Without ``memory`` the limit is 80 % of free memory. ``spill`` is the folder for a file of hidden states, where they do not
    fit in memory. ``caller_bytes`` maps the vocabulary size to the bytes that the caller needs beside the model, ``kept`` is
    how many tokens are left where it will be `StreamedModel.trimmed`. All weights are read once, to check them.

    Raises BadModel and Mismatch as `load` does, BadModel for an architecture that cannot be streamed, and BadSetting for too
    little memory.
    """
    stored = StoredModel.open(name, dtype=dtype)
    about, model = stored.about, stored.about.model
    device = torch.device(device)
    limit = memory or FREE_SHARE * free_on(device)
    needs = needs_of(model, length=length, caller_bytes=caller_bytes(about.vocab))
    needs = replace(needs, head=needs.head + kept * about.head.weight.shape[1] * dtype.itemsize)  # beside the whole one
    free = psutil.virtual_memory().available
    budget = MemoryBudget.of(
        needs, limit=limit, length=length, kind="cuda" if device.type == "cuda" else "cpu", free=free
    )
    streamed = StreamedModel(about, stored.tensors, folder=stored.folder, device=device, budget=budget, spill=spill)
    streamed.verify()
    return streamed


def free_on(device: torch.device) -> float:
    """Bytes of free memory of a device."""
    return float(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)


@dataclass
class _Step:
    """One run of the decoder's forward, in which one layer computes.

    ``layer`` is its number: -1 for none (the embedding alone), the number of layers for what follows the last. ``hidden`` is
    its input, ``output`` its result. ``first_input`` is the input of the first layer. ``calls`` are the arguments of all layers.
    """

    layer: int
    hidden: Tensor | None = None
    first_input: Tensor | None = None
    output: Any = None
    calls: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True)
class Passing:
    """A micro-batch that has passed a ``layer``, whose number is that of the layers for what follows them.

    ``before`` and ``after`` are its hidden states (B, T, D), ``earlier`` those of more layers before, where these were asked for.
    """

    layer: int
    batch: Batch
    before: Float[Tensor, "B T D"]
    after: Float[Tensor, "B T D"]
    earlier: Float[Tensor, "B T D"] | None = None


@dataclass(frozen=True)
class Returning:
    """Activations of a micro-batch in a ``layer``, whose number is as in `Passing`, and the gradients of its loss for each."""

    layer: int
    batch: Batch
    activations: Sequence[Tensor]
    gradients: Sequence[Tensor]


class StreamedModel:
    """A model on disk that computes batches, a `StreamedLM`. ``about`` is the model without weights."""

    def __init__(
        self,
        about: LanguageModel,
        tensors: Mapping[str, Stored],
        *,
        folder: Path,
        device: torch.device,
        budget: MemoryBudget,
        spill: Path,
    ) -> None:
        """``tensors`` maps names to stored tensors, ``folder`` appears in messages. Raises BadModel for NaN among the weights."""
        self.about, self.name, self.vocab = about, about.name, about.vocab
        self._whole = about  # with all tokens, whatever is given out
        self._kept: Tensor | None = None  # the ids of the tokens that are given out
        self.device, self.budget = device, budget
        self._folder, self._spill = folder, spill
        self._layers = layers_of(about.model)
        self._step = _Step(-1)
        self._unchecked = set(tensors)  # names of tensors not yet checked for NaN
        names = {id(module): name for name, module in about.model.named_modules()}
        self._parts = [Part.of(layer, names[id(layer)], tensors) for layer in self._layers]
        self._embedding = Part.of(embedding_of(about.model), names[id(embedding_of(about.model))], tensors)
        self._head = Part.of(head_of(about.model), names[id(head_of(about.model))], tensors)
        parts = (*self._parts, self._embedding, self._head)
        placed = {name for part in parts for name in part.names.values()}
        rest = {name: name for name in tensors.keys() - placed}
        self._load_permanently(Part(about.model, rest, {name: tensors[name] for name in rest}))
        for number, layer in enumerate(self._layers):
            vars(layer)["forward"] = self._replacement(number, layer.forward)

    def trimmed(self, vocabulary: Vocabulary, about: LanguageModel) -> StreamedModel:
        """The same model with the kept tokens alone, by their new ids; ``about`` describes it so, without weights.

        Hidden states are those of the whole model, and the head has the kept rows. Raises BadModel where the vocabulary is of
        another tokenizer.
        """
        vocabulary.require_of(self._whole)
        self.about, self.vocab = about, about.vocab
        self._kept = torch.from_numpy(vocabulary.kept).to(self.device)
        return self

    def __call__(self, batch: Batch) -> Outputs:
        """Hidden states of a batch (B, T, D), all in memory, and the head that maps them to logits."""
        return next(self.each([batch]))[1]

    @torch.no_grad()
    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Outputs]]:
        """Each batch with its outputs, in order. The batches of a block go through the weights together.

        Drop an output before taking the next; otherwise the head is in memory twice. Raises BadModel for NaN among the weights.
        """
        for block in self._blocks(batches):
            with closing(self._states(block)) as states:
                give_back()
                self._enter(block, states)
                give_back()
                for number in self._loaded_layers():
                    for _ in self._push(number, block, states, states):
                        pass
                give_back()
                yield from self._leave(block, states)

    @torch.no_grad()
    def passing(self, batches: Iterable[Batch], *, span: int | None = None) -> Iterator[Passing]:
        """Each batch after each layer has computed it, layer by layer, and at last after what follows the layers.

        A block goes through all of them before the next one. Forward hooks on modules inside a layer have run once for each
        layer when it is given; those on modules after the layers, such as the last norm, run for every layer too. With ``span``
        the hidden states ``span`` layers before come along, which wait in files. Raises BadModel for NaN among the weights.
        """
        for block in self._blocks(batches):
            with ExitStack() as stack:
                ring = [
                    stack.enter_context(closing(self._states(block, on_disk=span is not None)))
                    for _ in range(1 if span is None else span + 1)
                ]
                self._enter(block, ring[0])
                give_back()
                for number in self._loaded_layers():
                    states, outputs = (ring[place % len(ring)] for place in (number, number + 1))
                    earlier = None if span is None or number + 1 < span else ring[(number + 1 - span) % len(ring)]
                    yield from self._push(number, block, states, outputs, earlier)
                give_back()
                for number, batch in enumerate(block):
                    for part in self._micro(batch):
                        hidden = ring[self._count % len(ring)].get(number, part).to(self.device)
                        yield Passing(self._count, batch.rows(part), hidden, self._end(hidden, batch.position[part]))

    @torch.no_grad()
    def returning(
        self,
        batches: Iterable[Batch],
        *,
        passed: Callable[[Passing], None],
        loss: Callable[[Batch, Outputs], Float[Tensor, ""]],
        taken: Callable[[], list[Tensor]],
        span: int | None = None,
    ) -> Iterator[Returning]:
        """Gradients of each batch's loss with respect to activations: what follows the layers first, the first layer last.

        A block goes through all layers, which ``passed`` is given (with ``span`` as in `passing`), and back through them, where
        each is computed again from its input. The inputs of all layers wait in a file. ``taken`` gives the activations of the
        layer that has just run, in the order of `Returning`; behind the layers it is their output. Raises BadModel for NaN among
        the weights.
        """
        for block in self._blocks(batches):
            with ExitStack() as stack:
                inputs = [
                    stack.enter_context(closing(self._states(block, on_disk=True))) for _ in range(self._count + 1)
                ]
                gradients = stack.enter_context(closing(self._states(block)))
                self._enter(block, inputs[0])
                give_back()
                for number in self._loaded_layers():
                    earlier = None if span is None or number + 1 < span else inputs[number + 1 - span]
                    for passing in self._push(number, block, inputs[number], inputs[number + 1], earlier):
                        passed(passing)
                give_back()
                yield from self._turn(block, inputs[-1], gradients, loss)
                give_back()
                for number in self._loaded_layers(backwards=True):
                    yield from self._pull(number, block, inputs[number], gradients, taken)

    def _turn(
        self, block: Sequence[Batch], states: States, gradients: States, loss: Callable[[Batch, Outputs], Tensor]
    ) -> Iterator[Returning]:
        """The loss of a block, and its gradients with respect to the outputs of the last layer and what follows it."""
        head = self.loaded_head()
        for number, batch in enumerate(block):
            for part in self._micro(batch):
                rows = batch.rows(part)
                with torch.enable_grad():
                    hidden = states.get(number, part).to(self.device).requires_grad_()
                    last = self._end(hidden, rows.position)
                    found = torch.autograd.grad(loss(rows, Outputs(last, head, self.vocab)), [last, hidden])
                gradients.put(number, part, found[1])
                yield Returning(self._count, rows, [last.detach()], [found[0]])

    def _pull(
        self,
        layer: int,
        block: Sequence[Batch],
        states: States,
        gradients: States,
        taken: Callable[[], list[Tensor]],
    ) -> Iterator[Returning]:
        """Computes a whole block in one layer again, and turns gradients of its output into those of its input."""
        for number, batch in enumerate(block):
            for part in self._micro(batch):
                rows = batch.rows(part)
                with torch.enable_grad():
                    hidden = states.get(number, part).to(self.device).requires_grad_()
                    output = self._run(layer, hidden, rows.position)
                    activations = taken()
                    found = torch.autograd.grad(
                        output, [*activations, hidden], gradients.get(number, part).to(self.device)
                    )
                gradients.put(number, part, found[-1])
                yield Returning(layer, rows, activations, found[:-1])

    @torch.no_grad()
    def seconds(self, batch: Batch, *, rows: int) -> float:
        """Estimated seconds for ``rows`` sequences like those of a batch, from reading one layer and computing with it."""
        sample = batch.to(self.device).rows(slice(0, self._micro_rows(batch)))
        hidden = torch.zeros((*sample.tokens.shape, self._width), dtype=self._whole.model.dtype, device=self.device)
        start = time.perf_counter()
        values = self._read(self._parts[0], self._buffer(self._parts[:1]))
        reading = time.perf_counter() - start
        with self._parts[0].holding(values, self.device):
            start = time.perf_counter()
            float(self._run(0, hidden, sample.position).sum())  # waits for the device
            computing = (time.perf_counter() - start) / len(sample.tokens)
        passes = -(-rows * batch.tokens.shape[1] // self.budget.block_tokens)
        parts = (passes * reading, rows * computing)
        return len(self._layers) * (max(parts) if self.budget.prefetch else sum(parts))

    # One block

    def _blocks(self, batches: Iterable[Batch]) -> Iterator[list[Batch]]:
        block: list[Batch] = []
        for batch in batches:
            block.append(batch.to(self.device))
            if sum(one.tokens.numel() for one in block) >= self.budget.block_tokens:
                yield block
                block = []
        if block:
            yield block

    def _states(self, block: Sequence[Batch], *, on_disk: bool = False) -> States:
        spill = self._spill if self.budget.spill or on_disk else None
        return States([(*batch.tokens.shape, self._width) for batch in block], self._whole.model.dtype, spill)

    def _enter(self, block: Sequence[Batch], states: States) -> None:
        """Computes the input of the first layer from tokens."""
        with self._embedding.holding(self._read(self._embedding), self.device):
            for number, batch in enumerate(block):
                for part in self._micro(batch):
                    tokens = batch.tokens[part] if self._kept is None else self._kept[batch.tokens[part]]
                    states.put(number, part, self._embed(tokens, batch.position[part]))

    def _push(
        self, layer: int, block: Sequence[Batch], states: States, outputs: States, earlier: States | None = None
    ) -> Iterator[Passing]:
        """Runs a whole block through one layer, from ``states`` into ``outputs``."""
        for number, batch in enumerate(block):
            for part in self._micro(batch):
                hidden = states.get(number, part).to(self.device)
                output = self._run(layer, hidden, batch.position[part])
                before = None if earlier is None else earlier.get(number, part).to(self.device)
                yield Passing(layer, batch.rows(part), hidden, output, before)
                outputs.put(number, part, output)

    def _leave(self, block: Sequence[Batch], states: States) -> Iterator[tuple[Batch, Outputs]]:
        """Computes outputs from the hidden states of the last layer."""
        head = self.loaded_head()
        for number, batch in enumerate(block):
            hidden = torch.cat(
                [
                    self._end(states.get(number, part).to(self.device), batch.position[part])
                    for part in self._micro(batch)
                ]
            )
            yield batch, Outputs(hidden, head, self.vocab)
            del hidden

    def _end(self, hidden: Float[Tensor, "B T D"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """What follows the layers, up to the head."""
        found: Tensor = self._decode(_Step(len(self._layers), hidden), position)
        return found

    def _loaded_layers(self, *, backwards: bool = False) -> Iterator[int]:
        """The number of each layer while its weights are loaded. With prefetch the next one is read meanwhile."""
        prefetch = self.budget.prefetch
        order = list(reversed(range(len(self._parts)))) if backwards else list(range(len(self._parts)))
        buffers = [self._buffer(self._parts) for _ in range(2 if prefetch else 1)]
        with ThreadPoolExecutor(1) as reader:

            def read(place: int) -> Any:
                if place == len(order):
                    return None
                return reader.submit(self._read, self._parts[order[place]], buffers[place % len(buffers)])

            reading = read(0)
            for place, number in enumerate(order):
                values = reading.result()
                if prefetch:
                    reading = read(place + 1)
                with self._parts[number].holding(values, self.device):
                    del values
                    yield number
                if not prefetch:
                    reading = read(place + 1)

    def _micro(self, batch: Batch) -> Iterator[slice]:
        rows = self._micro_rows(batch)
        return (slice(start, start + rows) for start in range(0, len(batch.tokens), rows))

    def _micro_rows(self, batch: Batch) -> int:
        return max(1, self.budget.micro_tokens // batch.tokens.shape[1])

    @property
    def whole(self) -> LanguageModel:
        """The model that runs, with all its tokens; outside a run its layers have no weights."""
        return self._whole

    @property
    def _count(self) -> int:
        return len(self._layers)

    @property
    def _width(self) -> int:
        return int(self._whole.config.get_text_config().hidden_size)

    # The decoder's own forward

    def _replacement(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a layer: it computes only in its own step, and otherwise returns its input."""

        def replacement(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            step = self._step
            step.calls.append((hidden, args, kwargs))
            if number == 0:
                step.first_input = hidden
            if number == step.layer:
                step.output = forward(step.hidden, *args, **kwargs)
            return step.hidden if step.layer == len(self._layers) else hidden

        return replacement

    def _decode(
        self, step: _Step, position: Int[Tensor, "B T"], *, model: nn.Module | None = None, **inputs: Tensor
    ) -> Any:
        """Runs the decoder (or the ``model`` around it) for one step; returns its last hidden states (or logits)."""
        self._step = step
        inputs = inputs or {"inputs_embeds": step.hidden}  # type: ignore[dict-item]
        # No attention mask on purpose, as in LanguageModel: only then does Transformers look for restarts in the positions.
        with packed(position):
            outputs = (model or self._whole.model.base_model)(
                position_ids=position, attention_mask=None, use_cache=False, **inputs
            )
        self._step = _Step(-1)
        return outputs.last_hidden_state if model is None else outputs.logits

    def _embed(self, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        step = _Step(-1)
        self._decode(step, position, input_ids=tokens)
        assert step.first_input is not None
        return step.first_input

    def _run(self, layer: int, hidden: Float[Tensor, "B T D"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        step = _Step(layer, hidden)
        self._decode(step, position)
        if not isinstance(step.output, Tensor):
            raise refused(self.about, MORE_THAN_HIDDEN)
        return step.output

    # Reading

    def _buffer(self, parts: Sequence[Part]) -> Tensor:
        return torch.empty(max(part.bytes(self._whole.model.dtype) for part in parts), dtype=torch.uint8)

    def _read(self, part: Part, buffer: Tensor | None = None) -> dict[str, Tensor]:
        """A part's tensors from disk, in the given buffer or a new one."""
        buffer = self._buffer([part]) if buffer is None else buffer
        values, start = {}, 0
        for local, name in part.names.items():
            stored = part.stored[local]
            size = math.prod(stored.shape) * self._whole.model.dtype.itemsize
            target = buffer[start : start + size].view(self._whole.model.dtype)
            read_into(target, stored)
            if name in self._unchecked:
                check_finite(self._folder, name, target)
            self._unchecked.discard(name)
            values[local] = target.view(stored.shape)
            start += -(-size // ALIGNED) * ALIGNED
        return values

    def loaded_head(self) -> Head:
        """The head, with the kept tokens alone, whose weights are read for it. Raises BadModel for NaN among them."""
        with self._head.holding(self._read(self._head), self.device):
            head = self._whole.head
            if self._kept is None:
                return replace(head, weight=head.weight.detach())
            bias = None if head.bias is None else head.bias.detach()[self._kept]
            return replace(head, weight=head.weight.detach()[self._kept], bias=bias)

    def _load_permanently(self, part: Part) -> None:
        values = {name: tensor.to(self.device) for name, tensor in self._read(part).items()}
        part.module.load_state_dict(values, strict=False, assign=True)
        for module in part.module.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(self.device)

    # Checks

    @torch.no_grad()
    def verify(self) -> None:
        """Reads all weights once, and checks on a few tokens what `models.verify` checks.

        It also checks that streaming equals a model in memory: nothing changes hidden states between layers, and all other
        arguments of a layer depend on positions alone. Raises BadModel with the reason.
        """
        tokens, position = self._trial()
        hidden = self._verify_calls(tokens, position)
        self._verify_head(hidden, position)
        nowhere = torch.full_like(tokens, -1)
        weight = torch.ones(tokens.shape, device=tokens.device)
        alone, other, packed, second = self(Batch(tokens, tokens, weight, position, nowhere, nowhere[:, 0])).hidden
        half = tokens.shape[1] // 2
        if differ(self._whole, alone[:half], other[:half]):
            raise refused(self.about, NOT_CAUSAL)
        if self._whole.chunked or differ(self._whole, packed[half:], second[:half]):
            raise refused(
                self.about,
                f"{ACROSS_DOCUMENTS}: {IN_MEMORY}, where each document runs alone",
            )

    def _trial(self) -> tuple[Int[Tensor, "4 8"], Int[Tensor, "4 8"]]:
        """Tokens and positions of four rows: one document, another that begins like it, both halves packed, the second half."""
        generator = torch.Generator().manual_seed(0)
        first, second, other = torch.randint(self.vocab, (3, 4), generator=generator)
        rows = [(first, second), (first, other), (first, second), (second, other)]
        position = torch.arange(8).repeat(4, 1)
        position[2, 4:] -= 4
        return torch.stack([torch.cat(row) for row in rows]).to(self.device), position.to(self.device)

    def _verify_calls(self, tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Compares the calls of layers from tokens with those from hidden states; returns the first layer's input."""
        by_tokens = _Step(-1)
        try:
            with self._embedding.holding(self._read(self._embedding), self.device):
                self._decode(by_tokens, position, input_ids=tokens)
            if by_tokens.first_input is None:
                raise refused(
                    self.about,
                    f"its layers are not called one after the other: {IN_MEMORY}",
                )
            by_hidden = _Step(-1, by_tokens.first_input)
            self._decode(by_hidden, position)
        except (TypeError, AttributeError) as error:
            raise refused(self.about, f"its decoder does not take positions and hidden states ({error})") from error
        for step in (by_tokens, by_hidden):
            if len(step.calls) != len(self._layers) or any(hidden is not step.first_input for hidden, *_ in step.calls):
                raise refused(self.about, f"it changes hidden states between layers: {IN_MEMORY}")
        for (_, *arguments), (_, *again) in zip(by_tokens.calls, by_hidden.calls, strict=True):
            if not _same(arguments, again):
                raise refused(
                    self.about,
                    f"arguments of its layers depend on more than hidden states and positions: {IN_MEMORY}",
                )
        return by_tokens.first_input

    def _verify_head(self, hidden: Float[Tensor, "B T D"], position: Int[Tensor, "B T"]) -> None:
        end = len(self._layers)
        with self._head.holding(self._read(self._head), self.device):
            last = self._decode(_Step(end, hidden), position)
            if last.shape != hidden.shape:
                raise refused(self.about, MORE_THAN_HIDDEN)
            model = self._whole.model
            theirs = self._decode(_Step(end, hidden), position, model=model, inputs_embeds=hidden)
            ours = self._whole.head.logits(last)
        if not (torch.isfinite(ours[..., : self.vocab]).all() and torch.isfinite(theirs[..., : self.vocab]).all()):
            raise refused(self.about, NOT_FINITE)
        if differ(self._whole, ours[..., : self.vocab], theirs[..., : self.vocab]):
            raise refused(self.about, OTHER_HEAD)


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments of a layer are equal, and of a type through which layers cannot pass data to one another."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return all(_same(a[key], b[key]) for key in a)
    return bool(a is None or isinstance(a, bool | int | float | str)) and a == b
