"""KTO, APO-zero on single rows, SPPO-soft and what BCO adds to them, against float64 references."""

import jax
import jax.numpy as jnp
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

apo_zero_unpaired = jitted(losses.apo_zero_unpaired)
bco = jitted(losses.bco)
bco_shift = jitted(losses.bco_shift)
bco_stats = jitted(losses.bco_stats)
kto = jitted(losses.kto)
kto_kl = jitted(losses.kto_kl)
sppo_soft = jitted(losses.sppo_soft)
update_bco_shift = jitted(losses.update_bco_shift)

LABEL = np.array([True, False, True, True, False, True])
GOOD4, BAD4 = np.ones(4, bool), np.zeros(4, bool)


def rows(seed=0):
    """`logps, ref_logps`, each `[6]`."""
    return quad(seed)[:2]


def rho(p, r):
    return np.asarray(p, np.float64) - np.asarray(r, np.float64)


# --- KTO ---


def test_kto_value_and_closed_gradient():
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.7}

    def reference(p, r):
        value = 1 / (1 + np.exp(-0.3 * (rho(p, r) - 1.5)))
        return np.where(LABEL, 1.3 * (1 - value), 0.7 * value)

    def loss(p, r):
        return kto(p, r, LABEL, 1.5, beta=0.3, **weights)

    args = rows()
    _, grads = check_against(loss, reference, args, (0, 1))
    u = 0.3 * (rho(*args) - 1.5)
    closed = np.where(LABEL, -1.3, 0.7) * 0.3 * sig(u) * sig(-u)
    np.testing.assert_allclose(grads[0], closed, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(grads[1], -grads[0], rtol=1e-6)
    check_bfloat16(loss, args, (0, 1))
    check_vmap(lambda p, r, label: kto(p, r, label, 1.5), (*args, LABEL))


def test_kto_at_the_reference_point_is_half_of_each_weight():
    p, _ = rows()
    np.testing.assert_allclose(kto(p, p, LABEL, 0.0), 0.5, rtol=1e-6)
    got = kto(p + 2, p, LABEL, 2.0, desirable_weight=1.3, undesirable_weight=0.6)
    np.testing.assert_allclose(got, np.where(LABEL, 0.65, 0.3), rtol=1e-5)


def test_kto_takes_no_gradient_through_its_reference_point():
    p, r = rows()
    assert jax.grad(lambda z: jnp.sum(kto(p, r, LABEL, z)))(0.5) == 0.0
    assert not np.any(jax.grad(lambda p: kto_kl(p, r - 30.0))(p))
    assert kto_kl(p, r - 30.0) > 1.0


def test_kto_is_monotone_bounded_and_finite_at_extremes():
    for label, ends in ((GOOD4, [0, 1, 0.5, 0.5]), (BAD4, [1, 0, 0.5, 0.5])):
        value, _ = check_extreme(lambda p, r, label=label: kto(p, r, label, 0.0, beta=1.0), EXTREME[0:4:2], (0, 1))
        np.testing.assert_allclose(value, ends, atol=1e-7)
    fifty = np.float32([50, -50])
    got = kto(fifty, np.zeros(2, np.float32), np.ones(2, bool), 0.0, beta=1.0)
    np.testing.assert_allclose(got, [np.exp(-50.0), 1.0], rtol=1e-5)  # 1 - sigmoid(50) would be 0


def test_kto_depends_on_absolute_log_ratios():
    p, r = rows()
    assert np.abs(np.asarray(kto(p + 5, r, LABEL, 0.0) - kto(p, r, LABEL, 0.0))).min() > 1e-3
    np.testing.assert_allclose(kto(p + 5, r, LABEL, 6.0), kto(p, r, LABEL, 1.0), rtol=1e-4)


def test_reference_point_is_a_clamped_mean_over_the_rows_there_are():
    p, r = rows()
    where = np.array([True, False, True, True, False, True])
    p[1], r[4] = np.nan, np.inf
    for offset in (30.0, -30.0):
        expected = max(0.0, float(rho(p + offset, r)[where].mean()))
        np.testing.assert_allclose(kto_kl(p + np.float32(offset), r, where=where), expected, rtol=1e-5)
    np.testing.assert_array_equal(kto_kl(p, r, where=np.zeros(6, bool)), 0.0)
    assert kto_kl(p, r, where=where).dtype == jnp.float32


def test_kto_on_rows_of_one_class_is_finite():
    p, r = rows()
    value, grads = value_and_grads(lambda p: kto(p, r, np.ones(6, bool), 0.3), (p,), (0,))
    assert np.all((value > 0) & (value < 1))
    assert np.all(grads[0] < 0)


# --- APO-zero on single rows ---


def test_apo_zero_unpaired_is_kto_without_a_reference_point_and_half_of_the_paired_loss():
    p, r = rows()
    weights = {"desirable_weight": 1.2, "undesirable_weight": 0.8}

    def reference(p, r):
        s = 1 / (1 + np.exp(-0.3 * rho(p, r)))
        return np.where(LABEL, 1.2 * (1 - s), 0.8 * s)

    def loss(p, r):
        return apo_zero_unpaired(p, r, LABEL, beta=0.3, **weights)

    check_against(loss, reference, (p, r), (0, 1))
    np.testing.assert_array_equal(loss(p, r), kto(p, r, LABEL, 0.0, beta=0.3, **weights))
    check_bfloat16(loss, (p, r), (0, 1))
    check_vmap(apo_zero_unpaired, (p, r, LABEL))
    check_extreme(lambda p, r: apo_zero_unpaired(p, r, GOOD4, beta=1.0), EXTREME[0:4:2], (0, 1))
    pw, pl, rw, rl = quad(3)
    both = [apo_zero_unpaired(a, b, np.full(6, good)) for a, b, good in ((pw, rw, True), (pl, rl, False))]
    paired = sig(-0.1 * rho(pw, rw)) + sig(0.1 * rho(pl, rl))
    np.testing.assert_allclose(both[0] + both[1], paired, rtol=1e-5)
    at_reference = apo_zero_unpaired(p, p, LABEL)
    np.testing.assert_allclose(at_reference, 0.5, rtol=1e-6)  # the two rows of a pair: 1


# --- SPPO-soft ---

WIN = np.array([0.0, 1.0, 0.5, 0.25, 0.9, 0.6], np.float32)


def test_sppo_soft_value_and_closed_gradient():
    def reference(p, r):
        return (rho(p, r) - 20.0 * (WIN.astype(np.float64) - 0.5)) ** 2

    def loss(p, r):
        return sppo_soft(p, r, WIN, beta=0.05)

    args = rows()
    _, grads = check_against(loss, reference, args, (0, 1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(grads[0], 2 * (rho(*args) - 20.0 * (WIN - 0.5)), rtol=1e-4, atol=1e-4)
    check_bfloat16(loss, args, (0, 1))
    check_vmap(sppo_soft, (*args, WIN))
    value, _ = check_extreme(lambda p, r: sppo_soft(p, r, WIN[:4], beta=1.0), EXTREME[0:4:2], (0, 1))
    np.testing.assert_allclose(value, (np.array([1e4, -1e4, 0, 0]) - (WIN[:4] - 0.5)) ** 2, rtol=1e-5)


def test_sppo_soft_with_certain_winners_is_sppo_hard():
    pw, pl, rw, rl = quad(1)
    ones = np.ones(6, np.float32)
    soft = sppo_soft(pw, rw, ones, beta=0.01) + sppo_soft(pl, rl, 0 * ones, beta=0.01)
    hard = (rho(pw, rw) - 50.0) ** 2 + (rho(pl, rl) + 50.0) ** 2
    np.testing.assert_allclose(soft, hard, rtol=1e-5)


def test_sppo_soft_is_zero_at_its_target_and_absolute():
    r = rows()[1]
    target = r + (WIN - 0.5) / 0.05
    np.testing.assert_allclose(sppo_soft(target, r, WIN, beta=0.05), 0.0, atol=1e-8)
    np.testing.assert_allclose(sppo_soft(target + 3, r, WIN, beta=0.05), 9.0, rtol=1e-4)


# --- rows that are not there ---

UNPAIRED = {
    "kto": lambda p, r, where: kto(p, r, LABEL, 0.7, where=where),
    "apo_zero_unpaired": lambda p, r, where: apo_zero_unpaired(p, r, LABEL, where=where),
    "sppo_soft": lambda p, r, where: sppo_soft(p, r, WIN, beta=0.05, where=where),
}


@pytest.mark.parametrize("name", UNPAIRED)
def test_absent_rows_give_zero_loss_and_gradient_whatever_they_hold(name):
    loss = UNPAIRED[name]
    p, r = rows()
    whole, whole_grads = value_and_grads(lambda p, r: loss(p, r, None), (p, r), (0, 1))
    where = np.array([True, False, True, False, True, True])
    p[1], r[1], p[3], r[3] = np.nan, np.nan, np.inf, -np.inf
    value, grads = value_and_grads(lambda p, r: loss(p, r, where), (p, r), (0, 1))
    np.testing.assert_allclose(value, np.where(where, whole, 0.0), rtol=1e-6)
    for g, w in zip(grads, whole_grads, strict=True):
        np.testing.assert_allclose(g, np.where(where, w, 0.0), rtol=1e-6)
    nobody, grads = value_and_grads(lambda p, r: loss(p, r, np.zeros(6, bool)), (p, r), (0, 1))
    assert not np.any(nobody)
    assert not any(np.any(g) for g in grads)


# --- BCO beside KTO, and its two shifts ---


def test_bco_does_not_vanish_on_badly_mis_scored_rows_where_kto_does():
    reward = np.float32([-8, -2, 0, 2, 8])
    zero, good = np.zeros(5, np.float32), np.ones(5, bool)
    (from_bco,) = value_and_grads(lambda p: bco(p, zero, good, 0.0, beta=1.0), (reward,), (0,))[1]
    (from_kto,) = value_and_grads(lambda p: kto(p, zero, good, 0.0, beta=1.0), (reward,), (0,))[1]
    np.testing.assert_allclose(from_bco, -sig(-reward), rtol=1e-5)
    np.testing.assert_allclose(from_kto, -sig(reward) * sig(-reward), rtol=1e-4)
    assert abs(from_bco[0]) > 0.999
    assert abs(from_kto[0]) < 1e-3


def test_the_excess_of_bco_over_dpo_is_smallest_halfway_between_the_two_rewards():
    r_w, r_l = np.float32([1.3]), np.float32([-2.1])
    zero = np.zeros(1, np.float32)

    def pair(d):
        return bco(r_w, zero, np.ones(1, bool), d, beta=1.0) + bco(r_l, zero, np.zeros(1, bool), d, beta=1.0)

    best = float(r_w[0] + r_l[0]) / 2
    costs = {d: float(pair(d)[0]) for d in (best - 1, best - 0.1, best, best + 0.1, best + 1)}
    assert min(costs, key=costs.get) == best
    gap = float(r_w[0]) - float(r_l[0])
    excess = np.expm1(costs[best]) - np.exp(-gap)
    np.testing.assert_allclose(excess, 2 * np.exp(-gap / 2), rtol=1e-5)
    assert all(cost > sp(-gap) for cost in costs.values())


def test_the_balanced_shift_ignores_class_frequency_and_the_cumulative_one_does_not():
    p, r = rows()
    reward = 0.1 * rho(p, r)
    twice = np.concatenate([np.flatnonzero(LABEL), np.arange(6)])  # every good row once more

    def shift(index, balanced):
        stats = bco_stats(p[index], r[index], LABEL[index])
        state = update_bco_shift(losses.init_bco_state(), stats, momentum=0.9 if balanced else None)
        return float(bco_shift(state, balanced=balanced))

    np.testing.assert_allclose(shift(twice, True), shift(np.arange(6), True), rtol=1e-5)
    np.testing.assert_allclose(shift(np.arange(6), True), (reward[LABEL].mean() + reward[~LABEL].mean()) / 2, rtol=1e-5)
    np.testing.assert_allclose(shift(np.arange(6), False), reward.mean(), rtol=1e-5)
    np.testing.assert_allclose(shift(twice, False), reward[twice].mean(), rtol=1e-5)
    assert abs(shift(twice, False) - shift(np.arange(6), False)) > 1e-3


def test_the_cumulative_shift_is_the_mean_of_all_rewards_ever_seen():
    rng = np.random.default_rng(0)
    state, seen = losses.init_bco_state(), []
    for _ in range(5):
        p, r = (rng.normal(size=6).astype(np.float32) for _ in range(2))
        label = rng.random(6) < 0.7
        state = update_bco_shift(state, bco_stats(p, r, label), momentum=None)
        seen.append(0.1 * rho(p, r))
        np.testing.assert_allclose(bco_shift(state, balanced=False), np.mean(seen), rtol=1e-4, atol=1e-6)
    only_good = update_bco_shift(state, bco_stats(p, r, np.ones(6, bool)), momentum=None)
    assert only_good["mean"][0] == state["mean"][0]
    assert only_good["seen"].tolist() == [state["seen"][0], state["seen"][1] + 6]
    np.testing.assert_array_equal(bco_shift(losses.init_bco_state(), balanced=False), 0.0)
