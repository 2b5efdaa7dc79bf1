"""One process of several that meet in collectives until something happens to one: `peer.py WHAT WHO [store]`."""

import os
import signal
import sys

from jaxpo.errors import DataError
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
    if WHAT == "mistake":
        raise DataError("row 3 cannot be used")
    if WHAT == "fault":
        raise ZeroDivisionError("planned")


def work():
    multihost_utils.sync_global_devices("before")
    if jax.process_index() == WHO:
        happen()
    if len(sys.argv) > 3 and jax.process_index() == 0:
        signal.pause()  # a long turn, for which the others wait in the store
    first_process_first(lambda: None)
    multihost_utils.sync_global_devices("after")
    return 0


sys.exit(together(line, work))
