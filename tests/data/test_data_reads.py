"""What the loader reads from disk for a row is that row, not the file."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxpo.config import Data
from jaxpo.data.packing.loader import Loader

IO = Path("/proc/self/io")


def bytes_read():
    return int(dict(line.split(": ") for line in IO.read_text().splitlines())["rchar"])


@pytest.mark.skipif(not IO.exists(), reason="this system does not count what a process reads")
def test_a_step_reads_its_own_rows(tmp_path, prepared):
    """Whatever part of an epoch it stands in; shuffled, so that its examples are far apart in the file."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, 6))) for _ in range(400)]
    file = tmp_path / "text.jsonl"
    rows = ({"text": " ".join(rng.choice(words, 400))} for _ in range(400))
    file.write_text("\n".join(map(json.dumps, rows)))
    dataset = prepared(file, "language", roles=("text",), max_length=2048)
    loader = Loader(dataset, Data(max_length=2048, row_length=2048), seed=0, rows_per_step=4)
    stored = (dataset.store.directory / "examples.array_record").stat().st_size
    own = 4 * loader.rows_per_epoch(0) ** -1 * stored
    first = loader.batch(0)  # opens what is opened once
    before, alone = bytes_read(), bytes_read()
    overhead = alone - before
    before, steps = bytes_read(), 20
    for i in range(1, steps + 1):
        loader.batch(i * loader.rows_per_step)
    read = (bytes_read() - before - overhead) / steps
    assert first.rows == 4
    assert 0.5 * own < read < 2 * own + 4096
    assert read < stored / 10
