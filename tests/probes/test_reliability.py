"""Accuracy by confidence, the bins of a reliability diagram."""

import numpy as np
import pytest

from limbeck.probes import Measurements, reliability
from limbeck.probes.measurements import BINS


def measured(*rows):
    """Measurements of documents whose bins are {bin: (weight, confidence, correct)}."""
    bins = np.zeros((len(rows), BINS, 3))
    for document, row in enumerate(rows):
        for k, sums in row.items():
            bins[document, k] = sums
    tokens = bins[..., 0].sum(1)
    return Measurements(tokens, tokens * 2.0, bins)


def test_each_bin_has_its_mean_confidence_accuracy_and_share():
    documents = [{3: (10, 2.3, 2), 14: (30, 29.1, 27)}, {3: (20, 4.6, 4), 14: (20, 19.4, 18)}]
    low, high = reliability([measured(*documents * 10)])
    assert (low.confidence, low.accuracy.value, low.share) == pytest.approx((6.9 / 30, 0.2, 30 / 80))
    assert (high.confidence, high.accuracy.value, high.share) == pytest.approx((48.5 / 50, 0.9, 50 / 80))
    assert low.accuracy.low == low.accuracy.high == pytest.approx(0.2), "every document has this accuracy"


def test_documents_that_differ_widen_the_interval():
    (found,) = reliability([measured(*[{7: (10, 5, 10)}, {7: (10, 5, 0)}] * 20)])
    assert 0.3 < found.accuracy.low < 0.45 < found.accuracy.value < 0.55 < found.accuracy.high < 0.7


def test_bins_of_few_predictions_are_left_out():
    rows = [{0: (2, 0.1, 1), 7: (10, 5, 5)}] * 9
    assert [one.share for one in reliability([measured(*rows)])] == pytest.approx([90 / 108])
    assert reliability([measured({0: (3, 0.1, 1)})]) == []
