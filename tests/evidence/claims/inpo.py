"""INPO: self-play by sampled mirror descent comes to rest at the Nash policy, where best responses go round."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.harness import Claim, NotReproduced

from jaxpo.losses import duality_gap, inpo

RESPONSES, PAIRS, STEPS, LAST, ETA, TAU = 6, 512, 200, 50, 2.0, 0.05

CLAIM = Claim(
    method="inpo",
    paper="arXiv:2407.00617",
    claim="Under random intransitive preferences over 6 responses, 200 steps of INPO on 512 sampled pairs each leave a "
    "smaller duality gap than 200 regularised best responses to the last iterate.",
    baseline="iterated best responses, ref exp(P pi / tau) / Z",
    measure="mean duality gap of the last 50 iterates, best responses minus INPO",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    threshold=0.2,
    not_reproduced=NotReproduced(
        "In the mean by far (0.44), but with the sign in 6 of 8 seeds, and 7 were registered: in the "
        "other two one response beats all others, so that best responses come to rest on it too. Where "
        "there is a cycle: `inpo_cycles`.",
        (0.35, 0.55),
    ),
)


def preferences(seed):
    """P(row > column), `[6, 6]`: uniform in [0.05, 0.95] above the diagonal."""
    upper = np.triu(np.random.default_rng(seed).uniform(0.05, 0.95, (RESPONSES, RESPONSES)), 1)
    return jnp.asarray(upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(RESPONSES), jnp.float32)


def step(logps, key, reference, table):
    """The minimum of the pair loss over tabular logits: it is a square, so one Newton step from the last iterate."""
    draws = jax.random.split(key, 3)
    first, other = (jax.random.categorical(k, logps, shape=(PAIRS,)) for k in draws[:2])
    wins = jax.random.uniform(draws[2], (PAIRS,)) < table[first, other]
    w, l = jnp.where(wins, first, other), jnp.where(wins, other, first)  # noqa: E741

    def loss(z):
        frozen = (x[side] for x in (reference, logps) for side in (w, l))
        return jnp.mean(inpo(z[w], z[l], *frozen, eta=ETA, tau=TAU))

    newton = jnp.linalg.pinv(jax.hessian(loss)(logps), rtol=1e-4) @ jax.grad(loss)(logps)
    return jax.nn.log_softmax(logps - newton)


@jax.jit
def both(key, table):
    """Gaps of INPO and of best responses after each step, `[200]` each, and that of the reference."""
    reference = jnp.full(RESPONSES, -jnp.log(float(RESPONSES)))
    gap = lambda p: duality_gap(p, reference, table, tau=TAU)  # noqa: E731

    def body(carry, k):
        ours, greedy = carry
        ours = step(ours, k, reference, table)
        greedy = jax.nn.log_softmax(reference + table @ jnp.exp(greedy) / TAU)
        return (ours, greedy), (gap(ours), gap(greedy))

    _, (ours, greedy) = jax.lax.scan(body, (reference, reference), jax.random.split(key, STEPS))
    return ours, greedy, gap(reference)


def measure(seed: int) -> dict[str, float]:
    ours, greedy, start = both(jax.random.key(seed), preferences(seed))
    method, baseline = float(jnp.mean(ours[-LAST:])), float(jnp.mean(greedy[-LAST:]))
    return {"method": method, "baseline": baseline, "effect": baseline - method, "gap of the reference": float(start)}
