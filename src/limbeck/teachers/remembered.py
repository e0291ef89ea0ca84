"""A teacher with which several models are compared on the same rows: it computes the hidden states of each batch once.

Only hidden states are kept, which are small beside logits; the head is applied again for each model.
"""

from __future__ import annotations

from limbeck.types import Batch, CausalLM, Outputs

BYTES = 2**25  # of hidden states; batches beyond are computed each time


class RememberedTeacher:
    """A teacher in memory that keeps its outputs of the batches it was called with, up to ``most`` bytes of hidden states.

    A batch is known by the numbers of its rows, so all batches must be of one corpus, and the weights must not change.
    """

    def __init__(self, teacher: CausalLM, *, most: int = BYTES) -> None:
        self.name, self.vocab = teacher.name, teacher.vocab
        self._teacher, self._free = teacher, most
        self._outputs: dict[bytes, Outputs] = {}

    def __call__(self, batch: Batch) -> Outputs:
        """The teacher's outputs for these rows: the same tensors at each call, or equal ones where they were not kept."""
        key = batch.row.cpu().numpy().tobytes()
        if (known := self._outputs.get(key)) is not None:
            return known
        outputs = self._teacher(batch)
        if outputs.hidden.nbytes <= self._free:
            self._free -= outputs.hidden.nbytes
            self._outputs[key] = outputs
        return outputs
