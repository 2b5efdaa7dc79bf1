"""Groups spread over an epoch: a permutation, each group in its share in every stretch, by the seed alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.config import Data
from jaxpo.data.packing.loader import Loader
from jaxpo.data.packing.spread import Spread, spread_order
from jaxpo.errors import DataError


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    start=st.floats(0, 1),
    balanced=st.booleans(),
)
def test_every_stretch_holds_every_group_in_its_share(
    sizes: list[int], seed: int, start: float, balanced: bool
) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    spread = Spread(groups, seed, balanced=balanced)
    order = spread.take(3, 0, spread.examples)
    places = [len(groups) // len(sizes)] * len(sizes) if balanced else sizes
    assert np.bincount(groups[order], minlength=len(sizes)).tolist() == places
    np.testing.assert_array_equal(order[5:9], Spread(groups, seed, balanced=balanced).take(3, 5, 9))
    first = int(start * len(order))
    stretch = groups[order][first : first + 10]
    for group, q in enumerate(places):
        # Places lie at equal distances; those of the other groups between two ends add at most one each.
        expected = q * len(stretch) / len(order)
        assert abs(np.sum(stretch == group) - expected) <= 1 + len(sizes) * q / len(order) + 1e-9


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5), balanced=st.booleans())
def test_over_the_epochs_every_member_has_its_turn(sizes: list[int], balanced: bool) -> None:
    """Any two members of a group have come equally often, one more or less; and no epoch is another."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    spread = Spread(groups, 0, balanced=balanced)
    epochs = [spread.take(e, 0, spread.examples) for e in range(7)]
    times = np.bincount(np.concatenate(epochs), minlength=len(groups))
    for group in range(len(sizes)):
        assert np.ptp(times[groups == group]) <= (1 if balanced else 0)
    if len(groups) > 8 and len(sizes) > 1:
        assert not all(np.array_equal(epochs[0], other) for other in epochs[1:])


def test_another_seed_is_another_order() -> None:
    groups = np.arange(40) % 3
    one, other = (Spread(groups, seed) for seed in (0, 1))
    assert not np.array_equal(one.take(0, 0, 40), other.take(0, 0, 40))
    assert list(one.pieces()) != list(other.pieces())


def test_the_order_of_a_data_set(prepared, files) -> None:
    """Drawn anew each epoch by the loader too, and balanced: the batches of a resumed run are those of any other."""
    data = prepared(files / "groups.jsonl", "preference", roles=("chosen", "rejected"))
    spread = spread_order(data, 0, balanced=False)
    for epoch in range(3):
        order = spread.take(epoch, 0, 4)
        kinds = [data.store.read([int(i)])[0].columns["group"] for i in order]
        assert sorted(order) == [0, 1, 2, 3]
        assert kinds in ([0, 1, 0, 1], [1, 0, 1, 0])
    settings = Data(max_length=64, row_length=64, block_rows=1)
    spread = Spread(np.asarray([0, 0, 0, 1]), 0, balanced=True)
    loader = Loader(dataclasses.replace(data, order=spread), settings, seed=0, rows_per_step=1)
    rows = sum(loader.rows_per_epoch(e) for e in range(6))
    seen = np.concatenate([b.example_id[b.example_id >= 0] for b in map(loader.batch, range(rows))])
    assert np.sum(seen == 3) == 12
    assert np.ptp(np.bincount(seen)[:3]) <= 1
    plain = prepared(files / "preference.jsonl", "preference", roles=("chosen", "rejected"))
    with pytest.raises(DataError, match=r"field 'group': there is no column 'group'\. Add a column `group`"):
        spread_order(plain, 0, balanced=False)
