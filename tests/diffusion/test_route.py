"""The linear route of LongAlign and the encoding of long captions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.config.noise import NoiseSchedule
from jaxpo.diffusion.ddim import ddim, sample
from jaxpo.diffusion.parameterisation import to_noise
from jaxpo.diffusion.route import coefficients, kept_steps, linear_route
from jaxpo.diffusion.schedules import destinations, schedule, times
from jaxpo.diffusion.segments import Marks, fill_vector, join_segments, kept_tokens, long_states, split_caption

RNG = np.random.default_rng(0)
SRC = times("trailing", 50)
DST = destinations(SRC)
X = RNG.standard_normal((3, 4)).astype(np.float32)


@pytest.mark.parametrize("clean", ["one", "first"])
def test_a_deterministic_sample_is_linear_in_its_noise(clean):
    made = schedule(NoiseSchedule(clean=clean))
    c_t, c = coefficients(made, SRC, DST)
    assert np.all(c < 0)
    noises = RNG.standard_normal((50, 3, 4)).astype(np.float32)
    by_time = jnp.zeros((1000, 3, 4)).at[SRC].set(noises)
    found = sample(made, lambda x, t: by_time[t[0]], X, SRC, DST)
    np.testing.assert_allclose(found, c_t * X + np.einsum("k,kbd->bd", c, noises), rtol=1e-3, atol=2e-3)


def test_zero_snr_has_no_route_from_its_last_time():
    made = schedule(NoiseSchedule(zero_snr=True, parameterisation="velocity"))
    with pytest.raises(ValueError, match="nothing is left of the image"):
        coefficients(made, SRC, DST)


def test_ten_starts_partition_the_steps():
    chosen = [np.asarray(kept_steps(start, 50)) for start in range(10)]
    assert {len(c) for c in chosen} == {5}
    np.testing.assert_array_equal(np.sort(np.concatenate(chosen)), np.arange(50))
    with pytest.raises(ValueError, match="not a multiple"):
        kept_steps(0, 25)


@pytest.mark.parametrize("kind", ["noise", "velocity"])
def test_the_gradient_is_that_of_the_kept_predictions_alone(kind):
    made = schedule(NoiseSchedule(parameterisation=kind))
    theta = RNG.standard_normal((4, 4)).astype(np.float32) * 0.3
    aim = RNG.standard_normal((3, 4)).astype(np.float32)
    network = lambda theta, x, t: jnp.tanh(x @ theta + t[:, None] / 1000)  # noqa: E731
    kept = kept_steps(3, 50)

    def loss(theta):
        x0 = linear_route(made, lambda x, t: network(theta, x, t), X, SRC, DST, kept)
        return jnp.sum((x0 - aim) ** 2), x0

    slope, x0 = jax.jit(jax.grad(loss, has_aux=True))(theta)
    plain = jax.jit(lambda x: sample(made, lambda x, t: network(theta, x, t), x, SRC, DST))(X)
    np.testing.assert_allclose(x0, plain, rtol=1e-5, atol=1e-5)

    # dL/dtheta = sum over kept steps of c_k <dL/dx0, de_k/dtheta>, each latent a constant.
    @jax.jit
    def step(x, t, there):
        at = jnp.full(3, t)
        noise, pull = jax.vjp(lambda theta: to_noise(made, network(theta, x, at), x, at), theta)
        return ddim(made, x, noise, t, there), pull(2 * (plain - aim))[0]

    _, c = coefficients(made, SRC, DST)
    x, expected = X, np.zeros_like(theta)
    for k in range(50):
        x, pulled = step(x, SRC[k], DST[k])
        expected += c[k] * pulled * (k in np.asarray(kept))
    np.testing.assert_allclose(slope, expected, rtol=2e-3, atol=2e-3)


def test_captions_are_split_at_their_marks():
    assert split_caption("A red square. A dog! Is it? yes; and 3.5 more...") == [
        "A red square.", "A dog!", "Is it?", "yes;", "and 3.5 more...",
    ]  # fmt: skip
    assert split_caption("no mark") == ["no mark"]
    assert split_caption("") == [""]
    assert split_caption("  \n ") == [""]


START, END = 1, 2
IDS = np.array([
    [[START, 5, 6, END, END], [START, 7, END, END, END], [START, END, END, END, END]],
    [[START, END, END, END, END]] * 3,
    [[START, 3, 4, 5, END], [START, 6, 7, 8, END], [START, 9, 9, 9, END]],
])  # fmt: skip


def test_start_and_words_are_kept_and_an_empty_caption_keeps_nothing():
    kept = np.asarray(kept_tokens(IDS, Marks(START, END, END)))
    np.testing.assert_array_equal(kept.sum(-1), [[3, 2, 0], [0, 0, 0], [4, 4, 4]])
    np.testing.assert_array_equal(kept[0, 0], [True, True, True, False, False])


def test_segments_stand_one_after_another_and_the_rest_is_filled_or_lost():
    states = RNG.standard_normal((3, 3, 5, 2)).astype(np.float32)
    kept = kept_tokens(IDS, Marks(START, END, END))
    fill = np.float32([8, 9])
    found, used, lost = jax.jit(lambda s, k: join_segments(s, k, fill, length=7))(states, kept)
    np.testing.assert_array_equal(used, [5, 0, 7])
    np.testing.assert_array_equal(lost, [0, 0, 5])
    np.testing.assert_array_equal(found[0, :5], np.concatenate([states[0, 0, :3], states[0, 1, :2]]))
    np.testing.assert_array_equal(found[0, 5:], np.broadcast_to(fill, (2, 2)))
    np.testing.assert_array_equal(found[1], np.broadcast_to(fill, (7, 2)))
    np.testing.assert_array_equal(found[2], np.concatenate([states[2, 0, :4], states[2, 1, :3]]))
    turned = join_segments(states[:, ::-1], np.asarray(kept)[:, ::-1], fill, length=7)[0]
    assert np.any(turned[0] != found[0])  # the encoder's order matters, unlike the reward's


def test_the_fill_is_the_mean_of_the_last_positions_of_the_empty_caption():
    states = RNG.standard_normal((77, 4)).astype(np.float32)
    np.testing.assert_allclose(fill_vector(states), states[17:].mean(0), rtol=1e-4, atol=1e-6)


def test_long_captions_are_encoded_sentence_by_sentence():
    table = RNG.standard_normal((9, 3)).astype(np.float32)
    words = {"a": 3, "b": 4, "c": 5, "d": 6}
    asked = []

    def encode(texts):  # an encoder of four positions, whose states know their place
        asked.extend(texts)
        rows = [[START, *(words[w.strip(".!")] for w in text.split())] for text in texts]
        ids = np.array([(row + [END] * 4)[:4] for row in rows])
        return ids, table[ids] + np.arange(4, dtype=np.float32)[:, None]

    found, cut = long_states(["a b. c!", "d", "", "a b. c d. a b."], encode, Marks(START, END, END), length=6)
    assert asked[:3] == ["a b.", "c!", ""]
    assert cut == 1
    place = np.arange(4, dtype=np.float32)[:, None]
    first = np.concatenate([(table[[START, 3, 4]] + place[:3]), table[[START, 5]] + place[:2]])
    empty = np.mean(table[[START, END, END, END]] + place, axis=0)
    np.testing.assert_allclose(found[0, :5], first, rtol=1e-6)
    np.testing.assert_allclose(found[0, 5:], empty[None], rtol=1e-5)
    np.testing.assert_allclose(found[2], np.broadcast_to(empty, (6, 3)), rtol=1e-5)
