"""The benchmark of a layer of experts: its contestants compute the same, and every one of them is timed."""

import numpy as np
import pytest
from benchmarks import expert_layer
from benchmarks.expert_forms import Shape
from benchmarks.measure import Times
from benchmarks.work import Options

TINY = Options(repeats=1, threads=1, smoke=True, peers=False)


def test_every_contestant_and_size_is_timed(monkeypatch):
    """They run once, to be compared; what takes their time is tested with the framework."""
    monkeypatch.setattr(expert_layer, "interleaved", lambda runs, options: {n: Times((1.0,), (1.0,)) for n in runs})
    found = expert_layer.measure(TINY)
    assert [len(table.rows) for table in found.tables] == [3, 3, 2, 2, 2, 2]
    for table in found.tables:
        assert all(len(row.wall) == len(row.cpu) == 1 and row.ceiling > 0 for row in table.rows), table.title
    forward, backward = (table.rows[0].ceiling for table in found.tables[:2])
    assert forward == pytest.approx(3 * backward)


def test_a_contestant_that_computes_something_else_is_refused(monkeypatch):
    shape = Shape(tokens=8, width=8, inner=8, experts=4, k=2)
    right, wrong = ((lambda y=y: np.full((1, 8, 8), y), lambda: None) for y in (1.0, 1.001))
    for name in ("grouped", "one_dense"):
        monkeypatch.setattr(expert_layer, name, lambda shape: right)
    monkeypatch.setattr(expert_layer, "every_expert", lambda shape: wrong)
    with pytest.raises(ValueError, match="every expert on every token computes something else"):
        expert_layer.contestants(shape, TINY)
