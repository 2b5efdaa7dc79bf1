"""One item ahead: the order of items and results, what is begun when, and where errors come."""

import threading

import pytest

from jaxpo.data.tokens.ahead import one_ahead

CORES = pytest.mark.parametrize("cores", [1, 2])


@CORES
def test_items_come_in_order_with_what_was_made_of_them(cores):
    assert list(one_ahead(range(5), lambda n: n * n, cores=cores)) == [(n, n * n) for n in range(5)]
    assert list(one_ahead((), str, cores=cores)) == []


@CORES
def test_the_next_item_is_taken_before_one_is_given_and_no_further_one(cores):
    taken = []
    found = one_ahead((taken.append(n) or n for n in range(4)), str, cores=cores)
    assert next(found) == (0, "0")
    assert taken == [0, 1]
    assert next(found) == (1, "1")
    assert taken == [0, 1, 2]


def test_with_two_cores_the_next_is_made_while_one_is_used():
    made = threading.Event()
    found = one_ahead(range(2), lambda n: made.set() if n == 1 else None, cores=2)
    next(found)
    assert made.wait(10)


@CORES
def test_an_error_of_the_items_comes_after_all_before_it(cores):
    def items():
        yield 1
        yield 2
        raise ValueError("the third")

    found = one_ahead(items(), str, cores=cores)
    assert [next(found), next(found)] == [(1, "1"), (2, "2")]
    with pytest.raises(ValueError, match="the third"):
        next(found)


@CORES
def test_an_error_in_making_comes_where_its_item_would(cores):
    found = one_ahead([1, 0, 1], lambda n: 1 // n, cores=cores)
    assert next(found) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(found)
