"""LiPO's labels: how often each response of a list wins against the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools, not_positive
from jaxpo.construct.candidates import READS, Sampling, listed, scored_candidates
from jaxpo.data.rows.formats import Row
from jaxpo.judges.named import JudgeOptions


def win_probabilities(scores: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """Psi `[K, K]`: probability that i is preferred to j, `sigmoid((r_i - r_j) / temperature)`; 1/2 on the diagonal."""
    difference = np.subtract.outer(scores, scores).astype(np.float64) / temperature
    return np.exp(-np.logaddexp(0.0, -difference))


def rank_wins(scores: np.ndarray) -> np.ndarray:
    """Psi `[K, K]` of a ranking: 1 where i stands above j, 0 below, 1/2 on the diagonal and between equal scores."""
    return 0.5 * (1.0 + np.sign(np.subtract.outer(scores, scores)))


def win_labels(wins: np.ndarray) -> np.ndarray:
    """`psi_k = mean_j Psi_kj`, `[K]` in [0, 1]."""
    return wins.mean(axis=1)


@dataclass(frozen=True)
class LiPO(JudgeOptions, Construction):
    """Lists whose scores are labels in [0, 1]: each response's mean probability of winning against its list.

    Attributes:
      labels: "rewards" compares scores as Bradley-Terry rewards do; "ranks" uses their order alone (human rankings).
      reward_temperature: of the Bradley-Terry comparison.
      candidates, temperature, top_k, max_new_tokens: of the responses drawn from --model where rows have none.
      judge, judge_model, judge_key, judge_rubric, judge_scale, answer, tests, unsandboxed, user: who scores where rows
        have no scores, as of on_policy.
    """

    labels: Literal["rewards", "ranks"] = "rewards"
    reward_temperature: float = 1.0
    candidates: int = 8
    temperature: float = 0.7
    top_k: int = 40
    max_new_tokens: int = 128

    NAME = "lipo"
    READS = READS
    WRITES = "prompt, responses, scores in [0, 1]"

    def problems(self) -> list[str]:
        return not_positive(
            reward_temperature=self.reward_temperature, temperature=self.temperature, candidates=self.candidates
        )

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        sampling = Sampling(self.candidates, self.temperature, self.top_k, self.max_new_tokens)
        for given in scored_candidates(rows, tools, sampling, self):
            if len(given.responses) < 2:
                tools.count("dropped_fewer_than_2_responses")
                continue
            wins = (
                win_probabilities(given.scores, temperature=self.reward_temperature)
                if self.labels == "rewards"
                else rank_wins(given.scores)
            )
            yield listed(given, range(len(given.responses)), win_labels(wins).tolist())
