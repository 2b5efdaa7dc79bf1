"""`jaxpo run` as one of two processes whose peer never comes."""

import json
import time

import stages.recipe as recipes
from stages.process import finish, places, start

from jaxpo.config.serialise import to_jsonable


def test_a_peer_that_never_comes_is_named_in_time(tmp_path):
    recipes.write_data(tmp_path)
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps(to_jsonable(recipes.recipe(tmp_path))))
    place = places(2, JAXPO_START_TIMEOUT="1")[0]
    began = time.monotonic()
    code, out = finish(start(config, "--run", "half", environ=place))
    assert code == 2, out
    assert f"process 1 did not come: 1 of 2 are missing at {place['JAX_COORDINATOR_ADDRESS']} (process 0)" in out
    assert time.monotonic() - began < 60
    assert not (tmp_path / "runs" / "half").exists()
