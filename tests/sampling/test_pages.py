"""What the host decides about pages: which are kept, and for whom."""

import numpy as np

from jaxpo.sampling.pages import Pages
from jaxpo.sampling.request import Request
from jaxpo.sampling.rows import Asked, Row

PAGE, EACH = 8, 3


def begun(pages, tokens, number):
    row = Row(Asked(number, Request(tokens, max_new_tokens=3), ()), 0, list(tokens))
    assert pages.admit(row)
    pages.begin(row)
    return row


def read(pages, rows, columns):
    """One call: every page that it writes, and with them the ends."""
    whole = np.full((len(rows), columns // PAGE), pages.count)
    ends = np.full(len(rows), pages.count)
    for i, row in enumerate(rows):
        count = min(row.unread, columns)
        pages.keep(row, count, whole[i], ends[i : i + 1])
        row.known += count
    pages.kept()
    return [page for page in [*whole.ravel(), *ends] if page < pages.count]


def test_no_page_is_written_twice_in_one_call():
    """The end of one prompt was given up for a page of the next, in the very call that writes both."""
    rng = np.random.default_rng(0)
    for paged, count in ((False, 4), (False, 7), (True, 13), (True, 14)):
        for lengths in ((12, 20, 20, 20), (12, 13, 14, 15), (20, 20, 12, 12)):
            pages = Pages(count, PAGE, EACH, paged)
            for turn in range(5):
                rows = [begun(pages, rng.integers(1, 60, n).tolist(), turn) for n in lengths]
                while any(row.unread for row in rows):
                    written = read(pages, [row for row in rows if row.unread], 16)
                    assert len(set(written)) == len(written)
                for row in rows:
                    pages.release(row)
            assert not any(node.held for node in pages.prefixes._used)
            assert pages.prefixes.free + pages.prefixes.nodes == count


def test_a_row_that_there_are_too_few_pages_for_leaves_the_store_as_it_is():
    """A row holds its pages; the next, which lacks one, must not cost what others have left."""
    rng = np.random.default_rng(1)
    pages = Pages(5, PAGE, EACH, True)
    for number in range(2):
        row = begun(pages, rng.integers(1, 60, 9).tolist(), number)
        read(pages, [row], 16)
        pages.release(row)
    running = begun(pages, rng.integers(1, 60, 20).tolist(), 2)
    known = pages.prefixes.nodes
    assert 0 < known < 3
    waits = Row(Asked(3, Request([7] * 20, max_new_tokens=3), ()), 0, [7] * 20)
    assert not pages.admit(waits)
    assert pages.prefixes.nodes == known
    pages.release(running)
    assert pages.admit(waits)
