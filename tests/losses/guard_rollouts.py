"""Functions of the tokens of an answer that the model wrote, at each of their clips."""

import math

from losses.guard_row import row
from losses.guard_scalars import PAIRS

from jaxpo.losses.importance import LARGEST

OLD = [-1.0, -2.0, -3.0]
UP, DOWN = math.log1p(0.5), math.log(0.5)
AWAY = {
    "equal": (OLD, OLD),
    "apart": ([-1.2, -1.9, -2.8], OLD),
    "far": ([49.0, -52.0, -3.1], OLD),
    "bound": ([LARGEST - 1.0, -LARGEST - 2.0, -3.0], OLD),
}
CLIPS = {"high": ([-1.0 + UP, -2.0 + UP, -3.0], OLD), "low": ([-1.0 + DOWN, -2.0 + DOWN, -3.0], OLD)}
DUAL = {"dual": ([-1.0 + math.log(2.0), -2.0 + math.log(2.0), -3.0], OLD)}
MASKS = {"all": [True] * 3, "one": [False, True, False], "none": [False] * 3}
GAIN = {"mixed": [1.0, -2.0, 0.5], "zero": [0.0, 0.0, 0.0], "bad": [-1.0, -1.0, -1.0]}


def answers(name, at=None, *, kinks=(), whole=False, **settings):
    """New and old log-probs, advantages and mask; `whole` gives an answer one advantage."""
    cases = {
        f"{p}, {g}, {m}": (*pair, gain[0] if whole else gain, mask)
        for p, pair in (AWAY | (at or {})).items()
        for g, gain in GAIN.items()
        for m, mask in MASKS.items()
    }
    return row(name, cases, free=1, kinks=kinks, **settings)


BOTH = [True, True]
VALUES = {
    "equal": ([0.5, -1.0], [0.5, -1.0], [0.5, -1.0], BOTH),
    "clip": ([0.2, -0.2], [0.0, 0.0], [1.0, -1.0], BOTH),
    "clip, away": ([0.2, -0.2], [0.0, 0.0], [-1.0, 1.0], BOTH),
    "cross": ([0.6, -0.6], [0.0, 0.0], [0.4, -0.4], BOTH),
    "far": ([1e4, -1e4], [0.0, 0.0], [1.0, 1.0], BOTH),
    "none": ([0.2, -0.2], [0.0, 0.0], [1.0, -1.0], [False, False]),
}
RIGHT, WRONG, TOGETHER = [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5], [1, 1, 1, 1]
QUESTIONS = {
    "equal": ([-1.0, -1.0, -1.0, -1.0], RIGHT, [5.0, 5.0, 5.0, 5.0], TOGETHER),
    "apart": ([-1.0, -3.0, -2.0, -0.5], RIGHT, [1.0, 9.0, 3.0, 4.0], TOGETHER),
    "far": ([-1e4, 0.0, -1e4, 0.0], RIGHT, [1.0, 9.0, 3.0, 4.0], TOGETHER),
    "all wrong": ([-1.0, -3.0, -2.0, -0.5], WRONG, [1.0, 9.0, 3.0, 4.0], TOGETHER),
    "strangers": ([-1.0, -3.0, -2.0, -0.5], RIGHT, [1.0, 9.0, 3.0, 4.0], [1, 2, 3, 4]),
}
"""Scores, rewards, lengths and questions of a step's answers."""
RATIOS = {
    "one": (1.0, 1.0),
    "high": (1.5, 1.0),
    "high, bad": (1.5, -1.0),
    "low": (0.5, -1.0),
    "low, good": (0.5, 1.0),
    "delta": (2.0, -1.0),
    "delta, good": (2.0, 1.0),
    "zero": (1.5, 0.0),
}
KL = {
    "equal": (-1.0, -1.0),
    "apart": (-1.5, -1.0),
    "capped": (-2.0, 0.0),
    "bound": (-21.0, -1.0),
    "under": (-1.0, -21.0),
    "far": (1e4, 0.0),
    "far under": (-1e4, 0.0),
}
JUDGED = {f"{k}, {wins}": (*values, wins) for k, values in PAIRS.items() for wins in (True, False)}

CLIPPED = [
    "high, mixed, all",
    "low, mixed, all",
    "low, mixed, one",
    "low, bad, all",
    "low, bad, one",
    "bound, bad, all",
]
ROLLOUTS = {
    "grpo": answers("grpo", CLIPS, kinks=CLIPPED, epsilon=0.5),
    "ppo": answers("ppo", CLIPS, kinks=CLIPPED, epsilon=0.5),
    "ppo dual clip": answers("ppo", DUAL, kinks=["dual, mixed, all", "dual, mixed, one", "dual, bad, all",
                                                 "dual, bad, one"], epsilon=0.5, dual_clip=2.0),
    "dler": row("dler", {f"{p}, {g}, {m}": (*pair, [-1.5, -1.0, -3.0], gain, mask) for p, pair in (AWAY | CLIPS).items()
                         for g, gain in GAIN.items() for m, mask in MASKS.items()}, free=1, kinks=CLIPPED[:-1],
                epsilon=0.5, epsilon_high=0.5, beta=0.1),
    "drpo": row("drpo", QUESTIONS, free=1, longest=10.0, tau=0.5),
    "drpo_scores": row("drpo_scores", {f"{p}, {m}": (*pair, mask) for p, pair in AWAY.items()
                                       for m, mask in MASKS.items()}, free=1, kinks=["bound, all"],
                       score="likelihood_ratio"),
    "drpo_trust_region": row("drpo_trust_region", {"within": (0.0,), "edge": (0.5,), "beyond": (2.0,)}, free=1,
                             delta=0.5, penalty=2.0),
    "ppo_value": row("ppo_value", VALUES, free=1, kinks=["clip", "cross"]),
    "sapo": answers("sapo", CLIPS),
    "luspo": answers("luspo", CLIPS, kinks=["low, mixed, one", "low, bad, one"], epsilon=0.5, epsilon_high=0.5),
    "rloo": answers("rloo", CLIPS, kinks=["high, mixed, one", "low, bad, one", "bound, mixed, all", "bound, bad, all"],
                    whole=True, epsilon=0.5),
    "kl_k1": row("kl_k1", KL, free=2),
    "kl_k2": row("kl_k2", KL, free=2),
    "kl_k3": row("kl_k3", KL, free=2, kinks=["bound", "under"]),
    "kl_k3 capped": row("kl_k3", KL, free=2, kinks=["capped"], cap=math.exp(2.0) - 3.0),
    "online_dpo": row("online_dpo", JUDGED, free=4),
    "online_dpo ipo": row("online_dpo", JUDGED, free=4, loss_type="ipo"),
    "xpo": row("xpo", JUDGED, free=4, alpha=0.1),
    "importance.clipped_surrogate": row("importance.clipped_surrogate", RATIOS, free=1, kinks=["high", "low", "delta"],
                                        epsilon=0.5, delta=2.0),
    "importance.log_ratios": row("importance.log_ratios", {k: (*pair, MASKS["all"]) for k, pair in AWAY.items()},
                                 free=1, kinks=["bound"]),
}  # fmt: skip
