"""Themis against a float64 reference: both normalisations, all switches, the released weights, and its limits."""

import jax
import numpy as np
import pytest
from losses.loss_checks import check_against, check_bfloat16, check_vmap, sp, value_and_grads

from jaxpo import losses
from jaxpo.data.rows.marks import CALLS
from jaxpo.losses.themis import PARTS
from jaxpo.tools.trajectory import MAX_CALLS

N = 5
OBSERVATIONS, TOOLS, RATIONALE, ANSWER = (1, 3, 5), (0, 2, 4), 6, 7


def both(*a, **settings):
    rank, likelihood = losses.themis(*a, **settings)
    return rank + likelihood


SETTINGS = ("alpha", "beta", "omega", "lm", "rank_weight", "normalisation")
themis = jax.jit(both, static_argnames=SETTINGS)


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, 5, (N, PARTS)).astype(np.float32) for _ in range(2)]
    logps = [np.where(t > 0, -rng.gamma(2.0, 1.0, (N, PARTS)) * t, 0).astype(np.float32) for t in tokens]
    rewards = [rng.normal(size=N).astype(np.float32) for _ in range(2)]
    return (*rewards, *logps, *tokens)


def reference(rw, rl, pw, pl, nw, nl, *, alpha=1.0, beta=1.0, omega=1.0, lm=False, rank_weight=1.0, pooled=False):
    """Row by row and part by part."""
    out = rank_weight * sp(-(np.asarray(rw, np.float64) - rl))
    for p, n, answer in ((pw, nw, lm), (pl, nl, False)):
        for part in range(PARTS):
            w = (
                1.0
                if part in TOOLS
                else beta
                if part in OBSERVATIONS
                else omega
                if part == RATIONALE
                else float(answer)
            )
            for i in range(N):
                if n[i, part] > 0 and w > 0:
                    out[i] += -alpha * w * (p[i, part] if pooled else 0.5 * p[i, part] / n[i, part])
    return out


@pytest.mark.parametrize("normalisation", ["terms", "pooled"])
@pytest.mark.parametrize(("beta", "omega", "lm"), [(1.0, 1.0, False), (0.0, 1.0, True), (0.5, 0.0, False)])
def test_value_and_gradient(normalisation, beta, omega, lm):
    *free, nw, nl = arrays()
    how = {"alpha": 0.7, "beta": beta, "omega": omega, "lm": lm, "rank_weight": 0.5}

    def loss(*a):
        return themis(*a, nw, nl, **how, normalisation=normalisation)

    check_against(loss, lambda *a: reference(*a, nw, nl, **how, pooled=normalisation == "pooled"), free, (0, 1, 2, 3))
    if lm:
        check_bfloat16(loss, free, (0, 1))
        check_vmap(lambda *a: themis(*a, **how, normalisation=normalisation), (*free, nw, nl))


def test_without_likelihood_or_parts_it_is_bradley_terry():
    rw, rl, *rest = arrays()
    bt = losses.bradley_terry(rw, rl)
    np.testing.assert_allclose(themis(rw, rl, *rest, alpha=0.0), bt, rtol=1e-6)
    none = np.zeros((N, PARTS), np.float32)
    np.testing.assert_allclose(themis(rw, rl, none, none, none, none), bt, rtol=1e-6)
    np.testing.assert_allclose(themis(rw, rl, none, none, none, none, normalisation="pooled"), bt, rtol=1e-6)


def test_switched_off_parts_and_the_rejected_answer_have_no_effect():
    base = arrays()
    for settings, parts, sides in (
        ({"beta": 0.0}, OBSERVATIONS, (2, 3)), ({"omega": 0.0}, (RATIONALE,), (2, 3)), ({}, (ANSWER,), (2, 3)),
        ({"lm": True}, (ANSWER,), (3,)),
    ):  # fmt: skip
        for normalisation in ("terms", "pooled"):
            other = [np.array(x) for x in base]
            for side in sides:
                other[side][:, list(parts)] = np.nan
            how = {**settings, "normalisation": normalisation}
            np.testing.assert_array_equal(themis(*base, **how), themis(*other, **how))
            _, grads = value_and_grads(lambda *a, how=how: themis(*a, **how), other, sides)
            for g in grads:
                np.testing.assert_array_equal(g[:, list(parts)], 0.0)
    tokens = losses.themis_tokens(base[4], base[5], beta=0.0, omega=0.0)
    np.testing.assert_array_equal(tokens, sum(base[k][:, list(TOOLS)].sum(1) for k in (4, 5)))
    np.testing.assert_array_equal(
        losses.themis_tokens(base[4], base[5], lm=True), base[4].sum(1) + base[5][:, :-1].sum(1)
    )


def test_the_released_weights_are_half_of_alpha_two_with_pooled_tokens():
    rw, rl, pw, pl, nw, nl = arrays()
    only = np.isin(np.arange(PARTS), TOOLS)
    args = (rw, rl, *(np.where(only, x, 0).astype(np.float32) for x in (pw, pl, nw, nl)))
    tokens = float(np.sum(losses.themis_tokens(*args[4:])))

    def step(**how):
        rank, likelihood = losses.themis(*args, normalisation="pooled", **how)
        return np.sum(rank) / N + np.sum(likelihood) / tokens

    np.testing.assert_allclose(step(rank_weight=0.5), 0.5 * step(alpha=2.0), rtol=1e-6)


def test_absent_rows_are_nothing_and_the_numbers_of_calls_are_one():
    args = [np.array(x) for x in arrays()]
    where = np.array([1, 0, 1, 1, 0], bool)
    for a in args[:4]:
        a[~where] = np.nan
    value, grads = value_and_grads(lambda *a: losses.themis(*a, *args[4:], where=where)[1], args[:4], (2, 3))
    np.testing.assert_array_equal(value[~where], 0.0)
    assert all(np.isfinite(g).all() for g in grads)
    np.testing.assert_array_equal(losses.themis_tokens(*args[4:], where=where)[~where], 0.0)
    assert CALLS == losses.themis.__globals__["CALLS"] == MAX_CALLS
