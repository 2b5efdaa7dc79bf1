"""FSPO against a float64 reference, its limits, and the mean over users."""

import numpy as np
import pytest
from losses.loss_checks import check_against, check_bfloat16, check_vmap, jitted, quad, sp, value_and_grads

from jaxpo import losses

fspo = jitted(losses.fspo)
ALL4 = (0, 1, 2, 3)
USERS = np.int32([0, 0, 0, 1, 2, 2])


def gap(pw, pl, rw, rl):
    return np.asarray(pw, np.float64) - rw - pl + rl


@pytest.mark.parametrize(("form", "smoothing"), [("ipo", 0.0), ("dpo", 0.0), ("dpo", 0.2)])
def test_value_and_gradient(form, smoothing):
    weight = np.float32([1, 0.5, 2, 1, 0.25, 3])

    def reference(pw, pl, rw, rl):
        h = gap(pw, pl, rw, rl)
        if form == "ipo":
            return weight * (h - 1 / (2 * 0.3)) ** 2
        return weight * ((1 - smoothing) * sp(-0.3 * h) + smoothing * sp(0.3 * h))

    def loss(*a):
        return fspo(*a, weight, form=form, beta=0.3, label_smoothing=smoothing)

    check_against(loss, reference, quad(), ALL4)
    if not smoothing:
        check_bfloat16(loss, quad(), ALL4)
        check_vmap(loss, quad())


def test_without_weights_it_is_ipo_on_sums_or_dpo():
    args = quad()
    np.testing.assert_allclose(fspo(*args, beta=0.2), losses.ipo_sum(*args, beta=0.2), rtol=1e-6)
    np.testing.assert_allclose(fspo(*args, form="dpo", beta=0.2), losses.dpo(*args, beta=0.2), rtol=1e-6)
    one = losses.user_weights(np.zeros(6, np.int32))
    np.testing.assert_array_equal(one, 1.0)
    np.testing.assert_allclose(fspo(*args, one, beta=0.2), losses.ipo_sum(*args, beta=0.2), rtol=1e-6)


def test_at_the_reference_and_at_the_minimum():
    p = quad()[0]
    np.testing.assert_allclose(fspo(p, p, p, p, beta=0.1), 25.0, rtol=1e-6)
    np.testing.assert_allclose(fspo(p, p, p, p, form="dpo"), np.log(2), rtol=1e-6)
    h = np.float32([40, 49, 50, 51, 60, 0])
    zero = np.zeros(6, np.float32)
    ipo = np.asarray(fspo(h, zero, zero, zero))
    assert np.argmin(ipo) == 2
    assert ipo[2] == 0
    assert ipo[3] == ipo[1]
    dpo = np.asarray(fspo(np.sort(h), zero, zero, zero, form="dpo"))
    assert np.all(np.diff(dpo) < 0)


def test_swapping_negates_h_and_a_constant_of_a_response_cancels():
    pw, pl, rw, rl = quad()
    swapped = np.asarray(fspo(pl, pw, rl, rw, form="dpo", beta=1.0))
    np.testing.assert_allclose(swapped, sp(gap(pw, pl, rw, rl)), rtol=1e-5)
    c = np.float32(3.5)
    np.testing.assert_allclose(fspo(pw + c, pl, rw + c, rl), fspo(pw, pl, rw, rl), rtol=1e-4)


def test_the_weights_make_the_mean_one_over_users():
    loss = np.arange(1.0, 7.0)
    w = np.asarray(losses.user_weights(USERS))
    users = np.mean([loss[:3].mean(), loss[3], loss[4:].mean()])
    np.testing.assert_allclose(np.mean(w * loss), users, rtol=1e-6)
    twice = np.concatenate([USERS, USERS[:3]])
    again = np.asarray(losses.user_weights(twice)) * np.concatenate([loss, loss[:3]])
    np.testing.assert_allclose(np.mean(again), users, rtol=1e-6)
    here = np.array([1, 1, 0, 1, 0, 0], bool)
    masked = np.asarray(losses.user_weights(USERS, where=here))
    np.testing.assert_allclose(np.sum(masked * loss) / 3, np.mean([1.5, 4.0]), rtol=1e-6)
    np.testing.assert_array_equal(masked[~here], 0.0)
    np.testing.assert_array_equal(losses.user_weights(USERS, where=np.zeros(6, bool)), 0.0)
    _, grads = value_and_grads(lambda p, v: losses.fspo(p, *quad()[1:], v), (quad()[0], w), (1,))
    np.testing.assert_array_equal(grads[0], 0.0)
