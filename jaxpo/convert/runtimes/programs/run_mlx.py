"""MLX, by mlx-lm's converter and its models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BITS = {"int4": 4, "int8": 8}
GROUP = 32


def convert(request: Any) -> None:
    """`mlx_lm.convert`; the quantised forms in groups of 32."""
    from mlx_lm import convert as mlx_convert

    bits = BITS.get(request["dtype"])
    own = {"quantize": True, "q_bits": bits, "q_group_size": GROUP} if bits else {"dtype": request["dtype"]}
    mlx_convert(request["source"], request["out"], **own)


def ask(request: Any) -> tuple[np.ndarray, list[int]]:
    """Logits of every cutting, and the greedy continuation."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model
    from serve import cut, greedily

    model, _ = load_model(Path(request["out"]))

    def fresh() -> Callable[[list[int]], np.ndarray]:
        cache = make_prompt_cache(model)
        return lambda ids: np.array(model(mx.array([ids]), cache=cache)[0].astype(mx.float32))

    whole = []
    for sizes in request["chunkings"]:
        step = fresh()
        whole.append(np.concatenate([step(ids) for ids in cut(request["tokens"], sizes)]))
    return np.stack(whole), greedily(fresh(), request["prompt"], request["new"])


if __name__ == "__main__":
    from serve import serve

    serve(convert, ask)
