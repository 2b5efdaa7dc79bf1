"""Inversion: both grids, the correction, the added noise, on denoisers that are known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.mixtures import gaussian

from jaxpo.config.noise import NoiseSchedule
from jaxpo.diffusion.inversion import invert, segments
from jaxpo.diffusion.parameterisation import add_noise, implied_noise, target
from jaxpo.diffusion.schedules import schedule
from jaxpo.errors import ConfigError

ONE = schedule(NoiseSchedule())
FIRST = schedule(NoiseSchedule(clean="first"))
RNG = np.random.default_rng(0)
X0, E = RNG.standard_normal((2, 4, 3)).astype(np.float32)
T = np.array([0, 99, 450, 999])


def test_the_exact_grid_starts_at_the_image_and_ends_at_t():
    fed, src, dst = (np.asarray(x) for x in segments(ONE, T, 10, "exact"))
    np.testing.assert_array_equal(fed, [0, 99, 199, 299, 399, 499, 599, 699, 799, 899])
    np.testing.assert_array_equal(src[:, 2], [-1, 99, 199, 299, 399, *[450] * 5])
    np.testing.assert_array_equal(dst[:, 2], [99, 199, 299, 399, 450, *[450] * 5])
    np.testing.assert_array_equal((src != dst).sum(0), [1, 1, 5, 10])
    np.testing.assert_array_equal(dst[-1], T)
    uneven = np.asarray(segments(ONE, T, 7, "exact")[2])
    np.testing.assert_array_equal(uneven[-1], T)


def test_the_grid_of_the_released_code_ends_on_its_own_points():
    fed, src, dst = (np.asarray(x) for x in segments(ONE, np.array([1, 2, 450, 999]), 10, "code"))
    np.testing.assert_array_equal(fed, [-99, 1, 101, 201, 301, 401, 501, 601, 701, 801])
    moved = src != dst
    np.testing.assert_array_equal([d[m][-1] for d, m in zip(dst.T, moved.T, strict=True)], [1, 101, 501, 901])
    np.testing.assert_array_equal(moved.sum(0), [1, 2, 6, 10])


@pytest.mark.parametrize(("n", "grid", "message"), [
    (0, "exact", "choose 1 to 1000"), (1001, "code", "choose 1 to 1000"),
    (7, "code", "do not divide"), (10, "fine", "choose one of exact, code"),
])  # fmt: skip
def test_impossible_grids_are_refused(n, grid, message):
    with pytest.raises(ConfigError, match=message):
        segments(ONE, T, n, grid)
    with pytest.raises(ConfigError, match="choose one of dst, src"):
        invert(ONE, lambda x, t: x, X0, T, correct_at="both")


@pytest.mark.parametrize("kind", ["noise", "velocity"])
@pytest.mark.parametrize("corrections", [0, 1])
def test_a_constant_noise_makes_it_the_forward_process(kind, corrections):
    made = schedule(NoiseSchedule(parameterisation=kind))

    def denoise(x, t):  # whatever the latent, the noise is E: the image is what x leaves
        a, s = (v[:, None] for v in made.levels(t))
        return target(made, (x - s * E) / a, E, t)

    found = jax.jit(lambda x: invert(made, denoise, x, T, corrections=corrections))(X0)
    # A velocity is read at time 0 in the first segment, whose latent is the image itself.
    near = 1e-4 if kind == "noise" else 0.1
    np.testing.assert_allclose(found, add_noise(made, X0, E, T), atol=near)
    if kind == "noise":
        np.testing.assert_allclose(implied_noise(made, found, X0, T), E, atol=5e-3)


def flow(variance, x0, t):
    """Where the probability-flow ODE of a centred Gaussian takes x0: the latent's deviation over the image's."""
    a, s = ONE.signal[t].astype(np.float64), ONE.noise[t].astype(np.float64)
    return x0 * np.sqrt(a**2 * variance + s**2) / np.sqrt(variance)


@functools.cache
def error(n, **settings):
    x0 = np.linspace(-3, 3, 13, dtype=np.float32)[:, None]
    t = np.full(13, 799)
    found = jax.jit(lambda x: invert(ONE, gaussian(ONE, variance=0.25), x, t, n=n, **settings))(x0)
    return float(np.max(np.abs(found - flow(0.25, x0, 799))))


def test_more_segments_come_nearer_to_the_ode():
    coarse, finer, fine = error(5), error(20), error(200)
    assert coarse > 2 * finer > 10 * fine
    assert fine < 0.1


def test_one_correction_at_the_destination_is_better_and_at_the_source_it_is_not_as_good():
    plain, dst, src = error(10), error(10, corrections=1), error(10, corrections=1, correct_at="src")
    assert dst < 0.5 * plain
    assert dst < src


def test_equal_images_have_equal_latents_without_noise_and_others_with_it():
    twice = np.stack([X0[0], X0[0]])
    t = np.array([500, 500])
    denoise = gaussian(ONE, variance=0.25, dimensions=3)
    plain = np.asarray(invert(ONE, denoise, twice, t))
    np.testing.assert_array_equal(plain[0], plain[1])
    z = RNG.standard_normal((10, 2, 3)).astype(np.float32)
    noisy = np.asarray(invert(ONE, denoise, twice, t, eta=0.1, noise=z))
    assert np.all(noisy[0] != noisy[1])
    np.testing.assert_array_equal(invert(ONE, denoise, twice, t, eta=0.0, noise=z), plain)


def test_the_added_noise_is_a_tenth_of_the_posterior_of_the_step_back():
    bars = FIRST.signal.astype(np.float64) ** 2
    z = RNG.standard_normal((10, 4, 3)).astype(np.float32)
    t = np.full(4, 60)  # one segment, from 0 to t
    nothing = lambda x, t: jnp.zeros_like(x)  # noqa: E731
    found = invert(FIRST, nothing, X0, t, eta=0.1, noise=z) - invert(FIRST, nothing, X0, t)
    s, d = bars[-1], bars[60]
    np.testing.assert_allclose(found, 0.1 * np.sqrt((1 - s) / (1 - d) * (1 - d / s)) * z[0], rtol=1e-3, atol=1e-5)


def test_the_implied_noise_knows_the_image():
    x0 = RNG.standard_normal((500, 1)).astype(np.float32) * 0.5
    t = np.full(500, 500)
    tau = np.asarray(implied_noise(ONE, invert(ONE, gaussian(ONE, variance=0.25), x0, t), x0, t))
    assert np.corrcoef(tau[:, 0], x0[:, 0])[0, 1] > 0.9
    shifted = implied_noise(ONE, invert(ONE, gaussian(ONE, mean=1.0, variance=0.25), x0, t), x0, t)
    assert abs(np.mean(shifted)) > 0.1  # and its mean is not 0


def test_no_gradient_passes_and_the_code_feeds_a_negative_time():
    fed = []

    def denoise(scale, x, t):
        fed.append(t)
        return scale * x

    def through(scale):
        return jnp.sum(invert(FIRST, functools.partial(denoise, scale), X0, T, n=10, grid="code"))

    assert jax.grad(through)(0.5) == 0
    seen = []
    with jax.disable_jit():
        invert(FIRST, lambda x, t: (seen.append(int(t[0])), x)[1], X0[:1], T[:1], n=10, grid="code")
    assert seen[:2] == [-99, 1]
