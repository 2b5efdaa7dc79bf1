"""The toy of `toy_training.py` under watch, in one process or those that the environment names.

`watched_training.py DIRECTORY STEPS DELAY`: each batch comes after DELAY seconds, to this process.
"""

import sys
from pathlib import Path

import jax
from jax.sharding import NamedSharding, PartitionSpec
from train import toy_training as toy

from jaxpo.config import Pretrain, Straggler
from jaxpo.sharding.multihost import start_processes
from jaxpo.train.alarms import Alarms
from jaxpo.train.ledger import Ledger
from jaxpo.train.signals import Stop
from jaxpo.train.watching import Watching


def put(batch):
    """Without a word to the other process: `jax.device_put` compares what they have."""
    everywhere = NamedSharding(toy.mesh(jax.device_count()), PartitionSpec())
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, everywhere, lambda i: x[i]), batch)


def main(directory, steps, delay):
    primary = jax.process_index() == 0
    stage = Pretrain(name="toy", rows_per_step=toy.ROWS, logging_steps=2)
    with (
        Ledger(directory / "starts.json", primary=primary) as ledger,
        Alarms(directory if primary else None, "toy", (Straggler(),)) as alarms,
        Stop() as stop,
    ):
        watching = Watching(ledger, alarms)
        source = toy.Source(delay)
        arguments = {"stage": stage, "source": source, "put": put, "stop": stop, "watching": watching}
        toy.train(directory, steps, jax.device_count(), **arguments)


if __name__ == "__main__":
    folder, steps, delay = sys.argv[1:]
    start_processes()
    main(Path(folder), int(steps), float(delay))
