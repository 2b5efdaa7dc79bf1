"""A run that one process begins, two go on with and four end trains as one that was left alone."""

import dataclasses
import json

import pytest
from elastic import follow
from elastic.test_devices import recipe
from stages.process import finish_all, on_devices, places, start_program

from jaxpo.config import Mesh
from jaxpo.config.serialise import to_jsonable
from jaxpo.train.metrics import read_metrics

pytestmark = pytest.mark.scale


def together(config, notes, stop_at, count):
    """Exit statuses and outputs of processes of the run, with one device each."""
    environments = places(count) if count > 1 else [{}]
    codes, outputs = finish_all(
        [start_program(follow.__file__, config, notes, *stop_at, environ=environ) for environ in environments]
    )
    return codes, "".join(outputs)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Pairs with log-probs of a reference that the first process records; one process has trained on them alone."""
    whole = recipe(tmp_path)
    found = dataclasses.replace(whole, stages=whole.stages[-1:])
    on_devices(monkeypatch, 1)
    assert follow.follow(dataclasses.replace(found, name="alone"), tmp_path / "alone" / "0") == 0
    return found


def assert_as_alone(folder):
    one, many = (follow.given(folder / name, "preference") for name in ("alone", "many"))
    assert many == one
    follow.assert_none_is_lost(many, 60)
    logs = [list(read_metrics(folder / "runs" / name / "metrics.jsonl")) for name in ("tiny", "alone")]
    follow.assert_alike(*logs, rtol=1e-4)


@pytest.mark.parametrize("counts", [(1, 2), pytest.param((1, 2, 4, 1), marks=pytest.mark.slow)])
def test_more_processes_and_fewer_go_on(run, counts, tmp_path):
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps(to_jsonable(run)))
    for i, count in enumerate(counts):
        step, notes = i + 1 if i + 1 < len(counts) else 0, tmp_path / "many" / str(i)
        if i == 0:
            assert follow.follow(run, notes, ("preference", step)) == 143
            continue
        codes, out = together(config, notes, ("preference", step), count)
        assert codes == [143 if step else 0] * count, out
    assert_as_alone(tmp_path)


@pytest.mark.slow
def test_processes_that_share_a_model_pass_the_same_rows(run, tmp_path):
    """Cut along `tensor` across processes, a batch is whole on each: both read all of it."""
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps(to_jsonable(dataclasses.replace(run, mesh=Mesh(fsdp=1, tensor=2)))))
    codes, out = together(config, tmp_path / "many" / "0", ("preference", 0), 2)
    assert codes == [0, 0], out
    # Each has noted every example.
    (tmp_path / "many" / "0" / "1.jsonl").unlink()
    assert_as_alone(tmp_path)
