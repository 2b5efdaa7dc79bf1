"""Ask something that may fail about many items: what it said is kept, what failed is kept, counted and asked again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import Text
from jaxpo.errors import RunError
from jaxpo.judges.ledger import Ledger, digest

SAY_EVERY = 10.0


@dataclass(frozen=True)
class Item:
    """One answer to one prompt; `row` is where both come from, with its other columns."""

    prompt: Text
    answer: str
    row: Row

    def key(self, columns: Sequence[str] | None = ()) -> str:
        """Names the item in a ledger: prompt, answer, and the columns that the reply depends on (None = all)."""
        data = self.row.data
        return digest(self.prompt, self.answer, data if columns is None else {name: data.get(name) for name in columns})


@dataclass(frozen=True)
class Reply:
    """A value, or why there is none.

    Attributes:
      note: what is worth counting of how it came about, such as "timed out".
      parts: what the value is made of, by name; kept in the ledger for whoever looks into it.
      certain: the item itself has no answer: this run does not ask again, and it says nothing against whoever is asked.
    """

    value: Any = None
    failed: str = ""
    note: str = ""
    parts: Mapping[str, Any] = field(default_factory=dict)
    certain: bool = False


Ask = Callable[[Sequence[Item]], Sequence[Reply]]


@dataclass
class Replies:
    """Values and reasons of failure by the items' keys; how many replies were new and how many of those failed.

    Attributes:
      notes: of the items that have one.
    """

    values: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    failed_asks: int = 0

    def noted(self, keys: Collection[str]) -> str:
        """How many of some items have each note: "2 timed out, 1 raised"; nothing where none has any."""
        counts = Counter(note for key, note in self.notes.items() if key in keys)
        return ", ".join(f"{n} {note}" for note, n in counts.most_common())


@dataclass(frozen=True)
class Patience:
    """How failures are met.

    Attributes:
      tries: an item is asked so often in one run; a later run asks again for those still without a value.
      in_a_row: so many items that fail one after another when this run asks them for the first time stop the run, for
        something is wrong with whoever is asked. Items that failed in earlier runs do not count once this run has got
        a value, nor when they have had all their tries: then it is they that have no answer.
    """

    tries: int = 3
    in_a_row: int = 50


def ask_all(
    items: Mapping[str, Item],
    ask: Ask,
    ledger: Ledger,
    *,
    what: str,
    batch: int = 16,
    patience: Patience | None = None,
    say: Callable[[str], None] = print,
    check: Callable[[], None] = lambda: None,
    progress: Callable[..., Any] | None = None,
) -> Replies:
    """Ask for every item that has no value in the ledger yet, and append every reply as it comes.

    Args:
      items: key -> item, in the order of asking.
      ask: a batch of items -> a reply each.
      what: the name of a reply ("score"), and of whoever gives it, in messages.
      check: called between batches; may raise to stop: nothing appended is lost.
      progress: shows how far it is; None = `Progress`, lines of text.

    Raises:
      RunError: `patience.in_a_row` failures one after another, with the last reason.
    """
    patience = patience or Patience()
    found = Replies()
    failed_before: Counter[str] = Counter()
    for record in ledger.read():
        _note(found, record["key"], record)
        failed_before[record["key"]] += "failed" in record
    done = sum(key in found.values for key in items)
    shown = (progress or Progress)(what, done, len(items), say)
    suspicion = _Suspicion(patience, failed_before)
    certain: set[str] = set()
    for number in range(patience.tries):
        # Those that failed in earlier runs come last: the others show whether whoever is asked answers at all.
        unknown = [key for key in items if key not in found.values and key not in certain]
        missing = sorted(unknown, key=lambda key: failed_before[key] > 0)
        for first in range(0, len(missing), batch):
            check()
            keys = missing[first : first + batch]
            replies = ask([items[key] for key in keys])
            records = [_record(key, reply) for key, reply in zip(keys, replies, strict=True)]
            certain |= {key for key, reply in zip(keys, replies, strict=True) if reply.certain}
            ledger.append(records)
            for key, record in zip(keys, records, strict=True):
                if not number and key not in certain:
                    suspicion.hears(key, "failed" in record)
                _note(found, key, record)
                found.asked += 1
                found.failed_asks += "failed" in record
                done += "value" in record
            if suspicion.row >= patience.in_a_row:
                raise RunError(
                    f"{what}: {suspicion.row} failures in a row, the last: {records[-1]['failed']}. What was found "
                    f"so far is in {ledger.path}; mend it and run the same command again to go on."
                )
            shown.show(done)
    found.failures = {key: why for key, why in found.failures.items() if key not in found.values}
    if found.asked and (noted := found.noted(items.keys())):
        say(f"{what}: of {len(items)} answers {noted}")
    return found


@dataclass
class _Suspicion:
    """Counts failures in a row (`row`) that speak against whoever is asked, see `Patience.in_a_row`."""

    patience: Patience
    failed_before: Mapping[str, int]
    row: int = 0
    answers: bool = False

    def hears(self, key: str, failed: bool) -> None:
        """The first reply of this run about an item."""
        tried = self.failed_before.get(key, 0)
        if not failed:
            self.row, self.answers = 0, True
        elif not tried or (tried < self.patience.tries and not self.answers):
            self.row += 1


class Progress:
    """Says how far a long part has come, with its speed and the time left, at most every 10 seconds."""

    def __init__(self, what: str, done: int, total: int, say: Callable[[str], None]):
        self.what, self.first, self.total, self.say = what, done, total, say
        self.began = self.said = time.monotonic()

    def show(self, done: int) -> None:
        """Say it if it is time."""
        now = time.monotonic()
        if now - self.said < SAY_EVERY:
            return
        self.said = now
        speed = (done - self.first) / (now - self.began)
        left = f", {(self.total - done) / speed:.0f} s left" if speed > 0 else ""
        self.say(f"{self.what}: {done} of {self.total} ({speed:.1f} per second{left})")


def _record(key: str, reply: Reply) -> dict[str, Any]:
    said = {"failed": reply.failed} if reply.failed else {"value": reply.value}
    more = {"note": reply.note} if reply.note else {}
    return {"key": key, **said, **more, **({"parts": dict(reply.parts)} if reply.parts else {})}


def _note(found: Replies, key: str, record: Mapping[str, Any]) -> None:
    if "note" in record:
        found.notes[record["key"]] = record["note"]
    if "value" in record:
        found.values[key] = record["value"]
    else:
        found.failures[key] = record["failed"]
