"""A reward model that calls tools, as a judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Ask, Item, Reply
from jaxpo.judges.base import Judge, Networks
from jaxpo.judges.reward import WHOLE, read_whole
from jaxpo.tools.named import toolbox
from jaxpo.tools.writing import Writing, write_trajectories


@dataclass(frozen=True)
class ToolRewardJudge(Judge):
    """Themis: the model writes tool calls about an answer, the tools answer, and the reward stands behind its reason.

    What the model cannot read whole, the calls and the reason among it, has no score.

    Attributes:
      model: a stage that `themis` trained; "reward" for the command's `--reward`.
      tools: by name, see `jaxpo.tools.named`.
      writing: how trajectories are written.
      unsandboxed: let programs run where there is no fence.
    """

    model: str = "reward"
    tools: tuple[str, ...] = ("calculator",)
    writing: Writing = field(default_factory=Writing)
    unsandboxed: bool = False

    NAME: ClassVar[str] = "tool_reward"
    BATCH: ClassVar[int] = 64

    def models(self) -> tuple[str, ...]:
        return (self.model,)

    def reward_models(self) -> tuple[str, ...]:
        return self.models()

    def check(self, rows: Sequence[Row]) -> None:
        if problems := self.writing.problems():
            raise ConfigError(problems)
        toolbox(self.tools, unsandboxed=self.unsandboxed).check()

    def identity(self, networks: Networks) -> dict[str, Any]:
        own = dataclasses.asdict(self) | {"model": networks(self.model).fingerprint()}
        return {"judge": self.NAME, **own, **WHOLE}

    def open(self, networks: Networks) -> Ask:
        from jaxpo.convert.reader import check_gives_rewards

        network, box = networks(self.model), toolbox(self.tools, unsandboxed=self.unsandboxed)
        check_gives_rewards(network.params, network.about, self.model, "name a stage that themis trained")

        def ask(items: Sequence[Item]) -> list[Reply]:
            prompts, answers = [item.prompt for item in items], [item.answer for item in items]
            found = write_trajectories(network, prompts, answers, box, self.writing)
            texts = [one.text(answer) for one, answer in zip(found, answers, strict=True)]

            def score(those: list[int]) -> Any:
                return network.rewards([prompts[i] for i in those], [texts[i] for i in those])

            return read_whole(network, self.model, prompts, texts, score)

        return ask
