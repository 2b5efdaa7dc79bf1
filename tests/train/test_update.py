"""The update is optax's in values and in its state, and a skipped step leaves every optimiser as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpo.checkpoint.leaves import named_leaves
from jaxpo.config import Adafactor, Muon, Optimizer
from jaxpo.models.spec import Param, init_params, normal, ones
from jaxpo.train.optimizer import make_optimizer, make_schedule
from jaxpo.train.optimizers.adamw import decay_mask
from jaxpo.train.optimizers.gate import Gated, chained, gated

TABLE = {
    "matrix": Param((64, 96), ("embed", "mlp"), normal(0.5), muon=((0,), (1,))),
    "taps": Param((3, 64), (None, "conv"), normal(0.5)),
    "norm": Param((64,), ("norm",), ones, decay=False),
}
TABLES = {"model": TABLE}


def draws(seed):
    return {"model": init_params(TABLE, jax.random.key(seed))}


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("max_grad_norm", [np.inf, 1.0], ids=["whole", "clipped"])
def test_adamw_is_that_of_optax_and_so_is_its_state(max_grad_norm):
    """Checkpoints that `optax.adamw` wrote are restored by name; only clipping rounds otherwise."""
    config = Optimizer(max_grad_norm=max_grad_norm, warmup_steps=2)
    schedule = make_schedule(config, 10)
    theirs = optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.adamw(
            schedule, b1=config.adam_beta1, b2=config.adam_beta2, eps=config.adam_epsilon,
            weight_decay=config.weight_decay, mask=decay_mask(TABLES), mu_dtype=jnp.float32,
        ),
    )  # fmt: skip
    outcomes, params = [], draws(0)
    for optimizer in (make_optimizer(config, TABLES, schedule), theirs):
        state, update, total = optimizer.init(params), jax.jit(optimizer.update), []
        for i in range(4):
            updates, state = update(draws(i + 1), state, params)
            total.append(updates)
        outcomes.append(({n: (x.shape, x.dtype) for n, x in named_leaves(state).items()}, total, state))
    ours, expected = outcomes
    assert ours[0] == expected[0]
    for a, b in zip(jax.tree.leaves(ours[1:]), jax.tree.leaves(expected[1:]), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-9)


CONFIGS = [Optimizer(), Optimizer(moments="int8"), Muon(), Adafactor(momentum=0.9), Optimizer(lr_factors=(("*", 2.0),))]


@pytest.mark.parametrize("config", CONFIGS, ids=["adamw", "int8", "muon", "adafactor", "factors"])
def test_a_skipped_step_leaves_the_state_as_it_was(config):
    optimizer, params = make_optimizer(config, TABLES, make_schedule(config, 10)), draws(0)
    update = jax.jit(optimizer.update)
    _, state = update(draws(1), optimizer.init(params), params, ok=True)
    broken = jax.tree.map(lambda g: g * jnp.nan, draws(2))
    assert equal(update(broken, state, params, ok=False)[1], state)
    _, moved = update(draws(2), state, params, ok=True)
    assert not equal(moved, state)
    assert equal(update(draws(2), state, params)[1], moved)


def test_any_transformation_can_be_gated_once():
    plain = optax.adam(1e-2)
    once = gated(plain)
    assert gated(once) is once
    assert isinstance(chained(plain, optax.scale(2.0)), Gated)
    params = draws(0)
    state = once.init(params)
    assert equal(once.update(draws(1), state, params, ok=False)[1], state)
    assert equal(
        once.update(draws(1), state, params, ok=True)[1], plain.update(draws(1), plain.init(params), params)[1]
    )
