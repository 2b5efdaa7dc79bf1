"""Offloaded state in the program that is lowered for accelerators: brought in, and sent back."""

import jax
import jax.numpy as jnp
import pytest
from guards.programs import ATTENTION, Case, step_of
from jax.sharding import NamedSharding

from jaxpo.config import Compute, Optimizer, Pretrain, Run
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import abstract_params
from jaxpo.sharding import host_memory
from jaxpo.stages.offload import check_host_memory
from jaxpo.train.optimizer import make_optimizer, make_schedule
from jaxpo.train.optimizers.offload import in_host_memory


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_every_moment_is_brought_to_the_device_and_back(platform):
    config, tables = Optimizer(offload=True), {"model": param_table(ATTENTION)}
    optimizer = make_optimizer(config, tables, make_schedule(config, 10))
    _, plain, _ = step_of(Case())
    assert isinstance(plain.step.sharding, NamedSharding)
    at = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=in_host_memory(x.sharding))  # noqa: E731
    state = jax.tree.map(at, plain.opt_state)
    params = {"model": abstract_params(tables["model"], jnp.float32)}
    update = jax.jit(optimizer.update, out_shardings=(None, jax.tree.map(lambda x: x.sharding, state)))
    text = update.trace(params, state, params).lower(lowering_platforms=(platform,)).as_text()
    leaves = len(jax.tree.leaves(state))
    assert text.count("annotate_device_placement") == 2 * leaves
    assert text.count("pinned_host") >= leaves


def test_devices_without_such_memory_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(host_memory, "HOST", "memory_of_nobody")
    run = Run(stages=(Pretrain(name="base", optimizer=Optimizer(offload=True)),))
    with pytest.raises(ConfigError, match=r"base.optimizer.offload keeps .*\(cpu\) has only .*; leave it False"):
        check_host_memory(run)
    with pytest.raises(ConfigError, match=r"compute.remat 'offload' keeps .*; choose 'full' instead"):
        check_host_memory(Run(compute=Compute(remat="offload")))
    check_host_memory(Run(stages=(Pretrain(name="base"),)))
    _, state, _ = step_of(Case())
    with pytest.raises(ConfigError, match=r"optimizer.offload keeps"):
        in_host_memory(state.step.sharding)
