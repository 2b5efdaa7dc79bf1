"""SPO on random games in which no answer beats all others: there a scalar score always has something to lose."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims.spo_minimax import ANSWERS, RATE, STEPS, bradley_terry_scores, game
from evidence.harness import Claim

from jaxpo.losses import exploitability, self_play

CLAIM = Claim(
    method="spo_minimax",
    paper="arXiv:2401.04056",
    claim="On random antisymmetric 6 x 6 games without an answer that beats all others, Hedge against itself for 4000 "
    "steps is less exploitable than the answer with the largest Bradley-Terry score.",
    baseline="the largest score of a Bradley-Terry model of the same preferences",
    measure="exploitability of the baseline, minus that of the average iterate",
    seeds=tuple(range(100, 110)),
    threshold=0.15,
    min_share=0.9,
)


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    payoffs = game(rng)
    while bool(jnp.any(jnp.all(payoffs + jnp.eye(ANSWERS) > 0, axis=1))):
        payoffs = game(rng)
    average, _ = self_play(payoffs, learning_rate=RATE, steps=STEPS)
    best = jax.nn.one_hot(jnp.argmax(bradley_terry_scores(payoffs)), ANSWERS)
    ours, plain = (float(exploitability(payoffs, p)) for p in (average, best))
    return {"method": ours, "baseline": plain, "effect": plain - ours}
