"""Offloaded state in the program that is lowered for accelerators: brought in, and sent back."""

import jax
import jax.numpy as jnp
import pytest
from guards.programs import ATTENTION, Case, step_of
from jax.sharding import NamedSharding

from jaxpo.config import Optimizer
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import abstract_params
from jaxpo.sharding import make_mesh
from jaxpo.train.optimizer import make_optimizer, make_schedule
from jaxpo.train.optimizers import offload
from jaxpo.train.optimizers.offload import in_host_memory


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_every_moment_is_brought_to_the_device_and_back(platform):
    config, tables = Optimizer(offload=True), {"model": param_table(ATTENTION)}
    optimizer = make_optimizer(config, tables, make_schedule(config, 10))
    place = in_host_memory(make_mesh({"fsdp": 1}, jax.devices()[:1]))
    _, plain, _ = step_of(Case())
    assert isinstance(plain.step.sharding, NamedSharding)
    at = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x.sharding))  # noqa: E731
    state = jax.tree.map(at, plain.opt_state)
    params = {"model": abstract_params(tables["model"], jnp.float32)}
    update = jax.jit(optimizer.update, out_shardings=(None, jax.tree.map(lambda x: x.sharding, state)))
    text = update.trace(params, state, params).lower(lowering_platforms=(platform,)).as_text()
    leaves = len(jax.tree.leaves(state))
    assert text.count("annotate_device_placement") == 2 * leaves
    assert text.count("pinned_host") >= leaves


def test_devices_without_such_memory_are_refused(monkeypatch):
    monkeypatch.setattr(offload, "HOST", "memory_of_nobody")
    with pytest.raises(ConfigError, match=r"optimizer.offload: devices of the platform 'cpu'.*moments bfloat16"):
        in_host_memory(make_mesh({"fsdp": 1}, jax.devices()[:1]))
