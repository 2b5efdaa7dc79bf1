"""Columns that grow: what was given out does not change, and growing is no work over and over."""

import numpy as np

from jaxpo.sampling.rows import Columns


def test_what_was_appended_is_there_and_stays():
    columns, want, given = Columns(((), np.float32), ((3,), np.int32)), [], []
    for count in (1, 0, 4, 16, 2, 40):
        new = np.arange(count, dtype=np.float32) + len(want)
        columns.append(new, np.repeat(new[:, None], 3, axis=1).astype(np.int32))
        want += new.tolist()
        numbers, rows = columns.columns()
        given.append((numbers, list(want)))
        assert (numbers.dtype, rows.dtype, rows.shape) == (np.float32, np.int32, (len(want), 3))
        assert rows[:, 2].tolist() == want
    for numbers, then in given:
        assert numbers.tolist() == then


def test_room_is_made_a_few_times_only():
    columns, held = Columns(((), np.float32)), set()
    for _ in range(1000):
        columns.append(np.zeros(1, np.float32))
        held.add(id(columns.columns()[0].base))
    assert len(held) < 20
