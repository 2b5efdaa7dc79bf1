"""One process of several that meet in collectives until something happens to one: `peer.py WHAT WHO [turn]`."""

import os
import signal
import sys
import time

from jaxpo.sharding.liveness import together
from jaxpo.sharding.multihost import start_processes

WHAT, WHO = sys.argv[1], int(sys.argv[2])
line = start_processes()

import jax  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402

from jaxpo.sharding.turns import first_process_first  # noqa: E402


def happen():
    if WHAT == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if WHAT == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    if WHAT == "fault":
        raise ZeroDivisionError("planned")


def work():
    multihost_utils.sync_global_devices("before")
    turn = len(sys.argv) > 3
    if turn and jax.process_index() > 0:
        first_process_first(lambda: None)
    if jax.process_index() == WHO:
        time.sleep(2 * turn)  # until the others wait
        happen()
    multihost_utils.sync_global_devices("after")
    return 0


sys.exit(together(line, work))
