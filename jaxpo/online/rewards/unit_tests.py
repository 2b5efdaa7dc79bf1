"""Unit tests as a reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxpo.judges.unit_tests import UnitTestJudge


@dataclass(frozen=True)
class UnitTestReward(UnitTestJudge):
    """1 where the program in the answer passes all the tests of its row, else 0; in a sandbox.

    Attributes:
      label: the name in metrics.
    """

    label: str = "tests_passed"

    VERIFIES: ClassVar[bool] = True
