"""Drawing parameters: the same numbers by one program or many, and one program for each shape."""

import jax
import numpy as np

from jaxpo.models.spec import Param, _gaussian, init_params, normal, ones

TABLE = {
    "first": {"weight": Param((6, 5), (None, None), normal(0.02))},
    "second": {"weight": Param((6, 5), (None, None), normal(0.02))},
    "wide": {"weight": Param((5, 6), (None, None), normal(0.02))},
    "norm": {"weight": Param((5,), (None,), ones)},
}


def test_parameters_of_one_shape_share_a_program_and_are_those_of_one_for_all():
    """A program that draws a whole model holds the generator once for each parameter: half of a cold start."""
    before = _gaussian._cache_size()
    drawn = init_params(TABLE, jax.random.key(3))
    assert _gaussian._cache_size() - before == 2
    at_once = jax.jit(lambda key: init_params(TABLE, key))(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, drawn, at_once)
    assert not np.array_equal(drawn["first"]["weight"], drawn["second"]["weight"])
