"""Intervals against published and computed values."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpo.evaluate.intervals import Measurement, mean, ratio, share, shares


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (score, no continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(hits, n, low, high):
    measured = share(hits, n)
    assert (measured.value, measured.n) == (hits / n, n)
    assert (measured.low, measured.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_stays_inside():
    a, b = share(3, 10), share(7, 10)
    assert a.low == pytest.approx(1 - b.high)
    assert share(10, 10).high == pytest.approx(1.0)
    assert share(2.5, 5).value == 0.5
    with pytest.raises(ValueError, match="7 of 5"):
        share(7, 5)


def test_bootstrap_of_a_mean_approaches_the_normal_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    measured = mean(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert measured.value == pytest.approx(values.mean())
    assert measured.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert measured.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_ratio_weighs_units_by_size_and_resamples_them_whole():
    measured = ratio([10.0, 1.0], [5.0, 1.0])
    assert measured.value == pytest.approx(11 / 6)
    assert (measured.low, measured.high) == (1.0, 2.0), (
        "a resample holds only one of the two units a quarter of the time"
    )
    constant = ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (constant.low, constant.high) == pytest.approx((2.0, 2.0))
    assert ratio([10.0, 1.0], [5.0, 1.0]) == measured, "the same numbers give the same interval"


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_shares_that_all_agree_have_the_interval_of_as_many_hits(value):
    alike = shares([value] * 20, [1.0] * 20)
    assert alike == share(20 * value, 20)
    assert alike.high - alike.low > 0.1


def test_shares_that_differ_have_the_bootstrap():
    values = [0.0, 0.25, 0.5, 1.0]
    assert shares(values, [1.0] * 4) == ratio(values, [1.0] * 4)


def test_no_units_is_an_error():
    with pytest.raises(ValueError, match="needs units with weight"):
        ratio([], [])


def test_record_is_plain():
    assert Measurement(1.5, 3).record() == {"value": 1.5, "n": 3, "low": None, "high": None}
