"""Twenty responses to one prompt: an SFT policy, rewards, and the policy that is optimal for both."""

from __future__ import annotations

import numpy as np

RESPONSES, BETA, POOL, ACCEPTED = 20, 0.5, 64, 8


def problem(seed):
    """SFT probabilities `[20]`, rewards `[20]`, and `pi* ~ pi_sft exp(r / beta)`."""
    rng = np.random.default_rng(seed)
    sft = rng.dirichlet(np.ones(RESPONSES))
    rewards = rng.standard_normal(RESPONSES)
    best = sft * np.exp(rewards / BETA)
    return sft, rewards, best / best.sum()
