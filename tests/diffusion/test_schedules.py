"""Schedules, times and the equations between parameterisations, against the published numbers and float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.config.noise import NoiseSchedule
from jaxpo.diffusion.parameterisation import add_noise, implied_noise, target, to_noise, to_x0
from jaxpo.diffusion.schedules import CLEAN, alpha_bars, destinations, schedule, times
from jaxpo.errors import ConfigError

RNG = np.random.default_rng(0)
TABLE = {
    "scaled_linear": {0: 0.99914998, 1: 0.99829602, 250: 0.67379230, 500: 0.27633247, 750: 0.05616980, 999: 0.00466010},
    "zero_snr": {0: 0.99914998, 1: 0.99823350, 250: 0.65245670, 500: 0.24101855, 750: 0.03279909, 998: 2e-7, 999: 0.0},
    "linear": {0: 0.99989998, 1: 0.99978006, 250: 0.52142298, 500: 0.07779665, 750: 0.00330016, 998: 4.118e-5,
               999: 4.036e-5},
    "cosine": {0: 0.99995869, 1: 0.99991256, 250: 0.84588802, 500: 0.49228504, 750: 0.14317866, 998: 2.43e-6, 999: 0.0},
}  # fmt: skip
KINDS = ("noise", "velocity", "x0", "flow")


@pytest.mark.parametrize("name", TABLE)
def test_alpha_bars_are_the_published_ones(name):
    betas = "scaled_linear" if name == "zero_snr" else name
    found = alpha_bars(NoiseSchedule(betas, zero_snr=name == "zero_snr", parameterisation="velocity"))
    assert found.dtype == np.float64
    assert np.all(np.diff(found) < 0)
    for t, expected in TABLE[name].items():
        np.testing.assert_allclose(found[t], expected, rtol=2e-6, atol=5e-8)


def test_tables_are_float32_of_float64():
    made = schedule(NoiseSchedule("cosine", parameterisation="velocity"))
    bars = alpha_bars(NoiseSchedule("cosine"))
    assert {x.dtype for x in (made.alpha_bars, made.signal, made.noise)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(made.noise[:1000], np.sqrt(1 - bars), rtol=1e-7)
    # In float32 the difference from 1 has lost its digits.
    assert abs(np.sqrt(1 - np.float32(bars[0])) / np.sqrt(1 - bars[0]) - 1) > 1e-4


def test_the_straight_path_is_that_of_rectified_flow():
    made = schedule(NoiseSchedule("flow", steps=10, parameterisation="flow"))
    np.testing.assert_allclose(made.noise, [*(np.arange(1, 11) / 10), 0.0], atol=1e-7)
    np.testing.assert_allclose(made.signal + made.noise, 1.0, atol=1e-7)
    np.testing.assert_allclose(made.alpha_bars[4], 0.5)


@pytest.mark.parametrize(("clean", "signal"), [("one", 1.0), ("first", 0.99914998**0.5)])
def test_below_time_0_is_the_clean_end(clean, signal):
    made = schedule(NoiseSchedule(clean=clean))
    for t in (CLEAN, -99):
        a, s = made.levels(t)
        np.testing.assert_allclose([a, s], [signal, (1 - signal**2) ** 0.5], atol=1e-6)
    a, s = made.levels(jnp.array([-99, 0, 999]))
    np.testing.assert_allclose(a, np.sqrt([signal**2, 0.99914998, 0.0046601]), atol=1e-6)


@pytest.mark.parametrize(("spacing", "n", "offset", "expected"), [
    ("leading", 10, 1, [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]),
    ("leading", 10, 0, [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
    ("trailing", 10, 0, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
    ("linspace", 10, 0, [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]),
])  # fmt: skip
def test_times_are_the_published_ones(spacing, n, offset, expected):
    np.testing.assert_array_equal(times(spacing, n, offset=offset), expected)


@pytest.mark.parametrize(("spacing", "n", "offset", "first", "second", "last"), [
    ("leading", 50, 1, 981, 961, 1), ("trailing", 50, 0, 999, 979, 19),
    ("leading", 25, 1, 961, 921, 1), ("trailing", 25, 0, 999, 959, 39),
])  # fmt: skip
def test_many_times(spacing, n, offset, first, second, last):
    found = times(spacing, n, offset=offset)
    assert (len(found), found[0], found[1], found[-1]) == (n, first, second, last)


def test_each_time_leads_to_the_next_and_the_last_to_the_clean_end():
    linspace = times("linspace", 10)
    np.testing.assert_array_equal(destinations(linspace), [*linspace[1:], CLEAN])
    # diffusers subtracts T // n instead, which for these times is not the next one.
    np.testing.assert_array_equal(destinations(linspace, diffusers=True)[:2], [899, 788])
    leading = times("leading", 10, offset=1)
    np.testing.assert_array_equal(destinations(leading, diffusers=True), [*leading[1:], -99])


@pytest.mark.parametrize(("arguments", "message"), [
    (("trailing", 0), "choose 1 to 1000"), (("trailing", 1001), "choose 1 to 1000"),
    (("karras", 5), "choose one of leading, trailing, linspace"),
])  # fmt: skip
def test_impossible_times_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        times(*arguments)


@pytest.mark.parametrize(("settings", "message"), [({"offset": 1}, "only leading times"), ({"offset": -1}, "only")])
def test_offsets_elsewhere_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        times("trailing", 10, **settings)
    with pytest.raises(ConfigError, match="the last one is 999"):
        times("leading", 10, offset=200)


@pytest.mark.parametrize(("settings", "message"), [
    ({"zero_snr": True}, "nothing is left of the image"),
    ({"betas": "flow"}, "nothing is left of the image"),
    ({"betas": "sigmoid"}, "choose one of scaled_linear"),
    ({"parameterisation": "score"}, "choose one of noise"),
    ({"clean": "two"}, "choose one of one, first"),
    ({"steps": 1}, "2 times or more"),
    ({"beta_end": 1.5}, "not between 0 and 1"),
    ({"betas": "cosine", "beta_start": 0.1}, "only the linear schedules"),
])  # fmt: skip
def test_impossible_schedules_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        NoiseSchedule(**settings)


def test_betas_can_be_given():
    found = alpha_bars(NoiseSchedule("linear", steps=3, beta_start=0.1, beta_end=0.3))
    np.testing.assert_allclose(found, [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])


def levels(made, t):
    return made.signal[t].astype(np.float64), made.noise[t].astype(np.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("betas", ["scaled_linear", "flow"])
def test_each_target_leads_back_to_the_image_and_the_noise(kind, betas):
    if (kind, betas) == ("noise", "flow"):
        return  # refused above
    made = schedule(NoiseSchedule(betas, parameterisation=kind))
    x0, e = RNG.standard_normal((2, 3, 2, 2, 1)).astype(np.float32)
    t = np.array([3, 500, 900])
    x = add_noise(made, x0, e, t)
    a, s = (v[:, None, None, None] for v in levels(made, t))
    np.testing.assert_allclose(x, a * x0 + s * e, atol=1e-6)
    output = target(made, x0, e, t)
    expected = {"noise": e, "x0": x0, "flow": e - x0, "velocity": a * e - s * x0}[kind]
    np.testing.assert_allclose(output, expected, atol=1e-6)
    np.testing.assert_allclose(to_x0(made, output, x, t), x0, atol=2e-5)
    np.testing.assert_allclose(to_noise(made, output, x, t), e, atol=2e-4)
    np.testing.assert_allclose(implied_noise(made, x, x0, t), e, atol=2e-4)


def test_latent_and_velocity_are_a_rotation_of_image_and_noise():
    made = schedule(NoiseSchedule(parameterisation="velocity"))
    x0, e = RNG.standard_normal((2, 5, 4)).astype(np.float32)
    t = np.array([0, 200, 400, 800, 999])
    x, v = add_noise(made, x0, e, t), target(made, x0, e, t)
    np.testing.assert_allclose(x**2 + v**2, x0**2 + e**2, rtol=2e-5, atol=1e-5)


def test_the_published_latent_and_velocity():
    made = schedule(NoiseSchedule(parameterisation="velocity", clean="first"))
    x, z = np.float32([0.5, -1, 2]), np.float32([1, -0.5, 0.25])
    np.testing.assert_allclose(add_noise(made, x, z, 500), [1.113523, -0.951017, 1.264018], atol=2e-6)
    np.testing.assert_allclose(target(made, x, z, 500), [0.100330, 0.587850, -1.569955], atol=2e-6)
