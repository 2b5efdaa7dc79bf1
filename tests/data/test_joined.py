"""Several sources in one step: every example of every part comes back, and the shape never changes."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from data.feeds import Given, fed

from jaxpo.config import SFT, Data
from jaxpo.data.packing.batch import Batch, Media, take
from jaxpo.data.packing.joined import Joined
from jaxpo.data.packing.loader import Loader
from jaxpo.data.tokens.per_token import KEY
from jaxpo.errors import ConfigError, DataError, RunError

# File -> roles, columns, rows per step, rows per block: lists, pairs and single responses, no two of one shape.
PARTS = {
    "preference": (("chosen", "rejected"), ("margin",), 16, 2),
    "items": (("items",), ("relevance",), 4, 1),
    "unpaired": (("completion",), ("label",), 8, 4),
}
MARKS = {"items": ("item",)}
ROWS = 28


@pytest.fixture
def dataset(prepared, files):
    def make(name):
        roles, columns, _, _ = PARTS[name]
        needs = {"roles": roles, "columns": columns, "per_token": MARKS.get(name, ())}
        return prepared(files / f"{name}.jsonl", "preference", max_length=128, **needs)

    return make


@pytest.fixture
def joined(dataset):
    def make(names=tuple(PARTS), *, divisor=1, row_length=128, **processes):
        parts = []
        for name in names:
            *_, rows, block_rows = PARTS[name]
            data = Data(max_length=128, row_length=row_length, block_rows=block_rows)
            parts.append((Loader(dataset(name), data, seed=3, rows_per_step=rows, **processes), rows))
        return Joined(parts, divisor=divisor, process_count=processes.get("process_count", 1))

    return make


def examples(batch, roles, columns):
    """Id -> for every segment that its roles name tokens, mask and marks, and its columns."""
    arrays = (batch.tokens, batch.positions, batch.masks["completion"], *batch.per_token.values())
    found = {}
    for n in np.flatnonzero(batch.present):
        first_row = n // (len(batch.example_id) // batch.blocks) * batch.block_rows
        for role in roles:
            for k, index in enumerate(np.atleast_1d(batch.roles[role][n])):
                row, slot = first_row + index // batch.slots, index % batch.slots
                at = np.flatnonzero(batch.segment_ids[row] == slot + 1)
                segment = [x[row, at].tolist() for x in arrays] if index >= 0 else None
                found.setdefault(int(batch.example_id[n]), []).append((role, k, segment))
        found[int(batch.example_id[n])] += [(name, batch.per_example[name][n].tolist()) for name in columns]
    return found


def test_every_part_is_there_and_what_it_lacks_is_absent(joined):
    """Part by part: the same segments, masks, marks and columns as its own loader gives, and -1 or fill elsewhere."""
    source = joined()
    for step, batch in enumerate(fed(source, 0, 4)):
        assert batch.rows == ROWS
        assert batch.block_rows == 4
        seen = 0
        for number, (name, (part, rows)) in enumerate(zip(PARTS, source.parts, strict=True)):
            roles, columns, *_ = PARTS[name]
            own = part.batch(step * rows)
            own = own.replace(per_token={name: own.per_token.get(name, own.tokens * 0) for name in batch.per_token})
            wanted, found = (examples(b, roles, columns) for b in (own, batch))
            assert wanted
            seen += own.present.sum()
            for i, expected in wanted.items():
                assert found[i * len(PARTS) + number] == expected
            others = batch.present & (batch.example_id % len(PARTS) != number)
            assert others.any()
            for role in roles:
                assert (batch.roles[role][others] == -1).all()
            for column in columns:
                assert (batch.per_example[column][others] == (-1 if column == "relevance" else 0)).all()
        assert batch.present.sum() == seen
        assert batch.tally()["samples"] == seen
        supervised = [part.batch(step * rows).tally()["trained"] for part, rows in source.parts]
        assert batch.tally()["trained"] == sum(supervised)


class Expanded:
    """Columns of examples whose first segments end in a pad that is no key; the others say nothing of keys."""

    @property
    def layout(self):
        return {KEY: (np.dtype(np.int32), ())}

    def of_examples(self, numbers, examples):
        for example in examples:
            first, *rest = (len(segment.tokens) for segment in example.segments)
            yield [{KEY: np.arange(first) < first - 1}, *({} for _ in rest)]


def test_tokens_of_which_nothing_says_so_are_keys(joined):
    """Segments and parts without the column are seen by attention as ever."""
    (loader, rows), other = joined(("preference", "unpaired")).parts
    source = Joined([(loader.reading(Expanded()), rows), other])
    for batch in fed(source, 0, 2):
        keys = batch.per_token[KEY]
        ours = batch.roles["chosen"] >= 0
        assert ours.sum() == (keys == 0).sum() > 0
        assert batch.present[~ours].any()
        assert (examples_keys(batch) == keys).all()


def examples_keys(batch):
    """0 at the last token of every chosen response, 1 elsewhere."""
    keys = np.ones_like(batch.tokens)
    per_block = len(batch.example_id) // batch.blocks
    for n in np.flatnonzero(batch.roles["chosen"] >= 0):
        row, slot = divmod(int(batch.roles["chosen"][n]), batch.slots)
        row += n // per_block * batch.block_rows
        keys[row, np.flatnonzero(batch.segment_ids[row] == slot + 1)[-1]] = 0
    return keys


def shape(batch):
    return jax.tree.map(lambda x: (x.shape, x.dtype), batch)


def test_steps_are_a_function_of_the_position_in_one_shape(joined):
    source = joined()
    batches = fed(source, 0, 12)
    assert all(shape(b) == shape(source.empty()) for b in batches)
    assert not source.empty().present.any()
    for a, b in zip(batches[5:8], fed(joined(), 5 * ROWS, 3), strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert source.hash == joined().hash
    assert source.hash not in (joined(("items", "preference")).hash, source.parts[0][0].hash)
    assert source.epoch_of(3 * ROWS) == source.parts[0][0].epoch_of(3 * 16)


def test_processes_share_a_step(joined):
    names = ("preference", "unpaired")
    whole, *shares = (
        fed(joined(names, divisor=2, **processes), 0, 3)
        for processes in ({}, *({"process_index": i, "process_count": 2} for i in range(2)))
    )
    for batch, *parts in zip(whole, *shares, strict=True):
        jax.tree.map(lambda x, *xs: np.testing.assert_array_equal(x, np.concatenate(xs)), batch, *parts)


def test_its_budget_is_of_all_rows_or_of_the_first_part_s_epochs(joined):
    source = joined()
    first = source.parts[0][0]
    stage = lambda **budget: SFT(rows_per_step=ROWS, data=Data(row_length=128), **budget)  # noqa: E731
    assert source.total_steps(stage(max_steps=7)) == 7
    assert source.total_steps(stage(max_tokens=5 * ROWS * 128 + 1)) == 6
    assert source.total_steps(stage(num_train_epochs=2)) == math.ceil(sum(map(first.rows_per_epoch, range(2))) / 16)


def test_rows_that_do_not_divide_are_named(joined):
    with pytest.raises(ConfigError) as info:
        joined(divisor=2)
    assert info.value.problems == [
        "joined source 2 (Loader): rows_per_step=4 is 1 block of 4 rows, which 2 cannot share evenly: "
        "gradient_accumulation_steps times data-parallel devices must be one of 1. Or make rows_per_step a multiple of "
        "8, or data.block_rows smaller if no example needs as many rows."
    ]
    loader = joined(("items",)).parts[0][0]
    with pytest.raises(ConfigError, match=r"joined source 1 \(Loader\): it makes 4 rows per step, not 6; build it"):
        Joined([(loader, 6)])
    with pytest.raises(RunError, match=r"rows_seen=4 is not a multiple of 28, the rows of a joined step"):
        joined().open(4, 1)


def test_parts_that_do_not_agree_are_named(joined):
    parts = [joined(("preference",), row_length=length).parts[0] for length in (128, 256)]
    with pytest.raises(
        ConfigError, match=r"joined source 1 \(Loader\) has 128, joined source 2 \(Loader\) has 256; give all the same"
    ):
        Joined(parts)

    batch = parts[0][0].empty()
    other = Given(batch.replace(per_example={"margin": batch.per_example["margin"].astype(bool)}))
    with pytest.raises(ConfigError, match=r"per_example\['margin'\] differs: .* has float32 \[\], .* has bool \[\]"):
        Joined([parts[0], (other, 16)])


def test_every_feed_sees_the_state_and_is_closed_after_an_error(joined):
    batch = joined(("items",)).empty()
    good, bad = Given(batch), Given(batch, DataError("no row left"))
    with pytest.raises(DataError, match="no row left"):
        fed(Joined([(good, 4), (bad, 4)]), 0, 2, state="now")
    assert (good.states, bad.states) == (["now"], ["now"])
    assert (good.closed, bad.closed) == (1, 1)


def test_ids_that_would_meet_are_refused(joined):
    batch = joined(("items",)).empty()
    far = Given(batch.replace(example_id=np.full_like(batch.example_id, 2**30)))
    with pytest.raises(RunError, match=r"source 2 \(Given\): example id 1073741824 is too large to tell 2 sources"):
        Joined([(Given(batch), 4), (far, 4)]).open(0, 1).next(None)


def with_media(blocks, block_rows, media_rows, first):
    """Tokens `first`, `first + 1`, ...: each reads the vector of its own number, wherever that lies in the block.

    Media rows of 8 patches make 2 vectors; a block's vectors are used from the last to the first.
    """
    rows, places = blocks * block_rows, media_rows * 2
    tokens = first + np.arange(rows * 2, dtype=np.int32).reshape(rows, 2)
    marks = places - 1 - np.tile(np.arange(block_rows * 2, dtype=np.int32).reshape(block_rows, 2), (blocks, 1))
    vectors = np.zeros((blocks, places), np.float32)
    for (row, column), token in np.ndenumerate(tokens):
        vectors[row // block_rows, marks[row, column]] = token
    values = np.repeat(vectors.reshape(blocks * media_rows, 8 // 4), 4, axis=1)[..., None]
    grid = Media(values, np.ones(values.shape[:2], np.int32), np.zeros((*values.shape[:2], 4), np.int32))
    return Batch(
        tokens=tokens,
        segment_ids=np.ones_like(tokens),
        positions=np.zeros_like(tokens),
        masks={"completion": np.ones(tokens.shape, bool)},
        per_token={"media": marks},
        per_segment={},
        per_example={},
        roles={},
        example_id=np.full(blocks, -1, np.int32),
        block_rows=block_rows,
        slots=1,
        max_segment=2,
        media={"image": grid},
    )


def test_tokens_find_their_media_and_those_without_any_have_none():
    """Blocks of one row and 2 vectors, of two rows and 6, and of one row without media, put together."""
    one, two = with_media(4, 1, 1, first=1000), with_media(2, 2, 3, first=2000)
    plain = one.replace(tokens=one.tokens + 2000, media={}, per_token={})
    batch = Joined([(Given(b), 4) for b in (one, two, plain)]).open(0, 1).next(None)
    grid = batch.media["image"]
    assert (batch.block_rows, batch.blocks, grid.values.shape) == (2, 6, (18, 8, 1))
    vectors = grid.values.reshape(18, 2, 4).mean(-1)
    found = take(vectors, batch.per_token["media"], batch)
    np.testing.assert_array_equal(found, np.where(batch.tokens < 3000, batch.tokens, 0))
    assert (batch.per_token["media"][batch.tokens >= 3000] == -1).all()
    sound = one.replace(media={"sound": one.media["image"]})
    with pytest.raises(ConfigError, match=r"media of different kinds: .* has image, .* has sound; a step holds"):
        Joined([(Given(one), 4), (Given(sound), 4)])
