"""Random draws of a step belong to rows and examples, not to the devices that they lie on."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxpo.ops.dropout import dropout
from jaxpo.sharding import make_mesh


@pytest.mark.parametrize("axes", [("fsdp", None, None), ("fsdp", "sequence", None), (None, "sequence", "tensor")])
def test_dropout_does_not_depend_on_where_an_activation_lies(axes):
    """Bit for bit, on eight devices as on one: rows, positions or channels cut."""
    mesh = make_mesh({"fsdp": 2, "sequence": 2, "tensor": 2})
    x = np.random.default_rng(0).standard_normal((4, 6, 8)).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 4)
    run = jax.jit(lambda x, keys: dropout(x, keys, 0.3))
    alone = run(x, keys)
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))
    spread = run(placed, jax.device_put(keys, NamedSharding(mesh, PartitionSpec(axes[0]))))
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_array_equal(np.asarray(spread), np.asarray(alone))
    assert 0 < np.mean(np.asarray(alone) == 0) < 1
