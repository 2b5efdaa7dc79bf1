"""From a generation's groups to what a method is trained on: single answers, wins, pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxpo.objectives.families.rollouts import ADVANTAGES
from jaxpo.objectives.methods.answering import Answering
from jaxpo.objectives.methods.online_pairs import COLUMNS
from jaxpo.online.advantages import Penalties, Shaped
from jaxpo.online.batches import Trained
from jaxpo.online.generation import Generation

Pair = tuple[int, int]
"""Places of a chosen and a rejected answer in their group."""


def wins(each: Sequence[Trained], shaped: Shaped, places: range) -> list[Trained]:
    """The policy's answers, each with the probability of beating its opponent, less 1/2, as its advantage.

        P(y beats y') = sigmoid(r(y) - r(y'))

    Without a reward of both there is no probability, and nothing is trained on.
    """
    n, half = shaped.reward.shape[1], shaped.reward.shape[1] // 2
    found = []
    for at, answer in enumerate(each):
        place, k = places[at // n], at % n
        if k >= half:
            continue
        apart = shaped.reward[place, k] - shaped.reward[place, k + half]
        gain = 0.0 if np.isnan(apart) else 0.5 * np.tanh(0.5 * apart)
        per_token = {**answer.per_token, ADVANTAGES: np.full(len(answer.tokens), gain, np.float32)}
        found.append(replace(answer, per_token=per_token, on=answer.on and not np.isnan(apart)))
    return found


def pairs(each: Sequence[Trained], shaped: Shaped, places: range, answering: Answering) -> list[Trained]:
    """Chosen and rejected answers in turn; both of a pair have its number and its columns."""
    n, found = shaped.reward.shape[1], []
    for i, place in enumerate(places):
        for chosen, rejected in pairs_of(shaped.reward[place], answering):
            sides = [each[i * n + k] for k in (chosen, rejected)]
            scores = [float(shaped.reward[place, k]) for k in (chosen, rejected)]
            finished = [side.columns["finished"] for side in sides]
            own_chosen = float(not answering.opponents or chosen < n // 2)
            columns = dict(zip(COLUMNS, (*scores, *finished, own_chosen), strict=True))
            number = place * n + min(chosen, rejected)
            found += [replace(side, number=number, on=True, columns=columns) for side in sides]
    return found


def pairs_of(reward: np.ndarray, answering: Answering) -> list[Pair]:
    """The pairs of a group of K rewards `[K]`, without those of equal reward or of an answer that has none.

    "ranked": the best answer and the worst, the first of equals. "matched": answer k and answer k + K/2.
    """
    known = ~np.isnan(reward)
    if answering.examples == "ranked":
        if known.sum() < 2:
            return []
        best, worst = int(np.nanargmax(reward)), int(np.nanargmin(reward))
        return [(best, worst)] if reward[best] > reward[worst] else []
    half = len(reward) // 2
    both = [(k, k + half) for k in range(half) if known[k] and known[k + half] and reward[k] != reward[k + half]]
    return [(a, b) if reward[a] > reward[b] else (b, a) for a, b in both]


def examples(answering: Answering, each: Sequence[Trained], shaped: Shaped, places: range) -> list[Trained]:
    """What a method is trained on.

    Args:
      each: all answers of the groups at `places`, in order.
    """
    make: dict[str, Callable[[], list[Trained]]] = {
        "each": lambda: list(each),
        "wins": lambda: wins(each, shaped, places),
        "ranked": lambda: pairs(each, shaped, places, answering),
        "matched": lambda: pairs(each, shaped, places, answering),
    }
    return make[answering.examples]()


def figures(
    answering: Answering, generation: Generation, shaped: Shaped, names: Sequence[str] = ()
) -> dict[str, float]:
    """What is logged of a generation whose answers are not all trained on one by one: TRL's names of GRPO's trainer,
    the policy's answers alone, and the shares of pairs that were left out.

    Args:
      names: of the rewards, each of which is logged before any weight.
    """
    n = shaped.reward.shape[1]
    own = slice(0, n // 2 if answering.opponents else n)
    answers = [answer for group in generation.groups for answer in group.answers[own]]
    lengths = [answer.written for answer in answers]
    found = {
        "completions/mean_length": float(np.mean(lengths)),
        "completions/max_length": float(np.max(lengths)),
        "completions/clipped_ratio": float(np.mean([not answer.finished for answer in answers])),
    }
    found |= {f"rewards/{name}/mean": _mean(generation.rewards[:, own, f]) for f, name in enumerate(names)}
    if answering.rewarded:
        found |= {"reward": _mean(shaped.reward[:, own]), "rewards/failed": float(generation.failed.mean())}
        found["frac_reward_zero_std"] = float(shaped.flat.mean())
    if answering.examples in ("ranked", "matched"):
        most = answering.per_group(n) * len(generation.groups)
        kept = sum(len(pairs_of(reward, answering)) for reward in shaped.reward)
        found["pairs/left_out"] = 1.0 - kept / most
    return found


def penalties(answering: Answering, groups: Iterable[Any], kl: np.ndarray | float = 0.0) -> Penalties:
    """What the rewards of answers without an end lose, and the weighted KL."""
    penalty = answering.missing_eos_penalty
    if penalty is None:
        return Penalties(kl=kl)
    endless = np.asarray([[not answer.finished for answer in group.answers] for group in groups], float)
    return Penalties(penalty * endless, kl)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0
