"""GPM and GPO against their equations in float64, and every property that the specification lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import check_against, check_bfloat16, jitted, sp

from jaxpo import losses

RNG = np.random.default_rng(0)
V_C, V_R = (RNG.normal(size=(6, 6)).astype(np.float32) for _ in range(2))
GATES = np.asarray(RNG.dirichlet(np.ones(3), 6), np.float32)
TAU = RNG.uniform(0.2, 2.0, 6).astype(np.float32)


def rotation(k):
    """R = blockdiag([[0, -1], [1, 0]])."""
    return np.kron(np.eye(k), [[0.0, -1.0], [1.0, 0.0]])


def score(v_i, v_j, lam):
    """<R D v_i, D v_j> of single vectors, float64."""
    v_i, v_j, lam = (np.asarray(x, np.float64) for x in (v_i, v_j, lam))
    d = np.diag(np.repeat(np.sqrt(lam), 2))
    return (rotation(len(lam)) @ d @ v_i) @ (d @ v_j)


def scores(v_c, v_r, gates):
    # The square root of a gate that a finite difference has moved stays that of a positive number.
    return np.asarray([score(*row) for row in zip(v_c, v_r, gates, strict=True)])


def test_the_loss_is_its_equations():
    def reference(v_c, v_r, gates, tau):
        return sp(-(scores(v_c, v_r, gates) - 0.3) / np.asarray(tau, np.float64))

    def loss(v_c, v_r, gates, tau):
        return losses.gpm(v_c, v_r, gates, temperature=tau, margin=0.3)

    check_against(loss, reference, (V_C, V_R, GATES, TAU), (0, 1, 2, 3))
    check_bfloat16(loss, (V_C, V_R, GATES, TAU), (0, 1))
    check_against(
        lambda c, r: losses.gpm(c, r, temperature=0.5, form="regression"),
        lambda c, r: 0.5 * (scores(c, r, np.ones((6, 3))) / 0.5 - 10) ** 2, (V_C, V_R), (0, 1),
    )  # fmt: skip


def test_the_score_is_skew_symmetric():
    forth, back, own = (losses.gpm_score(*pair, GATES) for pair in ((V_C, V_R), (V_R, V_C), (V_C, V_C)))
    np.testing.assert_array_equal(forth, -back)
    np.testing.assert_array_equal(own, 0.0)
    win, lose = (np.exp(-np.float64(losses.gpm(*pair, GATES))) for pair in ((V_C, V_R), (V_R, V_C)))
    np.testing.assert_allclose(win + lose, 1.0, rtol=1e-6)
    r = rotation(3)
    np.testing.assert_array_equal(r @ r.T, np.eye(6))
    unit = V_C / np.linalg.norm(V_C, axis=1, keepdims=True), V_R / np.linalg.norm(V_R, axis=1, keepdims=True)
    assert np.all(np.abs(losses.gpm_score(*unit, GATES)) <= GATES.max(axis=1) + 1e-6)


def test_with_a_constant_entry_it_is_bradley_terry():
    c, reward = 0.7, RNG.normal(size=(2, 6)).astype(np.float32)
    v = [np.stack([r, np.full(6, c, np.float32)], axis=1) for r in reward]
    np.testing.assert_allclose(losses.gpm_score(*v), c * (reward[0] - reward[1]), rtol=1e-5, atol=1e-6)
    plain = losses.bradley_terry(*reward, temperature=0.5 / c)
    np.testing.assert_allclose(losses.gpm(*v, temperature=0.5), plain, rtol=1e-5)


def test_gates():
    z = np.zeros((2, 3), np.float32)
    np.testing.assert_allclose(losses.gpm_gates(z, scaled=True), 1.0, rtol=1e-6)
    np.testing.assert_allclose(losses.gpm_gates(z).sum(-1), 1.0, rtol=1e-6)
    uniform = losses.gpm_gates(np.zeros((6, 3), np.float32), scaled=True)
    np.testing.assert_allclose(losses.gpm_score(V_C, V_R, uniform), losses.gpm_score(V_C, V_R), rtol=1e-6)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_vectors_on_a_circle_are_a_cycle(n):
    angle = 2 * np.pi * np.arange(n) / n
    table = np.asarray(losses.gpm_table(np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32)))
    assert all(table[i, (i + 1) % n] > 0 for i in range(n))
    np.testing.assert_allclose(losses.gpm_mean_scores(table), 0.0, atol=1e-6)


def test_any_skew_matrix_has_vectors():
    """K responses with 2K numbers each: block l holds e_l beside half of the matrix's row l."""
    k = 5
    skew = RNG.normal(size=(k, k))
    skew = skew - skew.T
    v = np.stack([np.eye(k), 0.5 * skew.T], axis=-1).reshape(k, 2 * k).astype(np.float32)
    np.testing.assert_allclose(losses.gpm_table(v), skew, rtol=1e-5, atol=1e-6)


