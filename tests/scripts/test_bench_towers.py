"""The benchmark of encoders: packed and padded rows hold the same, and every contestant is timed."""

import numpy as np
import pytest
from benchmarks import towers
from benchmarks.measure import Times
from benchmarks.work import Options

TINY = Options(repeats=1, threads=1, smoke=True, peers=False)


def test_every_contestant_computes_the_same_and_is_timed(monkeypatch):
    monkeypatch.setattr(towers, "interleaved", lambda runs, options: {n: Times((1.0,), (1.0,)) for n in runs})
    found = towers.measure(TINY)
    assert [len(table.rows) for table in found.tables] == [2, 2, 2, 2, 3]
    assert found.tables[0].rows[0].amount == 2 * (4 + 16 + 12)
    assert "packed 100%, padded 67%" in found.notes[0]


def test_what_computes_something_else_is_refused():
    pieces = [(np.ones(3, np.float32),), (np.ones(2, np.float32),)]
    run = towers._both(lambda p, x, s: (x * (s > 0)).sum(), {}, pieces, 5, gradients=False)
    assert run[1:] == (5, {"packed": 1.0, "padded": 0.5})
    with pytest.raises(ValueError, match="something else"):
        towers._both(lambda p, x, s: s.sum() + x.sum(), {}, pieces, 5, gradients=False)
