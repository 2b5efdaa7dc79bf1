"""Who writes the answers that an online method learns from, and what of them it is trained on. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

By = Literal[
    "policy", "policy_and_reference", "policy_and_mixture", "teacher_mixture", "policy_or_data", "policy_or_teacher"
]
HALVES: tuple[By, ...] = ("policy_and_reference", "policy_and_mixture")
"""The policy writes the first half of every group, an opponent the second."""


@dataclass(frozen=True)
class Answering:
    """How a group of answers comes about, and which examples are made of it.

    Attributes:
      by: who writes them. "policy"; "policy_and_reference" and "policy_and_mixture": half of a group each, the mixture
        being softmax((1 - w) logits + w reference logits); "teacher_mixture": all by (1 - w) p + w p_teacher;
        "policy_or_data": with probability w the policy, else the answer is the completion of the prompt's row;
        "policy_or_teacher": with probability w the policy, else the teacher.
      weight: w.
      examples: "each" answer is one; "wins": each of the policy's, whose advantage is the probability of beating its
        opponent, less 1/2; "ranked": the best and the worst of a group as a pair; "matched": each of the policy's with
        its opponent. Pairs of equal reward are left out.
      rewarded: answers about which no reward says anything are left out; else rewards are optional.
      missing_eos_penalty: subtracted from the reward of an answer without an end.
    """

    by: By = "policy"
    weight: float = 0.0
    examples: Literal["each", "wins", "ranked", "matched"] = "each"
    rewarded: bool = True
    missing_eos_penalty: float | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """Of an example's segments."""
        return ("chosen", "rejected") if self.examples in ("ranked", "matched") else ("completion",)

    @property
    def opponents(self) -> bool:
        """Whether half of every group is an opponent's."""
        return self.by in HALVES

    def per_group(self, n: int) -> int:
        """Examples of a group of n answers, at most."""
        if self.examples == "ranked":
            return 1
        return n // 2 if self.opponents else n
