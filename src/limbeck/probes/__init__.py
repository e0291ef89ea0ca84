"""Probes: measurements of a model (likelihood, fidelity, calibration, cost, tasks), each with n and an interval."""

from limbeck.probes.calibration import ReliabilityBin, calibration, reliability
from limbeck.probes.cost import cost, counted
from limbeck.probes.fidelity import fidelity
from limbeck.probes.interval import Interval, bootstrap, difference_interval, difference_test, holm, mean_interval
from limbeck.probes.largest_kl import KLExample, in_words
from limbeck.probes.likelihood import likelihood
from limbeck.probes.measurements import Measurements, measure
from limbeck.probes.samples import samples
from limbeck.probes.slices import Bigrams, Slices, measure_slices, slices

__all__ = [
    "Bigrams",
    "Interval",
    "KLExample",
    "Measurements",
    "ReliabilityBin",
    "Slices",
    "bootstrap",
    "calibration",
    "cost",
    "counted",
    "difference_interval",
    "difference_test",
    "fidelity",
    "holm",
    "in_words",
    "likelihood",
    "mean_interval",
    "measure",
    "measure_slices",
    "reliability",
    "samples",
    "slices",
]
