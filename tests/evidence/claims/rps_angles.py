"""RPS where every direction has a best answer of its own; registered after `rps`, on seeds of its own."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evidence.harness import Claim, NotReproduced

from jaxpo.construct.rps.directions import at_angle, grid
from jaxpo.construct.rps.selection import projections, select

WIDTH, CONE, ROUNDS, PROMPTS, N, STEPS, K, SPREAD, TESTED = 32, 10.0, 3, 1000, 8, 200, 5, 30.0, 2000
INSIDE, OUTSIDE = (0.0,), (40.0, 50.0, 60.0)
ANGLES = np.arange(-90.0, 91.0, 3.0)
REWARDS = np.stack([at_angle(a) for a in ANGLES])
"""Of 61 answers: what one of them has more of one attribute it has less of the other."""
VALUES = jnp.asarray(REWARDS, jnp.float32)

CLAIM = Claim(
    method="rps",
    paper="arXiv:2510.20498",
    claim="Where each direction has an answer of its own: of a policy that DPA trained on at most 10 degrees, RPS "
    "loses to the best of as many answers at 0 degrees and beats it at 40 to 60 degrees.",
    baseline="best of 5 answers for the direction itself",
    measure="RPS' win rate, ties half; effect: the smaller of win rate outside - 0.5 and 0.5 - win rate inside",
    seeds=(5, 6, 7, 8, 9),
    threshold=0.02,
    not_reproduced=NotReproduced(
        "Half of it holds: inside the trained cone neighbours cost, at a win rate of 0.40. Outside, the policy has "
        "learnt one answer for whatever lies beyond the cone's edge, so that all neighbours write the same and nothing "
        "but ties is left; they would help where answers for them still differ.",
        (-0.01, 0.01),
    ),
)


def logits(params, v):
    return jax.nn.tanh(v @ params["w"] + params["b"]) @ params["out"] + params["bias"]


@jax.jit
def best_of(params, v, key):
    """The best of N sampled answers along each direction."""
    drawn = jax.random.categorical(key, logits(params, v), shape=(N, v.shape[0]))
    scores = jnp.einsum("nbm,bm->nb", VALUES[drawn], v)
    return jnp.take_along_axis(drawn, jnp.argmax(scores, 0)[None], 0)[0]


@jax.jit
def fine_tuned(params, v, answers):
    optimizer = optax.adam(1e-2)

    def loss(p):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits(p, v)), answers[:, None], 1))

    def step(state, _):
        p, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(p), moments)
        return (optax.apply_updates(p, updates), moments), None

    return jax.lax.scan(step, (params, optimizer.init(params)), None, length=STEPS)[0][0]


@functools.partial(jax.jit, static_argnames="count")
def sampled(params, v, key, count):
    return jax.random.categorical(key, logits(params, v), shape=(count, v.shape[0]))


def win_rate(params, angle: float, key: jax.Array) -> float:
    """Of RPS, with ties half."""
    v = at_angle(angle)
    wanted, scores = np.tile(v, (TESTED, 1)), []
    for asked, k in zip((grid(v, SPREAD, K), np.tile(v, (K, 1))), jax.random.split(key), strict=True):
        rewards = REWARDS[np.asarray(sampled(params, jnp.asarray(asked, jnp.float32), k, TESTED))]
        scores.append(projections(rewards, wanted)[np.arange(TESTED), select(rewards, wanted)])
    return float(np.mean(scores[0] > scores[1]) + 0.5 * np.mean(scores[0] == scores[1]))


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    start = {
        "w": rng.normal(size=(2, WIDTH)),
        "b": rng.normal(size=WIDTH),
        "out": 0.1 * rng.normal(size=(WIDTH, len(ANGLES))),
        "bias": np.zeros(len(ANGLES)),
    }
    params = jax.tree.map(jnp.float32, start)
    keys = jax.random.split(jax.random.key(seed), ROUNDS + len(INSIDE) + len(OUTSIDE))
    for number in range(ROUNDS):
        v = jnp.asarray(np.stack([at_angle(a) for a in rng.uniform(-CONE, CONE, PROMPTS)]), jnp.float32)
        params = fine_tuned(params, v, best_of(params, v, keys[number]))
    found = [win_rate(params, angle, key) for angle, key in zip(INSIDE + OUTSIDE, keys[ROUNDS:], strict=True)]
    inside, outside = float(np.mean(found[: len(INSIDE)])), float(np.mean(found[len(INSIDE) :]))
    return {
        "method": outside,
        "baseline": inside,
        "effect": min(outside - 0.5, 0.5 - inside),
        **{f"at {angle:g} degrees": rate for angle, rate in zip(INSIDE + OUTSIDE, found, strict=True)},
    }
