"""GPM: cyclic preferences are learnt by a skew-symmetric score and by no scalar reward."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from evidence.claims._features import adam
from evidence.harness import Claim

from jaxpo.losses import bradley_terry, gpm, gpm_score

DIMENSIONS, PAIRS, HELD_OUT, STEPS, RATE, NOISE, TEMPERATURE = 8, 600, 2000, 400, 0.05, 0.1, 0.1

CLAIM = Claim(
    method="gpm",
    paper="arXiv:2410.02197",
    claim="With A > B > C > A among three types of items, GPM of dimension 2 is right where Bradley-Terry cannot be.",
    baseline="Bradley-Terry, a linear reward of the same features",
    measure="accuracy on held-out pairs, GPM minus Bradley-Terry",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.3,
    min_share=1.0,
)


def pairs(rng, n):
    """Features of the better and of the worse item of pairs of two types, `[n, 8]` each; a type's own is 1 + noise."""
    worse = rng.integers(0, 3, n)
    better = (worse - 1) % 3  # A beats B, B beats C, C beats A

    def features(kind):
        return jnp.asarray(np.eye(DIMENSIONS)[kind] + NOISE * rng.standard_normal((n, DIMENSIONS)), jnp.float32)

    return features(better), features(worse)


def embed(weight, x):
    v = x @ weight
    return v / jnp.linalg.norm(v, axis=-1, keepdims=True)


_gpm = adam(lambda w, c, r: jnp.mean(gpm(embed(w, c), embed(w, r), temperature=TEMPERATURE)), STEPS, RATE)
_bradley_terry = adam(lambda w, c, r: jnp.mean(bradley_terry(c @ w, r @ w)), STEPS, RATE)


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    train, held = pairs(rng, PAIRS), pairs(rng, HELD_OUT)
    start = jnp.asarray(0.1 * rng.standard_normal((DIMENSIONS, 2)), jnp.float32)
    weight, reward = _gpm(start, *train), _bradley_terry(jnp.zeros(DIMENSIONS), *train)
    ours = float(jnp.mean(gpm_score(embed(weight, held[0]), embed(weight, held[1])) > 0))
    plain = float(jnp.mean(held[0] @ reward > held[1] @ reward))
    return {"method": ours, "baseline": plain, "effect": ours - plain}
