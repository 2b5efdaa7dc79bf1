"""Does a model prefer the chosen answer: by its mean log-prob, without the prompt, and against trivial rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxpo.data.rows.rows import Record
from jaxpo.data.tokens.examples import Example, Segment
from jaxpo.evaluate.intervals import Measurement, share
from jaxpo.evaluate.likelihood import log_likelihood, predicted
from jaxpo.evaluate.perplexity import Logps


@dataclass(frozen=True)
class PairScores:
    """Of every pair, `[n]` each.

    Attributes:
      chosen, rejected: sum of log p over the answer's tokens (its turn end included), nats.
      chosen_tokens, rejected_tokens: their numbers.
    """

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_tokens: np.ndarray
    rejected_tokens: np.ndarray

    @property
    def mean_chosen(self) -> np.ndarray:
        """Log-prob per token of the chosen answers."""
        return self.chosen / np.maximum(self.chosen_tokens, 1)

    @property
    def mean_rejected(self) -> np.ndarray:
        """Log-prob per token of the rejected answers."""
        return self.rejected / np.maximum(self.rejected_tokens, 1)


def score_pairs(logps: Logps, examples: Sequence[Example]) -> PairScores:
    """Score both sides of preference examples (roles "chosen" and "rejected")."""
    sides = [side for example in examples for side in pair_of(example)]
    return pair_scores(sides, logps([side.tokens for side in sides]))


def pair_of(example: Example) -> tuple[Segment, Segment]:
    """The chosen answer after its prompt, and the rejected one."""
    chosen, rejected = (example.segments[int(example.roles[role])] for role in ("chosen", "rejected"))  # type: ignore[arg-type]
    return chosen, rejected


def pair_scores(sides: Sequence[Segment], logps: Sequence[np.ndarray]) -> PairScores:
    """The scores of pairs whose sides and log-probs stand in turn: chosen, rejected, chosen, rejected, ..."""
    sums = np.asarray([log_likelihood(x, side) for x, side in zip(logps, sides, strict=True)])
    tokens = np.asarray([predicted(side) for side in sides])
    return PairScores(sums[::2], sums[1::2], tokens[::2], tokens[1::2])


def without_prompts(records: Sequence[Record]) -> list[Record]:
    """The same pairs with nothing before the answers but the opened assistant turn (or the start token)."""
    return [
        replace(record, sides=tuple(replace(s, prompt=[] if isinstance(s.prompt, list) else "") for s in record.sides))
        for record in records
    ]


def accuracy(better: np.ndarray, worse: np.ndarray) -> Measurement:
    """Share of pairs with better > worse; a tie counts one half."""
    return share(float(preferred(better, worse).sum()), len(better))


def preferred(better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """1 where better > worse, 1/2 at a tie, else 0."""
    return (better > worse) + 0.5 * (better == worse)


def ranking_accuracy(scores: PairScores) -> Measurement:
    """Share of pairs whose chosen answer has the larger log-prob per token."""
    return accuracy(scores.mean_chosen, scores.mean_rejected)


def shorter_wins(scores: PairScores) -> Measurement:
    """What the rule 'the answer with fewer tokens is better' achieves."""
    return accuracy(-scores.chosen_tokens, -scores.rejected_tokens)
