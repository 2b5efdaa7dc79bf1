"""Pairs as features, straight from arrays: for what a method does after its networks have run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.objectives.families.features import Side
from jaxpo.objectives.families.pairs import Pair
from jaxpo.objectives.families.rewards import Reading, Rewards, pair_metrics, reward_metrics


def random_pairs(seed=0, n=5):
    """Float64 sums `Pw, Pl, Rw, Rl` and lengths `nw, nl`, `[n]` each."""
    rng = np.random.default_rng(seed)
    q = {name: -rng.gamma(2.0, 4.0, n) for name in ("Pw", "Pl", "Rw", "Rl")}
    return q | {name: rng.integers(1, 9, n).astype(float) for name in ("nw", "nl")}


def as_pair(q, columns=None):
    """The quantities as a `Pair`, with an absent row at the end that holds NaN; columns are one longer than they."""
    n = len(q["Pw"])
    whole = {name: np.append(x, np.nan).astype(np.float32) for name, x in q.items()}
    sides = (
        Side(whole["P" + s], whole["R" + s], whole["n" + s], entropy=0 * whole["n" + s], correct=0 * whole["n" + s])
        for s in "wl"
    )
    return Pair(*sides, np.arange(n + 1) < n, dict(columns or {}))


def evaluate(objective, features, carry=None):
    """`Out` of an objective on features alone, compiled; denominators are those of these features."""
    here = features.present
    counts = {
        "pairs": np.float32(here.sum()),
        "chosen_tokens": np.float32(np.where(here, features.chosen.length, 0).sum()),
    }
    carry = objective.init_carry() if carry is None else carry
    return jax.jit(lambda p, c: objective.loss(p, None, c, counts))(jax.tree.map(jnp.asarray, features), carry)


def metrics_of_scores(chosen, rejected):
    """A reward model's metrics where its head gave these scores `[N]`; every pair is there."""
    here, scores = jnp.ones(len(chosen), bool), {"chosen": jnp.asarray(chosen), "rejected": jnp.asarray(rejected)}
    roles = {role: Reading({"score": x}, here.astype(np.float32)) for role, x in scores.items()}
    features = Rewards(roles, here, {})
    return pair_metrics(features, *scores.values()) | reward_metrics(features, scores)
