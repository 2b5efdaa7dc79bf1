"""UPO's pairs: a model's own answers, ranked by a reward model, drawn by how certain an estimator is of each pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxpo.construct.estimator import order_probabilities, rendered_lengths
from jaxpo.construct.on_policy.own_pairs import DrawnPairs
from jaxpo.errors import ConfigError, DataError
from jaxpo.judges.questions import Question

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext

Pseudo = tuple[Question, str, str]
"""A question with a winner and a loser by the reward model."""


def screened(scores: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (winner, loser) of K scored answers: winners from the better half, losers from the worse one.

    Six answers make 9 of 15 pairs; of an odd number the one in the middle is in neither half. Equal scores make none.
    """
    order, half = np.argsort(-np.asarray(scores), kind="stable"), len(scores) // 2
    best, worst = order[:half], order[len(order) - half :]
    return [(int(w), int(l)) for w in best for l in worst if scores[w] > scores[l]]  # noqa: E741


@dataclass(frozen=True)
class Drawn:
    """What became of all pairs.

    Attributes:
      information_gain, weights, smoothing: of every pair.
      index: which pairs were drawn, with repetition, in ascending order.
    """

    information_gain: np.ndarray
    weights: np.ndarray
    smoothing: np.ndarray
    index: np.ndarray


def drawn_by_certainty(probabilities: np.ndarray, count: int, *, mu: float, c: float | None, seed: int) -> Drawn:
    """Draw pairs, the certain ones more often.

    Args:
      probabilities: `[P, T]` that each pair is in the right order, under T masks.
      count: pairs to draw, with replacement.
      mu, c: of `jaxpo.losses.upo_sampling_weights` and `upo_smoothing`.
    """
    import jax.numpy as jnp

    from jaxpo.losses import upo_information_gain, upo_sampling_weights, upo_smoothing

    gain = upo_information_gain(jnp.asarray(probabilities, jnp.float32))
    weights = upo_sampling_weights(gain, mu=mu)
    p = np.asarray(weights, np.float64)
    index = np.sort(np.random.default_rng(seed).choice(len(p), count, p=p / p.sum()))
    return Drawn(np.asarray(gain), np.asarray(weights), np.asarray(upo_smoothing(weights, c=c)), index)


@dataclass(frozen=True)
class UncertainPairs(DrawnPairs):
    """Answers of an earlier stage's model; pairs of them by a reward model, drawn by the certainty of an estimator.

    Winners are of the better half of a prompt's answers and losers of the worse one. The estimator reads every pair
    under T dropout masks; those about which its masks agree are drawn more often and smoothed less. Its rows
    have prompt, chosen, rejected, `smoothing`, `information_gain`. A pair that is drawn twice stands there twice; an
    answer that is cut off counts as it stands.

    Attributes:
      reward: the stage whose reward model ranks.
      estimator: the stage of `outcome_reward` on rows of `RenderPairs`, trained with dropout.
      samples: N, at least 4.
      masks: T.
      mu: how much certain pairs are preferred; 0 = not.
      c: scale of the smoothing; None = 9 times the number of pairs, which smooths an average pair by 0.1.
      share: pairs drawn, as a share of all.
    """

    LEAST: ClassVar[Mapping[str, float]] = {**DrawnPairs.LEAST, "samples": 4, "masks": 2, "mu": 0}

    name: str = "uncertain_pairs"
    reward: str = "reward"
    estimator: str = "estimator"
    samples: int = 6
    masks: int = 10
    mu: float = 4.0
    c: float | None = None
    share: float = 0.5

    def needed_models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.model, self.reward, self.estimator)))

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.share > 0:
            found.append(f"share is {self.share} but must be greater than 0.")
        if self.c is not None and not self.c > 0:
            found.append(f"c is {self.c} but must be greater than 0.")
        return found

    def run(self, context: WorkContext) -> dict[str, Any]:
        counts = Counter[str]()
        if self.c is not None and self.c <= 1:
            context.say(f"warning: {self.name}.c: at {self.c:g} pairs are learnt the wrong way round; None scales it")
        pairs, estimator = self._pairs(context, counts), context.network(self.estimator, "whole")
        made = len(pairs)
        lengths = rendered_lengths(estimator, [(q.prompt, winner, loser) for q, winner, loser in pairs])
        pairs = [pair for pair, length in zip(pairs, lengths, strict=True) if length <= estimator.max_length]
        counts["pairs_too_long_for_the_estimator"] = made - len(pairs)
        if not pairs:
            raise DataError(f"stage {self.name}: no two answers of a prompt have different rewards: {dict(counts)}.")
        texts = [(q.prompt, winner, loser) for q, winner, loser in pairs]
        p = order_probabilities(estimator, texts, self.masks, context.seed)
        count = max(1, round(self.share * len(pairs)))
        found = drawn_by_certainty(p, count, mu=self.mu, c=self.c, seed=context.seed)
        rows = [self._row(pairs[j], found, j) for j in found.index]
        gain = found.information_gain
        prompts = counts.pop("prompts")
        figures = {
            **counts,
            "pairs_in_all": len(pairs),
            "information_gain": float(gain.mean()),
            "information_gain_drawn": float(gain[found.index].mean()),
            "smoothing": float(found.smoothing[found.index].mean()),
        }
        return self.write(rows, context.folder, {"prompts": prompts}, figures)

    def _row(self, pair: Pseudo, found: Drawn, j: int) -> dict[str, Any]:
        question, winner, loser = pair
        return {
            "prompt": question.prompt,
            "chosen": question.as_written(winner),
            "rejected": question.as_written(loser),
            "smoothing": float(found.smoothing[j]),
            "information_gain": float(found.information_gain[j]),
        }

    def _pairs(self, context: WorkContext, counts: Counter[str]) -> list[Pseudo]:
        questions = self.questions(context.files(self.prompts))
        drawn = self.draw(questions, context.network(self.model, "whole"), context, counts)
        counts["prompts"] = len(questions)
        there = [q for q in questions if q.number in drawn]
        texts = [list(dict.fromkeys(s.text for s in drawn[q.number] if s.text.strip())) for q in there]
        judge = context.network(self.reward, "whole")
        for i, question in enumerate(there):
            fits = judge.lengths([question.prompt] * len(texts[i]), texts[i]) <= judge.max_length
            counts["answers_too_long_for_the_reward_model"] += int((~fits).sum())
            texts[i] = [text for text, fit in zip(texts[i], fits, strict=True) if fit]
        flat = [(q.prompt, text) for q, own in zip(there, texts, strict=True) for text in own]
        if judge.asked_reader().method.COMPARES_ANSWERS:
            raise ConfigError(f"{self.name}.reward: {self.reward!r} compares answers; give a stage that scores them.")
        scores = judge.rewards([p for p, _ in flat], [text for _, text in flat]) if flat else np.zeros(0)
        pairs: list[Pseudo] = []
        for question, own in zip(there, texts, strict=True):
            values, scores = scores[: len(own)], scores[len(own) :]
            made = screened(values)
            counts["prompts_without_a_pair"] += not made
            pairs += [(question, own[better], own[worse]) for better, worse in made]
        return pairs
