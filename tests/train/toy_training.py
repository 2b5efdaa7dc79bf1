"""A quadratic model, its jitted step, and a source of numpy batches: what `fit` needs, and nothing of the real ones.

Run as a program it trains in a directory, for tests that kill it:
`toy_training.py DIRECTORY STEPS DELAY HOLD`, one process or those that the environment names.
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import Pretrain
from jaxpo.data.packing.batch import Batch
from jaxpo.errors import JaxpoError, file_problem
from jaxpo.objectives.base import Max, Mean, Min
from jaxpo.sharding.liveness import together
from jaxpo.sharding.multihost import start_processes
from jaxpo.train.console import Console
from jaxpo.train.loop import fit
from jaxpo.train.metrics import MetricsLog
from jaxpo.train.rundir import RunDir
from jaxpo.train.signals import Preempted, Stop
from jaxpo.train.state import State

ROWS, LENGTH, WIDTH = 8, 6, 16
OPTIMIZER = optax.adamw(1e-2)
STAGE = Pretrain(name="toy", rows_per_step=ROWS, save_steps=3, eval_steps=4, logging_steps=2, save_total_limit=2)


def mesh(devices):
    return jax.make_mesh((devices,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def shardings(state, devices):
    """Matrices over the devices, everything else replicated."""
    m = mesh(devices)
    return jax.tree.map(lambda x: NamedSharding(m, PartitionSpec("d") if x.ndim == 2 else PartitionSpec()), state)


def new_state():
    params = {"model": {"w": jnp.ones((WIDTH, 3)), "empty": {}, "half": jnp.full((3,), 0.1, jnp.bfloat16)}}

    return State(
        jnp.zeros((), jnp.int32),
        jnp.zeros((), jnp.int32),
        params,
        OPTIMIZER.init(params),
        None,
        {"shift": jnp.zeros(())},
        jax.random.key(7),
    )


def init(devices=1):
    return jax.jit(new_state, out_shardings=shardings(jax.eval_shape(new_state), devices))()


def abstract(devices=1):
    shapes = jax.eval_shape(new_state)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings(shapes, devices)
    )


def _loss(params, batch, rng):
    x = jax.nn.one_hot(batch.tokens, WIDTH) @ params["model"]["w"] + params["model"]["half"].astype(jnp.float32)
    noise = jax.random.normal(rng, x.shape)
    return jnp.sum(batch.masks["completion"][..., None] * (x - noise) ** 2)


def raw_step(state, frozen, batch):
    rng = jax.random.fold_in(state.rng, state.step)
    count = jnp.sum(batch.masks["completion"]).astype(jnp.float32)
    loss, grads = jax.value_and_grad(lambda p: _loss(p, batch, rng) / count * batch.per_example["scale"][0])(
        state.params
    )
    norm = optax.tree.norm(grads)
    ok = jnp.isfinite(loss) & jnp.isfinite(norm)
    updates, opt_state = OPTIMIZER.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params, opt_state = jax.tree.map(
        lambda a, b: jnp.where(ok, a, b), (params, opt_state), (state.params, state.opt_state)
    )
    metrics = {
        "loss": Mean(loss * count, count),
        "grad_norm": Mean(norm, jnp.ones(())),
        "learning_rate": Mean(1e-2 / (1 + state.step), jnp.ones(())),
        "skipped": Mean(1.0 - ok, jnp.ones(())),
        "max_reward": Max(norm),
        "min_reward": Min(norm),
        "nothing": Mean(jnp.zeros(()), jnp.zeros(())),
    }
    carry = {"shift": state.carry["shift"] * 0.9 + loss}
    return state.replace(
        step=state.step + 1, rows_seen=state.rows_seen + ROWS, params=params, opt_state=opt_state, carry=carry
    ), metrics


step = jax.jit(raw_step, donate_argnums=0)


def batch_at(rows_seen, scale=1.0):
    """The batch that starts at a row: a pure function of the position."""
    rng = np.random.default_rng(rows_seen)
    lengths = rng.integers(2, LENGTH + 1, ROWS)
    real = np.arange(LENGTH) < lengths[:, None]
    return Batch(
        tokens=rng.integers(0, WIDTH, (ROWS, LENGTH)).astype(np.int32),
        segment_ids=real.astype(np.int32),
        positions=np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
        masks={"completion": real & (np.arange(LENGTH) > 0)},
        per_token={},
        per_segment={},
        per_example={"scale": np.full((ROWS,), scale, np.float32)},
        roles={"text": np.arange(ROWS, dtype=np.int32)},
        example_id=np.arange(ROWS, dtype=np.int32) + rows_seen,
        block_rows=1,
        slots=1,
        max_segment=LENGTH,
    )


class Source:
    """Fixed-size steps over an endless stream; step `bad` (counted from 1) gets a non-finite scale.

    Step `hold` waits for the file `gate`, so that a test can act on a run that is certain to be under way.
    """

    hash = "toy"

    def __init__(self, delay=0.0, bad=None, hold=None, gate=None):
        self.delay, self.bad, self.hold, self.gate = delay, bad, hold, gate
        self.opened = []

    def open(self, rows_seen, steps):
        self.opened.append(Feed(self, rows_seen))
        return self.opened[-1]

    def at(self, rows_seen, state):
        step = rows_seen // ROWS + 1
        if step == self.hold:
            self.wait()
        return batch_at(rows_seen, float("nan") if step == self.bad else 1.0)

    def wait(self):
        for _ in range(60_000):
            if self.gate.exists():
                return
            time.sleep(0.01)
        raise TimeoutError("the test that holds this run is gone")

    def epoch_of(self, rows_seen):
        return rows_seen / 80

    def figures_of(self, rows_seen):
        return {}


class Feed:
    """What `Source.at` makes of each step's position and state."""

    def __init__(self, source, rows_seen):
        self.source, self.rows_seen, self.closed = source, rows_seen, 0

    def next(self, state):
        time.sleep(self.source.delay)
        batch = self.source.at(self.rows_seen, state)
        self.rows_seen += batch.rows
        return batch

    def settle(self):
        pass

    def close(self):
        self.closed += 1


