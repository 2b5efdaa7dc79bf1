"""What the tower costs: operations against those of its program, memory against a compiled step, a dry run's images."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.config import SFT, Compute, Data, Images, ImageSettings, Optimizer, Pretrain, Run
from jaxpo.data.packing.batch import Media
from jaxpo.models.family import family, param_table, preset
from jaxpo.models.lfm2_vl.forward import image_vectors
from jaxpo.models.parts import PatchLoad
from jaxpo.models.spec import abstract_params, leaves
from jaxpo.sharding import make_mesh, use_mesh
from jaxpo.stages.abstract_batch import patches_per_row, stage_batch
from jaxpo.stages.abstract_step import abstract_step
from jaxpo.stages.assemble import make_scorer
from jaxpo.stages.dry_run import plan
from jaxpo.stages.remat import estimates, fitted, load_of, tower_of
from jaxpo.stages.trained import flops_per_token
from jaxpo.train.flops import spared_flops_per_token, training_flops_per_token, work_per_token
from jaxpo.train.jaxpr_flops import count_flops

NANO = preset("nano_vl")
CONFIG = dataclasses.replace(
    NANO,
    text=dataclasses.replace(NANO.text, vocab_size=128, hidden_size=64, layer_types=("conv",), intermediate_size=64),
    vision=dataclasses.replace(NANO.vision, hidden_size=128, intermediate_size=512, num_hidden_layers=2),
    image_token_id=3,
)
SIZES = ImageSettings(encoder_patch_size=4, tile_size=64, max_image_tokens=64)
STAGE = Pretrain(
    data=Data(train=("rows.jsonl",), max_length=256, row_length=256, images=Images(sizes=SIZES)), rows_per_step=8
)
PATCHES, TOKENS = 256.0, 256.0
LOAD = PatchLoad(PATCHES / TOKENS, PATCHES)


def grid(rows, patches):
    """Shapes of packed images."""
    array = jax.ShapeDtypeStruct
    return Media(
        array((rows, patches, CONFIG.vision.patch_values), np.uint8),
        array((rows, patches), np.int32),
        array((rows, patches, 4), np.int32),
    )


def test_operations_of_a_patch_are_those_of_the_program():
    """Of rows that one image fills, so that each patch attends to all of them."""
    params = abstract_params(param_table(CONFIG))

    def see(params, media):
        return image_vectors(params, media, config=CONFIG, dtype=jnp.float32, remat=False, attention=None)

    counted = count_flops(see, params, grid(2, 64))
    parts = family(CONFIG).encoder.parts(CONFIG, PatchLoad(1.0, 64.0))
    assert not counted.unknown
    assert counted.flops == pytest.approx(2 * 64 * sum(2 * part.entries + part.between for part in parts))


def test_a_token_costs_what_comes_with_it():
    """A connector vector is of four patches, so a token with a patch has a quarter of the connector's work."""
    text = training_flops_per_token(CONFIG, 8.0)
    assert text == training_flops_per_token(CONFIG.text, 8.0)
    sizes = {path: p.size for path, p in leaves(param_table(CONFIG)) if len(p.shape) > 1}
    tower = sum(n for path, n in sizes.items() if path.startswith("vision/"))
    connector = sum(n for path, n in sizes.items() if path.startswith("connector/"))
    mixing = 2 * 4 * 128 * 100
    seeing = training_flops_per_token(CONFIG, 8.0, PatchLoad(2.0, 100.0)) - text
    assert seeing == pytest.approx(3 * (2 * (2 * tower + mixing) + 2 * 2 * connector / 4))
    # What was recorded is read: the connector alone computes.
    recorded = training_flops_per_token(CONFIG, 8.0, PatchLoad(2.0, 100.0, recorded=True)) - text
    assert recorded == pytest.approx(3 * 2 * 2 * connector / 4)


def test_a_fixed_tower_has_no_way_back():
    """Forward alone, a third, where the connector or what stands above it is trained."""
    media, whole = PatchLoad(1.0, 64.0), work_per_token(CONFIG, 8.0, PatchLoad(1.0, 64.0))
    tower, connector, *text = whole.parts
    spared = spared_flops_per_token(CONFIG, 8.0, [], reached=["connector/linear_1/weight"], media=media)
    assert spared == 2 * (2 * tower.entries + tower.between + connector.entries + sum(p.entries for p in text))
    stage = SFT(train=("model/connector/*",))
    found = flops_per_token(stage, CONFIG, 8.0, media)
    between = sum(p.between for p in text)
    once = 2 * tower.entries + tower.between
    assert found == pytest.approx(once + 6 * connector.entries + sum(4 * p.entries for p in text) + 3 * between)


