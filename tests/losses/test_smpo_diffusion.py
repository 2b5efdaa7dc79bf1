"""SmPO-Diffusion and DDIM-InPO against their equations in float64, and every property that the specifications list."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.loss_checks import sp, value_and_grads

from jaxpo import losses
from jaxpo.config.noise import NoiseSchedule
from jaxpo.diffusion.inversion import invert
from jaxpo.diffusion.parameterisation import add_noise, implied_noise
from jaxpo.diffusion.schedules import schedule

RNG = np.random.default_rng(0)
N = 6
ERRORS = tuple((0.02 + 0.001 * RNG.standard_normal(N)).astype(np.float32) for _ in range(4))
W = np.array([0.9, 0.4, 0.4, 0.0, 1.0, 0.7], np.float32)
V = np.array([0.1, 0.3, 0.4, 1.0, 0.0, 0.6], np.float32)  # the third is a tie, the fourth the wrong way round


def reference(e_w, e_l, r_w, r_l, w, v, *, beta=2000.0, gamma=10.0):
    p = np.exp(w) / (np.exp(w) + np.exp(v))
    return sp(0.5 * beta * gamma * (2 * p - 1) * ((e_w - r_w) - (e_l - r_l)))


def test_the_equation():
    arrays = [a.astype(np.float64) for a in (*ERRORS, W, V)]
    value, grads = value_and_grads(losses.smpo_diffusion, (*ERRORS, W, V), range(6))
    np.testing.assert_allclose(value, reference(*arrays), rtol=1e-4, atol=2e-6)
    for i in range(2):
        up, down = list(arrays), list(arrays)
        up[i], down[i] = arrays[i] + 1e-9, arrays[i] - 1e-9
        np.testing.assert_allclose(grads[i], (reference(*up) - reference(*down)) / 2e-9, rtol=1e-3, atol=1e-3)
    for constant in grads[2:]:  # the reference and the rewards
        np.testing.assert_array_equal(constant, 0.0)


def test_a_tie_costs_log_2_and_its_gradient_is_exactly_0():
    value, (slope, other) = value_and_grads(losses.smpo_diffusion, (*ERRORS, W, V), (0, 1))
    assert value[2] == np.float32(np.log(2.0))
    assert slope[2] == other[2] == 0.0
    assert np.all(slope[[0, 1, 4, 5]] > 0)
    assert slope[3] < 0  # the rewards turn the pair round


def test_exchanging_the_images_with_their_rewards_changes_nothing():
    e_w, e_l, r_w, r_l = ERRORS
    np.testing.assert_allclose(
        losses.smpo_diffusion(e_l, e_w, r_l, r_w, V, W), losses.smpo_diffusion(*ERRORS, W, V), rtol=1e-5
    )


def test_a_certain_pair_at_gamma_1_is_inpo_and_diffusion_dpo():
    sure = np.full(N, 100.0, np.float32)
    found = losses.smpo_diffusion(*ERRORS, sure, 0 * sure, gamma=1.0)
    np.testing.assert_array_equal(found, losses.inpo_ddim(*ERRORS))
    np.testing.assert_array_equal(found, losses.diffusion_dpo(*ERRORS, beta=2000.0))


def test_the_weight_of_rewards_within_0_and_1_is_bounded():
    top = losses.smpo_weights(np.ones(1, np.float32), np.zeros(1, np.float32))
    np.testing.assert_allclose(top, 10 * np.tanh(0.5), rtol=1e-6)
    np.testing.assert_allclose(losses.smpo_weights(W, V), -losses.smpo_weights(V, W), atol=1e-7)
    assert np.all(np.abs(losses.smpo_weights(W, V)) <= top)


def test_rewards_are_set_between_the_least_and_the_largest_of_the_data_set():
    raw = np.float32([0.2, 0.15, 0.28])
    np.testing.assert_allclose(losses.smpo_rewards(raw), (raw - 0.1154353) / (0.2820157 - 0.1154353), rtol=1e-5)
    moved = losses.smpo_rewards(3 * raw - 7, 3 * 0.1154353 - 7, 3 * 0.2820157 - 7)
    np.testing.assert_allclose(moved, losses.smpo_rewards(raw), atol=1e-5)
    with pytest.raises(ValueError, match="not above the least"):
        losses.smpo_rewards(raw, 1.0, 1.0)


def test_hard_labels_of_ties_move_the_parameter_and_soft_ones_do_not():
    """One number theta that shifts the errors of both images of many ties, labelled by a coin."""
    gap = RNG.normal(0.0, 1e-3, 400).astype(np.float32)
    zero = np.zeros_like(gap)
    heads = RNG.random(400) < 0.5

    def slope(soft):
        def each(theta, g, right):
            e_w, e_l = theta * g * right, -theta * g * right
            if soft:
                return losses.smpo_diffusion(*(x[None] for x in (e_w, e_l, 0 * g, 0 * g, 0 * g + 0.5, 0 * g + 0.5)))[0]
            return losses.diffusion_dpo(*(x[None] for x in (e_w, e_l, 0 * g, 0 * g)), beta=2000.0)[0]

        return jax.vmap(jax.grad(each), (None, 0, 0))(1.0, gap, np.where(heads, 1.0, -1.0).astype(np.float32))

    assert np.var(slope(soft=False)) > 0.1
    np.testing.assert_array_equal(slope(soft=True), zero)


MADE = schedule(NoiseSchedule())
X_W, X_L, E = RNG.standard_normal((3, N, 4)).astype(np.float32)
T = np.array([3, 99, 250, 500, 800, 999])


def errors(network, latents, noise):
    return losses.squared_error(network(latents, T), noise)


@functools.partial(jax.jit, static_argnames="frozen")
def inverted(theta, start, frozen=False):
    """The loss of DDIM-InPO of a network with one parameter, the inversion's optionally a constant copy."""
    network = lambda p, x, t: jnp.tanh(p * x + 0.1)  # noqa: E731
    moving = jax.lax.stop_gradient(theta) if frozen else theta
    terms = []
    for x0 in (X_W, X_L):
        latents = invert(MADE, functools.partial(network, moving), x0, T)
        tau = implied_noise(MADE, latents, x0, T)
        terms.append([errors(functools.partial(network, p), latents, tau) for p in (theta, start)])
    (e_w, r_w), (e_l, r_l) = terms
    return jnp.mean(losses.inpo_ddim(e_w, e_l, r_w, r_l, beta=2.0))


