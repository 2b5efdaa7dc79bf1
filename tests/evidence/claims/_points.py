"""Points of a mixture of Gaussians on a ring, and a denoiser of three layers that is trained on them in a second."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpo.config.noise import NoiseSchedule
from jaxpo.diffusion.ddim import sample
from jaxpo.diffusion.inversion import invert
from jaxpo.diffusion.parameterisation import add_noise, implied_noise
from jaxpo.diffusion.schedules import destinations, schedule, times
from jaxpo.losses import squared_error

SCHEDULE = schedule(NoiseSchedule())
STEPS = SCHEDULE.steps
SRC = times("trailing", 25)
DST = destinations(SRC)
WIDTH, FREQUENCIES, KINDS, RADIUS, SPREAD = 64, 8, 8, 2.0, 0.25
ANGLES = 2 * np.pi * np.arange(KINDS) / KINDS
CENTRES = np.float32(RADIUS * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1))


def network(key, size=2, condition=KINDS, user=2):
    """Parameters: three hidden layers, and what a user adds to each of them, zero to begin with."""
    inputs = [size + 2 * FREQUENCIES + condition, WIDTH, WIDTH, WIDTH]
    keys = jax.random.split(key, 4)
    layers = [
        {"w": jax.random.normal(k, (n, WIDTH)) / jnp.sqrt(n), "b": jnp.zeros(WIDTH), "user": jnp.zeros((user, WIDTH))}
        for k, n in zip(keys[:3], inputs[:3], strict=True)
    ]
    return {"layers": layers, "out": {"w": 0.1 * jax.random.normal(keys[3], (WIDTH, size)) / WIDTH**0.5}}


def noise_of(params, x, t, condition, user=None):
    """The noise in x `[B, size]` at times `[B]` under a condition `[B, condition]`; zeros are the empty one."""
    angles = t[:, None] / STEPS * np.pi * 2.0 ** np.arange(FREQUENCIES)
    h = jnp.concatenate([x, jnp.cos(angles), jnp.sin(angles), condition], axis=1)
    for i, layer in enumerate(params["layers"]):
        own = h @ layer["w"] + layer["b"] + (0.0 if user is None else user @ layer["user"])
        h = jax.nn.silu(own) if i == 0 else h + jax.nn.silu(own)
    return h @ params["out"]["w"]


def points(key, n):
    """n points of the ring and the one-hot number of their Gaussian."""
    which, where = jax.random.split(key)
    kind = jax.random.randint(which, (n,), 0, KINDS)
    return jnp.asarray(CENTRES)[kind] + SPREAD * jax.random.normal(where, (n, 2)), jax.nn.one_hot(kind, KINDS)


def ring(_, key, n):
    """`points`, in the form that `pretrained` draws."""
    return points(key, n)


def denoising_loss(params, key, x0, condition):
    """Mean squared error of the noise at random times."""
    at, drawn = jax.random.split(key)
    t, noise = draw_times(at, len(x0), STEPS), jax.random.normal(drawn, x0.shape)
    return jnp.mean(squared_error(noise_of(params, add_noise(SCHEDULE, x0, noise, t), t, condition), noise))


def descend(params, loss, keys, rate):
    """Adam on `loss(params, key)`, one key per step; all states on the way are `[steps, ...]`."""
    optimizer = optax.adam(rate)

    def step(state, key):
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params, key), moments)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


@functools.partial(jax.jit, static_argnames=("steps", "draw"))
def pretrained(params, key, about=None, *, steps, draw=ring):
    """A denoiser of what `draw(about, key, n)` gives, under its condition with 10% dropout."""

    def loss(params, key):
        data, dropped, noise = jax.random.split(key, 3)
        x0, condition = draw(about, data, 256)
        kept = jax.random.bernoulli(dropped, 0.9, (256, 1))
        return denoising_loss(params, noise, x0, condition * kept)

    rate = optax.cosine_decay_schedule(3e-3, steps)
    return descend(params, loss, jax.random.split(key, steps), rate)


class Pairs(NamedTuple):
    """Chosen and rejected points `[N, 2]`, the empty condition `[N, KINDS]`, and their rewards within [0, 1]."""

    chosen: jax.Array
    rejected: jax.Array
    condition: jax.Array
    chosen_rewards: jax.Array
    rejected_rewards: jax.Array


REWARDS = {
    "right": lambda x: x[..., 0],
    "near": lambda x: -jnp.linalg.norm(x - CENTRES[2], axis=-1),
}
"""How far to the right a point lies, and how near it is to the centre of the third Gaussian."""


def pairs(key, n, reward):
    """n pairs of points, the one with the larger reward chosen."""
    x = points(key, 2 * n)[0].reshape(n, 2, 2)
    r = reward(x)
    r = (r - jnp.min(r)) / (jnp.max(r) - jnp.min(r))
    order = jnp.argsort(-r, axis=1, stable=True)
    x, r = jnp.take_along_axis(x, order[..., None], axis=1), jnp.take_along_axis(r, order, axis=1)
    return Pairs(x[:, 0], x[:, 1], jnp.zeros((n, KINDS)), r[:, 0], r[:, 1])


def forward_errors(params, base, batch, key, user=None):
    """The four errors of Diffusion-DPO: time and noise shared by the pair; the base sees no user."""
    at, drawn = jax.random.split(key)
    t, noise = draw_times(at, len(batch.chosen), STEPS), jax.random.normal(drawn, batch.chosen.shape)
    found = []
    for network, seen in ((params, user), (base, None)):
        for x0 in (batch.chosen, batch.rejected):
            x = add_noise(SCHEDULE, x0, noise, t)
            found.append(squared_error(noise_of(network, x, t, batch.condition, seen), noise))
    return found


def inverted_errors(params, base, batch, key, **inversion):
    """The four errors of DDIM-InPO and SmPO: each image has the latent and the noise of its own inversion."""
    t = draw_times(key, len(batch.chosen), STEPS)
    own, of_base = [], []
    for x0 in (batch.chosen, batch.rejected):
        frozen = lambda x, at: noise_of(jax.lax.stop_gradient(params), x, at, batch.condition)  # noqa: E731
        x = invert(SCHEDULE, frozen, x0, t, **inversion)
        tau = implied_noise(SCHEDULE, x, x0, t)
        own.append(squared_error(noise_of(params, x, t, batch.condition), tau))
        of_base.append(squared_error(noise_of(base, x, t, batch.condition), tau))
    return [*own, *of_base]


def draws(params, key, n=1024, user=None):
    """n points of a model without a condition, by 25 steps of DDIM."""
    empty = jnp.zeros((n, KINDS))
    seen = None if user is None else jnp.broadcast_to(user, (n, user.shape[-1]))
    return sample(SCHEDULE, lambda x, t: noise_of(params, x, t, empty, seen), jax.random.normal(key, (n, 2)), SRC, DST)


def draw_times(key, n, steps):
    return jax.random.randint(key, (n,), 0, steps)


def taken(batch, places):
    return jax.tree.map(lambda x: x[places], batch)


@functools.partial(jax.jit, static_argnames=("loss", "reward", "rate", "steps", "every"))
def course(base, data, key, *, loss, reward, rate=3e-4, steps=200, every=10):
    """Rewards of drawn points, and drifts from the base, after 0, every, 2 every .. steps of `loss`, `[K + 1]`.

    Args:
      loss: `loss(params, base, batch, key)`, on 64 pairs at a time.
    """
    learn, look = jax.random.split(key)
    held, late, drawn, look = jax.random.split(look, 4)
    fresh = points(held, 1024)[0]
    t, noise = draw_times(late, 1024, STEPS), jax.random.normal(drawn, fresh.shape)
    x, empty = add_noise(SCHEDULE, fresh, noise, t), jnp.zeros((1024, KINDS))

    def figures(params):
        gap = noise_of(params, x, t, empty) - noise_of(base, x, t, empty)
        return jnp.mean(reward(draws(params, look))), jnp.mean(gap**2)

    def one(params, key):
        at, drawn = jax.random.split(key)
        return loss(params, base, taken(data, jax.random.randint(at, (64,), 0, len(data.chosen))), drawn)

    optimizer = optax.adam(rate)

    def step(state, key):
        params, moments = state
        updates, moments = optimizer.update(jax.grad(one)(params, key), moments)
        return (optax.apply_updates(params, updates), moments), None

    def stretch(state, keys):
        state = jax.lax.scan(step, state, keys)[0]
        return state, figures(state[0])

    keys = jax.random.split(learn, (steps // every, every))
    _, (rewards, drifts) = jax.lax.scan(stretch, (base, optimizer.init(base)), keys)
    start, _ = figures(base)
    return jnp.append(start, rewards), jnp.append(0.0, drifts)


def at_equal_drift(one, other):
    """The rewards of two courses where each first has the smaller of their largest drifts."""
    level = min(float(jnp.max(drifts)) for _, drifts in (one, other))

    def reward(rewards, drifts):
        k = int(np.argmax(np.asarray(drifts) >= level))
        low, high = float(drifts[k - 1]), float(drifts[k])
        share = (level - low) / (high - low)
        return float(rewards[k - 1]) * (1 - share) + float(rewards[k]) * share

    return reward(*one), reward(*other)
