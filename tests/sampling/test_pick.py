"""The inverse CDF: exact borders, extreme words, tiny weights, frequencies over several blocks."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxpo.sampling.pick import BLOCK, block_sum, pick

run = jax.jit(pick)
LAST = 2**32 - 1


def words(*pairs):
    return np.asarray(pairs, np.uint32)


def one(weights, *pairs):
    """Places drawn from one row of weights with several pairs of words."""
    rows = np.tile(np.asarray(weights, np.float32), (len(pairs), 1))
    return np.asarray(run(rows, words(*pairs))[0]).tolist()


def test_the_second_word_chooses_inside_a_block_at_exact_borders():
    quarter = 2**30
    inside = [0, quarter - 1, quarter, 3 * quarter - 1, 3 * quarter, LAST]
    assert one([0, 1, 0, 2, 1, 0], *[(7, word) for word in inside]) == [1, 1, 3, 3, 4, 4]


def test_the_first_word_chooses_the_block_at_exact_borders():
    weights = np.zeros(3 * BLOCK)
    weights[[5, BLOCK + 6, 2 * BLOCK + 7]] = 1, 2, 1
    quarter = 2**30
    first = [0, quarter - 1, quarter, 3 * quarter - 1, 3 * quarter, LAST]
    assert one(weights, *[(word, 9) for word in first]) == [5, 5, BLOCK + 6, BLOCK + 6, 2 * BLOCK + 7, 2 * BLOCK + 7]


def test_what_is_rare_among_blocks_and_in_its_block_is_still_reached():
    """A token of 2^-30 in a block of 2^-30: the last two words of both ranges, and no others."""
    weights = np.zeros(2 * BLOCK)
    weights[0], weights[BLOCK], weights[BLOCK + 9] = 1.0, 2.0**-30, 2.0**-60
    assert one(weights, (LAST, LAST), (LAST - 1, LAST - 1), (LAST, LAST - 8), (LAST - 8, LAST)) == [
        BLOCK + 9,
        BLOCK + 9,
        BLOCK,
        0,
    ]


extreme = st.sampled_from([0, 1, 2**16, 2**31, LAST - 1, LAST])
whole_words = st.tuples(extreme | st.integers(0, LAST), extreme | st.integers(0, LAST))


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([0.0, 0.0, 1.0, 0.3, 1e-12, 1e-30, 1e6]), min_size=600, max_size=600).filter(any),
    st.lists(whole_words, min_size=8, max_size=8),
)
def test_a_weight_of_nought_is_never_drawn(weights, pairs):
    assert all(weights[place] > 0 for place in one(weights, *pairs))


def test_frequencies_over_several_blocks_are_the_weights():
    rng = np.random.default_rng(0)
    weights = (rng.random(600) ** 3 * (rng.random(600) < 0.7)).astype(np.float32)
    places = np.concatenate(
        [
            run(np.broadcast_to(weights, (10_000, 600)), rng.integers(0, 2**32, (10_000, 2), dtype=np.uint32))[0]
            for _ in range(3)
        ]
    )
    p = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    seen = np.bincount(places, minlength=600)
    assert seen[p == 0].sum() == 0
    common = p * 30_000 >= 5
    counts = np.append(seen[common], seen[~common].sum())
    expected = 30_000 * np.append(p[common], p[~common].sum())
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    tilted = expected * np.linspace(0.9, 1.1, len(expected))
    assert stats.chisquare(counts, tilted * 30_000 / tilted.sum()).pvalue < 1e-3, "the test has power"


@pytest.mark.parametrize("width", [1, 255, 256, 257, 5000])
def test_sums_by_blocks_are_those_of_float64(width):
    x = np.random.default_rng(1).random((2, width)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(block_sum)(x), x.sum(axis=1, dtype=np.float64), rtol=1e-6)


def test_a_row_without_weight_stays_inside():
    assert one(np.zeros(300), (0, 0), (LAST, LAST)) == [299, 299]
