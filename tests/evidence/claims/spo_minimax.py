"""SPO on a random game: one learner against itself is hard to beat, the best by a Bradley-Terry score is not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.harness import Claim, NotReproduced

from jaxpo.losses import exploitability, self_play

CLAIM = Claim(
    method="spo_minimax",
    paper="arXiv:2401.04056",
    claim="On random antisymmetric 6 x 6 games Hedge against itself for 4000 steps is less exploitable than the answer "
    "with the largest Bradley-Terry score.",
    baseline="the largest score of a Bradley-Terry model of the same preferences",
    measure="exploitability of the baseline, minus that of the average iterate",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.15,
    min_share=1.0,
    not_reproduced=NotReproduced(
        "the mean is twice the threshold, but one of the five games has an answer that beats all others, which a score "
        "finds: there nothing can be gained, and the average iterate is still 0.04 away. spo_minimax_no_winner, "
        "registered after this run, draws games without such an answer",
        (0.2, 0.45),
    ),
)

ANSWERS, STEPS, RATE = 6, 4000, 0.01


def game(rng):
    drawn = np.triu(rng.uniform(-1, 1, (ANSWERS, ANSWERS)), 1)
    return jnp.asarray(drawn - drawn.T, jnp.float32)


@jax.jit
def bradley_terry_scores(payoffs):
    """Maximum likelihood where every two answers were compared alike often, p = (1 + P) / 2."""
    wins = (1 + payoffs) / 2

    def step(_, s):
        return s + 0.1 * jnp.sum(wins - jax.nn.sigmoid(s[:, None] - s[None]), axis=1)

    return jax.lax.fori_loop(0, 4000, step, jnp.zeros(ANSWERS))


def measure(seed: int) -> dict[str, float]:
    payoffs = game(np.random.default_rng(seed))
    average, _ = self_play(payoffs, learning_rate=RATE, steps=STEPS)
    best = jax.nn.one_hot(jnp.argmax(bradley_terry_scores(payoffs)), ANSWERS)
    ours, plain = (float(exploitability(payoffs, p)) for p in (average, best))
    return {"method": ours, "baseline": plain, "effect": plain - ours}
