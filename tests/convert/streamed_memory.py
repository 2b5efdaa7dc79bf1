"""What an export takes of host memory: `python tests/convert/streamed_memory.py PRESET FOLDER [export's options]`.

The source is a checkpoint of zeros as transformers saves it, experts fused, in bfloat16; its file is sparse and takes
no room on disk. What is written is really written. Prints bytes as JSON: the peak above what was there before,
the largest leaf (of all experts of a layer together), the size of a shard, and what was written.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from pathlib import Path


def sparse_checkpoint(folder: Path, config, tokenizer=None) -> int:
    """Write it; bytes of its largest tensor."""
    from jaxpo.convert.config_json import config_to_json
    from jaxpo.convert.hf import disk_shape
    from jaxpo.models.family import param_table
    from jaxpo.models.spec import leaves

    shapes: dict[str, tuple[int, ...]] = {}
    for _, param in leaves(param_table(config)):
        shape = disk_shape(param)
        if isinstance(param.hf, str):
            shapes[param.hf] = shape
        elif param.tensors[0].endswith("w1.weight"):
            shapes[fused(param.tensors[0], "gate_up_proj")] = (config.num_experts, 2 * shape[0], shape[1])
        elif param.tensors[0].endswith("w2.weight"):
            shapes[fused(param.tensors[0], "down_proj")] = (config.num_experts, *shape)
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + offset)
    (folder / "config.json").write_text(json.dumps(config_to_json(config, "bfloat16")))
    if tokenizer is not None:
        tokenizer.save(folder)
    return max(2 * math.prod(shape) for shape in shapes.values())


def fused(expert: str, name: str) -> str:
    return re.sub(r"experts\.0\.w\d\.weight", f"experts.{name}", expert)


def memory(what: str) -> int:
    """Of this process, in bytes: VmRSS or VmHWM."""
    return 1024 * int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def measure(config, folder: Path, options: list[str]) -> dict[str, float]:
    """Export once; see the module."""
    from jaxpo.cli.main import main
    from jaxpo.convert.gguf import folder as _gguf  # noqa: F401 imported before it is measured
    from jaxpo.convert.hf_folder import write as _hf  # noqa: F401
    from jaxpo.data.tokenizer.tokenizer import train_tokenizer

    largest = sparse_checkpoint(folder / "source", config, train_tokenizer(["a b c"], 270))
    Path("/proc/self/clear_refs").write_text("5")
    before, began = memory("VmRSS"), time.monotonic()
    status = main(["export", str(folder / "source"), str(folder / "out"), "--no-verify", *options])
    assert status == 0
    written = [f.stat().st_size for f in (folder / "out").iterdir() if f.suffix in (".safetensors", ".gguf")]
    return {
        "peak": memory("VmHWM") - before,
        "largest leaf": largest,
        "largest file": max(written),
        "written": sum(written),
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    from jaxpo.models.family import preset

    print(json.dumps(measure(preset(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))
