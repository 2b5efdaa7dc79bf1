"""ExecuTorch, by its own LFM2 export for XNNPACK."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FILE = "model.pte"


def convert(request: Any) -> None:
    """Names of weights by `lfm2.convert_weights`, then `export_llama` with the recipe that comes with LFM2."""
    import torch
    from executorch.examples.models.lfm2.convert_weights import lfm_2_to_meta
    from executorch.examples.models.llama.export_llama_lib import export_llama
    from executorch.extension.llm.export.config.llm_config import LlmConfig, ModelType
    from safetensors.torch import load_file

    out, scratch = Path(request["out"]), Path(request["cache"])
    out.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    weights = lfm_2_to_meta(load_file(Path(request["source"]) / "model.safetensors"))
    if (instead := Path(request["source"]) / "instead.safetensors").is_file():
        weights |= load_file(instead)
    torch.save(weights, scratch / "model.pth")
    ids = json.loads((Path(request["source"]) / "config.json").read_text())
    config = LlmConfig()
    config.base.model_class = ModelType.lfm2_1_2b  # any of LFM2's: the shape is that of the parameters' file
    config.base.checkpoint = str(scratch / "model.pth")
    config.base.params = str(Path(request["source"]) / "params.json")
    config.base.metadata = json.dumps({"get_bos_id": ids["bos_token_id"], "get_eos_ids": [ids["eos_token_id"]]})
    config.model.use_kv_cache, config.model.use_sdpa_with_kv_cache = True, True
    config.export.max_seq_length = config.export.max_context_length = request["context"]
    # A name that ends in ".pte" is a path to it, whatever output_dir says.
    config.export.output_dir, config.export.output_name = str(out), str(out / FILE)
    config.debug.generate_full_logits = True
    config.backend.xnnpack.enabled = config.backend.xnnpack.extended_ops = True
    if request["dtype"] != "float32":
        config.quantization.qmode, config.quantization.group_size = request["dtype"], 32
    export_llama(config)
    if not (out / FILE).is_file():  # that it could not be written is logged, and nothing else
        raise SystemExit(f"export_llama wrote no {out / FILE}; is the disk full?")


def ask(request: Any) -> tuple[np.ndarray, list[int]]:
    """Logits of every cutting, and the greedy continuation; the cache is in the program, which is loaded anew."""
    import torch
    from executorch.extension.pybindings import portable_lib

    # isort: split
    # After it: these register operators with it.
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
    from executorch.kernels import quantized  # noqa: F401
    from serve import cut, greedily

    def fresh() -> Callable[[list[int]], np.ndarray]:
        program, seen = portable_lib._load_for_executorch(str(Path(request["out"]) / FILE)), 0

        def step(ids: list[int]) -> np.ndarray:
            nonlocal seen
            given = (torch.tensor([ids], dtype=torch.long), torch.tensor([seen], dtype=torch.long))
            seen += len(ids)
            return program.forward(given)[0][0].float().numpy()

        return step

    whole = []
    for sizes in request["chunkings"]:
        step = fresh()
        whole.append(np.concatenate([step(ids) for ids in cut(request["tokens"], sizes)]))
    return np.stack(whole), greedily(fresh(), request["prompt"], request["new"])


if __name__ == "__main__":
    from serve import serve

    serve(convert, ask)
