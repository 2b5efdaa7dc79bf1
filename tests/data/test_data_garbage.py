"""The search for cycles while rows are tokenised: seldom, and afterwards as it was before."""

import gc
import threading

import pytest

from jaxpo.data.tokens.garbage import SELDOM, seldom_collected
from jaxpo.errors import DataError

OWN = (700, 10, 10)


@pytest.fixture(autouse=True)
def thresholds():
    before = gc.get_threshold()
    gc.set_threshold(*OWN)
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [(OWN, (SELDOM, 10, 10)), ((50_000, 5, 7), (50_000, 5, 7)), ((0, 10, 10), (0, 10, 10))],
    ids=["python's", "larger", "off"],
)
def test_what_it_is_meanwhile_and_afterwards(before, meanwhile):
    gc.set_threshold(*before)
    with seldom_collected():
        assert gc.get_threshold() == meanwhile
    assert gc.get_threshold() == before


def test_an_error_leaves_it_as_it_was():
    with pytest.raises(ZeroDivisionError), seldom_collected():
        1 / 0  # noqa: B018
    assert gc.get_threshold() == OWN
    with seldom_collected():
        assert gc.get_threshold()[0] == SELDOM


def test_of_two_threads_the_later_one_changes_nothing():
    inside, end = threading.Event(), threading.Event()

    def first():
        with seldom_collected():
            inside.set()
            end.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10)
    with seldom_collected():
        end.set()
        thread.join()
    assert gc.get_threshold() == OWN


def test_rows_are_tokenised_with_it_and_bad_ones_leave_it_as_it_was(prepared, write):
    seen = []

    def count(phase, info):
        seen.append(gc.get_threshold()[0])

    rows = [{"text": f"some words of row {i}"} for i in range(3000)]
    gc.callbacks.append(count)
    try:
        prepared(write(*rows, name="good.jsonl"), purpose="language")
        gc.collect()
        with pytest.raises(DataError):
            prepared(write(*rows[:5], {"text": 7}, name="bad.jsonl"), purpose="language")
    finally:
        gc.callbacks.remove(count)
    assert SELDOM in seen
    assert gc.get_threshold() == OWN
