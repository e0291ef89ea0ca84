"""A teacher that several models are compared with computes each batch once."""

import pytest
import torch

from limbeck.teachers.remembered import RememberedTeacher
from limbeck.types import Batch, Head, Outputs


class Counting:
    """A model whose hidden states are the numbers of the rows; it counts its calls."""

    name, vocab = "teacher", 5

    def __init__(self):
        self.calls = 0

    def __call__(self, batch):
        self.calls += 1
        hidden = batch.row[:, None, None].expand(-1, 4, 3).float().clone()  # 48 bytes a row
        return Outputs(hidden, Head(torch.ones(5, 3)), 5)


def batch_of(*rows):
    shape = len(rows), 4
    numbers = torch.zeros(shape, dtype=torch.long)
    return Batch(numbers, numbers, torch.ones(shape), numbers, numbers, torch.tensor(rows))


def test_each_batch_is_computed_once():
    teacher = Counting()
    remembered = RememberedTeacher(teacher)
    assert (remembered.name, remembered.vocab) == ("teacher", 5)
    first, second = remembered(batch_of(7, 3)), remembered(batch_of(3, 7))
    assert first.hidden[:, 0, 0].tolist() == [7, 3]
    assert second.hidden[:, 0, 0].tolist() == [3, 7]  # another batch, though of the same rows
    assert remembered(batch_of(7, 3)) is first
    assert teacher.calls == 2


@pytest.mark.parametrize(("most", "calls"), [(144, 2), (96, 3), (95, 3), (47, 4)])
def test_what_exceeds_the_memory_is_computed_again(most, calls):
    teacher = Counting()
    remembered = RememberedTeacher(teacher, most=most)
    for _ in range(2):
        assert remembered(batch_of(1, 2)).hidden[:, 0, 0].tolist() == [1, 2]
        assert remembered(batch_of(5)).hidden[:, 0, 0].tolist() == [5]
    assert teacher.calls == calls
