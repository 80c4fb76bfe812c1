"""Limits against the formula, and rates within what any machine has."""

import pytest

from arch.efficiency.arithmetic import Macs
from arch.efficiency.layers import Layer
from arch.efficiency.roofline import Peaks, measure_peaks, roofs


def _layer(path, macs, num_bytes):
    return Layer(path, "conv 1x1", (1, 8, 8, 4), 0, Macs(conv=macs), 0, num_bytes)


def test_the_greater_of_the_two_times_is_the_limit():
    """At 1e9 multiply-adds and 1e8 bytes a second, ten multiply-adds a byte are on the ridge."""
    peaks = Peaks(1e9, 1e8)
    dense, thin = _layer("dense", 10**7, 10**5), _layer("thin", 10**5, 10**6)
    norm = _layer("norm", 0, 10**6)
    found = roofs([dense, norm, thin, _layer("unseen", 1, 1)], {"dense": 0.02, "thin": 0.02, "norm": 1.0}, peaks)
    assert [(roof.layer.path, roof.bound) for roof in found] == [("dense", "arithmetic"), ("thin", "memory")]
    assert [roof.limit_s for roof in found] == pytest.approx([0.01, 0.01])
    assert [roof.reached for roof in found] == pytest.approx([0.5, 0.5])
    assert peaks.bound(_layer("ridge", 10**6, 10**5)) == "arithmetic"


def test_rates_are_those_of_a_machine():
    """Between a tenth of a slow core's and that of the fastest accelerator."""
    peaks = measure_peaks(rounds=3, matrix_sizes=(256, 512), copy_bytes=2**24)
    assert 1e8 < peaks.macs_per_s < 1e16 and 1e8 < peaks.bytes_per_s < 1e14
