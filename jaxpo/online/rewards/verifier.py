"""A reference answer as a reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxpo.judges.verifier import VerifierJudge


@dataclass(frozen=True)
class VerifierReward(VerifierJudge):
    """1 where the final answer matches the row's reference exactly (GSM8K's convention), else 0.

    Attributes:
      label: the name in metrics.
    """

    label: str = "correct"

    VERIFIES: ClassVar[bool] = True