def test_the_gradient_passes_through_the_prediction_alone():
    np.testing.assert_array_equal(jax.grad(inverted)(0.7, 0.5), jax.grad(inverted)(0.7, 0.5, frozen=True))
    assert jax.grad(inverted)(0.7, 0.5) != 0


def test_at_the_reference_inpo_is_log_2():
    np.testing.assert_allclose(inverted(0.5, 0.5), np.log(2.0), rtol=1e-6)


def test_a_constant_noise_makes_inpo_diffusion_dpo():
    """Every call of the inversion says E; the trained network is another one."""
    network, start = (lambda x, t: 0.3 * x), (lambda x, t: 0.2 * x)
    found, expected = [], []
    for x0 in (X_W, X_L):
        latents = invert(MADE, lambda x, t: E, x0, T)
        tau = implied_noise(MADE, latents, x0, T)
        found.append([errors(n, latents, tau) for n in (network, start)])
        noised = add_noise(MADE, x0, E, T)
        expected.append([errors(n, noised, E) for n in (network, start)])
    order = lambda pairs: (pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1])  # noqa: E731
    np.testing.assert_allclose(
        losses.inpo_ddim(*order(found), beta=10.0), losses.diffusion_dpo(*order(expected), beta=10.0), rtol=2e-3
    )


def test_swapping_the_pair_negates_inpos_logit_and_equal_images_cost_log_2():
    e_w, e_l, r_w, r_l = ERRORS
    one, other = losses.inpo_ddim(*ERRORS), losses.inpo_ddim(e_l, e_w, r_l, r_w)
    np.testing.assert_allclose(np.exp(-one) + np.exp(-other), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(losses.inpo_ddim(e_w, e_w, r_w, r_w), np.float32(np.log(2.0)))
