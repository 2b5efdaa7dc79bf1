"""LFM2-VL as a family: batches with images through stages' objectives, adapters, patterns, checkpoints."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contracts.batches import make_examples, packed
from contracts.families import EXAMPLES

from jaxpo.config import LoRA, Pretrain
from jaxpo.convert.model_io import load_model, save_model
from jaxpo.data.packing.batch import Media
from jaxpo.errors import ConfigError
from jaxpo.models.family import family, limits, param_table, preset
from jaxpo.models.paths import cut, split_table
from jaxpo.models.spec import init_params, leaves, param_count
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.wrappers.fixed import FIXED
from jaxpo.objectives.wrappers.lora import BASE
from jaxpo.stages.assemble import make_objective, own_tables
from jaxpo.train.flops import spared_flops_per_token, training_flops_per_token
from jaxpo.train.init import build_state
from jaxpo.train.step import make_step

CONFIG = EXAMPLES["jaxpo.models.lfm2_vl.config:LFM2VLConfig"]
TABLE = param_table(CONFIG)
PLACES = np.asarray([[0, 0, 2, 2], [0, 1, 2, 2], [1, 0, 2, 2], [1, 1, 2, 2]], np.int32)
ADAPTED = LoRA(rank=2, target_modules=("vision/layers/*_proj/weight",))


@pytest.fixture(scope="module")
def weights():
    drawn = init_params(TABLE, jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), drawn)


def with_images(batch, kind="image"):
    """The batch with an image of four patches in every block, whose vector takes the place of a first token."""
    drawn = np.random.default_rng(0).integers(0, 256, (batch.blocks, 4, 12)).astype(np.uint8)
    segments, positions = np.ones((batch.blocks, 4), np.int32), np.tile(PLACES, (batch.blocks, 1, 1))
    first = (batch.positions == 0) & (batch.segment_ids == 1)
    places = jnp.where(first & (jnp.arange(batch.rows)[:, None] % batch.block_rows == 0), 0, -1)
    media = {kind: Media(*map(jnp.asarray, (drawn, segments, positions)))}
    return dataclasses.replace(batch, media=media, per_token={**batch.per_token, "media": places})


@pytest.mark.parametrize(
    ("stage", "moved"),
    [
        pytest.param(
            Pretrain(), {"connector", "embed_tokens", "embedding_norm", "layers", "vision"}, marks=pytest.mark.slow
        ),
        (Pretrain(train=("model/connector/*",)), {"connector"}),
        (Pretrain(lora=ADAPTED), {"vision"}),
    ],
    ids=["everything", "the connector", "an adapter of the tower"],
)
def test_a_stage_on_images_moves_what_it_trains(weights, stage, moved):
    objective, tables = make_objective(stage, Scorer(CONFIG, remat="full")), own_tables(stage, CONFIG)
    whole = {"model": weights} if stage.lora is None else init_params(tables, jax.random.key(1))
    trained, fixed = split_table(tables, stage.train)
    frozen = {BASE: weights} if stage.lora else {FIXED: cut(fixed, whole)} if fixed else {}
    start = build_state(cut(trained, whole), optax.sgd(0.05), objective, jax.random.key(2))
    step = jax.jit(make_step(objective, optax.sgd(0.05), optax.constant_schedule(0.05), microbatches=2))
    batch = with_images(packed(make_examples("text", 16)))
    state, losses = start, []
    for _ in range(3):
        state, metrics = step(state, frozen, batch)
        losses.append(float(metrics["loss"].value()))
    assert losses[-1] < losses[0]
    ((_, before),), ((_, after),) = start.params.items(), state.params.items()
    assert set(before) == moved
    assert all(any(map(np.any, jax.tree.leaves(jax.tree.map(jnp.subtract, before[n], after[n])))) for n in moved)


def test_images_change_what_is_scored_and_other_media_are_refused(weights):
    batch = packed(make_examples("text", 16))
    logps = jax.jit(lambda b: Scorer(CONFIG).logps(weights, b))
    assert np.abs(np.asarray(logps(with_images(batch)) - logps(batch))).max() > 1e-3
    with pytest.raises(ConfigError, match="carries sound, and lfm2_vl reads text and images"):
        Scorer(CONFIG).hidden(weights, with_images(batch, "sound"))


def test_it_is_kept_with_its_configuration(weights, tmp_path):
    save_model(tmp_path, {"model": weights}, CONFIG, {"stage": "test"})
    loaded = load_model(tmp_path)
    assert loaded.config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, loaded.params["model"], weights)


def test_a_fixed_tower_spares_what_stands_below_the_first_trained_part():
    paths = [path for path, _ in leaves(TABLE)]
    text = [path for path in paths if not path.startswith(("vision", "connector"))]
    whole = training_flops_per_token(CONFIG, 8.0)
    assert whole == training_flops_per_token(CONFIG.text, 8.0)
    # A connector that is trained lies below the language model: its gradient passes all layers.
    through = spared_flops_per_token(CONFIG, 8.0, [], reached=["connector/linear_1/weight"])
    matrices = family(CONFIG).flops(CONFIG, 8.0).matrices
    assert through == 2.0 * matrices
    assert spared_flops_per_token(CONFIG, 8.0, text, reached=text) == 0


def test_presets_are_of_the_released_sizes():
    assert param_count(param_table(preset("lfm2_vl_450m"))) == 450_822_656
    assert param_count(param_table(preset("lfm2_vl_1_6b"))) == 1_600_043_504
    assert limits(preset("lfm2_vl_3b")).vocabulary == 65_536
