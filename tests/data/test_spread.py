"""Groups spread over an epoch: a permutation, each group in its share in every stretch, by the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.data.packing.spread import spread, spread_order
from jaxpo.errors import DataError


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5), seed=st.integers(0, 99), start=st.floats(0, 1))
def test_every_stretch_holds_every_group_in_its_share(sizes: list[int], seed: int, start: float) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    order = spread(groups, seed)
    assert sorted(order) == list(range(len(groups)))
    np.testing.assert_array_equal(order, spread(groups, seed))
    first = int(start * len(groups))
    stretch = groups[order][first : first + 10]
    for group, size in enumerate(sizes):
        # Members lie at equal distances; those of the other groups between two ends add at most one each.
        expected = size * len(stretch) / len(groups)
        assert abs(np.sum(stretch == group) - expected) <= 1 + len(sizes) * size / len(groups) + 1e-9


def test_another_seed_is_another_order() -> None:
    groups = np.arange(40) % 3
    assert not np.array_equal(spread(groups, 0), spread(groups, 1))


def test_the_order_of_a_data_set(prepared, files) -> None:
    data = prepared(files / "groups.jsonl", "preference", roles=("chosen", "rejected"))
    order = spread_order(data, 0)
    kinds = [data.store.read([int(i)])[0].columns["group"] for i in order]
    assert sorted(order) == [0, 1, 2, 3]
    assert kinds in ([0, 1, 0, 1], [1, 0, 1, 0])
    plain = prepared(files / "preference.jsonl", "preference", roles=("chosen", "rejected"))
    with pytest.raises(DataError, match=r"field 'group': there is no column 'group'\. Add a column `group`"):
        spread_order(plain, 0)
