"""A reward model as a judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Ask, Item, Reply
from jaxpo.judges.base import Judge, Networks, score_reply

WHOLE = {"answers": "whole"}
"""Part of the identity of judges that score what they read whole: earlier versions kept scores of answers that were cut
at 1,024 tokens, under an identity without it, and none of those is taken for a score of today."""


EMPTY = "the answer is empty"


def unread(network: Any, name: str, prompts: list[Any], answers: list[str]) -> list[str | None]:
    """Why the model of a judge gives an answer no score: there is nothing in it, or more than can be read; else None.

    Args:
      name: of the judge.
    """
    there = [i for i, answer in enumerate(answers) if answer]
    lengths = network.lengths([prompts[i] for i in there], [answers[i] for i in there])
    too_long = f"prompt and answer are longer than the {network.max_length} tokens that the judge {name!r} reads"
    whys = {i: too_long if length > network.max_length else None for i, length in zip(there, lengths, strict=True)}
    return [whys.get(i, EMPTY) for i in range(len(answers))]


def read_whole(
    network: Any, name: str, prompts: list[Any], answers: list[str], score: Callable[[list[int]], Any]
) -> list[Reply]:
    """Scores of the answers that a model reads whole; of one too long for it a score would be that of a part, so it
    fails, as one does that is empty.

    Args:
      name: of the judge, for the reason.
      score: numbers of answers -> the score of each.
    """
    whys = unread(network, name, prompts, answers)
    fitting = [i for i, why in enumerate(whys) if why is None]
    scores = dict(zip(fitting, score(fitting) if fitting else (), strict=True))
    return [score_reply(scores[i]) if why is None else Reply(failed=why, certain=True) for i, why in enumerate(whys)]


@dataclass(frozen=True)
class RewardJudge(Judge):
    """A reward stage's model, read as its method reads it; an answer that it cannot read whole has no score, nor has
    an empty one.

    Attributes:
      model: name of the network: a stage of the recipe, or "reward" for the command's `--reward`.
      user: column that names the user whose taste each row asks about, of a model that knows several; "" = none.
      part: number of the group or prototype that is asked, from 0, of a model that knows several; None = all, as they
        are mixed.
      head: name of the one that is read, of a model with a head for every aspect; "" = what they make together.
      above: the score is 1 for a reward above this and 0 for others, so that two answers alike in that are equal:
        pairs by reward alone are made of two wrong answers, too. None = the reward itself.
    """

    model: str = "reward"
    user: str = ""
    part: int | None = None
    head: str = ""
    above: float | None = None

    NAME: ClassVar[str] = "reward"
    BATCH: ClassVar[int] = 256

    def models(self) -> tuple[str, ...]:
        return (self.model,)

    def reward_models(self) -> tuple[str, ...]:
        return self.models()

    def identity(self, networks: Networks) -> dict[str, Any]:
        asked: dict[str, Any] = {"user": self.user} if self.user else {}
        asked |= ({} if self.part is None else {"part": self.part}) | ({"head": self.head} if self.head else {})
        asked |= {} if self.above is None else {"above": self.above}
        return {"judge": self.NAME, "model": networks(self.model).fingerprint(), **asked, **WHOLE}

    def columns(self) -> tuple[str, ...]:
        return (self.user,) if self.user else ()

    def _of_users(self, network: Any, items: Sequence[Item], prompts: list[Any], answers: list[str]) -> Any:
        """Rewards for the user that each row names."""
        for item in items:
            if self.user not in item.row.data:
                raise item.row.error("says not whose taste is asked about.", field=self.user)
        return network.rewards_under(prompts, answers, users=[str(item.row.data[self.user]) for item in items])

    def _scores(self, network: Any, items: Sequence[Item], prompts: list[Any], answers: list[str]) -> Any:
        if self.part is not None:
            return self._of_part(network, prompts, answers)
        if self.head:
            return self._of_head(network, prompts, answers)
        return network.rewards(prompts, answers) if not self.user else self._of_users(network, items, prompts, answers)

    def _of_part(self, network: Any, prompts: list[Any], answers: list[str]) -> Any:
        """Rewards of one group."""
        import numpy as np

        parts, part = network.mixture_method().parts, self.part
        if not 0 <= part < parts:  # type: ignore[operator]
            raise ConfigError(f"the judge {self.model!r} has groups 0 to {parts - 1}, and none with number {part}.")
        return network.rewards_under(prompts, answers, mixtures=np.eye(parts, dtype=np.float32)[part])

    def _of_head(self, network: Any, prompts: list[Any], answers: list[str]) -> Any:
        """What one head says."""
        names, values = network.heads(prompts, answers)
        if self.head not in names:
            raise ConfigError(f"the judge {self.model!r} has no head {self.head!r}; there are {', '.join(names)}.")
        return values[:, names.index(self.head)]

    def _judged(self, rewards: Any) -> Any:
        """The scores of rewards `[n]`: themselves, or on which side of the bound they lie; NaN stays NaN."""
        import numpy as np

        if self.above is None:
            return rewards
        rewards = np.asarray(rewards)
        return np.where(np.isfinite(rewards), (rewards > self.above).astype(np.float32), rewards)

    def check(self, rows: Sequence[Row]) -> None:
        if self.above is not None and not math.isfinite(self.above):
            raise ConfigError(f"above is {self.above}; it must be finite, or None for the reward itself.")
        if bool(self.user) + (self.part is not None) + bool(self.head) > 1:
            raise ConfigError(
                f"user is {self.user!r}, part {self.part} and head {self.head!r}; one of them says what is asked."
            )

    def open(self, networks: Networks) -> Ask:
        from jaxpo.convert.reader import check_gives_rewards

        network = networks(self.model)
        check_gives_rewards(network.params, network.about, self.model, "name a reward stage")

        def ask(items: Sequence[Item]) -> list[Reply]:
            prompts, answers = [item.prompt for item in items], [item.answer for item in items]

            def score(those: list[int]) -> Any:
                own = [items[i] for i in those]
                rewards = self._scores(network, own, [prompts[i] for i in those], [answers[i] for i in those])
                return self._judged(rewards)

            return read_whole(network, self.model, prompts, answers, score)

        return ask
