"""Scores of many answers by a judge or a jury, kept in ledgers as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from jaxpo.judges.asking import Ask, Item, Patience, Replies, ask_all
from jaxpo.judges.base import Judge, Networks
from jaxpo.judges.ledger import Ledger, Unkept


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
    judge: Judge, items: Sequence[Item], networks: Networks, folder: Path | None, ask: AskMember, what: str = "score"
) -> Scores:
    """Ask every member about every item that it has no score for yet; score = sum over members of weight * score.

    Args:
      folder: of the ledgers; None = scores are not kept.

    Raises:
      RunError: a member that fails all the time.
    """
    unique = {item.key(None): item for item in items}
    found = Scores(dict.fromkeys(unique, 0.0))
    for number, (member, weight) in enumerate(zip(judge.members(), judge.weights(), strict=True)):
        by_key = {item.key(member.columns()): item for item in items}
        identity = member.identity(networks)
        ledger = Unkept() if folder is None else Ledger(folder, f"scores-{member.NAME}", identity)
        name = what if len(judge.members()) == 1 else f"{what} {number + 1} {member.NAME}"
        replies = ask(by_key, member.open(networks), ledger, name, member.BATCH)
        for key, item in unique.items():
            own = item.key(member.columns())
            if own not in replies.values:
                why = replies.failures.get(own, "it was not asked about")
                found.failures.setdefault(key, why if len(judge.members()) == 1 else f"{name}: {why}")
            elif key in found.values:
                found.values[key] += weight * replies.values[own]
    found.values = {key: score for key, score in found.values.items() if key not in found.failures}
    return found


def plainly(
    *,
    tries: int = 3,
    say: Callable[[str], None] = print,
    check: Callable[[], None] = lambda: None,
    progress: Callable[..., Any] | None = None,
) -> AskMember:
    """The plain way to ask; see `ask_all`."""

    how: dict[str, Any] = {"patience": Patience(tries), "say": say, "check": check, "progress": progress}

    def ask(items: dict[str, Item], ask: Ask, ledger: Ledger, what: str, batch: int) -> Replies:
        return ask_all(items, ask, ledger, what=what, batch=batch, **how)

    return ask


def check_judge(judge: Judge, items: Iterable[Item], networks: Networks) -> None:
    """Refuse a judge that cannot work, or a network that is missing, before anything is asked."""
    judge.check([item.row for item in items])
    for member in judge.members():
        member.open(networks)