def test_mean_scores_of_lists():
    v, here = RNG.normal(size=(2, 4, 6)).astype(np.float32), np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    found = losses.gpm_mean_scores(losses.gpm_table(v, GATES[:2]), temperature=0.5, where=here)
    for n in range(2):
        inside = np.flatnonzero(here[n])
        expected = [np.mean([score(v[n, i], v[n, j], GATES[n]) for j in inside]) / 0.5 for i in inside]
        np.testing.assert_allclose(found[n, inside], expected, rtol=1e-4, atol=1e-5)
        assert np.all(found[n, ~here[n]] == 0)
    np.testing.assert_allclose(found.sum(1), 0.0, atol=1e-5)
    # Of two answers they differ by the log-odds.
    np.testing.assert_allclose(found[1, 0] - found[1, 1], losses.gpm_score(v[1, 0], v[1, 1], GATES[1]) / 0.5, rtol=1e-5)


def test_the_temperature_is_bounded():
    theta = np.float32([-20.0, -4.0, 0.0, 3.0])
    expected = np.maximum(np.logaddexp(0.0, theta.astype(np.float64)), 0.01)
    np.testing.assert_allclose(losses.gpm_temperature(theta), expected, rtol=1e-5)
    assert float(jax.grad(losses.gpm_temperature)(-20.0)) == 0.0


def test_ptx_is_its_equation():
    p = RNG.normal(-20, 5, 6).astype(np.float32)
    check_against(lambda p: losses.gpm_ptx(p, beta=0.05), lambda p: sp(-0.05 * np.asarray(p, np.float64)), (p,), (0,))


def test_gpo_is_its_equation():
    p, r = (RNG.normal(-20, 3, 6).astype(np.float32) for _ in range(2))
    s = RNG.normal(size=6).astype(np.float32)
    fixed = r.astype(np.float64), s.astype(np.float64)
    check_against(
        lambda p, r, s: losses.gpo(p, r, s, beta=0.5),
        lambda p, r, s: (np.asarray(p, np.float64) - fixed[0] - fixed[1] / 0.5) ** 2, (p, r, s), (0, 1, 2),
    )  # fmt: skip
    np.testing.assert_allclose(
        losses.gpo(p, r, s, beta=1e-1), losses.sppo_soft(p, r, 0.5 + s, beta=1e-1), rtol=1e-4, atol=1e-3
    )


def test_gpo_at_the_tabular_optimum_is_zero_and_pushes_towards_it():
    before = jax.nn.log_softmax(RNG.normal(size=5))
    table = losses.gpm_table(RNG.normal(size=(5, 4)).astype(np.float32))
    mean = table @ jnp.exp(before)
    np.testing.assert_allclose(jnp.sum(jnp.exp(before) * mean), 0.0, atol=1e-6)
    log_z = jax.nn.logsumexp(before + mean / 0.5)
    best = before + mean / 0.5 - log_z
    np.testing.assert_allclose(losses.gpo(best + log_z, before, mean, beta=0.5), 0.0, atol=1e-10)
    # At pi = pi_t a step raises the responses with positive scores.
    slope = jax.grad(lambda p: jnp.sum(losses.gpo(p, before, mean, beta=0.5)))(before)
    np.testing.assert_array_equal(np.sign(-slope), np.sign(mean))


def test_the_uniform_policy_is_fixed_on_rock_paper_scissors():
    angle = 2 * np.pi * np.arange(3) / 3
    table = losses.gpm_table(np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32))
    uniform = jnp.full(3, -jnp.log(3.0))
    loss = lambda theta: jnp.sum(losses.gpo(jax.nn.log_softmax(theta), uniform, table @ jnp.exp(uniform)))  # noqa: E731
    np.testing.assert_allclose(jax.grad(loss)(uniform), 0.0, atol=1e-4)


def test_scores_of_fifty_are_finite():
    v = np.float32([[50.0, 0.0], [0.0, 50.0]]), np.float32([[0.0, 50.0], [50.0, 0.0]])
    value = jitted(losses.gpm)(*v, temperature=1.0)
    np.testing.assert_allclose(value, [0.0, 2500.0], atol=1e-6)
