"""A judge, or each member of a jury, asked about many answers: every score kept as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from jaxpo.judges.asking import Item, Patience, Progress, Replies, ask_all
from jaxpo.judges.base import Judge, Networks
from jaxpo.judges.ledger import Ledger, Unkept


class Asking(Protocol):
    """Where scores are asked for.

    Attributes:
      networks: name -> Network.
      folder: of the ledgers; None = scores are not kept.
    """

    @property
    def networks(self) -> Networks: ...
    @property
    def folder(self) -> Path | None: ...

    def ask(self, items: dict[str, Item], ask: Any, ledger: Ledger, what: str, batch: int) -> Replies:
        """Replies to all items; those that the ledger has are not asked for again."""
        ...


@dataclass
class Desk:
    """The plain way to ask.

    Attributes:
      tries: a judge that fails is asked so often about one answer.
      failures: reasons that remained, with their number.
      progress: `(what, done, total, say) ->` what shows how far it is, as `asking.Progress` does.
    """

    networks: Networks
    folder: Path | None
    tries: int = 3
    failures: Counter[str] = field(default_factory=Counter)
    say: Callable[[str], None] = print
    check: Callable[[], None] = lambda: None
    progress: Callable[..., Any] = Progress

    def ask(self, items: dict[str, Item], ask: Any, ledger: Ledger, what: str, batch: int) -> Replies:
        found = ask_all(
            items,
            ask,
            ledger,
            what=what,
            batch=batch,
            patience=Patience(self.tries),
            say=self.say,
            check=self.check,
            progress=self.progress,
        )
        self.failures.update(why for key, why in found.failures.items() if key in items)
        return found


def judged(judge: Judge, items: Sequence[Item], desk: Asking, what: str) -> dict[str, float]:
    """Item key (all columns) -> score, where every member of the judge gave one."""
    total: dict[str, float] = {}
    have: Counter[str] = Counter()
    for number, (member, weight) in enumerate(zip(judge.members(), judge.weights(), strict=True)):
        by_key = {item.key(member.columns()): item for item in items}
        identity = member.identity(desk.networks)
        ledger = Unkept() if desk.folder is None else Ledger(desk.folder, f"scores-{member.NAME}", identity)
        name = what if len(judge.members()) == 1 else f"{what} {number + 1} {member.NAME}"
        values = desk.ask(by_key, member.open(desk.networks), ledger, name, member.BATCH).values
        for item in {item.key(None): item for item in items}.values():
            if (value := values.get(item.key(member.columns()))) is not None:
                total[item.key(None)] = total.get(item.key(None), 0.0) + weight * value
                have[item.key(None)] += 1
    return {key: score for key, score in total.items() if have[key] == len(judge.members())}


def checked(judge: Judge, items: Iterable[Item], networks: Networks) -> None:
    """Refuse a judge that cannot work, or a network that is missing, before anything is asked."""
    judge.check([item.row for item in items])
    for member in judge.members():
        member.open(networks)
