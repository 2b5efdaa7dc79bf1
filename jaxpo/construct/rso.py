"""RSO's pairs: candidates accepted by statistical rejection sampling, then paired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools, not_positive
from jaxpo.construct.candidates import READS, Candidates, Sampling, scored_candidates
from jaxpo.data.rows.formats import Row
from jaxpo.judges.named import JudgeOptions

Pairs = list[tuple[int, int]]


def rso_sample(rewards: np.ndarray, n: int, beta: float, uniforms: np.ndarray) -> list[int]:
    """Draw n of N candidates without replacement, as if from `pi_sft exp(r / beta)`.

    Rounds until n are accepted: M = max r of what is left; every candidate in order is accepted when
    `u < exp((r - M) / beta)`, and it stops at n. Accepted ones leave at the end of the round. Each round accepts its
    best, so n rounds are enough.

    Args:
      rewards: `[N]` r of each candidate; equal texts are different candidates.
      n: how many to accept.
      beta: temperature; inf accepts the first n, towards 0 the n best.
      uniforms: `[n, N]` draws from [0, 1): the one for each round and candidate.

    Returns:
      The accepted candidates' numbers, in the order of acceptance.
    """
    r = np.asarray(rewards, np.float64)
    if n > len(r):
        raise ValueError(f"{n} of {len(r)} candidates cannot be drawn without replacement")
    if not np.all(np.isfinite(r)) or not beta > 0 or np.shape(uniforms) != (n, len(r)):
        raise ValueError("rewards must be finite, beta above 0, and uniforms [n, N]")
    accepted: list[int] = []
    left = list(range(len(r)))
    for draws in uniforms:
        best = max((r[k] for k in left), default=0.0)
        taken = [k for k in left if draws[k] < np.exp((r[k] - best) / beta)][: n - len(accepted)]
        accepted += taken
        left = [k for k in left if k not in taken]
        if len(accepted) == n:
            break
    return accepted


def first_round_pairs(accepted: Sequence[int], rewards: np.ndarray, order: np.ndarray) -> Pairs:
    """n // 2 disjoint pairs `(winner, loser)` of neighbours in the given order of the accepted."""
    shuffled = [accepted[k] for k in order]
    return [_decide(a, b, rewards) for a, b in zip(shuffled[0::2], shuffled[1::2], strict=False)]


def tournament_pairs(accepted: Sequence[int], rewards: np.ndarray, order: np.ndarray) -> Pairs:
    """The n - 1 pairs of a knock-out in the given order; the winners meet again, an odd one out waits a round."""
    standing, pairs = [accepted[k] for k in order], []
    while len(standing) > 1:
        met = first_round_pairs(standing, rewards, np.arange(len(standing)))
        pairs += met
        standing = [winner for winner, _ in met] + standing[2 * len(met) :]
    return pairs


def _decide(a: int, b: int, rewards: np.ndarray) -> tuple[int, int]:
    return (a, b) if rewards[a] >= rewards[b] else (b, a)


PAIRINGS = {"first_round": first_round_pairs, "tournament": tournament_pairs}


@dataclass(frozen=True)
class RSO(JudgeOptions, Construction):
    """Pairs drawn from an estimate of the optimal policy instead of from the SFT policy.

    Attributes:
      n: candidates accepted per prompt.
      beta: temperature of the sampler; not the loss's.
      pairing: first_round makes n / 2 disjoint pairs, tournament the n - 1 of a knock-out.
      logit: the scores are win probabilities against one baseline response; their logit is the reward.
      candidates, temperature, top_k, max_new_tokens: of the responses drawn from --model where rows have none.
      judge, judge_model, judge_key, judge_rubric, judge_scale, answer, tests, unsandboxed, user: who scores where rows
        have no scores, as of on_policy.
    """

    n: int = 8
    beta: float = 0.5
    pairing: Literal["first_round", "tournament"] = "tournament"
    logit: bool = False
    candidates: int = 64
    temperature: float = 0.7
    top_k: int = 40
    max_new_tokens: int = 128

    NAME = "rso"
    READS = READS
    WRITES = "prompt, chosen, rejected"

    def problems(self) -> list[str]:
        found = not_positive(beta=self.beta, temperature=self.temperature, candidates=self.candidates)
        return found + ([f"--n is {self.n} but a pair needs 2."] if self.n < 2 else [])

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        sampling = Sampling(self.candidates, self.temperature, self.top_k, self.max_new_tokens)
        for number, given in enumerate(scored_candidates(rows, tools, sampling, self)):
            rng = np.random.default_rng((tools.seed, number))
            for a, b in self.pairs(given, rng):
                if given.scores[a] == given.scores[b]:
                    tools.count("dropped_tied_pairs")
                elif given.responses[a] == given.responses[b]:
                    tools.count("dropped_equal_texts")
                else:
                    yield {"prompt": given.prompt, "chosen": given.responses[a], "rejected": given.responses[b]}

    def pairs(self, given: Candidates, rng: np.random.Generator) -> Pairs:
        """Winner and loser of each pair, as numbers of the candidates."""
        total = len(given.responses)
        if self.n > total:
            raise given.row.error(
                f"{self.n} responses are to be accepted, but there are {total} that are not empty.",
                field="responses",
                remedy="Lower --n or remove the row.",
            )
        rewards = self._rewards(given)
        accepted = rso_sample(rewards, self.n, self.beta, rng.random((self.n, total)))
        return PAIRINGS[self.pairing](accepted, rewards, rng.permutation(self.n))

    def _rewards(self, given: Candidates) -> np.ndarray:
        if not self.logit:
            return given.scores
        if not np.all((given.scores > 0) & (given.scores < 1)):
            raise given.row.error(
                "a score is no probability strictly between 0 and 1, so it has no logit.",
                field="scores",
                remedy="Leave out --logit if the scores are rewards, or keep them away from 0 and 1.",
            )
        return np.log(given.scores) - np.log1p(-given.scores)
