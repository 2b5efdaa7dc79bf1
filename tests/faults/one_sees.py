"""`toy_training.py` of several processes, of which process 1 alone meets damage, as on a disk or a mount of its own.

In what the checkpoint of step 9 says of itself, and in the arrays of step 6.
"""

import sys
from pathlib import Path

import jax
from train import toy_training as toy

from jaxpo.checkpoint import store
from jaxpo.errors import DamagedError
from jaxpo.sharding.liveness import together
from jaxpo.sharding.multihost import start_processes

read_document, load = store.read_document, store.ocp.load_checkpointables


def document(directory, step):
    if step == 9 and jax.process_index() == 1:
        raise DamagedError("nine is cut short")
    return read_document(directory, step)


def arrays(path, target):
    if path.name == "00000006" and jax.process_index() == 1:
        raise ValueError("six holds other bytes")
    return load(path, target)


store.read_document, store.ocp.load_checkpointables = document, arrays
folder, total = sys.argv[1:]
line = start_processes()
sys.exit(together(line, lambda: toy.main(Path(folder), int(total), 0.0, 0)))
