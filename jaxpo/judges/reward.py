"""A reward model as a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Ask, Item, Reply
from jaxpo.judges.base import Judge, Networks, score_reply


@dataclass(frozen=True)
class RewardJudge(Judge):
    """A reward stage's model, read as its method reads it.

    Attributes:
      model: name of the network: a stage of the recipe, or "reward" for the command's `--reward`.
    """

    model: str = "reward"

    NAME: ClassVar[str] = "reward"
    BATCH: ClassVar[int] = 256

    def models(self) -> tuple[str, ...]:
        return (self.model,)

    def identity(self, networks: Networks) -> dict[str, Any]:
        return {"judge": self.NAME, "model": networks(self.model).fingerprint()}

    def open(self, networks: Networks) -> Ask:
        from jaxpo.convert.reader import why_no_reward

        network = networks(self.model)
        if lacking := why_no_reward(network.params, network.about):
            raise ConfigError(f"the judge {self.model!r} {lacking}; name a reward stage.")

        def ask(items: Sequence[Item]) -> list[Reply]:
            scores = network.rewards([item.prompt for item in items], [item.answer for item in items])
            return [score_reply(score) for score in scores]

        return ask
