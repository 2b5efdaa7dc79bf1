"""Generation by several processes that share the weights: what one process gives, weights swapped in between."""

import json
from pathlib import Path

import numpy as np
import pytest
from stages.process import finish, places, start_program

PEER = Path(__file__).with_name("engine_peer.py")


def generated(folder, count):
    out = folder / f"{count}.json"
    running = [start_program(PEER, out, environ=place) for place in places(count)]
    for process in running:
        code, said = finish(process)
        assert code == 0, said
    return json.loads(out.read_text())


@pytest.mark.scale
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_that_share_a_model_say_what_one_says(tmp_path, count):
    for many, one in zip(generated(tmp_path, count), generated(tmp_path, 1), strict=True):
        assert many[0] == one[0]
        assert many[2] == one[2]
        np.testing.assert_allclose(many[1], one[1], atol=1e-5)