@pytest.mark.parametrize(
    "train",
    [pytest.param(("*",), marks=pytest.mark.slow), ("model/connector/*", "model/layers/*")],
    ids=["trained", "fixed"],
)
def test_memory_is_near_a_compiled_step(train):
    stage, mesh = dataclasses.replace(STAGE, train=train), make_mesh({}, jax.devices()[:1])
    batch = stage_batch(stage, CONFIG, mesh)
    with use_mesh(mesh):
        frozen = {} if train == ("*",) else {"fixed part": fixed_part(stage)}
        step = abstract_step(stage, CONFIG, Compute(), mesh, {}, batch, frozen)
        compiled = step.lower().compile().memory_analysis()
    tower = tower_of(stage, CONFIG, step.assembly)
    assert tower == ("trained" if train == ("*",) else "fixed")
    load = load_of(stage, step.assembly, frozen, mesh, patches=patches_per_row(batch), tower=tower)
    found = estimates(make_scorer(CONFIG, Compute()), load, mesh)["none"]
    blind = estimates(make_scorer(CONFIG, Compute()), dataclasses.replace(load, patches=0.0), mesh)["none"]
    assert 1 / 1.5 < compiled.temp_size_in_bytes / found.temporary < 1.5
    if tower == "trained":
        assert compiled.temp_size_in_bytes > 2 * blind.temporary


def fixed_part(stage):
    """Shapes of what a stage does not train."""
    from jaxpo.models.paths import split_table

    return abstract_params(split_table({"model": param_table(CONFIG)}, stage.train)[1])


def test_a_policy_is_chosen_with_the_tower_in_sight():
    """Images that fill a device have layers recomputed; beside a tower without a way back they need not be."""
    mesh, config = make_mesh({}, jax.devices()[:1]), preset("lfm2_vl_450m")
    scorer = dataclasses.replace(make_scorer(config, Compute(remat="auto", scan=True)), dtype="bfloat16")
    stage = dataclasses.replace(STAGE, rows_per_step=1)
    batch = stage_batch(stage, config, mesh)
    with use_mesh(mesh):
        step = abstract_step(stage, config, Compute(), mesh, {}, batch)
    size = lambda tower: load_of(stage, step.assembly, {}, mesh, patches=40_960.0, tower=tower)  # noqa: E731
    chosen = {}
    for tower in ("trained", "fixed", "recorded"):
        found = estimates(scorer, size(tower), mesh)
        assert found["full"].total <= found["none"].total
        chosen[tower] = fitted(scorer, Compute(remat="auto", memory_gib=16.0), size(tower), mesh)[0].remat
    assert chosen == {"trained": "dots", "fixed": "none", "recorded": "none"}


def test_a_dry_run_shows_images():
    """As many as fit: a row of 256 tokens holds one of at most 64 vectors beside 128 tokens of text."""
    mesh = make_mesh({}, jax.devices()[:1])
    batch = stage_batch(STAGE, CONFIG, mesh)
    (media,) = batch.media.values()
    assert media.values.shape == (8, 4 * 64, 3 * 4**2)
    assert (media.values.dtype, batch.per_token["media"].shape) == (np.uint8, (8, 256))
    own = dataclasses.replace(STAGE.data, media_rows=3, media_length=128, block_rows=4)
    (media,) = stage_batch(dataclasses.replace(STAGE, data=own), CONFIG, mesh).media.values()
    assert media.segment_ids.shape == (2 * 3, 128)
    assert stage_batch(STAGE, CONFIG.text, mesh).media == {}
    run = Run(model=CONFIG, stages=(dataclasses.replace(STAGE, max_steps=1, optimizer=Optimizer()),))
    found = plan(run, run.stages[0], mesh, compile_it=False)
    tokens = 8 * 256
    text = training_flops_per_token(CONFIG, 256.0) * tokens
    assert found.work.flops == pytest.approx(training_flops_per_token(CONFIG, 256.0, LOAD) * tokens, rel=0.1)
    assert found.work.flops > 1.5 * text
    assert found.estimate is not None
