"""Media beside tokens: packed into a second grid of the same blocks, read through marks, the same in every layout."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from data.media_examples import PLACE, example, in_memory
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpo.config import Data
from jaxpo.data.packing.batch import take
from jaxpo.data.packing.caps import choose_caps
from jaxpo.data.packing.fill import assemble
from jaxpo.data.packing.loader import Loader
from jaxpo.data.packing.plan import Plan
from jaxpo.data.tokens.media import MEDIA
from jaxpo.data.tokens.settings import check_settings
from jaxpo.errors import ConfigError, DataError
from jaxpo.objectives.base import Objective, Out
from jaxpo.sharding import make_mesh, put_batch, replicated, use_mesh
from jaxpo.train.dump import dump_batch, load_dump
from jaxpo.train.init import build_state
from jaxpo.train.step import make_step

GRIDS = ((2, 2), (2, 4), (4, 2), (4, 4), (6, 2))
ROW = 48


def counting():
    """Patch values 1, 2, 3, ...: each says which patch it is."""
    numbers = itertools.count(1)
    return lambda n: np.asarray([next(numbers) for _ in range(n)], np.float32)[:, None]


made = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.lists(st.integers(1, 9), min_size=2, max_size=2),
        st.lists(st.sampled_from(GRIDS), max_size=3),
    ),
    min_size=1,
    max_size=30,
).filter(lambda rows: any(grids for *_, grids in rows))


def check_epoch(dataset, caps, part, examples):
    """Independent re-count of all batches of an epoch, through what a batch says alone."""
    seen, held = [], 0
    for b in range(len(part.packed.blocks)):
        batch = assemble(dataset, caps, [(part, b)])
        media, marks = batch.media["image"], batch.per_token[MEDIA]
        assert media.values.shape == (caps.media_rows, caps.media_length, 1)
        assert (media.values[media.segment_ids == 0] == 0).all()
        assert (marks[batch.segment_ids == 0] == -1).all()
        seen += media.values[media.segment_ids > 0].ravel().tolist()
        flat, places = media.values.reshape(-1, 4), media.positions.reshape(-1, 4, 4)
        medium_of = media.segment_ids.reshape(-1, 4)[:, 0]
        assert (media.segment_ids.reshape(-1, 4) == medium_of[:, None]).all()
        for n, number in enumerate(batch.example_id):
            if number < 0:
                continue
            held += 1
            patches = examples[number].media
            values = np.concatenate([m.values for m in patches] or [np.zeros((0, 1))]).reshape(-1, 4)
            positions = np.concatenate([m.positions for m in patches] or [np.zeros((0, 4))]).reshape(-1, 4, 4)
            medium = np.repeat(np.arange(len(patches)), [len(m) // 4 for m in patches])
            for role in ("chosen", "rejected"):
                row, slot = divmod(int(batch.roles[role][n]), batch.slots)
                at = marks[row][batch.segment_ids[row] == slot + 1]
                assert (at >= 0).sum() == len(values)
                at = at[at >= 0]
                assert np.array_equal(flat[at], values)
                assert np.array_equal(places[at], positions)
                # A medium is a segment of one row, and no other medium's.
                ids = {(m, v * 4 // caps.media_length, medium_of[v]) for m, v in zip(medium, at, strict=True)}
                assert len(ids) == len({of[1:] for of in ids}) == len(patches)
    total = sum(len(m) for e in examples for m in e.media)
    assert sorted(seen) == list(range(1, total + 1)), "every patch lies in one place"
    assert held == len(examples)


@settings(deadline=None, max_examples=40)
@given(rows=made, seed=st.integers(0, 2), single=st.booleans(), limited=st.booleans())
def test_every_patch_is_placed_once_and_marks_find_it(rows, seed, single, limited):
    values = counting()
    examples = [example(i, *row, values) for i, row in enumerate(rows)]
    dataset = in_memory(examples, 1)
    widest = max(sum(-(-r * c // 16) for r, c in grids) for *_, grids in rows)
    own = {"media_rows": widest, "media_length": 16} if limited else {}
    caps, fill = choose_caps(dataset.lengths, ROW, block_rows=None, single=single, rows_per_step=64, **own)
    if limited:
        assert (caps.media_rows, caps.media_length) == (widest, 16)
    assert caps.media_rows >= 1
    assert caps.media_length % 4 == 0
    assert 0 < fill <= 1
    plan = Plan(dataset.lengths, caps, seed=seed, shuffle=True)
    for epoch in range(2):
        check_epoch(dataset, caps, plan.part(epoch), examples)


def test_a_plan_is_known_by_its_media_and_without_any_by_what_it_always_was():
    texts = np.random.default_rng(0).integers(1, 20, (600, 2)).tolist()
    lengths = in_memory([example(i, 1, [1, 1], [(2, 2)], counting()) for i in range(2)], 1).lengths

    def plan(x):
        caps = choose_caps(x, 32, block_rows=None, single=False, rows_per_step=64)[0]
        return Plan(x, caps, seed=0, shuffle=True)

    other = dataclasses.replace(lengths, media=dataclasses.replace(lengths.media, values=lengths.media.values * 2))
    assert len({plan(x).hash for x in (lengths, other, dataclasses.replace(lengths, media=None))}) == 3
    plain = type(lengths).from_lists(texts)
    assert (plan(plain).caps.media_rows, plan(plain).caps.media_length) == (0, 0)
    known = "d6f71bda6b7d699d178b106b83d4306f9853c4d9534e857903f5c1d47a364a53"
    assert plan(plain).hash == known, "finished runs know their plans by this"


def test_cached_plans_keep_the_places_of_media(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxpo.data.packing.plan.CACHE_FROM", 10)
    lengths = in_memory([example(i, 2, [3, 4], [GRIDS[i % 5]], counting()) for i in range(20)], 1).lengths
    caps = choose_caps(lengths, ROW, block_rows=None, single=False, rows_per_step=64)[0]
    built, read = (Plan(lengths, caps, seed=0, shuffle=True, cache_dir=tmp_path).part(0).packed for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, dataclasses.asdict(built), dataclasses.asdict(read))
    assert (built.media.start > 0).any()


# A model of a few matrices: an encoder that sees each medium as a whole, the 4-to-1 connector, tokens that see what is
# before them. C, D, V are its sizes.
C, D, V = 3, 5, 11


@functools.cache
def tiny():
    """Examples with and without media, and parameters."""
    rng = np.random.default_rng(0)
    draw = lambda n: rng.normal(size=(n, C)).astype(np.float32)  # noqa: E731
    grids = [[GRIDS[k] for k in rng.integers(0, 5, i % 3)] for i in range(14)]
    examples = [example(i, 1 + i % 3, [1 + i % 5], grids[i], draw) for i in range(14)]
    shapes = {"embed": (V, D), "patch": (C, D), "place": (4, D), "connector": (4 * D, D)}
    return examples, {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def hidden_of(params, batch):
    media = batch.media["image"]
    same = (media.segment_ids[:, :, None] == media.segment_ids[:, None, :]) & (media.segment_ids > 0)[:, :, None]
    x = media.values @ params["patch"] + (media.positions / 4) @ params["place"]
    x = jnp.tanh(x + jnp.einsum("qab,qbd->qad", same / jnp.maximum(same.sum(-1, keepdims=True), 1), x))
    vectors = x.reshape(x.shape[0], -1, 4 * D) @ params["connector"]
    marks = batch.per_token[MEDIA]
    embedded = jnp.where(marks[..., None] >= 0, take(vectors, marks, batch), params["embed"][batch.tokens])
    ids = batch.segment_ids
    before = (ids[:, :, None] == ids[:, None, :]) & (batch.positions[:, :, None] >= batch.positions[:, None, :])
    return jnp.tanh(embedded + jnp.einsum("rab,rbd->rad", before / before.sum(-1, keepdims=True), embedded))


def objective():
    def encode(params, frozen, batch, rng):
        logits = hidden_of(params["model"], batch) @ params["model"]["embed"].T
        targets = jnp.pad(batch.tokens[:, 1:], ((0, 0), (0, 1)))
        logps = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
        return jnp.pad(logps[:, :-1], ((0, 0), (1, 0))), {}

    def loss(logps, batch, carry, counts):
        return Out(-jnp.sum(jnp.where(batch.masks["completion"], logps, 0)) / counts["tokens"], {}, {})

    def counts(batch):
        return {"tokens": jnp.sum(batch.masks["completion"].astype(jnp.float32))}

    return Objective("tiny", counts, encode, loss)


def reference(params, examples):
    """The loss in float64, one example at a time, nothing packed."""
    p, total, count = {k: np.asarray(v, np.float64) for k, v in params.items()}, 0.0, 0
    for e in examples:
        vectors = []
        for m in e.media:
            x = m.values @ p["patch"] + (m.positions / 4) @ p["place"]
            vectors.append(np.tanh(x + x.mean(0)).reshape(-1, 4 * D) @ p["connector"])
        for s in e.segments:
            h = p["embed"][s.tokens]
            if vectors:
                assert (s.tokens == PLACE)[: len(np.concatenate(vectors))].all()
                h[: len(np.concatenate(vectors))] = np.concatenate(vectors)
            h = np.tanh(h + np.cumsum(h, 0) / np.arange(1, len(h) + 1)[:, None])
            logits = h @ p["embed"].T
            logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            at = np.flatnonzero(s.supervised[1:]) + 1
            total, count = total - logps[at - 1, s.tokens[at]].sum(), count + len(at)
    return total / count


def one_step(batch, *, microbatches=1, devices=1):
    """Loss and gradient of a step of plain descent of rate 1."""
    _, params = tiny()
    state = build_state({"model": jax.tree.map(jnp.asarray, params)}, optax.sgd(1.0), objective(), jax.random.key(0))
    step = jax.jit(make_step(objective(), optax.sgd(1.0), optax.constant_schedule(1.0), microbatches=microbatches))
    mesh = make_mesh({"fsdp": devices}, jax.devices()[:devices])
    with use_mesh(mesh):
        new, metrics = step(jax.device_put(state, replicated(mesh)), {}, put_batch(batch, mesh))
    found = jax.tree.map(lambda a, b: a - np.asarray(b), params, jax.device_get(new.params["model"]))
    return float(metrics["loss"].value()), found


def whole(rows=64, **data):
    """All examples in one batch."""
    settings = Data(max_length=24, row_length=data.pop("row_length", 24), **data)
    batches = Loader(in_memory(tiny()[0], C), settings, seed=0, rows_per_step=rows, divisor=8).one_pass()
    assert len(batches) == 1
    return batches[0]


def test_loss_and_gradient_are_those_of_one_example_at_a_time_in_every_layout():
    examples, params = tiny()
    dense = whole(row_length=40, block_rows=2)
    loss, grads = one_step(dense)
    assert loss == pytest.approx(reference(params, examples), rel=2e-6)
    rng, step = np.random.default_rng(1), 1e-5
    for name in params:  # central differences along a random direction
        direction = rng.normal(size=params[name].shape)
        ahead, behind = (reference({**params, name: params[name] + s * direction}, examples) for s in (step, -step))
        assert np.sum(grads[name] * direction) == pytest.approx((ahead - behind) / (2 * step), rel=1e-4, abs=1e-6)
    alone = whole(packing="none", media_length=16, media_rows=2)
    assert (alone.slots, alone.media["image"].values.shape[1]) == (1, 16)
    for batch, how in ((dense, {"microbatches": 8}), (alone, {"devices": 8})):
        other, found = one_step(batch, **how)
        assert other == pytest.approx(loss, rel=2e-6)
        for name in params:
            np.testing.assert_allclose(found[name], grads[name], rtol=2e-5, atol=2e-6 * np.abs(grads[name]).max())


def test_training_batches_carry_media_and_a_dump_keeps_them(tmp_path):
    loader = Loader(in_memory(tiny()[0], C), Data(max_length=24, row_length=24), seed=3, rows_per_step=8)
    batch = loader.batch(8)
    assert batch.media["image"].values.shape[0] == batch.blocks * loader.caps.media_rows
    assert (batch.per_token[MEDIA] >= 0).any()
    dump_batch(tmp_path / "batch.npz", batch, {"step": 1})
    again, info = load_dump(tmp_path / "batch.npz")
    assert info == {"step": 1}
    jax.tree.map(np.testing.assert_array_equal, batch, again)


def test_media_beyond_the_capacity_are_named():
    dataset = in_memory([example(i, 1, [2], [(2, 2)] * (1 + i), counting()) for i in range(3)], 1)
    load = lambda **data: Loader(dataset, Data(max_length=24, row_length=24, **data), seed=0, rows_per_step=8)  # noqa: E731
    match = r"rows.jsonl, row 3, field 'media': its media need 3 rows of 4 patches, and data.media_rows is 2\. Raise"
    with pytest.raises(DataError, match=match):
        load(media_rows=2, media_length=4)
    assert load(media_rows=2, media_length=8).caps.media_rows == 2
    large = in_memory([example(0, 1, [2], [(2, 2)], counting()), example(1, 1, [2], [(2, 2), (4, 4)], counting())], 1)
    match = r"rows.jsonl, row 2, field 'media': medium 1 has 16 patches, and data.media_length is 8\. Raise data."
    with pytest.raises(DataError, match=match):
        Loader(large, Data(max_length=24, row_length=24, media_length=8), seed=0, rows_per_step=8)
    with pytest.raises(ConfigError, match=r"data.media_length=6 must be a multiple of 4"):
        check_settings(Data(media_length=6))
    with pytest.raises(ConfigError, match=r"data.media_rows=0 must be at least 1"):
        check_settings(Data(media_rows=0))
