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


@pytest.mark.parametrize("counts", [(1, 2), pytest.param((1, 2, 4, 1), marks=pytest.mark.slow)])
def test_more_processes_and_fewer_go_on(counts, together, tmp_path, monkeypatch):
    """Pairs with log-probs of a reference that the first process recorded."""
    whole = recipe(tmp_path)
    run = dataclasses.replace(whole, stages=whole.stages[-1:])
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps(to_jsonable(run)))
    on_devices(monkeypatch, 1)
    assert follow.follow(dataclasses.replace(run, name="alone"), tmp_path / "alone" / "0") == 0

    for i, count in enumerate(counts):
        step = i + 1 if i + 1 < len(counts) else 0
        codes, out = together(config, tmp_path / "many" / str(i), ("preference", step), count)
        assert codes == [143 if step else 0] * count, out
    one, many = (follow.given(tmp_path / name, "preference") for name in ("alone", "many"))
    assert many == one
    follow.assert_none_is_lost(many, 60)
    logs = [list(read_metrics(tmp_path / "runs" / name / "metrics.jsonl")) for name in (run.name, "alone")]
    follow.assert_alike(*logs, rtol=1e-4)
