"""A run that one process begins, two go on with and four end trains as one that was left alone."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from elastic import follow
from elastic.test_devices import recipe
from stages.process import ROOT, on_devices, places

from jaxpo.config import Mesh
from jaxpo.config.serialise import to_jsonable
from jaxpo.train.metrics import read_metrics

pytestmark = pytest.mark.scale


def start(config: Path, notes: Path, stop_at: tuple[str, int], environ: dict[str, str]) -> subprocess.Popen[str]:
    """One process, with one device, of the run."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    command = [sys.executable, follow.__file__, str(config), str(notes), stop_at[0], str(stop_at[1])]
    return subprocess.Popen(
        command,
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)} | environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture
def together():
    """Starts processes and gives their exit statuses and outputs; none outlives the test."""
    begun = []

    def run(config, notes, stop_at, count):
        environments = places(count) if count > 1 else [{}]
        begun.extend(started := [start(config, notes, stop_at, environ) for environ in environments])
        outputs = [process.communicate(timeout=600)[0] for process in started]
        return [process.returncode for process in started], "".join(outputs)

    yield run
    for process in begun:
        process.kill()
        process.wait()


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
def test_more_processes_and_fewer_go_on(run, counts, together, tmp_path):
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
def test_processes_that_share_a_model_pass_the_same_rows(run, together, tmp_path):
    """Cut along `tensor` across processes, a batch is whole on each: both read all of it."""
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps(to_jsonable(dataclasses.replace(run, mesh=Mesh(fsdp=1, tensor=2)))))
    codes, out = together(config, tmp_path / "many" / "0", ("preference", 0), 2)
    assert codes == [0, 0], out
    # Each has noted every example.
    (tmp_path / "many" / "0" / "1.jsonl").unlink()
    assert_as_alone(tmp_path)
