"""Experts as transformers holds them in memory, seen as the tensors per expert that checkpoints hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from jaxpo.convert.shards import Stored

GATE_UP, DOWN = ".experts.gate_up_proj", ".experts.down_proj"


class Latest:
    """Holds the one array that was read last, whose parts are asked for one after another."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._value: np.ndarray | None = None

    def get(self, name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of this name, read unless it is the one held."""
        if self._value is None or name != self._name:
            # Before the next is read: both at once would be twice the memory.
            self._value = None
            self._value, self._name = read(), name
        return self._value


def per_expert(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Split `gate_up_proj` [E, 2F, D] (w1, then w3) and `down_proj` [E, D, F] (w2); everything else stays as it is."""
    tensors: dict[str, Stored] = {}
    latest = Latest()
    for name, tensor in stored.items():
        if name.endswith((GATE_UP, DOWN)) and len(tensor.shape) == 3:
            tensors.update(_split(name, tensor, latest))
        else:
            tensors[name] = tensor
    return tensors


def _split(name: str, tensor: Stored, latest: Latest) -> Iterator[tuple[str, Stored]]:
    def whole() -> np.ndarray:
        return latest.get(name, tensor.read)

    experts, n_out, n_in = tensor.shape
    prefix = name.rpartition(".")[0]
    halves = {"w1": slice(0, n_out // 2), "w3": slice(n_out // 2, None)}
    pieces = halves if name.endswith(GATE_UP) else {"w2": slice(None)}
    for i in range(experts):
        for matrix, rows in pieces.items():
            size = len(range(*rows.indices(n_out)))
            yield f"{prefix}.{i}.{matrix}.weight", Stored((size, n_in), tensor.dtype, _reader(whole, i, rows))


def _reader(whole: Callable[[], np.ndarray], expert: int, rows: slice) -> Callable[[], np.ndarray]:
    return lambda: whole()[expert, rows]
