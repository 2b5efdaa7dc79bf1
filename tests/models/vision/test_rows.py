"""Rows with images through whole stages: packed as alone, in microbatches, on devices; what learns how fast."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import numpy as np
import optax
import pytest
from contracts.families import EXAMPLES
from PIL import Image

from jaxpo.config import SFT, Data, Images, ImageSettings, LoRA, Optimizer, Preference
from jaxpo.data.media.marks import NAMES
from jaxpo.data.packing.batch import rows_of
from jaxpo.data.packing.loader import Loader
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.data.tokens.prepare import prepare
from jaxpo.models.family import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.dpo import DPO
from jaxpo.objectives.wrappers.lora import BASE
from jaxpo.sharding import make_mesh, put_batch, replicated, use_mesh
from jaxpo.stages.assemble import make_objective, own_tables
from jaxpo.train.init import build_state
from jaxpo.train.optimizer import make_optimizer, make_schedule
from jaxpo.train.step import make_step

SIZES = ImageSettings(encoder_patch_size=2, tile_size=8, min_image_tokens=1, max_image_tokens=4, max_tiles=4)
DATA = Data(max_length=64, row_length=128, images=Images(sizes=SIZES))
ALONE = Data(max_length=64, row_length=64, packing="none", images=Images(sizes=SIZES))
SHAPES = ((8, 8), (4, 12), (20, 12), (4, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs, of which each third has no image, each third one and each third two."""
    folder = tmp_path_factory.mktemp("rows")
    for i, shape in enumerate(SHAPES):
        noise = np.random.default_rng(i).integers(0, 255, (*shape, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    rows = [
        {"prompt": f"{i}?", "chosen": f"a{i}", "rejected": "b" * (1 + i % 4), "images": [f"{i % 4}.png"] * (i % 3)}
        for i in range(12)
    ]
    rows = [row if row["images"] else {k: v for k, v in row.items() if k != "images"} for row in rows]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sft = [{"completion" if k == "chosen" else k: v for k, v in row.items() if k != "rejected"} for row in rows]
    (folder / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sft))
    return folder


TOKENIZER = train_tokenizer(["a b 0 1 2 3"], 270).with_added(NAMES, special=True)
CONFIG = EXAMPLES["jaxpo.models.lfm2_vl.config:LFM2VLConfig"]


def whole(folder, data=DATA, name="pairs"):
    """All rows in one batch."""
    roles = ("chosen", "rejected") if name == "pairs" else ()
    dataset = prepare(
        [folder / f"{name}.jsonl"],
        data=data,
        tokenizer=TOKENIZER,
        purpose="preference" if roles else "sft",
        needs=Needs(roles=roles),
        cache_dir=folder / "cache",
        log=lambda line: None,
    )
    batches = Loader(dataset, data, seed=0, rows_per_step=32, divisor=8).one_pass()
    assert len(batches) == 1
    return batches[0]


@pytest.fixture(scope="module")
def params():
    drawn = init_params(param_table(config()), jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), drawn)


@functools.cache
def config():
    """The example of the family, with a vocabulary for these texts."""

    text = dataclasses.replace(CONFIG.text, vocab_size=TOKENIZER.vocab_size)
    return dataclasses.replace(CONFIG, text=text, image_token_id=TOKENIZER.special_ids["<image>"])


def one_step(params, batch, stage, *, microbatches=1, devices=1):
    """Loss and gradient of a step of plain descent of rate 1."""
    objective = make_objective(stage, Scorer(config(), remat="full"))
    frozen = {"reference": jax.tree.map(lambda x: 0.9 * x, params)} if isinstance(stage, Preference) else {}
    state = build_state({"model": params}, optax.sgd(1.0), objective, jax.random.key(0))
    step = jax.jit(make_step(objective, optax.sgd(1.0), optax.constant_schedule(1.0), microbatches=microbatches))
    mesh = make_mesh({"fsdp": devices}, jax.devices()[:devices])
    with use_mesh(mesh):
        placed = jax.device_put((state, frozen), replicated(mesh))
        new, metrics = step(*placed, put_batch(batch, mesh))
    return float(metrics["loss"].value()), jax.tree.map(lambda a, b: a - np.asarray(b), params, new.params["model"])


def alike(found, wanted):
    assert found[0] == pytest.approx(wanted[0], rel=2e-6)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found[1]), jax.tree.leaves(wanted[1]), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=max(1e-5 * np.abs(b).max(), 1e-7), err_msg=str(path))


PAIRS = Preference(loss=DPO(beta=0.5), precompute_ref_log_probs=False)


def test_pairs_packed_are_those_alone_in_logits_and_gradients_and_on_eight_devices(folder, params):
    dense, alone = whole(folder), whole(folder, ALONE)
    assert dense.slots > 1 == alone.slots
    assert dense.media["image"].values.shape != alone.media["image"].values.shape
    score = jax.jit(lambda batch: Scorer(config()).logps(params, batch))
    found = {}
    for batch in (dense, alone):
        logps = score(batch)
        for role in ("chosen", "rejected"):
            of_role = np.asarray(rows_of(logps, batch.roles[role], batch))
            for n in np.flatnonzero(batch.example_id >= 0).tolist():
                found.setdefault((role, int(batch.example_id[n])), []).append(np.trim_zeros(of_role[n], "b"))
    assert len(found) == 24
    for a, b in found.values():
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    wanted = one_step(params, dense, PAIRS)
    assert any(np.any(np.asarray(x)) for x in jax.tree.leaves(wanted[1]["vision"])), "the tower learns"
    alike(one_step(params, alone, PAIRS), wanted)
    alike(one_step(params, dense, PAIRS, microbatches=2, devices=4), wanted)


def test_rates_are_five_to_five_to_one_and_a_fixed_tower_stays(folder, params):
    batch = whole(folder, name="sft")
    optimizer = Optimizer(learning_rate=1e-3, warmup_steps=0, weight_decay=0.0, lr_factors=(("model/vision/*", 0.2),))
    objective, tables = make_objective(SFT(), Scorer(config())), own_tables(SFT(), config())
    schedule = make_schedule(optimizer, 10)
    made = make_optimizer(optimizer, tables, schedule)
    state = build_state({"model": params}, made, objective, jax.random.key(0))
    new, _ = jax.jit(make_step(objective, made, schedule))(state, {}, batch)
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), params, new.params["model"])
    # Adam's first step is its rate, whatever the gradient.
    assert moved["vision"]["layers"]["0"]["mlp"]["fc1"]["weight"] == pytest.approx(2e-4, rel=1e-2)
    assert moved["connector"]["linear_1"]["weight"] == pytest.approx(1e-3, rel=1e-2)
    assert moved["layers"]["0"]["feed_forward"]["w1"]["weight"] == pytest.approx(1e-3, rel=1e-2)


def test_an_adapter_of_the_language_model_learns_from_images(folder, params):
    stage = SFT(lora=LoRA(rank=2, target_modules=("layers/*/q_proj/weight", "layers/*/w1/weight")))
    objective, tables = make_objective(stage, Scorer(config())), own_tables(stage, config())
    whole_state = init_params(tables, jax.random.key(1))
    state = build_state(whole_state, optax.adam(1e-2), objective, jax.random.key(2))
    step = jax.jit(make_step(objective, optax.adam(1e-2), optax.constant_schedule(1e-2)))
    batch, losses = whole(folder, name="sft"), []
    for _ in range(3):
        state, metrics = step(state, {BASE: params}, batch)
        losses.append(float(metrics["loss"].value()))
    assert losses[-1] < losses[0]
