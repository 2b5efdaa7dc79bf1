"""DRPO: right answers weighed apart from wrong ones keep more accuracy at the same length."""

from __future__ import annotations

import jax.numpy as jnp
from evidence.claims._effort_bandit import LONGEST, at_length, penalised, policy_gradient, train
from evidence.harness import Claim, NotReproduced

from jaxpo.losses import drpo

WHERE = (1400.0, 1800.0)
LAMS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0, 5.0)
PENALTIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)

CLAIM = Claim(
    method="drpo",
    paper="arXiv:2510.04474",
    claim="Sweeping lam, DRPO reaches mean lengths of 1,400 and 1,800 tokens (of 3,000 without pressure) at a higher "
    "accuracy than GRPO with a penalty in its rewards.",
    baseline="GRPO on right - w L/C, or on right (1 - w L/C), over a sweep of w: the better one at that length",
    measure="accuracy at equal length, mean over the two lengths, DRPO minus GRPO",
    seeds=(10, 11, 12, 13, 14),
    threshold=0.005,
    not_reproduced=NotReproduced(
        "a question whose eight answers are all right adds nothing to DRPO's loss, so that the easy ones stay long "
        "and the mixed ones alone are shortened, and between lam 0.15 and 0.2 the sweep has a cliff from 1,600 to "
        "2,900 tokens. drpo_sign, registered after this run, asks for what the method is built for",
        (-0.05, -0.01),
    ),
)


def ours(logps, right, length, history, lam):
    """`losses.drpo` with lam of the sweep: a length of 1 / lam in the place of lam = 1."""
    groups = jnp.zeros(right.shape, jnp.int32)
    terms = drpo(logps, right.astype(jnp.float32), length / lam, groups, longest=LONGEST, lam=1.0)
    return jnp.sum(terms) / len(right)


def on_right_answers(logps, right, length, history, w):
    """GRPO whose penalty is of right answers alone."""
    return policy_gradient(logps, right * (1 - w * length / LONGEST))


def measure(seed: int) -> dict[str, float]:
    decoupled = train(seed, ours, LAMS)
    others = [train(seed, objective, PENALTIES) for objective in (penalised, on_right_answers)]
    method = sum(at_length(*decoupled, where) for where in WHERE) / len(WHERE)
    baseline = sum(max(at_length(*other, where) for other in others) for where in WHERE) / len(WHERE)
    return {"method": method, "baseline": baseline, "effect": method - baseline}
