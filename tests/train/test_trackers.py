"""A run that goes on is one curve for Weights & Biases: by a fake of its client, online and offline."""

import sys
import types

import pytest

from jaxpo.train.metrics import MetricsLog


class Service:
    """What W&B has received, and its client. A client that is online knows what arrived before it started."""

    def __init__(self, online):
        self.online, self.lines, self.axes, self.ids = online, [], set(), []

    def init(self, **options):
        self.ids.append((options["id"], options["resume"]))
        kept = {k: v for line in self.lines for k, v in line.items()} if self.online else {}
        log = types.SimpleNamespace(
            summary=kept,
            log=lambda values: self.lines.append(values),
            define_metric=lambda name, step_metric: self.axes.add((name, step_metric)),
            finish=lambda: None,
        )
        return log

    def curve(self, name):
        """Points in the order in which they came."""
        return [(r["sft/step"], r[f"sft/{name}"]) for r in self.lines if f"sft/{name}" in r]


@pytest.fixture(params=[True, False], ids=["online", "offline"])
def service(request, monkeypatch):
    found = Service(request.param)
    module = types.ModuleType("wandb")
    module.init = found.init
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return found


def train(directory, first, last, *, value=1.0):
    with MetricsLog(directory / "m.jsonl", ("wandb",), run_name="r") as log:
        log.truncate("sft", first - 1)
        for step in range(first, last + 1):
            log.write({"stage": "sft", "step": step, "loss": value / step})


def test_steps_that_are_taken_again_are_one_curve(service, tmp_path):
    """Killed at step 5 after a save at step 2; then to the end. Repeated points are the same ones."""
    train(tmp_path, 1, 5)
    train(tmp_path, 3, 8)
    points = service.curve("loss")
    steps = [step for step, _ in points]
    assert steps == sorted(steps)
    assert dict(points) == {n: 1.0 / n for n in range(1, 9)}
    assert len(set(service.ids)) == 1
    assert service.axes == {("sft/*", "sft/step")}
    assert len({k for line in service.lines for k in line}) == 2


def test_what_never_arrived_is_sent(tmp_path, monkeypatch):
    """Online: of the five lines two had not left the machine when it died."""
    service = Service(True)
    module = types.ModuleType("wandb")
    module.init, module.__spec__ = service.init, types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "wandb", module)
    train(tmp_path, 1, 5)
    del service.lines[3:]
    train(tmp_path, 3, 8)
    assert dict(service.curve("loss")) == {n: 1.0 / n for n in range(1, 9)}
