"""Tables as the bytes of a file, and what a file may be compressed with."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pyarrow as pa
import pyarrow.parquet as pq

COMPRESSED = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}


def as_parquet(table, **settings):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **settings)
    return sink.getvalue().to_pybytes()


def as_arrow(table, form):
    """`form`: `pa.ipc.new_stream` or `pa.ipc.new_file`."""
    sink = pa.BufferOutputStream()
    with form(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
