"""When failures stop a run: a dead endpoint does at every start, items that have no answer do not."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jaxpo.data.rows.formats import Row
from jaxpo.errors import RunError
from jaxpo.judges import Judge, Jury
from jaxpo.judges.asking import Item, Patience, Reply, ask_all
from jaxpo.judges.base import score_reply
from jaxpo.judges.ledger import Ledger
from jaxpo.judges.scoring import plainly, score_all

PATIENCE = Patience(tries=3, in_a_row=5)


class Endpoint:
    """Replies with the number of an item, except to the bad ones or when it is dead; it counts what it is asked."""

    def __init__(self, bad=(), dead=False):
        self.bad, self.dead, self.asked = set(bad), dead, []

    def __call__(self, items):
        numbers = [item.row.number for item in items]
        self.asked += numbers
        return [Reply(failed="no answer") if self.dead or n in self.bad else Reply(n) for n in numbers]


def ask(endpoint, folder, n=12, **options):
    items = {str(i): Item(f"p{i}", "a", Row(Path("x"), i, {})) for i in range(n)}
    ledger = Ledger(folder, "scores", {})
    options = {"batch": 2, "patience": PATIENCE, "say": len, **options}
    return ask_all(items, endpoint, ledger, what="score", **options)


@dataclass(frozen=True)
class Says(Judge):
    """A model that gives every answer one score, with a mistake about the second."""

    score: float = 1.0
    second: Any = 1.0

    NAME = "says"

    def open(self, networks):
        return lambda items: [score_reply(self.second if item.row.number == 2 else self.score) for item in items]


def test_one_model_of_an_ensemble_that_fails_is_named():
    """The answer has no score then; the others are means of both."""
    items = [Item(f"p{i}", "a", Row(Path("x"), i, {})) for i in (1, 2, 3)]
    for second, why in ((math.nan, "is nan"), ("good", "is no number but 'good'")):
        jury = Jury((Says(1.0), Says(3.0, second)))
        found = score_all(jury, items, lambda _: None, None, plainly(say=len))
        assert found.values == {items[i].key(None): 2.0 for i in (0, 2)}
        assert found.failures == {items[1].key(None): f"score 2 says: the score {why}"}


def test_an_endpoint_that_is_still_dead_stops_the_next_start_too(tmp_path):
    for n in (12, 6):  # with items that nobody has asked yet, and with none
        for _ in range(2):
            endpoint = Endpoint(dead=True)
            with pytest.raises(RunError, match=r"score: 6 failures in a row, the last: no answer\. .* go on"):
                ask(endpoint, tmp_path / str(n), n)
            assert len(endpoint.asked) == 6
        found = ask(Endpoint(), tmp_path / str(n), n)
        assert len(found.values) == n
        assert not found.failures


def test_items_without_an_answer_do_not_stop_a_start_that_gets_others(tmp_path):
    bad = [0, 1, 2, 3, 6, 7, 8, 9]  # never five in a row when they are asked in order

    def stop():
        if len(endpoint.asked) >= 10:
            raise KeyboardInterrupt

    endpoint = Endpoint(bad)
    with pytest.raises(KeyboardInterrupt):
        ask(endpoint, tmp_path, check=stop)
    again = Endpoint(bad)
    found = ask(again, tmp_path)
    assert again.asked[:4] == [10, 11, 0, 1]
    assert sorted(found.failures) == sorted(map(str, bad))
    assert again.asked.count(0) == 3
    # Another start finds only those that have had all their tries: they are asked again and stop nothing.
    last = Endpoint(bad)
    assert sorted(ask(last, tmp_path).failures) == sorted(map(str, bad))
    assert len(last.asked) == 3 * len(bad)


def test_retries_of_one_start_do_not_count(tmp_path):
    bad = [0, 1, 2, 3, 8, 9, 10, 11]
    found = ask(Endpoint(bad), tmp_path)
    assert sorted(found.failures) == sorted(map(str, bad))
    assert found.failed_asks == 3 * len(bad)


def test_items_that_can_have_no_answer_are_asked_once_and_stop_nothing(tmp_path):
    asked = []

    def too_long(items):
        asked.extend(item.row.number for item in items)
        return [Reply(failed="longer than what is read", certain=True) for _ in items]

    for _ in range(2):
        found = ask(too_long, tmp_path)
        assert len(found.failures) == found.failed_asks == 12
    assert asked == [*range(12), *range(12)]
