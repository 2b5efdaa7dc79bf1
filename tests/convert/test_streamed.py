"""Exports take no more memory than a shard and the largest leaf, whatever the model's size; in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from convert.streamed_memory import fused
from models.tiny_moe import CONFIG, params
from safetensors.numpy import load_file, save_file

from jaxpo.convert.folder import open_folder
from jaxpo.convert.formats import Options
from jaxpo.convert.hf import export_hf
from jaxpo.convert.hf_folder import write

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
sys.path.insert(0, "tests")
from pathlib import Path
from convert.streamed_memory import measure
from jaxpo.models.lfm2.config import LFM2Config
config = LFM2Config(
    vocab_size=16384, hidden_size=512, intermediate_size=1024, num_attention_heads=8, num_key_value_heads=4,
    layer_types=("conv", "full_attention", *6 * ("conv",)), num_experts=16, num_experts_per_tok=2,
    moe_intermediate_size=512, num_dense_layers=1,
)
print(json.dumps(measure(config, Path(sys.argv[1]), sys.argv[2:])))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    "options", [("--dtype", "bfloat16"), pytest.param(("--format", "gguf", "--dtype", "q8_0"), marks=pytest.mark.slow)]
)
def test_memory_is_bounded(options, tmp_path):
    if "gguf" in options:
        pytest.importorskip("gguf", reason="GGUF files need the gguf package (the extra gguf)")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), *options]
    if "gguf" not in options:
        command += ["--max-shard-size", "16MB"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["largest leaf"] == 2 * 16384 * 512
    most = 16e6 + 1.5 * found["largest leaf"]
    assert most < 0.7 * found["written"], "the model is too small to tell"
    assert found["peak"] < most


def test_fused_experts_are_read_once_and_piece_by_piece(tmp_path, monkeypatch):
    """`w1`, then all of `w2`, then `w3`: the two halves of `gate_up_proj` are not neighbours in the table's order."""
    export_hf(params(), CONFIG, tmp_path / "plain", compare_transformers=False, verify=False)
    tensors = load_file(tmp_path / "plain" / "model.safetensors")
    experts = {name: tensors.pop(name) for name in list(tensors) if ".experts." in name}
    for layer in {name.partition(".experts.")[0] for name in experts}:
        of = {w: np.stack([experts[f"{layer}.experts.{i}.{w}.weight"] for i in range(8)]) for w in ("w1", "w2", "w3")}
        tensors[fused(f"{layer}.experts.0.w1.weight", "gate_up_proj")] = np.concatenate([of["w1"], of["w3"]], axis=1)
        tensors[fused(f"{layer}.experts.0.w2.weight", "down_proj")] = of["w2"]
    (tmp_path / "fused").mkdir()
    save_file(tensors, tmp_path / "fused" / "model.safetensors")
    (tmp_path / "fused" / "config.json").write_bytes((tmp_path / "plain" / "config.json").read_bytes())
    read = []
    original = np.fromfile

    def counted(*args, **options):
        read.append(values := original(*args, **options))
        return values

    monkeypatch.setattr(np, "fromfile", counted)
    write(tmp_path / "fused", tmp_path / "again", Options(("float32",), verify=False))
    with open_folder(tmp_path / "fused") as found:
        wanted = sum(int(np.prod(tensor.shape)) for tensor in found.tensors.values())
    assert sum(values.size for values in read) == wanted
    plain, again = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "again"))
    assert plain.keys() == again.keys()
    for name, values in plain.items():
        np.testing.assert_array_equal(values, again[name])
