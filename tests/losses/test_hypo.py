"""HyPO's regulariser against its equations in float64, and every property that the specification lists."""

import jax
import jax.numpy as jnp
import numpy as np
from losses.loss_checks import value_and_grads

from jaxpo import losses

RNG = np.random.default_rng(0)
LOGPS, WEIGHTS = (RNG.normal(-5.0, 2.0, 6).astype(np.float32), RNG.standard_normal(6).astype(np.float32))
GROUPS = np.array([0, 0, 0, 1, 1, 2])


def left_out(d, groups):
    """Each log-ratio less the mean of the others of its group, float64."""
    d = np.asarray(d, np.float64)
    found = d.copy()
    for i in range(len(d)):
        others = [d[j] for j in range(len(d)) if j != i and groups[j] == groups[i]]
        found[i] -= np.mean(others) if others else 0.0
    return found


def test_the_gradient_is_the_weight_and_the_weight_is_a_constant():
    loss = lambda p, w: losses.hypo(p, w, kl_weight=0.3)  # noqa: E731
    value, (slope, through) = value_and_grads(loss, (LOGPS, WEIGHTS), (0, 1))
    np.testing.assert_allclose(value, 0.3 * WEIGHTS * LOGPS, rtol=1e-6)
    np.testing.assert_allclose(slope, 0.3 * WEIGHTS, rtol=1e-6)
    np.testing.assert_array_equal(through, 0.0)
    # Without the stop the log-ratio's own slope would come on top.
    ref = WEIGHTS - LOGPS
    leaking = jax.grad(lambda p: jnp.sum(0.3 * (p + ref) * p))(jnp.asarray(LOGPS))
    np.testing.assert_allclose(leaking - slope, 0.3 * LOGPS, rtol=1e-4)


def test_the_others_of_the_group_are_taken_off():
    found = losses.hypo_weights(LOGPS, GROUPS)
    np.testing.assert_allclose(found, left_out(LOGPS, GROUPS), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses.hypo_weights(LOGPS, GROUPS, leave_one_out=False), LOGPS)
    where = np.array([True, True, False, True, True, True])
    absent = np.where(where, LOGPS, np.nan)
    expected = left_out(LOGPS[where], GROUPS[where])
    np.testing.assert_allclose(np.asarray(losses.hypo_weights(absent, GROUPS, where=where))[where], expected, atol=1e-5)
    assert losses.hypo_weights(absent, GROUPS, where=where)[2] == 0
    k = 3  # RLOO is k / (k - 1) of the deviation from the group's mean
    np.testing.assert_allclose(found[:3], k / (k - 1) * (LOGPS[:3] - LOGPS[:3].mean()), rtol=1e-4, atol=1e-5)


def test_equal_samples_and_a_policy_on_its_reference_weigh_nothing():
    np.testing.assert_allclose(losses.hypo_weights(np.full(5, 2.5), np.array([0, 0, 0, 1, 1])), 0.0, atol=1e-6)
    np.testing.assert_array_equal(losses.hypo_weights(np.zeros(6), GROUPS, leave_one_out=False), 0.0)


def test_in_expectation_it_is_the_gradient_of_the_kl_for_any_baseline():
    ref = np.log(RNG.dirichlet(np.ones(5)))
    theta = RNG.standard_normal(5)

    def kl(z):
        own = jax.nn.log_softmax(z)
        return jnp.sum(jnp.exp(own) * (own - ref))

    pi = np.asarray(jax.nn.log_softmax(theta))
    for baseline in (0.0, 1.7):

        def surrogate(z, b=baseline):
            own = jax.nn.log_softmax(z)
            return jnp.sum(np.exp(pi) * losses.hypo(own, pi - ref - b, kl_weight=1.0))

        np.testing.assert_allclose(jax.grad(surrogate)(theta), jax.grad(kl)(theta), atol=1e-5)
    # Differentiating the mean log-ratio of samples has an expected gradient of 0.
    naive = jax.grad(lambda z: jnp.sum(np.exp(pi) * (jax.nn.log_softmax(z) - ref)))(theta)
    np.testing.assert_allclose(naive, 0.0, atol=1e-6)


def test_without_pairs_it_leads_to_the_reference():
    ref = jnp.log(jnp.asarray(RNG.dirichlet(np.ones(4)), jnp.float32))

    def step(z, _):
        own = jax.nn.log_softmax(z)
        grad = jax.grad(lambda x: jnp.sum(jnp.exp(own) * losses.hypo(jax.nn.log_softmax(x), own - ref, kl_weight=1.0)))
        return z - 0.5 * grad(z), None

    z, _ = jax.lax.scan(step, jnp.asarray([2.0, -1.0, 0.5, 0.0]), None, length=600)
    np.testing.assert_allclose(jax.nn.log_softmax(z), ref, atol=1e-3)


def test_mass_on_a_response_outside_of_the_pairs_costs_the_kl_alone():
    ref = np.log(np.full(4, 0.25))
    near = np.log([0.3, 0.2, 0.25, 0.25])
    away = np.log([0.03, 0.02, 0.05, 0.9])  # the same ratio of the two covered responses

    def objective(pi, weight):
        dpo = losses.dpo(pi[:1], pi[1:2], ref[:1], ref[1:2])
        return float(dpo[0]) + weight * float(np.sum(np.exp(pi) * (pi - ref)))

    assert objective(away, 0.0) - objective(near, 0.0) < 1e-6
    assert objective(away, 0.1) > objective(near, 0.1) + 0.05
