"""A microbatch without an example is not computed, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train import toy_images as toy

from jaxpo.sharding import batch_sharding, make_mesh, use_mesh
from jaxpo.train.step import make_step

PARTS, ROWS = 4, 16  # 8 blocks: microbatch i has blocks i and i + 4
PATTERNS = {  # absent blocks -> microbatches that have an example
    (): 4,
    (1, 5): 3,
    (1, 2, 5, 6): 2,
    (1, 2, 3, 4, 5, 6, 7): 1,
    (1, 2, 3): 4,
}


def program(coupled, parts, ran=None):
    objective = toy.denoising(coupled=coupled, ran=ran)
    return jax.jit(make_step(objective, toy.OPTIMIZER, optax.constant_schedule(3e-2), microbatches=parts))


def outcome(step, batch):
    state, metrics = step(toy.new_state(), {}, batch)
    values = {name: float(m.value()) for name, m in metrics.items()}
    return np.asarray(state.params["model"]["w"]), values


@pytest.mark.parametrize("coupled", [False, True])
def test_empty_microbatches_are_skipped_in_one_program(coupled):
    """The outcome of all rows at once; the network runs (coupled: twice) where there is an example, and only there."""
    ran = []
    whole, step = program(coupled, 1), program(coupled, PARTS, lambda: ran.append(1))
    for absent, filled in PATTERNS.items():
        batch = toy.images(ROWS, absent=absent)
        change, metrics = outcome(step, batch)
        jax.effects_barrier()
        assert len(ran) == filled * (1 + coupled), absent
        ran.clear()
        wanted_change, wanted = outcome(whole, batch)
        np.testing.assert_allclose(change, wanted_change, rtol=1e-4, atol=1e-6)
        assert metrics == pytest.approx(wanted, rel=1e-5)
        assert metrics["loss"] > 0
    assert step._cache_size() == 1


def test_a_coupled_step_of_one_microbatch_runs_its_network_once():
    ran = []
    outcome(program(True, 1, lambda: ran.append(1)), toy.images(ROWS))
    assert len(ran) == 1


@pytest.mark.parametrize("coupled", [False, True])
def test_a_step_without_any_example_keeps_the_gradient_at_zero(coupled):
    change, metrics = outcome(program(coupled, PARTS), toy.images(ROWS, absent=range(ROWS)))
    assert metrics["skipped"] == metrics["grad_norm"] == 0
    assert not change.any()


@pytest.mark.parametrize("coupled", [False, True])
def test_what_an_empty_microbatch_holds_does_not_matter(coupled):
    """Its values are never read: what would be no number stays out."""
    batch = toy.images(ROWS, absent=(1, 5))
    spoilt = batch.replace(pixels=np.where(batch.present[:, None, None], batch.pixels, np.nan).astype(np.float32))
    step = program(coupled, PARTS)
    clean, dirty = outcome(step, batch), outcome(step, spoilt)
    np.testing.assert_array_equal(clean[0], dirty[0])
    assert clean[1] == dirty[1]


@pytest.mark.parametrize("coupled", [False, True])
def test_devices_agree_on_what_is_empty(coupled):
    """Eight devices, two microbatches: one is empty on some devices, then on all."""
    mesh = make_mesh({"fsdp": 8}, jax.devices()[:8])
    step = program(coupled, 2)
    for absent in ([1, 5, 9], list(range(1, 16, 2))):
        batch = toy.images(2 * ROWS, absent=absent)
        with use_mesh(mesh):
            change, metrics = outcome(step, jax.device_put(batch, batch_sharding(mesh)))
        wanted_change, wanted = outcome(program(coupled, 1), jax.tree.map(jnp.asarray, batch))
        np.testing.assert_allclose(change, wanted_change, rtol=1e-4, atol=1e-6)
        assert metrics == pytest.approx(wanted, rel=1e-5)
