"""DRPO: no right answer is ever pushed down, where a penalty of length under GRPO does that to many."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from evidence.claims._effort_bandit import ANSWERS, LONGEST, QUESTIONS, TOKENS, policy_gradient, questions
from evidence.claims.drpo import ours
from evidence.harness import Claim, NotReproduced

CLAIM = Claim(
    method="drpo",
    paper="arXiv:2510.04474",
    claim="With answers of mixed lengths GRPO on right (1 - 0.5 L/C) pushes more than a tenth of the right answers "
    "down; DRPO pushes down none.",
    baseline="share of right answers in mixed groups that GRPO's gradient makes less likely",
    measure="that share under GRPO minus the share under DRPO, which must be 0",
    seeds=(20, 21, 22, 23, 24),
    threshold=0.1,
    min_share=1.0,
    not_reproduced=NotReproduced(
        "DRPO pushes down none in all draws, but GRPO pushes down 7 to 17% of the right answers, 9.9% on average, "
        "where more than a tenth was registered",
        (0.05, 0.1),
    ),
)


def share_pushed_down(objective, logps, right, length):
    """Of the right answers in groups that are not all right."""
    slope = jax.grad(lambda x: objective(x, right, length, jnp.nan, 0.5))(logps)
    here = right & ~jnp.all(right, axis=1, keepdims=True)
    return jnp.sum((slope > 1e-9) & here) / jnp.maximum(jnp.sum(here), 1)


def penalised(logps, right, length, history, w):
    """GRPO whose penalty is of right answers alone."""
    return policy_gradient(logps, right * (1 - w * length / LONGEST))


def measure(seed: int) -> dict[str, float]:
    _, success = questions(seed)
    efforts, luck = jax.random.split(jax.random.key(seed))
    chosen = jax.random.randint(efforts, (QUESTIONS, ANSWERS), 0, 3)
    right = jax.random.uniform(luck, chosen.shape) < jnp.take_along_axis(success, chosen, axis=1)
    logps, length = jnp.full(chosen.shape, -jnp.log(3.0)), TOKENS[chosen]
    decoupled, grpo = (float(share_pushed_down(loss, logps, right, length)) for loss in (ours, penalised))
    return {"method": decoupled, "baseline": grpo, "effect": grpo - decoupled if decoupled == 0 else -1.0}
