"""What the program of a training step holds, lowered and compiled: nothing here looks at the clock."""

import collections
import re

import jax
import pytest
from contracts.batches import make_examples, packed
from contracts.harness import CONFIG, DESCENT, SCHEDULE

from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.ops import head, linear
from jaxpo.sharding import batch_sharding, make_mesh, use_mesh
from jaxpo.train.init import abstract_state, init_state
from jaxpo.train.step import make_step

COLLECTIVE = re.compile(r"= .* (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
# Products of a weight: those of attention have batch axes, which stand first.
SEVERAL = re.compile(r"dot_general %\S+, %\S+, contracting_dims = \[\d+, \d+")


def lowered(sizes, devices):
    """The step of next-token training on a mesh, before the compiler."""
    tables, objective = {"model": param_table(CONFIG)}, next_token(Scorer(CONFIG))
    mesh = make_mesh(sizes, jax.devices()[:devices])
    with use_mesh(mesh):
        abstract = abstract_state(tables, DESCENT, objective, mesh)
        params = {"model": init_params(tables["model"], jax.random.key(0))}
        state = init_state(abstract, params, DESCENT, objective, seed=0)
        batch = jax.device_put(packed(make_examples("text", 16, 0)), batch_sharding(mesh))
        step = make_step(objective, DESCENT, SCHEDULE, microbatches=1)
        shardings = jax.tree.map(lambda a: a.sharding, abstract)
        return jax.jit(step, out_shardings=(shardings, None)).lower(state, {}, batch)


def collectives(sizes):
    """How many of each kind the compiled step has on eight devices."""
    return collections.Counter(COLLECTIVE.findall(lowered(sizes, 8).compile().as_text()))


def apart(monkeypatch):
    """Every product over rows and positions as two axes."""
    for module in (linear, head):
        monkeypatch.setattr(module, "over_positions", lambda product, x: product(x))


def test_no_product_contracts_rows_and_positions_apart(monkeypatch):
    assert not SEVERAL.findall(lowered({"fsdp": 1}, 1).as_text())
    apart(monkeypatch)
    assert SEVERAL.search(lowered({"fsdp": 1}, 1).as_text())


MESHES = [
    ({"fsdp": 4, "tensor": 2}, {"all-reduce": 19, "all-gather": 13, "collective-permute": 2}),
    ({"sequence": 2, "fsdp": 4}, {"all-gather": 8, "collective-permute": 14, "all-reduce": 6}),
]


@pytest.mark.parametrize(("sizes", "most"), MESHES, ids=str)
def test_a_mesh_costs_no_more_collectives_than_it_did_and_joined_axes_none(monkeypatch, sizes, most):
    joined = collectives(sizes)
    assert joined
    assert joined <= collections.Counter(most)
    apart(monkeypatch)
    assert joined == collectives(sizes)
