"""Experts as transformers holds them in memory, seen as the tensors per expert that checkpoints hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from jaxpo.convert.shards import Stored

Piece = Callable[[int, tuple[int, ...]], np.ndarray]
GATE_UP, DOWN = ".experts.gate_up_proj", ".experts.down_proj"


def per_expert(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Split `gate_up_proj` [E, 2F, D] (w1, then w3) and `down_proj` [E, D, F] (w2); everything else stays as it is.

    An expert's matrix lies in one stretch of the file, and that stretch alone is read for it.
    """
    tensors: dict[str, Stored] = {}
    for name, tensor in stored.items():
        if name.endswith((GATE_UP, DOWN)) and len(tensor.shape) == 3 and tensor.piece is not None:
            tensors.update(_split(name, tensor.shape, tensor.dtype, tensor.piece))
        else:
            tensors[name] = tensor
    return tensors


def _split(name: str, shape: tuple[int, ...], dtype: str, piece: Piece) -> Iterator[tuple[str, Stored]]:
    experts, n_out, n_in = shape
    prefix = name.rpartition(".")[0]
    half = n_out // 2
    pieces = {"w1": (0, half), "w3": (half, n_out - half)} if name.endswith(GATE_UP) else {"w2": (0, n_out)}
    for i in range(experts):
        for matrix, (first, rows) in pieces.items():
            read = partial(piece, (i * n_out + first) * n_in, (rows, n_in))
            yield f"{prefix}.{i}.{matrix}.weight", Stored((rows, n_in), dtype, read)
