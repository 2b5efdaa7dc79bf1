"""The moving reference of a trained tiny model against trl's SyncRefModelCallback on the same policies."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from contracts.batches import make_examples, packed
from contracts.harness import CONFIG, DESCENT, SCHEDULE, SCORER

from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.wrappers.moving_reference import with_moving_reference
from jaxpo.train.init import build_state
from jaxpo.train.step import make_step

pytestmark = pytest.mark.parity
STEPS = 7


def module(torch, leaves):
    """A torch module that holds these arrays as its parameters."""
    return torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(np.asarray(x))) for x in leaves])


@pytest.mark.parametrize(("alpha", "every"), [(0.6, 3), (0.25, 2), (1.0, 4)])
def test_trls_callback_moves_the_same_reference_at_the_same_steps(alpha, every):
    torch = pytest.importorskip("torch")
    callbacks = pytest.importorskip("trl.trainer.callbacks")
    pytest.importorskip("accelerate").Accelerator(cpu=True)  # the callback asks its global state for deepspeed
    plain = METHODS["dpo"]().build(SCORER)
    objective = with_moving_reference(plain, alpha=alpha, every=every)
    params = {"model": init_params(param_table(CONFIG), jax.random.key(1))}
    state = build_state(params, DESCENT, objective, jax.random.key(3))
    step = jax.jit(make_step(objective, DESCENT, SCHEDULE))
    leaves = lambda tree: [np.asarray(x) for x in jax.tree.leaves(tree)]  # noqa: E731
    reference = module(torch, leaves(state.params["model"]))
    callback = callbacks.SyncRefModelCallback(ref_model=reference, accelerator=None)
    args = SimpleNamespace(ref_model_sync_steps=every, ref_model_mixup_alpha=alpha)
    before, moved = leaves(state.carry["reference"]), []
    for n in range(1, STEPS + 1):
        state, _ = step(state, {}, packed(make_examples("pair", 16, n % 2)))
        policy = module(torch, leaves(state.params["model"]))
        callback.on_step_end(args, SimpleNamespace(global_step=n), None, model=policy)
        ours = leaves(state.carry["reference"])
        for x, y in zip(ours, reference, strict=True):
            np.testing.assert_allclose(x, y.detach().numpy(), rtol=1e-6, atol=1e-7)
        if max(np.abs(x - y).max() for x, y in zip(ours, before, strict=True)) > 1e-4:
            moved.append(n)
        before = ours
    assert moved == [n for n in range(1, STEPS + 1) if n % every == 0]
