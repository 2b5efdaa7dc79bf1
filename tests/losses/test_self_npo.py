"""Self-NPO's loss against float64 and what its specification says of roll-outs and of the noise put on them."""

import functools

import jax
import numpy as np
import pytest
from diffusion.mixtures import gaussian
from losses.loss_checks import check_against, check_extreme, value_and_grads

from jaxpo import losses
from jaxpo.config.noise import NoiseSchedule
from jaxpo.diffusion.parameterisation import add_noise, target, to_x0
from jaxpo.diffusion.rollout import grid, later, renoise, truncated
from jaxpo.diffusion.schedules import schedule

MADE = schedule(NoiseSchedule())
RNG = np.random.default_rng(0)
X0, E = RNG.standard_normal((2, 5, 3)).astype(np.float32)


@pytest.mark.parametrize("form", ["huber", "squared"])
def test_the_equation(form):
    f, x = RNG.standard_normal((2, 4, 2, 3)).astype(np.float32)
    loss = functools.partial(losses.self_npo, form=form, width=0.3)

    def reference(f, _):  # the target is a constant
        d2 = (np.asarray(f, np.float64) - x) ** 2
        return np.mean(np.sqrt(d2 + 0.09) - 0.3 if form == "huber" else d2, axis=(1, 2))

    check_against(loss, reference, (f, x), (0,))
    _, (slope,) = value_and_grads(loss, (f, x), (1,))
    np.testing.assert_array_equal(slope, 0.0)


def test_no_difference_costs_nothing_and_a_large_one_its_size():
    one = np.ones((2, 3), np.float32)
    value, (slope,) = value_and_grads(losses.self_npo, (one, one), (0,))
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_array_equal(slope, 0.0)
    np.testing.assert_allclose(losses.self_npo(100 * one, 0 * one), 100 - 1e-3, rtol=1e-6)
    np.testing.assert_allclose(losses.self_npo(1e-5 * one, 0 * one), 1e-10 / 2e-3, rtol=1e-3)
    check_extreme(losses.self_npo, (np.float32([[1e15, -1e15]]), np.zeros((1, 2), np.float32)), (0,))


def test_absent_rows_cost_nothing():
    where = np.array([True, False])
    spoiled = np.array([[1.0, 2.0], [np.nan, np.inf]], np.float32)
    loss = lambda f: losses.self_npo(f, np.zeros((2, 2), np.float32), where=where)  # noqa: E731
    value, (slope,) = value_and_grads(loss, (spoiled,), (0,))
    assert value[1] == 0
    np.testing.assert_array_equal(slope[1], 0.0)


def test_the_grid_is_25_trailing_times_and_0():
    found = grid(MADE)
    assert (len(found), found[0], found[1], found[2], found[-1]) == (26, 0, 39, 79, 999)


@pytest.mark.parametrize("kind", ["noise", "velocity"])
@pytest.mark.parametrize("steps", [0, 1, 5, 40])
def test_an_exact_noise_stays_on_its_ray_for_any_length(kind, steps):
    made = schedule(NoiseSchedule(parameterisation=kind))
    teacher = lambda x, t: target(made, X0, E, t)  # noqa: E731
    start = np.array([1, 3, 10, 20, 25])
    x = add_noise(made, X0, E, grid(made)[start])
    found = jax.jit(lambda x: truncated(made, teacher, x, start, steps=steps))(x)
    np.testing.assert_array_equal(found.t, grid(made)[np.maximum(start - steps, 0)])
    np.testing.assert_allclose(found.x, add_noise(made, X0, E, found.t), atol=1e-4)
    np.testing.assert_allclose(found.x0, X0, atol=1e-4)


def test_each_example_may_have_its_own_length():
    teacher = lambda x, t: target(MADE, X0, E, t)  # noqa: E731
    start = np.full(5, 25)
    found = truncated(MADE, teacher, add_noise(MADE, X0, E, 999), start, steps=np.array([0, 1, 5, 24, 25]), most=25)
    np.testing.assert_array_equal(found.t, grid(MADE)[[25, 24, 20, 1, 0]])
    with pytest.raises(ValueError, match="give `most`"):
        truncated(MADE, teacher, X0, start, steps=np.array([1, 2, 3, 4, 5]))


def test_no_gradient_passes_through_the_teacher():
    def total(scale):
        found = truncated(MADE, lambda x, t: scale * x, X0, np.full(5, 9), steps=3)
        return found.x.sum() + found.x0.sum()

    assert jax.grad(total)(0.9) == 0


def test_noise_anew_has_the_marginal_of_the_forward_process():
    t, s = np.array([39, 0, 500]), np.array([40, 999, 700])
    bars = MADE.signal.astype(np.float64) ** 2
    one, zero = np.ones((3, 1), np.float32), np.zeros((3, 1), np.float32)
    mean, spread = renoise(MADE, one, t, s, zero)[:, 0], renoise(MADE, zero, t, s, one)[:, 0]
    np.testing.assert_allclose(mean, np.sqrt(bars[s] / bars[t]), rtol=1e-5)
    np.testing.assert_allclose(mean**2 * (1 - bars[t]) + spread**2, 1 - bars[s], rtol=1e-4)
    ratio = (1 - bars) / bars
    x, z = RNG.standard_normal((2, 3, 2)).astype(np.float32)
    a = np.sqrt(bars)[:, None]
    expected = a[s] * (x / a[t] + np.sqrt(ratio[s] - ratio[t])[:, None] * z)
    np.testing.assert_allclose(renoise(MADE, x, t, s, z), expected, rtol=1e-3, atol=1e-4)


def test_later_times_are_above_and_below_the_end():
    t = np.repeat(np.array([0, 990, 998, 999]), 300)
    s = np.asarray(later(jax.random.key(0), t, 1000))
    assert np.all((s > t) | (t == 999))
    assert s.max() == 999
    assert len(np.unique(s[300:600])) == 9


def test_an_exact_teacher_is_a_fixed_point_and_its_estimates_are_narrower():
    """The regression of x^ on x_s has the slope of the posterior mean itself: the squared loss has nothing to learn."""
    n, variance = 200_000, 0.5
    teacher = gaussian(MADE, variance=variance)
    x0 = np.sqrt(variance) * RNG.standard_normal((n, 1))
    place = np.full(n, 12)
    t, s = grid(MADE)[place], np.full(n, 700)
    x_t = add_noise(MADE, x0.astype(np.float32), RNG.standard_normal((n, 1)).astype(np.float32), t)
    found = jax.jit(lambda x: truncated(MADE, teacher, x, place, steps=0))(x_t)
    x_s = np.asarray(renoise(MADE, found.x, found.t, s, RNG.standard_normal((n, 1)).astype(np.float32)))
    slope = np.sum(x_s * found.x0) / np.sum(x_s**2)
    own = np.asarray(to_x0(MADE, teacher(x_s, s), x_s, s))
    np.testing.assert_allclose(slope, np.sum(x_s * own) / np.sum(x_s**2), rtol=0.02)
    assert np.var(found.x0) < 0.8 * variance
