"""What an environment gave, as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpo.online.rewards.base import Response, RewardFunction


@dataclass(frozen=True)
class EnvironmentReward(RewardFunction):
    """The sum of the rewards of the environment's steps; a failure where it raised an exception."""

    NAME: ClassVar[str] = "environment"

    def values(self, answers: Sequence[Response]) -> list[float | None]:
        return [self._of(answer) for answer in answers]

    def _of(self, answer: Response) -> float | None:
        if answer.talk is None:
            return None
        if answer.talk.trouble:
            raise RuntimeError(f"the environment raised {answer.talk.trouble}")
        return answer.talk.reward
