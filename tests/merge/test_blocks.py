"""Leaves in blocks on several threads give what whole leaves give."""

import ml_dtypes
import numpy as np
import pytest

from jaxpo.merge import blocks
from jaxpo.merge.blocks import BLOCK, blockwise, summed, where, widened
from jaxpo.merge.dare import drawn
from jaxpo.merge.numerics import dot, generator

SIZES = (0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 7)


def leaf(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_every_entry_is_computed_once_in_its_place(size):
    a, b = leaf(size), leaf(size, 1)
    assert np.array_equal(blockwise(np.subtract, a, b), a - b)
    np.testing.assert_allclose(dot(a, b), np.dot(a.astype(np.float64), b.astype(np.float64)), rtol=1e-12, atol=1e-12)


def test_shapes_and_strides_of_leaves_do_not_matter():
    a = leaf(6 * BLOCK).reshape(2, 3, BLOCK)
    turned = np.ascontiguousarray(a.T).T
    found = blockwise(lambda x, y: x + y, a, turned)
    assert found.shape == a.shape
    assert np.array_equal(found, 2 * a)


def test_bfloat16_widens_to_the_values_that_it_holds():
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    assert np.array_equal(widened(every), every.astype(np.float32), equal_nan=True)
    assert np.array_equal(np.signbit(widened(every)), np.signbit(every.astype(np.float32)))


def test_sums_do_not_depend_on_the_number_of_cores(monkeypatch):
    a = leaf(5 * BLOCK + 3)
    found = set()
    for cores in (1, 2, 3):
        monkeypatch.setattr(blocks, "CORES", cores)
        found.add(summed(lambda x: (float(x.sum(dtype=np.float64)), float(x.max())), a))
    assert len(found) == 1


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(blocks, "CORES", 2)

    def fails(block):
        raise FloatingPointError("in a block")

    with pytest.raises(FloatingPointError, match="in a block"):
        blockwise(fails, leaf(3 * BLOCK))


def test_dare_drops_what_one_draw_for_the_whole_leaf_drops():
    shape = (2, BLOCK + 5)
    whole = generator(0, "leaf", 0).random(shape, np.float32) < 0.3
    assert np.array_equal(drawn(shape, 0.3, generator(0, "leaf", 0)), whole)


def test_a_mask_leaves_zeros_whatever_stood_there():
    block = np.array([1.5, -2.0, np.nan, np.inf, -np.inf, np.nan], np.float32)
    mask = np.array([True, False, False, False, True, True])
    found = where(mask, block)
    np.testing.assert_array_equal(found, np.where(mask, block, np.float32(0)))
    assert not np.signbit(found[1])
