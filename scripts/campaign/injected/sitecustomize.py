"""Found by the interpreter of a disturbed run as it starts: does what `JAXPO_FAULT` says, `{"kind", "batch", ...}`.

Faults that nobody can cause from outside are put where they would come from: into the feed of batches and its threads,
and under Python's reading of the clock. jaxpo itself knows nothing of it.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time

FAULT = json.loads(os.environ["JAXPO_FAULT"])
AT = {"hang": "jaxpo.data.packing.ahead", "clock": "jaxpo.data.packing.ahead", "worker": "jaxpo.data.packing.loader"}


def before_call(owner, name, number, do):
    """`do()` before the `number`-th call of a method in this process, once."""
    method, calls = getattr(owner, name), []

    def counted(*args, **named):
        calls.append(None)
        if len(calls) == number:
            do()
        return method(*args, **named)

    setattr(owner, name, counted)


def die():
    raise MemoryError("planned: a thread that reads data dies")


def jump():
    """The clock of the day jumps; the monotonic one cannot."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + FAULT["seconds"]
    time.time_ns = lambda: now_ns() + int(FAULT["seconds"]) * 10**9


def disturb(module):
    """What is planned, once the module is there."""
    if FAULT["kind"] == "worker":
        before_call(module.Loader, "batch", FAULT["batch"], die)
    else:
        do = jump if FAULT["kind"] == "clock" else lambda: time.sleep(FAULT["seconds"])
        before_call(module.Ahead, "next", FAULT["batch"], do)


class After(importlib.abc.MetaPathFinder):
    """Disturbs one module when it has been imported."""

    def find_spec(self, name, path, target=None):
        if name != AT[FAULT["kind"]]:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def then_disturbed(module):
            execute(module)
            disturb(module)

        spec.loader.exec_module = then_disturbed
        return spec


sys.meta_path.insert(0, After())
