"""All rewards of some groups of answers: asked for, kept, retried and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Item, Patience, ask_all
from jaxpo.judges.base import Earlier, Judge, Networks
from jaxpo.judges.ledger import Ledger, digest
from jaxpo.online.answers import Group, Prompt
from jaxpo.online.rewards.base import Response
from jaxpo.online.rewards.names import reward_names
from jaxpo.sharding.turns import by_first_process

ENVIRONMENT = "(environment)"
"""The name under which a stage's environment stands among the identities of its rewards."""
LedgerOf = Callable[[str, Mapping[str, Any]], Ledger]
"""`(name of a reward, its identity) -> where its values are kept`."""


@dataclass(frozen=True)
class Member:
    """One judge of a reward: a jury has several.

    Attributes:
      name: in files.
      share: of the reward's value.
      identity: everything that its values depend on.
    """

    name: str
    share: float
    judge: Judge
    identity: Mapping[str, Any]


@dataclass
class Scoring:
    """The rewards of a stage.

    Args:
      rewards: judges and reward functions.
      networks: name -> model, for those that ask one.
      patience: how failures are met.
      say: shows one line to the user.

    Attributes:
      figures: of the answers that were scored last, `rewards/NAME/FIGURE`, besides their values.
    """

    rewards: Sequence[Judge]
    networks: Networks
    patience: Patience
    say: Callable[[str], None]
    names: list[str] = field(init=False)
    figures: dict[str, float] = field(default_factory=dict)
    _members: list[list[Member]] = field(init=False)
    _asks: dict[str, Any] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.names = reward_names(self.rewards)
        self._members = [list(self._of(*named)) for named in zip(self.names, self.rewards, strict=True)]

    def _of(self, name: str, reward: Judge) -> Any:
        members = reward.members()
        for i, (judge, share) in enumerate(zip(members, reward.weights(), strict=True), start=1):
            called = name if len(members) == 1 else f"{name}-{i}-{judge.NAME}"
            yield Member(re.sub(r"[^A-Za-z0-9_.-]", "_", called), share, judge, judge.identity(self.networks))

    @property
    def verifies(self) -> list[int]:
        """Numbers of the rewards whose 1 says that an answer is right."""
        return [i for i, reward in enumerate(self.rewards) if getattr(reward, "VERIFIES", False)]

    @property
    def remembers(self) -> int:
        """Earlier answers to each prompt that rewards depend on."""
        return max((member.judge.remembers for members in self._members for member in members), default=0)

    def identity(self) -> dict[str, Any]:
        """Name of every judge -> what its values depend on."""
        return {member.name: dict(member.identity) for members in self._members for member in members}

    def open(self) -> None:
        """See that every reward has the network that it asks; ConfigError."""
        for members in self._members:
            for member in members:
                self._ask(member)

    def _ask(self, member: Member) -> Any:
        """Opened once: a network is loaded for it."""
        if member.name not in self._asks:
            self._asks[member.name] = member.judge.open(self.networks)
        return self._asks[member.name]

    def score(
        self,
        groups: Sequence[Group],
        ledger: LedgerOf,
        key: Callable[[Group, int], str] | None = None,
        earlier: Earlier | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """`(values [n, K, F] float64, failed [n, K])`: NaN where a reward says nothing, and how many failed there.

        Args:
          key: names an answer in the ledgers; by default by its place in the order of prompts.
          earlier: answers of before, for rewards that remember some.
        """
        answers = [(group, k) for group in groups for k in range(len(group.answers))]
        keys = [(key or key_of)(*answer) for answer in answers]
        items = {name: response(*answer) for name, answer in zip(keys, answers, strict=True)}
        failed: Counter[str] = Counter()
        self.figures.clear()
        columns = [self._column(members, items, ledger, failed, earlier or {}) for members in self._members]
        shape = (len(groups), len(answers) // len(groups))
        values = np.asarray([[c[name] for c in columns] for name in keys], float).reshape(*shape, len(columns))
        return values, np.asarray([failed[name] for name in keys]).reshape(shape)

    def _column(
        self,
        members: Sequence[Member],
        items: Mapping[str, Response],
        ledger: LedgerOf,
        failed: Counter[str],
        earlier: Earlier,
    ) -> dict[str, float]:
        total = dict.fromkeys(items, 0.0)
        for member in members:
            made = member.judge.made(items, earlier, self._values(member, member.judge.asked(items, earlier), ledger))
            values = made.values
            self.figures |= {f"rewards/{member.name}/{name}": value for name, value in made.figures.items()}
            if made.warning and member.name not in self._said:
                self._said.add(member.name)
                self.say(f"warning: {made.warning}")
            for key in items:
                value = values.get(key)
                failed[key] += key not in values
                total[key] = total[key] + member.share * value if value is not None else np.nan
        return total

    def _values(self, member: Member, items: Mapping[str, Item], ledger: LedgerOf) -> dict[str, Any]:
        """By key, those that are known; one process asks, unless it is a model that all of them hold."""

        def asked() -> dict[str, Any]:
            found = ask_all(
                items,
                self._ask(member),
                ledger(member.name, member.identity),
                what=f"reward {member.name}",
                batch=member.judge.BATCH,
                patience=self.patience,
                say=self.say,
            )
            return {key: found.values[key] for key in items if key in found.values}

        return asked() if member.judge.models() else by_first_process(asked)


def changed(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Rewards are those that a stage began with.

    Raises:
      ConfigError: names each that is not.
    """
    problems = []
    for name in dict.fromkeys([*before, *now]):
        if before.get(name) == now.get(name):
            continue
        old, new = before.get(name, {}), now.get(name, {})
        parts = [part for part in dict.fromkeys([*old, *new]) if old.get(part) != new.get(part)]
        what = (
            "its source has"
            if parts == ["source"]
            else f"its {', '.join(parts)} {'has' if len(parts) == 1 else 'have'}"
        )
        called = "the environment" if name == ENVIRONMENT else f"the reward {name!r}"
        problems.append(
            f"{called} is another one than the stage in {folder} began with: {what} changed. Put it back, "
            "or start over with --restart."
        )
    if problems:
        raise ConfigError(problems)


def key_of(group: Group, sample: int) -> str:
    """Names an answer in the ledgers of rewards."""
    return f"{group.position}.{sample}"


def by_content(group: Group, sample: int) -> str:
    """Names an answer by what it says, whenever that was; a conversation by all of it: several end with one turn."""
    answer = response(group, sample)
    return answer.key(None) if answer.talk is None else digest(answer.key(None), answer.talk.record())


def row_of(prompt: Prompt) -> Row:
    """Where a prompt comes from, with its other columns."""
    return Row(Path(prompt.file or "(prompts)"), prompt.row, dict(prompt.columns))


def response(group: Group, sample: int) -> Response:
    """An answer as rewards see it."""
    answer = group.answers[sample]
    return Response(
        group.prompt.text, answer.text, row_of(group.prompt), answer.tokens.tolist(), answer.finished, answer.talk
    )
