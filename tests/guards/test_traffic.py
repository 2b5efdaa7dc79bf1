"""What the loop asks of the devices per step: two programs, one batch in, one set of numbers out."""

import collections
import contextlib

import jax
import pytest
from train import toy_training as toy

from jaxpo.config import Pretrain
from jaxpo.train import loop
from jaxpo.train.watch import CompileWatch

SHORT, LONG = 4, 9
# No boundary but the end: what differs between a long and a short run is what a step does.
STAGE = Pretrain(name="toy", rows_per_step=toy.ROWS, save_steps=0, eval_steps=0, logging_steps=1)


@contextlib.contextmanager
def traced(directory, found):
    """Counts the events of JAX's own tracer by name; what stands within an event of the same name is part of it."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(str(directory), profiler_options=options):
        yield
    (file,) = directory.rglob("*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            ends = collections.defaultdict(float)
            for event in sorted(line.events, key=lambda e: (e.start_ns, -e.duration_ns)):
                if event.start_ns >= ends[event.name]:
                    ends[event.name] = event.start_ns + event.duration_ns
                    found[event.name] += 1


@pytest.fixture(scope="module")
def per_step(tmp_path_factory):
    """`(events per step, explicit transfers per step)` of the loop on the toy."""
    folder, counts = tmp_path_factory.mktemp("traffic"), []
    toy.train(folder / "warm", SHORT, stage=STAGE)
    for steps in (SHORT, LONG):
        found = collections.Counter()
        with traced(folder / f"trace{steps}", found):
            toy.train(folder / f"run{steps}", steps, stage=STAGE)
        counts.append(found)
    names = counts[1].keys() | counts[0].keys()
    return {name: (counts[1][name] - counts[0][name]) / (LONG - SHORT) for name in names}


def test_a_step_runs_the_step_and_the_tally_of_its_batch_and_nothing_else(per_step):
    dispatched = {name: n for name, n in per_step.items() if name.startswith("PjitFunction(") and n}
    assert dispatched == {"PjitFunction(raw_step)": 1, "PjitFunction(tally)": 1}


def test_arrays_read_per_step_are_those_of_the_metrics(per_step):
    """Each is fetched once; the state is not among them."""
    metrics = jax.eval_shape(toy.raw_step, jax.eval_shape(toy.new_state), {}, toy.batch_at(0))[1]
    wanted = len(jax.tree.leaves((metrics, loop.tally(toy.batch_at(0)))))
    assert per_step["np.asarray(jax.Array)"] == wanted


def test_one_put_and_one_fetch_per_step_and_no_transfer_that_is_not_asked_for(tmp_path, monkeypatch):
    calls = collections.Counter()
    real, mesh = jax.device_get, toy.mesh(1)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def get(x):
        calls["get"] += 1
        return real(x)

    def put(batch):
        calls["put"] += 1
        return jax.device_put(batch, everywhere)

    monkeypatch.setattr(jax, "device_get", get)
    for steps in (SHORT, LONG):
        calls.clear()
        with jax.transfer_guard("disallow"):
            toy.train(tmp_path / str(steps), steps, stage=STAGE, put=put, init=initial())
        assert calls == {"get": steps + 1, "put": steps}  # the last fetch: fingerprints of the checkpoint at the end


def initial():
    """`init` whose values are made outside the guarded loop."""
    state = toy.init()
    return lambda: state


def test_one_compilation_of_the_step_and_one_of_the_tally(tmp_path):
    """A run compiles them at its first step, and nothing afterwards."""
    jax.clear_caches()
    seen = []
    with CompileWatch() as watch:

        def step(state, frozen, batch):
            out = fresh(state, frozen, batch)
            seen.append(watch.compilations)
            return out

        fresh = jax.jit(lambda *a: toy.raw_step(*a), donate_argnums=0)
        state = toy.init()
        before = watch.compilations
        toy.train(tmp_path, LONG, stage=STAGE, step=step, init=lambda: state)
    assert seen == [before + 2] * LONG
