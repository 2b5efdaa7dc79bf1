"""Files that are damaged anyhow are read or refused with their name; nothing else ever comes out of a reader."""

from __future__ import annotations

import json
import random
from collections import Counter

import pyarrow as pa
import pytest
from data.written import COMPRESSED, as_arrow, as_parquet

from jaxpo.data.rows.formats import read_rows
from jaxpo.errors import DataError

CASES = 600
NESTED = {"margin": 0.5, "tags": [1, None], "at": {"x": [{"y": "z"}]}}
ROWS = [{"prompt": f"p{i} ü", "chosen": f"good {i} 漢", "rejected": "b", **NESTED} for i in range(12)]
LINES = "".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(ROWS)).encode()
TABLE = pa.Table.from_pylist(ROWS)


WHOLE = {
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "a.csv": "".join(f'{i},"some ""text"", ü"\n' for i in range(40)).encode(),
    "a.txt": "Some text ü 漢\n".encode() * 20,
    "a.parquet": as_parquet(TABLE),
    "b.parquet": as_parquet(TABLE, compression="zstd", write_page_checksum=True),
    "c.parquet": as_parquet(TABLE, compression="none", use_dictionary=False),
    "a.arrow": as_arrow(TABLE, pa.ipc.new_stream),
    "b.arrow": as_arrow(TABLE, pa.ipc.new_file),
    "wide.jsonl": LINES.decode().encode("utf-16"),
    **{f"a.jsonl{name}": compress(LINES) for name, compress in COMPRESSED.items()},
}


def flipped(rng, content):
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def replaced(rng, content):
    at, n = rng.randrange(len(content)), rng.randint(0, 40)
    middle = bytes(n) if rng.random() < 0.3 else rng.randbytes(n)
    return content[:at] + middle + content[at + rng.randint(0, 40) :]


DAMAGE = [flipped, replaced, lambda rng, content: content[: rng.randrange(len(content))]]


def outcome(path):
    """Whether a file is read or refused, as it should be; anything else that is raised fails the test."""
    try:
        for row in read_rows([path]):
            json.dumps(row.data, ensure_ascii=False, default=bytes.hex).encode()
    except DataError as error:
        return "refused" if path.name in str(error) and len(str(error)) < 1000 else str(error)
    return "read"


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_damaged_is_read_or_refused(tmp_path, name):
    outcomes = Counter()
    path = tmp_path / name
    for seed in range(CASES // len(WHOLE)):
        rng = random.Random(f"{name} {seed}")
        path.write_bytes(rng.choice(DAMAGE)(rng, WHOLE[name]))
        outcomes[outcome(path)] += 1
    assert set(outcomes) <= {"read", "refused"}
    assert outcomes["refused"] > 5


def test_undamaged_they_are_read(tmp_path):
    for name, content in WHOLE.items():
        (tmp_path / name).write_bytes(content)
        assert list(read_rows([tmp_path / name])), name
