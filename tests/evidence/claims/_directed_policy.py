"""A policy over a few answers that is asked for directions: DPA's rounds, and RPS beside the best for one."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpo.construct.rps.directions import at_angle, grid
from jaxpo.construct.rps.selection import projections, select

WIDTH, CONE, ROUNDS, K, SPREAD, TESTED = 32, 10.0, 3, 5, 30.0, 2000
INSIDE, OUTSIDE = (0.0,), (40.0, 50.0, 60.0)


@dataclass(frozen=True)
class Toy:
    """One of them.

    Attributes:
      rewards: `[A, 2]`, both attributes of every answer that there is.
      prompts: of a round, each with a direction of its own.
      n: answers of which DPA keeps the best.
      steps: of fine-tuning in a round.
    """

    rewards: np.ndarray
    prompts: int
    n: int
    steps: int

    def measure(self, seed: int) -> dict[str, float]:
        """Win rates of RPS by angle; `effect` is the smaller of what it wins outside the cone and loses inside."""
        rng = np.random.default_rng(seed)
        params = self.begin(rng)
        values = jnp.asarray(self.rewards, jnp.float32)
        keys = jax.random.split(jax.random.key(seed), ROUNDS + len(INSIDE) + len(OUTSIDE))
        for number in range(ROUNDS):
            v = jnp.asarray(np.stack([at_angle(a) for a in rng.uniform(-CONE, CONE, self.prompts)]), jnp.float32)
            params = fine_tuned(params, v, best_of(params, v, values, keys[number], self.n), self.steps)
        angles = zip(INSIDE + OUTSIDE, keys[ROUNDS:], strict=True)
        found = [self.win_rate(params, angle, key) for angle, key in angles]
        inside, outside = float(np.mean(found[: len(INSIDE)])), float(np.mean(found[len(INSIDE) :]))
        return {
            "method": outside,
            "baseline": inside,
            "effect": min(outside - 0.5, 0.5 - inside),
            **{f"at {angle:g} degrees": rate for angle, rate in zip(INSIDE + OUTSIDE, found, strict=True)},
        }

    def begin(self, rng: np.random.Generator) -> dict[str, jax.Array]:
        """Random parameters."""
        params = {
            "w": rng.normal(size=(2, WIDTH)),
            "b": rng.normal(size=WIDTH),
            "out": 0.1 * rng.normal(size=(WIDTH, len(self.rewards))),
            "bias": np.zeros(len(self.rewards)),
        }
        return jax.tree.map(jnp.float32, params)

    def win_rate(self, params, angle: float, key: jax.Array) -> float:
        """Of RPS, with ties half."""
        v = at_angle(angle)
        wanted, scores = np.tile(v, (TESTED, 1)), []
        for asked, k in zip((grid(v, SPREAD, K), np.tile(v, (K, 1))), jax.random.split(key), strict=True):
            rewards = self.rewards[np.asarray(sampled(params, jnp.asarray(asked, jnp.float32), k, TESTED))]
            scores.append(projections(rewards, wanted)[np.arange(TESTED), select(rewards, wanted)])
        return float(np.mean(scores[0] > scores[1]) + 0.5 * np.mean(scores[0] == scores[1]))


def logits(params, v):
    return jax.nn.tanh(v @ params["w"] + params["b"]) @ params["out"] + params["bias"]


@functools.partial(jax.jit, static_argnames="n")
def best_of(params, v, values, key, n):
    """The best of n sampled answers along each direction."""
    drawn = jax.random.categorical(key, logits(params, v), shape=(n, v.shape[0]))
    scores = jnp.einsum("nbm,bm->nb", values[drawn], v)
    return jnp.take_along_axis(drawn, jnp.argmax(scores, 0)[None], 0)[0]


@functools.partial(jax.jit, static_argnames="steps")
def fine_tuned(params, v, answers, steps):
    optimizer = optax.adam(1e-2)

    def loss(p):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits(p, v)), answers[:, None], 1))

    def step(state, _):
        p, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(p), moments)
        return (optax.apply_updates(p, updates), moments), None

    return jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)[0][0]


@functools.partial(jax.jit, static_argnames="count")
def sampled(params, v, key, count):
    return jax.random.categorical(key, logits(params, v), shape=(count, v.shape[0]))
