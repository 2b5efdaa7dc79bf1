"""RSO's two losses: DPO and the hinge at gamma, against float64 references."""

import numpy as np
import pytest
from losses.loss_checks import (
    EXTREME,
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    quad,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses

rso = jitted(losses.rso)
dpo = jitted(losses.dpo)
ALL4 = (0, 1, 2, 3)


def margin(pw, pl, rw, rl):
    return (np.asarray(pw, np.float64) - rw) - (np.asarray(pl, np.float64) - rl)


@pytest.mark.parametrize("hinge", [False, True])
def test_value_gradient_and_extremes(hinge):
    def reference(*a):
        d = 0.3 * margin(*a)
        return np.maximum(0, 1 - d) if hinge else sp(-d)

    def loss(*a):
        return rso(*a, gamma=0.3, margin=hinge)

    args = quad()
    _, grads = check_against(loss, reference, args, ALL4)
    d = 0.3 * margin(*args)
    slope = -0.3 * (d < 1) if hinge else -0.3 * sig(-d)
    np.testing.assert_allclose(grads[0], slope, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(grads[1], -grads[0], rtol=1e-6)
    check_extreme(loss, EXTREME, ALL4)
    check_bfloat16(loss, args, ALL4)
    check_vmap(loss, args)


def test_sigmoid_norm_is_dpo_with_gamma():
    args = quad()
    np.testing.assert_array_equal(rso(*args), dpo(*args, beta=0.05))


def test_hinge_norm_without_a_reference_bounds_the_error_and_stops_beyond_the_margin():
    pw, pl, *_ = quad()
    zero = np.zeros_like(pw)
    value, grads = value_and_grads(lambda *a: rso(*a, zero, zero, gamma=0.3, margin=True), (pw, pl), (0,))
    h = 0.3 * (pw.astype(np.float64) - pl)
    np.testing.assert_allclose(value, np.maximum(0, 1 - h), rtol=1e-5, atol=1e-6)  # SLiC's, delta = 1
    assert np.all(value >= (h <= 0))
    assert np.any(h > 1)
    np.testing.assert_array_equal(grads[0][h > 1], 0.0)


def test_absent_pairs():
    args = [a.copy() for a in quad()]
    where = np.arange(6) % 2 == 0
    for a in args:
        a[~where] = np.nan
    for hinge in (False, True):
        value, grads = value_and_grads(lambda *a, hinge=hinge: rso(*a, margin=hinge, where=where), args, ALL4)
        np.testing.assert_array_equal(value[~where], 0.0)
        assert all(np.all(np.isfinite(g)) and not np.any(g[~where]) for g in grads)
