"""ONNX Runtime GenAI, by its own model builder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

PRECISION = {"float32": "fp32", "int4": "int4"}


def convert(request: Any) -> None:
    """`onnxruntime_genai.models.builder` for the CPU; int4 in its own way, blocks of 32."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", request["source"]]
    command += ["-o", request["out"], "-p", PRECISION[request["dtype"]], "-e", "cpu", "-c", request["cache"]]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: status {done.returncode}: {done.stderr[-2000:]}")


def ask(request: Any) -> tuple[np.ndarray, list[int]]:
    """Logits of every cutting, and the greedy continuation."""
    import onnxruntime_genai
    from serve import cut, greedily

    model = onnxruntime_genai.Model(request["out"])
    longest = max(len(request["tokens"]), len(request["prompt"]) + request["new"]) + 1

    def fresh() -> Callable[[list[int]], np.ndarray]:
        params = onnxruntime_genai.GeneratorParams(model)
        params.set_search_options(max_length=longest, do_sample=False)
        generator = onnxruntime_genai.Generator(model, params)

        def step(ids: list[int]) -> np.ndarray:
            generator.append_tokens(np.array([ids], np.int32))
            return np.array(generator.get_output("logits"), np.float32)[0]

        return step

    whole = []
    for sizes in request["chunkings"]:
        step = fresh()
        whole.append(np.concatenate([step(ids) for ids in cut(request["tokens"], sizes)]))
    return np.stack(whole), greedily(fresh(), request["prompt"], request["new"])


if __name__ == "__main__":
    from serve import serve

    serve(convert, ask)
