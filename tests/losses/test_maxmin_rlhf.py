"""MaxMin-RLHF against its equations in float64, and every property that the specification lists."""

import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, check_bfloat16, sp

from jaxpo import losses

RNG = np.random.default_rng(3)
N, K = 6, 2
R_W, R_L = (RNG.normal(size=(N, K)).astype(np.float32) for _ in range(2))
GAMMA = RNG.dirichlet(np.ones(K), N).astype(np.float32)


def test_the_m_step_is_its_equation():
    def reference(w, v):
        return GAMMA * sp(np.asarray(v, np.float64) - w)

    check_against(lambda w, v: losses.maxmin_rlhf(w, v, GAMMA), reference, (R_W, R_L), (0, 1))
    check_bfloat16(lambda w, v: losses.maxmin_rlhf(w, v, GAMMA), (R_W, R_L), (0, 1))
    one = losses.maxmin_rlhf(R_W[:, :1], R_L[:, :1], np.ones((N, 1), np.float32))[:, 0]
    np.testing.assert_allclose(one, losses.bradley_terry(R_W[:, 0], R_L[:, 0]), rtol=1e-6)


def test_the_e_step_is_of_users():
    likelihood = np.float32([[-1.0, -2.0], [-5.0, -1.0], [-3.0, -3.0]])
    np.testing.assert_array_equal(losses.maxmin_responsibilities(likelihood), [[1, 0], [0, 1], [1, 0]])
    p = np.float32([0.25, 0.75])
    soft = losses.maxmin_responsibilities(likelihood, p, hard=False)
    expected = p * np.exp(likelihood.astype(np.float64))
    np.testing.assert_allclose(soft, expected / expected.sum(1, keepdims=True), rtol=1e-5)
    # Relabelling the groups permutes the columns; with many pairs the soft form becomes the hard one.
    np.testing.assert_allclose(
        losses.maxmin_responsibilities(likelihood[:, ::-1], p[::-1], hard=False), soft[:, ::-1], rtol=1e-5
    )
    np.testing.assert_allclose(
        losses.maxmin_responsibilities(100 * likelihood[:2], p, hard=False),
        losses.maxmin_responsibilities(likelihood[:2]), atol=1e-6,
    )  # fmt: skip


def test_exact_steps_of_em_never_lower_the_likelihood():
    """Two groups of users with rewards +-theta: the M step is solved on a grid."""
    users, pairs, grid = 8, 12, np.linspace(-4, 4, 801)
    truth = np.where(np.arange(users) < 3, -1.5, 1.5)
    first = RNG.random((users, pairs)) < 1 / (1 + np.exp(-truth[:, None]))
    signs = np.where(first, 1.0, -1.0)
    each = -sp(-signs[..., None] * grid).sum(1)  # log-likelihood of each user at every theta
    gamma, p, before = np.eye(2)[np.arange(users) % 2] * 0.8 + 0.1, np.full(2, 0.5), -np.inf
    for _ in range(6):
        theta = (gamma.T @ each).argmax(1)
        p = gamma.mean(0)
        likelihood = each[:, theta]
        now = np.logaddexp.reduce(likelihood + np.log(p), axis=1).sum()
        assert now >= before - 1e-5
        before = now
        gamma = np.asarray(losses.maxmin_responsibilities(likelihood, p, hard=False), np.float64)


def test_what_a_policy_is_paid():
    r = RNG.normal(size=(16, 3)).astype(np.float32)
    group, sample = (np.asarray(losses.maxmin_rewards(r, mode=mode)) for mode in ("group", "sample"))
    np.testing.assert_array_equal(group, r[:, r.mean(0).argmin()])
    assert group.mean() == pytest.approx(r.mean(0).min(), abs=1e-6)
    np.testing.assert_array_equal(sample, r.min(1))
    assert sample.mean() <= group.mean()
    for mode in ("group", "sample"):
        np.testing.assert_array_equal(losses.maxmin_rewards(r[:, :1], mode=mode), r[:, 0])
    here = np.arange(16) < 8
    masked = losses.maxmin_rewards(np.where(here[:, None], r, np.nan), where=here)
    np.testing.assert_array_equal(masked, np.where(here, r[:, r[:8].mean(0).argmin()], 0))


def test_a_mirror_step_is_its_equation():
    p, f = np.float32([0.2, 0.3, 0.5]), np.float32([1.0, -1.0, 0.5])
    expected = p * np.exp(-0.3 * f.astype(np.float64))
    np.testing.assert_allclose(losses.maxmin_weights(p, f, learning_rate=0.3), expected / expected.sum(), rtol=1e-5)


def tabular(seed, groups=3, prompts=2, responses=5):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(responses), prompts), rng.normal(size=(groups, prompts, responses))


def utilities(policy, reference, rewards, beta):
    """F_u, float64."""
    policy = np.asarray(policy, np.float64)
    kl = (policy * np.log(policy / reference)).sum(1).mean()
    return (policy * rewards).sum(-1).mean(-1) - beta * kl


def dual(reference, rewards, weights, beta):
    mixed = np.einsum("u,uxy->xy", np.asarray(weights, np.float64), rewards)
    return beta * np.log((reference * np.exp(mixed / beta)).sum(1)).mean()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_duality(seed):
    beta, (reference, rewards) = 0.7, tabular(seed)
    best, value = losses.maxmin_dual(reference, rewards, beta=beta)
    policy = losses.maxmin_policy(reference, rewards, best, beta=beta)
    f = utilities(policy, reference, rewards, beta)
    assert float(value) == pytest.approx(dual(reference, rewards, best, beta), rel=1e-4, abs=1e-5)
    assert f.min() == pytest.approx(float(value), abs=2e-3)
    used = np.asarray(best) > 1e-2
    np.testing.assert_allclose(f[used], f[used].mean(), atol=5e-3)  # complementary slackness
    for weights in np.random.default_rng(seed).dirichlet(np.ones(3), 20):
        other = utilities(losses.maxmin_policy(reference, rewards, weights, beta=beta), reference, rewards, beta)
        assert other.min() <= float(value) + 2e-3
        assert dual(reference, rewards, weights, beta) >= float(value) - 2e-3


def test_opposed_groups_leave_the_reference_as_it_is():
    reference, (first, _) = np.random.default_rng(5).dirichlet(np.ones(4), 3), tabular(5, 2, 3, 4)[1]
    first = first - (reference * first).sum(1, keepdims=True)
    best, value = losses.maxmin_dual(reference, np.stack([first, -first]))
    np.testing.assert_allclose(best, 0.5, atol=1e-4)
    assert float(value) == pytest.approx(0.0, abs=1e-5)
    np.testing.assert_allclose(losses.maxmin_policy(reference, np.stack([first, -first]), best), reference, atol=1e-4)


def test_equal_groups_are_one():
    reference, rewards = tabular(6, 1)
    one = losses.maxmin_policy(reference, rewards, jnp.ones(1))
    twice = np.repeat(rewards, 2, axis=0)
    best, value = losses.maxmin_dual(reference, twice)
    np.testing.assert_allclose(losses.maxmin_policy(reference, twice, best), one, rtol=1e-4)
    assert float(value) == pytest.approx(float(losses.maxmin_dual(reference, rewards)[1]), rel=1e-5)