def evaluate(state):
    return {"loss": float(jnp.sum(state.params["model"]["w"] ** 2)), "accuracy": float(state.step)}


def train(directory, total, devices=1, stage=None, **changes):
    """`fit` on the toy with a store and a log in `directory`."""
    stage = stage or STAGE
    directory = Path(directory)
    m = mesh(devices)
    put = lambda batch: jax.device_put(batch, NamedSharding(m, PartitionSpec()))  # noqa: E731
    arguments = {
        "stage": stage,
        "total_steps": total,
        "init": lambda: init(devices),
        "abstract": abstract(devices),
        "frozen": {},
        "step": step,
        "evaluate": evaluate,
        "source": Source(),
        "put": put,
        "store": CheckpointStore(directory / "stages" / "toy" / "checkpoints", stage.save_total_limit),
        "meta": {"config": {"a": 1}},
        "console": Console(primary=jax.process_index() == 0),
        "stop": Stop(),
        "on_nonfinite_dir": directory / "stages" / "toy",
    } | changes
    with MetricsLog(directory / "metrics.jsonl", primary=jax.process_index() == 0) as log:
        return fit(log=arguments.pop("log", log), **arguments)


def gate(directory):
    """The file that lets a held run go on."""
    return Path(f"{directory}.gate")


def main(directory, total, delay, hold):
    primary = jax.process_index() == 0
    try:
        with RunDir(directory, primary=primary) as run, Stop() as stop:
            run.keep_config({"total": total})
            source = Source(delay, hold=hold, gate=gate(directory))
            state = train(run.path, total, jax.device_count(), source=source, stop=stop)
            everywhere = NamedSharding(mesh(jax.device_count()), PartitionSpec())
            leaves = jax.tree.leaves(jax.jit(lambda x: x, out_shardings=everywhere)(state.params))
            if primary:
                np.savez(run.path / "final.npz", **{str(i): np.asarray(x) for i, x in enumerate(leaves)})
    except Preempted as preempted:
        print(preempted, flush=True)
        return preempted.exit_code
    except JaxpoError as error:
        print(f"error: {error}", flush=True)
        return 2
    except OSError as error:
        print(f"error: {file_problem(error)}", flush=True)
        return 2
    return 0


if __name__ == "__main__":
    folder, total, delay, hold = sys.argv[1:]
    line = start_processes()
    sys.exit(together(line, lambda: main(Path(folder), int(total), float(delay), int(hold))))
