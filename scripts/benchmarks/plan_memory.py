"""Memory that a plan takes beside the length index: python scripts/benchmarks/plan_memory.py PART EXAMPLES...

Simulated lengths of so many examples are written as a tokenised data set keeps them; then a stage's steps are taken:
block shape, plan, hash, the first and the last part of an epoch, of PART examples each (0 = as in training). A process
for each number; prints per line the examples, GB of the index, which is mapped, and the peak of anonymous memory above
what the imports take; mapped pages are the system's to drop.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter

import numpy as np

PIECE = 1 << 20


def anonymous() -> float:
    """MB of this process that no file holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


class Peak:
    """The largest `anonymous()` while it runs, sampled."""

    def __enter__(self) -> Peak:
        self.base = self.most = anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, anonymous())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def measured(part: int, examples: int) -> str:
    from jaxpo.data.packing import caps as shapes
    from jaxpo.data.packing import orders, plan
    from jaxpo.data.packing.caps import choose_caps
    from jaxpo.data.packing.plan import Plan
    from jaxpo.data.tokens.index import offsets_of, read_index, write_index
    from jaxpo.data.tokens.store import Lengths

    if part:
        orders.PART = plan.PART = shapes.PART = part
    draw = np.random.default_rng(0)
    sizes = [min(PIECE, examples - start) for start in range(0, examples, PIECE)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lengths.npz"
        columns = {
            "offsets": (np.int64, examples + 1, offsets_of(np.ones(n, np.int64) for n in sizes)),
            "values": (np.int32, examples, (draw.integers(16, 1024, n) for n in sizes)),
        }
        write_index(file, columns)
        began = perf_counter()
        with Peak() as peak:
            index = read_index(file)
            lengths = Lengths(index["offsets"], index["values"])
            caps, _ = choose_caps(lengths, 2048, block_rows=1, single=False, rows_per_step=64)
            whole = Plan(lengths, caps, seed=0, shuffle=True)
            whole.part(0)
            whole.part(whole.parts_per_epoch - 1)
        size = file.stat().st_size / 1e9
    seconds = perf_counter() - began
    return f"{examples:>13,}  index {size:7.3f} GB  peak {peak.most - peak.base:8.1f} MB  {seconds:6.1f} s"


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(measured(*map(int, sys.argv[2:])), flush=True)
    else:
        for number in sys.argv[2:]:
            subprocess.run([sys.executable, __file__, "--one", sys.argv[1], str(int(float(number)))], check=True)
