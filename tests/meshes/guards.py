"""What a step may send: nothing as large as logits, and every parameter about once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from jaxpo.sharding.collectives import Collective

WEIGHTS = ("fsdp", "expert")
"""Mesh axes over which parameters are spread and gathered where they are used."""
ONCE = 1.5
"""Bytes of parameters that may be gathered, in bytes of all parameters: a second gather of all would be 2."""


def problems(
    found: Iterable[Collective], *, parameters: int, largest: int, activations: int, records: int = 0
) -> Iterator[str]:
    """What a step sends and should not.

    Args:
      parameters: bytes of all networks that run in a step.
      largest: values of the largest parameter; the logits of a step's rows are more.
      activations: bytes of the hidden state of a step's rows, which may be moved: the embedding's gradient needs all.
      records: bytes of the ids that a teacher's records name. To look up their logits XLA gathers the ids, their
        log-probs and, forward and backward, a place of three numbers for each.
    """
    found = list(found)
    for one in found:
        for dtype, sizes in one.shapes:
            if np.prod(sizes) > largest:
                yield f"{one.kind} along {one.axes} of {dtype}{list(sizes)}: more than the largest parameter"
    gathers = [one for one in found if one.kind == "all-gather"]
    weights = sum(one.count * one.bytes for one in gathers if set(one.axes) <= set(WEIGHTS))
    if weights > ONCE * parameters + activations:
        yield f"all-gathers of {weights} bytes along {WEIGHTS}, and there are {parameters} of parameters"
    copies = sum(one.count * one.bytes for one in gathers if "replica" in one.axes)
    if copies > 2 * activations + 8 * records:
        yield f"all-gathers of {copies} bytes along replica, where every parameter is whole"
