"""McNemar by scipy, the paired bootstrap by what is known of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from jaxpo.evaluate.paired import differences, mcnemar
from jaxpo.evaluate.results import TaskResult
from jaxpo.evaluate.tasks.base import Scored
from jaxpo.evaluate.tasks.reading import Score


def result(values, weights=None, **how):
    weights = [1.0] * len(values) if weights is None else weights
    scored = [Scored({"x": float(v)}, {"x": float(w)}) for v, w in zip(values, weights, strict=True)]
    return TaskResult("task", {}, "", scored, {"x": Score("", **how)}, 0.0)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (5, 5), (9, 2), (2, 9), (0, 20), (300, 260)])
def test_mcnemar_is_the_binomial_test(better, worse):
    expected = binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert mcnemar(better, worse) == pytest.approx(expected)


def test_the_difference_of_zeros_and_ones():
    ours, theirs = [1, 1, 1, 0, 1, 0], [1, 0, 0, 1, 1, 0]
    found = differences(result(ours, binary=True), result(theirs, binary=True))["x"]
    assert found.value == pytest.approx(1 / 6)
    assert (found.better, found.worse, found.n) == (2, 1, 6)
    assert found.p == pytest.approx(binomtest(2, 3).pvalue)
    assert found.low < found.value < found.high


def test_fewer_bits_are_better():
    found = differences(result([4, 6], [2, 2], higher=False), result([6, 6], [2, 2], higher=False))["x"]
    assert found.value == pytest.approx(10 / 4 - 12 / 4)
    assert (found.better, found.worse, found.p) == (1, 0, None)


def test_pairing_removes_what_examples_share():
    """A constant gain over examples that differ widely has no spread; unpaired it would drown."""
    generator = np.random.Generator(np.random.Philox(0))
    base = generator.normal(0, 10, 50)
    found = differences(result(base + 1), result(base))["x"]
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


def test_the_interval_covers_the_truth_nineteen_times_of_twenty():
    generator, hits = np.random.Generator(np.random.Philox(1)), 0
    for _ in range(200):
        base = generator.normal(0, 1, 40)
        found = differences(result(base + generator.normal(0.3, 1, 40)), result(base))["x"]
        hits += found.low <= 0.3 <= found.high
    # Of 200 draws with p = 0.95 fewer than 178 come up once in two thousand.
    assert hits >= 178


def test_a_perplexity_is_compared_as_one():
    found = differences(result([2.0, 2.0], exp=True), result([1.0, 1.0], exp=True))["x"]
    assert found.value == pytest.approx(np.exp(2) - np.exp(1))


def test_one_example_has_no_interval():
    found = differences(result([1.0]), result([0.0]))["x"]
    assert (found.value, found.low, found.high) == (1.0, None, None)


def test_other_examples_are_no_comparison():
    ours = result([1.0, 2.0])
    with pytest.raises(ValueError, match=r"not of the same examples|shorter"):
        differences(ours, result([1.0, 2.0, 3.0]))
