"""A stage of pairs and answers by several processes: what one process learns."""

import json

import jax
import numpy as np
import pytest
from hosts.test_online import lines, weights
from online.test_hybrid import hybrid
from online.tiny import recipe
from stages.process import finish, finish_all, places, start

from jaxpo.config.serialise import to_jsonable


@pytest.mark.scale
@pytest.mark.slow  # a run by one process, and one by two
def test_two_processes_learn_what_one_does(tmp_path):
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps(to_jsonable(recipe(tmp_path, hybrid(tmp_path)))))
    code, out = finish(start(config, "--run", "one", devices=2))
    assert code == 0, out
    codes, outputs = finish_all([start(config, "--run", "two", environ=place) for place in places(2)])
    assert codes == [0, 0], outputs
    one, two = (tmp_path / "runs" / name for name in ("one", "two"))
    for a, b in zip(lines(one), lines(two), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if isinstance(value, float):
                np.testing.assert_allclose(b[name], value, rtol=1e-3, atol=2e-4, err_msg=name)
            else:
                assert b[name] == value, name
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-3, atol=2e-4), weights(one), weights(two))
