"""Triple preference optimisation against float64 references, and its limits."""

import numpy as np
import pytest
from losses.loss_checks import (
    EXTREME,
    check_against,
    check_bfloat16,
    check_extreme,
    check_vmap,
    jitted,
    logps,
    sig,
    sp,
    value_and_grads,
)

from jaxpo import losses

tpo = jitted(losses.tpo_triple)
cpo = jitted(losses.cpo)
dpo = jitted(losses.dpo)
simpo = jitted(losses.simpo)
N_W = np.array([1, 4, 9, 1, 30, 7], np.float32)
N_L = np.array([7, 3, 1, 12, 8, 1], np.float32)
VARIANTS = ("tpo", "tpo_l", "hinge", "ipo")


def triple(seed=0):
    rng = np.random.default_rng(seed)
    return tuple(logps(rng, 6) for _ in range(3))


def total(*args, **settings):
    return sum(tpo(*args, N_W[: len(args[0])], N_L[: len(args[0])], **settings))


@pytest.mark.parametrize("variant", VARIANTS)
def test_value_and_gradient(variant):
    beta, alpha, gamma, e = 0.3, 0.7, 0.6, 0.2 if variant.startswith("tpo") else 0.0

    def reference(pw, pl, gold):
        pw, pl, gold = (np.asarray(x, np.float64) for x in (pw, pl, gold))
        means = pw / N_W - pl / N_L
        if variant == "hinge":
            prefer = np.maximum(0.0, 1.0 - beta * (pw - pl))
        elif variant == "ipo":
            prefer = (means - 1 / (2 * beta)) ** 2
        else:
            h = beta * (pw - pl) if variant == "tpo" else beta * means - gamma
            prefer = (1 - e) * sp(-h) + e * sp(h)
        return prefer - alpha * gold

    def loss(*a):
        return total(*a, variant=variant, beta=beta, alpha=alpha, gamma=gamma, label_smoothing=e)

    args = triple()
    _, grads = check_against(loss, reference, args, (0, 1, 2))
    np.testing.assert_allclose(grads[2], -alpha, rtol=1e-6)
    if variant == "tpo":
        h = beta * (args[0].astype(np.float64) - args[1])
        np.testing.assert_allclose(grads[0], -beta * ((1 - e) * sig(-h) - e * sig(h)), rtol=1e-4, atol=1e-6)
    check_bfloat16(loss, args, (0, 1, 2))
    if variant == "tpo_l":
        check_vmap(loss, args)


def test_gold_equal_to_chosen_is_cpo():
    pw, pl, _ = triple()
    got = tpo(pw, pl, pw, N_W, N_L, beta=0.2, alpha=1.5, label_smoothing=0.1)
    for a, b in zip(got, cpo(pw, pl, beta=0.2, alpha=1.5, label_smoothing=0.1), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_without_the_gold_term_it_is_reference_free_dpo_and_simpo():
    pw, pl, gold = triple()
    zero = np.zeros_like(pw)
    prefer, nll = tpo(pw, pl, gold, N_W, N_L, beta=0.2, alpha=0.0)
    np.testing.assert_allclose(prefer, dpo(pw, pl, zero, zero, beta=0.2), rtol=1e-6)
    assert not np.any(nll)
    prefer, _ = tpo(pw, pl, gold, N_W, N_L, variant="tpo_l", beta=2.0, gamma=0.7, alpha=0.0)
    np.testing.assert_allclose(prefer, simpo(pw, pl, N_W, N_L, beta=2.0, gamma=0.7), rtol=1e-6)


def test_beta_zero_leaves_log_2_and_sft_on_gold():
    pw, pl, gold = triple()
    prefer, nll = tpo(pw, pl, gold, N_W, N_L, beta=0.0, alpha=0.5)
    np.testing.assert_allclose(prefer, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(nll, -0.5 * gold, rtol=1e-6)


def test_the_released_code_subtracts_gamma_over_beta_inside():
    pw, pl, gold = triple()
    beta, gamma = 2.0, 0.8
    means = pw.astype(np.float64) / N_W - pl / N_L
    prefer, _ = tpo(pw, pl, gold, N_W, N_L, variant="tpo_l", beta=beta, gamma=gamma)
    np.testing.assert_allclose(prefer, sp(-beta * (means - gamma / beta)), rtol=1e-5)


def test_an_empty_rejected_response_counts_as_log_prob_0_and_one_token_responses_work():
    one, zero = np.ones(6, np.float32), np.zeros(6, np.float32)
    pw, _, gold = triple()
    for variant, h in (("tpo", 0.1 * pw), ("tpo_l", 0.1 * pw - 0.5)):
        prefer, nll = tpo(pw, zero, gold, one, zero, variant=variant, beta=0.1)
        np.testing.assert_allclose(prefer, sp(-h.astype(np.float64)), rtol=1e-5)
        np.testing.assert_allclose(nll, -gold)


@pytest.mark.parametrize("variant", VARIANTS)
def test_extremes_and_absent_rows(variant):
    gold = np.array([-1e4, 0.0, -1e4, 0.0], np.float32)
    check_extreme(lambda *a: total(*a, variant=variant, beta=1.0), (*EXTREME[:2], gold), (0, 1, 2))
    where = np.array([True, False, True, False, True, True])
    args = [np.array(a) for a in triple()]
    for a in args:
        a[1], a[3] = np.nan, -np.inf
    value, grads = value_and_grads(lambda *a: total(*a, variant=variant, where=where), args, (0, 1, 2))
    np.testing.assert_array_equal(value[~where], 0.0)
    kept = [a[where] for a in args]
    dense = sum(tpo(*kept, N_W[where], N_L[where], variant=variant))
    np.testing.assert_allclose(value[where], dense, rtol=1e-6)
    for g in grads:
        assert np.all(np.isfinite(g))
        np.testing.assert_array_equal(g[~where], 0.0)
    assert not np.any(total(*args, variant=variant, where=np.zeros(6, bool)))
