"""Scores of many answers by a judge or a jury, kept in ledgers as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jaxpo.judges.asking import Ask, Item, Replies
from jaxpo.judges.base import Judge, Networks
from jaxpo.judges.ledger import Ledger


class AskMember(Protocol):
    """How a member of a judge is asked: `ask_all` with the caller's patience, console and counts."""

    def __call__(self, items: dict[str, Item], ask: Ask, ledger: Ledger, what: str, batch: int, /) -> Replies:
        """The replies of this and earlier runs."""
        ...


@dataclass
class Scores:
    """Item key (all columns) -> score, where every member gave one, or else why not."""

    values: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def score_all(
    judge: Judge, items: Sequence[Item], networks: Networks, folder: Path, ask: AskMember, what: str = "score"
) -> Scores:
    """Ask every member about every item that it has no score for yet; score = sum over members of weight * score.

    Raises:
      RunError: a member that fails all the time.
    """
    unique = {item.key(None): item for item in items}
    found = Scores(dict.fromkeys(unique, 0.0))
    for number, (member, weight) in enumerate(zip(judge.members(), judge.weights(), strict=True)):
        by_key = {item.key(member.columns()): item for item in items}
        ledger = Ledger(folder, f"scores-{member.NAME}", member.identity(networks))
        name = what if len(judge.members()) == 1 else f"{what} {number + 1} {member.NAME}"
        replies = ask(by_key, member.open(networks), ledger, name, member.BATCH)
        for key, item in unique.items():
            own = item.key(member.columns())
            if own not in replies.values:
                found.failures.setdefault(key, replies.failures.get(own, "it was not asked about"))
            elif key in found.values:
                found.values[key] += weight * replies.values[own]
    found.values = {key: score for key, score in found.values.items() if key not in found.failures}
    return found
