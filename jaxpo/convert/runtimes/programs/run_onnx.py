"""ONNX Runtime by itself, on a file with a cache that comes in and goes out, as GenAI's builder writes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


def convert(request: Any) -> None:
    """The file is another's work."""
    raise SystemExit("ONNX files are written by ONNX Runtime GenAI's builder; ask that.")


def ask(request: Any) -> tuple[np.ndarray, list[int]]:
    """Logits of every cutting, and the greedy continuation."""
    import onnxruntime
    from serve import cut, greedily

    session = onnxruntime.InferenceSession(Path(request["out"]) / "model.onnx", providers=["CPUExecutionProvider"])
    takes = {one.name: one for one in session.get_inputs()}
    gives = [one.name for one in session.get_outputs()]

    decoder = json.loads((Path(request["out"]) / "genai_config.json").read_text())["model"]["decoder"]
    seen_keys = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])
    columns = (1, decoder["hidden_size"], decoder["conv_cache_size"])

    def empty(one: Any) -> np.ndarray:
        """Of a cache: one row, nothing seen."""
        return np.zeros(columns if one.name.endswith(".conv") else seen_keys, TYPES[one.type])

    def fresh() -> Callable[[list[int]], np.ndarray]:
        cache = {name: empty(one) for name, one in takes.items() if name.startswith("past")}
        seen = 0

        def step(ids: list[int]) -> np.ndarray:
            nonlocal seen, cache
            feed = {"input_ids": np.array([ids], np.int64), **cache}
            feed["attention_mask"] = np.ones((1, seen + len(ids)), np.int64)
            if "position_ids" in takes:
                feed["position_ids"] = np.arange(seen, seen + len(ids), dtype=np.int64)[None]
            found = dict(zip(gives, session.run(gives, feed), strict=True))
            seen += len(ids)
            cache = {name: found[_present(name, gives)] for name in cache}
            return found["logits"][0].astype(np.float32)

        return step

    whole = []
    for sizes in request["chunkings"]:
        step = fresh()
        whole.append(np.concatenate([step(ids) for ids in cut(request["tokens"], sizes)]))
    return np.stack(whole), greedily(fresh(), request["prompt"], request["new"])


def _present(name: str, gives: list[str]) -> str:
    """What comes out in the place of what went in: `past_key_values.1.key` and `present.1.key`."""
    wanted = name.split(".")[1:]
    return next(found for found in gives if found.startswith("present") and found.split(".")[1:] == wanted)


if __name__ == "__main__":
    from serve import serve

    serve(convert, ask)
