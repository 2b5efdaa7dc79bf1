"""Regret preferences: from 100 pairs the regret model finds good rewards on more boards than partial return."""

from __future__ import annotations

import numpy as np
from evidence.harness import Claim

from jaxpo.evaluate.regret.delivery import WEIGHTS, process_of, random_board
from jaxpo.evaluate.regret.evaluation import compared
from jaxpo.evaluate.regret.learning import Fit

CLAIM = Claim(
    method="regret_reward",
    paper="arXiv:2206.02231",
    claim="On random 6 x 6 delivery boards with 100 noiseless regret preferences the regret model's reward leads to a "
    "near-optimal policy on more boards than the partial return's.",
    baseline="the partial-return model on the same pairs",
    measure="boards (of 1) with a scaled return above 0.9, regret minus partial return; a seed is a board",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    threshold=0.25,
    min_share=0.25,
)

PAIRS = 100
FIT = Fit(temperature=0.1, steps=1500, learning_rate=0.5, decays=True)


def measure(seed: int) -> dict[str, float]:
    process = process_of(random_board(np.random.default_rng(seed)))
    (found,) = compared([(process, np.asarray(WEIGHTS))], [PAIRS], FIT, seed=seed)
    ours, plain = found.near_optimal("regret"), found.near_optimal("partial_return")
    returns = {f"return of {model}": values[0] for model, values in found.returns.items()}
    return {"method": ours, "baseline": plain, "effect": ours - plain, **returns}
