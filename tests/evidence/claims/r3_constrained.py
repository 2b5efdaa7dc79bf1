"""R^3: questions with one short answer are answered shortly where their reward has a branch of its own."""

from __future__ import annotations

import jax
from evidence.claims._templated_answers import WORDS, rewards, trained
from evidence.harness import Claim

from jaxpo.online.rewards.r3 import R3Reward

CLAIM = Claim(
    method="r3",
    paper="arXiv:2402.03469",
    claim="REINFORCE on the branch of constrained questions ends with short answers, where the reward of open "
    "questions makes them long.",
    baseline="the same questions, taken for open ones (branches=False)",
    measure="mean words of an answer, baseline minus branched",
    seeds=(0, 1, 2, 3, 4),
    threshold=20.0,
    min_share=1.0,
)


def measure(seed: int) -> dict[str, float]:
    key = jax.random.key(seed)
    ours = float(trained(key, rewards(R3Reward(), "constrained")) @ WORDS)
    plain = float(trained(key, rewards(R3Reward(branches=False), "constrained")) @ WORDS)
    return {"method": ours, "baseline": plain, "effect": plain - ours}
