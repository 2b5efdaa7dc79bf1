"""DDIM's step and sampler: the published vectors, DDPM's posterior, and mixtures whose denoiser is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion.mixtures import denoiser, gaussian

from jaxpo.config.noise import NoiseSchedule
from jaxpo.diffusion.ddim import ddim, sample, sigma, step
from jaxpo.diffusion.parameterisation import add_noise, target
from jaxpo.diffusion.schedules import destinations, schedule, times

X, E, Z = np.float32([0.5, -1, 2]), np.float32([0.1, 0.3, -0.7]), np.float32([1, -0.5, 0.25])
SD15 = schedule(NoiseSchedule(clean="first"))
KINDS = ("noise", "velocity", "x0", "flow")


@pytest.mark.parametrize(("t", "expected"), [
    (981, [0.549101, -1.159827, 2.331980]), (501, [0.518484, -1.065689, 2.137122]),
    (21, [0.494541, -1.039115, 2.088236]), (1, [0.499000, -1.004070, 2.009354]),
])  # fmt: skip
def test_the_published_steps(t, expected):
    np.testing.assert_allclose(step(SD15, X, E, t, t - 20), expected, atol=3e-6)
    np.testing.assert_allclose(ddim(SD15, X, E, t, t - 20), expected, atol=3e-6)


def test_the_published_noisy_step_and_velocity_step():
    found = step(SD15, X, E, 501, 481, eta=1.0, z=Z)
    np.testing.assert_allclose(found, [0.807894, -1.229205, 2.248440], atol=3e-6)
    made = schedule(NoiseSchedule(clean="first", parameterisation="velocity"))
    np.testing.assert_allclose(step(made, X, E, 501, 481), [0.496761, -1.008583, 2.020178], atol=3e-6)


def test_the_published_inversion_names_both_times():
    np.testing.assert_allclose(ddim(SD15, X, E, 1, 101), [0.501701, -0.859353, 1.689896], atol=3e-6)
    np.testing.assert_allclose(ddim(SD15, X, E, 101, 201), [0.478642, -0.858475, 1.697189], atol=3e-6)


def posterior(x0, x, t, z):
    """DDPM's step from t to t - 1 in float64 (arXiv:2006.11239, Eq. 7)."""
    bar, before = SD15.signal[[t, t - 1]].astype(np.float64) ** 2
    alpha = bar / before
    mean = np.sqrt(before) * (1 - alpha) / (1 - bar) * x0 + np.sqrt(alpha) * (1 - before) / (1 - bar) * x
    return mean + np.sqrt((1 - before) / (1 - bar) * (1 - alpha)) * z


@pytest.mark.parametrize("t", [1, 30, 500, 999])
def test_eta_1_on_neighbouring_times_is_ddpm(t):
    a, s = SD15.signal[t].astype(np.float64), SD15.noise[t].astype(np.float64)
    expected = posterior((X - s * E) / a, X, t, Z)
    np.testing.assert_allclose(step(SD15, X, E, t, t - 1, eta=1.0, z=Z), expected, rtol=2e-4, atol=2e-4)


def test_the_spread_is_that_of_the_formula():
    bars = SD15.signal.astype(np.float64) ** 2
    for t, p in ((999, 500), (20, 3), (3, 2)):
        expected = np.sqrt((1 - bars[p]) / (1 - bars[t])) * np.sqrt(1 - bars[t] / bars[p])
        np.testing.assert_allclose(sigma(SD15, t, p, X), expected, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_and_a_step_back_is_no_step_and_the_exact_noise_gives_the_image_at_once(kind):
    made = schedule(NoiseSchedule(parameterisation=kind))
    rng = np.random.default_rng(0)
    x0, e = rng.standard_normal((2, 2, 3)).astype(np.float32)
    t = np.array([700, 40])
    x = add_noise(made, x0, e, t)
    there = ddim(made, x, e, t, np.array([900, 60]))
    np.testing.assert_allclose(ddim(made, there, e, np.array([900, 60]), t), x, atol=2e-5)
    np.testing.assert_allclose(step(made, x, target(made, x0, e, t), t, -1), x0, atol=2e-4)


def test_the_image_is_clipped_and_the_noise_taken_anew():
    a, s = (np.float64(v) for v in SD15.levels(501))
    x0 = np.clip((X - s * E) / a, -1, 1)
    assert np.any(np.abs((X - s * E) / a) > 1)
    to, spread = (np.float64(v) for v in SD15.levels(481))
    expected = to * x0 + spread * (X - a * x0) / s
    np.testing.assert_allclose(step(SD15, X, E, 501, 481, clip=1.0), expected, atol=1e-5)
    np.testing.assert_allclose(step(SD15, X, E, 501, 481, clip=50.0), step(SD15, X, E, 501, 481), atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_zero_snr_samples_without_nan(eta):
    made = schedule(NoiseSchedule(zero_snr=True, parameterisation="velocity"))
    src = times("trailing", 10)
    key = jax.random.key(0)
    x = jax.random.normal(key, (8, 1))
    denoise = gaussian(made, mean=0.5, variance=0.04)
    found = sample(made, denoise, x, src, destinations(src), eta=eta, key=key)
    assert np.all(np.isfinite(found))
    assert abs(np.mean(found) - 0.5) < 0.3


@pytest.mark.parametrize(("betas", "kind"), [("scaled_linear", "noise"), ("cosine", "velocity"), ("flow", "flow")])
def test_a_mixture_is_sampled_with_its_weights_and_means(betas, kind):
    made = schedule(NoiseSchedule(betas, parameterisation=kind))
    means = np.array([[-2.0, 0.0], [1.5, 1.0]])
    denoise = denoiser(made, [0.3, 0.7], means, [0.05, 0.1])
    src = times("trailing", 100)
    x = jax.random.normal(jax.random.key(1), (4000, 2))
    found = np.asarray(jax.jit(lambda x: sample(made, denoise, x, src, destinations(src)))(x))
    left = found[:, 0] < -0.5
    # The last latent of a schedule still holds a little of the image, which unit noise does not: 0.07 of it.
    np.testing.assert_allclose(left.mean(), 0.3, atol=0.03)
    np.testing.assert_allclose(found[left].mean(0), means[0], atol=0.08)
    np.testing.assert_allclose(found[~left].mean(0), means[1], atol=0.08)
    np.testing.assert_allclose(found[~left].var(0), 0.1, atol=0.03)


def test_noise_in_every_step_needs_a_key_and_is_keyed():
    denoise = gaussian(SD15, dimensions=2)
    src = times("trailing", 5)
    x = jnp.ones((3, 2))
    with pytest.raises(ValueError, match="give a key"):
        sample(SD15, denoise, x, src, destinations(src), eta=0.5)
    draw = jax.jit(lambda key: sample(SD15, denoise, x, src, destinations(src), eta=0.5, key=key))
    first, again, other = (np.asarray(draw(jax.random.key(k))) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)
    assert np.all(first[0] != first[1])
