"""Which of a prompt's candidates is chosen and which rejected: best and worst score, and who wins a tie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Ties = Literal["given", "sample", "shortest", "likely"]


@dataclass(frozen=True)
class Candidate:
    """One answer to a prompt.

    Attributes:
      text: as written.
      origin: "completion", "chosen", "rejected", or "sample K".
      logp: mean log-prob per token under the sampled model, nats; used by ties="likely" alone.
    """

    text: str
    origin: str
    logp: float = 0.0

    @property
    def sampled(self) -> bool:
        """Whether the model wrote it."""
        return self.origin.startswith("sample")


def without_repeats(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The first of each text, in order; texts that differ in surrounding white space are the same."""
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.text.strip(), candidate)
    return list(first.values())


def best_and_worst(candidates: Sequence[Candidate], scores: Sequence[float], ties: Ties) -> tuple[int, int] | None:
    """Indices of chosen and rejected: argmax and argmin of the scores; None when all scores are equal.

    Between candidates of the same score, in the order of the list where nothing else is said:

    - "given": chosen is a given answer before a sample, rejected a sample before a given answer.
    - "sample": a sample before a given answer on both sides.
    - "shortest": chosen is the shortest, rejected the longest; pairs then also teach to be brief.
    - "likely": on both sides the one most probable per token: the best answer that the model is nearest to, and the
      mistake that it is nearest to making.
    """
    if not candidates or max(scores) == min(scores):
        return None
    return (
        _first([i for i, s in enumerate(scores) if s == max(scores)], candidates, ties, best=True),
        _first([i for i, s in enumerate(scores) if s == min(scores)], candidates, ties, best=False),
    )


def _first(equal: Sequence[int], candidates: Sequence[Candidate], ties: Ties, *, best: bool) -> int:
    def rank(i: int) -> float:
        c = candidates[i]
        if ties == "shortest":
            return len(c.text) if best else -len(c.text)
        if ties == "likely":
            return -c.logp
        return c.sampled if best and ties == "given" else not c.sampled

    return min(equal, key=rank)  # min keeps the first of equals
