"""Every kind of stage on every mesh: one step's loss and gradient as on one device, nothing gathered that is large."""

import jax
import numpy as np
import pytest
from meshes import guards
from meshes.every_kind import DENSE, LENGTH, MESHES, ROWS, STAGES, outcome

from jaxpo.sharding.collectives import totals
from jaxpo.stages.dry_run import held

pytestmark = pytest.mark.scale

# Programs that others contain: the same networks, with less beside them.
CONTAINED = ("SFT", "Preference")
# All kinds on this one; one on all; what has most beside it where positions or experts are spread as well.
COMMON = "fsdp 4 x tensor 2"
QUICK = {"Pretrain": tuple(MESHES), "Preference, adapters": ("sequence 2 x fsdp 4", "expert 4 x fsdp 2")}


def is_slow(stage, mesh):
    return stage in CONTAINED or mesh not in (COMMON, *QUICK.get(stage, ()))


CASES = [
    pytest.param(stage, mesh, marks=[pytest.mark.slow] if is_slow(stage, mesh) else [], id=f"{stage}, {mesh}")
    for stage in STAGES
    for mesh in MESHES
]
# How often the step of next-token training sends something, at most; of positions over devices the ops decide.
MOST = {
    "fsdp 8": {("all-gather", ("fsdp",)): 15, ("all-reduce", ("fsdp",)): 14, ("all-to-all", ("fsdp",)): 2},
    "fsdp 4 x tensor 2": {
        ("all-gather", ("fsdp",)): 16,
        ("all-gather", ("tensor",)): 2,
        ("all-reduce", ("fsdp",)): 8,
        ("all-reduce", ("tensor",)): 16,
        ("all-to-all", ("fsdp",)): 2,
        ("collective-permute", ("fsdp", "tensor")): 2,
    },
    "replica 2 x fsdp 4": {
        ("all-gather", ("fsdp",)): 15,
        ("all-gather", ("replica",)): 1,
        ("all-gather", ("replica", "fsdp")): 1,
        ("all-reduce", ("fsdp",)): 3,
        ("all-reduce", ("replica",)): 1,
        ("all-reduce", ("replica", "fsdp")): 2,
        ("all-to-all", ("fsdp",)): 1,
    },
}


def both(stage, mesh):
    """The outcomes on a mesh and on one device; experts are shared where the mesh has an axis for them."""
    experts = "expert" in mesh
    return outcome(stage, mesh, experts), outcome(stage, "", experts)


def bytes_of(tree):
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(("stage", "mesh"), CASES)
def test_loss_and_gradient_are_those_of_one_device(stage, mesh):
    many, one = both(stage, mesh)
    for name in ("loss", "grad_norm"):
        assert many.metrics[name] == pytest.approx(one.metrics[name], rel=2e-5), name
    assert one.metrics["grad_norm"] > 1e-3, "a step that learns nothing would prove nothing"
    assert one.metrics["skipped"] == 0
    assert many.moments.keys() == one.moments.keys()
    for name, expected in one.moments.items():
        allowed = 5e-5 * float(np.abs(expected).max(initial=0)) + 1e-9
        assert np.abs(many.moments[name].astype(float) - expected).max(initial=0) <= allowed, name


@pytest.mark.parametrize(("stage", "mesh"), CASES)
def test_no_logits_and_no_parameter_twice_are_gathered(stage, mesh):
    many, _ = both(stage, mesh)
    networks = (many.step.state.params, many.step.frozen)
    limits = {
        "parameters": bytes_of(networks),
        "largest": max(int(np.prod(x.shape)) for x in jax.tree.leaves(networks)),
        "activations": 4 * ROWS * LENGTH * DENSE.hidden_size,
        "records": 4 * ROWS * LENGTH * getattr(getattr(STAGES[stage], "loss", None), "top_k", 0),
    }
    assert limits["largest"] < ROWS * LENGTH * DENSE.vocab_size / 4, "logits must be larger on every mesh"
    assert not list(guards.problems(many.found, **limits))
    along = {axis for one in many.found for axis in one.axes}
    assert along <= {axis for axis, n in MESHES[mesh].items() if n > 1}


@pytest.mark.parametrize(("stage", "mesh"), CASES)
def test_what_a_device_holds_is_what_the_plan_says(stage, mesh):
    many, _ = both(stage, mesh)
    planned = held(many.step)
    assert many.held == planned.total - planned.batch


@pytest.mark.parametrize("mesh", MOST)
def test_a_step_sends_no_more_often_than_it_did(mesh):
    many, _ = both("Pretrain", mesh)
    sent = {key: total.count for key, total in totals(many.found).items()}
    assert sent
    assert {key: n for key, n in sent.items() if n > MOST[mesh].get(key, 0)} == {}
