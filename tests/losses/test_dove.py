"""DOVE beyond `test_pairwise.py`: joint mode with padding, extremes and low precision on instruction tokens too."""

import numpy as np
from losses.loss_checks import check_bfloat16, check_extreme, check_vmap, jitted, sp, value_and_grads

from jaxpo import losses

dove = jitted(losses.dove)
ALL4 = (0, 1, 2, 3)
N, T = 4, 7


def masks(seed=0):
    """Instruction tokens (the first of the sequence is in no mask), then response tokens, then padding."""
    rng = np.random.default_rng(seed)
    response, instruction = np.zeros((2, N, T), bool), np.zeros((2, N, T), bool)
    for side in range(2):
        for i in range(N):
            start, end = int(rng.integers(1, 4)), int(rng.integers(4, T + 1))
            instruction[side, i, 1:start], response[side, i, start:end] = True, True
    return *response, *instruction


def arrays(on, seed=1, outside=np.nan):
    rng = np.random.default_rng(seed)
    return tuple(np.where(on[k % 2], -rng.gamma(2.0, 1.0, (N, T)), outside).astype(np.float32) for k in range(4))


def test_every_token_counts_once_and_what_lies_outside_does_not_matter():
    mw, ml, qw, ql = masks()
    inside = arrays((mw | qw, ml | ql))
    value, grads = value_and_grads(lambda *a: dove(*a, mw, ml, qw, ql, beta=0.3), inside, ALL4)
    totals = [
        np.where(on, x, 0).astype(np.float64).sum(1) for x, on in zip(inside, (mw | qw, ml | ql) * 2, strict=True)
    ]
    h = [totals[0] - totals[2], totals[1] - totals[3]]
    np.testing.assert_allclose(value, sp(-0.3 * (h[0] - h[1])), rtol=1e-5)
    other = arrays((mw | qw, ml | ql), outside=7.0)
    np.testing.assert_array_equal(dove(*other, mw, ml, qw, ql, beta=0.3), value)
    # Masks that overlap do not count a token twice.
    np.testing.assert_array_equal(dove(*inside, mw, ml, qw | mw, ql | ml, beta=0.3), value)
    for g, on in zip(grads, (mw | qw, ml | ql) * 2, strict=True):
        np.testing.assert_array_equal(g[~on], 0.0)
        assert np.all(g[on] != 0)


def test_a_log_prob_that_moves_on_an_instruction_token_counts_in_joint_mode_alone():
    mw, ml, qw, ql = masks()
    inside = arrays((mw | qw, ml | ql))
    moved = (np.where(qw, inside[0] + 1.0, inside[0]), *inside[1:])
    has = qw.any(1)
    assert has.any()
    together, alone = ([dove(*a, mw, ml, qw, ql, joint=joint) for a in (inside, moved)] for joint in (True, False))
    assert np.all(np.asarray(together[1] - together[0])[has] < 0)
    np.testing.assert_array_equal(alone[0], alone[1])


def test_extremes_low_precision_and_stacks():
    mw, ml, qw, ql = masks()
    for sign in (1, -1):
        one = np.where(qw & (np.cumsum(qw, 1) == 1), sign * 1e4, 0.0).astype(np.float32)
        flat = np.zeros((N, T), np.float32)
        check_extreme(lambda *a: dove(*a, mw, ml, qw, ql, beta=1.0), (one, flat, flat, -one), ALL4)
    zeros = arrays((mw | qw, ml | ql), outside=0.0)
    check_bfloat16(lambda *a: dove(*a, mw, ml, qw, ql), zeros, ALL4)
    check_vmap(lambda *a: dove(*a, np.ones((N, T), bool), np.ones((N, T), bool), flat > 0, flat > 0), zeros)
