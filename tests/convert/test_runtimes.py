"""Exports by other runtimes' converters, without those: what is refused, what they are told, and how they fail.

The runtimes themselves: `tests/deploy`, `scripts/deploy_check`.
"""

import json
import sys

import numpy as np
import pytest
from convert.gguf_models import DENSE, MOE, random, tokenizer
from models.tiny import LFM3

from jaxpo.cli.main import main
from jaxpo.convert.hf import export_hf
from jaxpo.convert.runtimes import executorch
from jaxpo.convert.runtimes.folder import CHUNKINGS, EXECUTORCH, MLX, ONNX, questions
from jaxpo.ops.grids import GRIDS, rounded

FORMATS = ("mlx", "onnx", "executorch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runtimes") / "model"
    export_hf(random(DENSE), DENSE, path, tokenizer=tokenizer(), verify=False)
    return path


def stand_in(path, program):
    """An interpreter that has every package, and runs this instead of a program."""
    path.write_text(f"#!/bin/sh\n[ \"$1\" = -c ] && exit 0\nexec {sys.executable} -c '{program}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_missing_is_named_with_the_remedy(folder, tmp_path, capsys, format):
    assert main(["export", str(folder), str(tmp_path / "out"), "--format", format]) == 2
    said = capsys.readouterr().err
    assert "does not have: pip install" in said
    assert "--python names" in said
    assert main(["export", str(folder), str(tmp_path / "out"), "--format", format, "--python", "/no/such"]) == 2
    assert "--python /no/such: No such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_options_that_would_mean_nothing(folder, tmp_path, capsys):
    for words, message in (
        (["--python", "p"], "leave out --python"),
        (["--format", "mlx", "--dtype", "float16"], "none of --format mlx"),
        (["--format", "mlx", "--dtype", "int4,int8"], "holds one type"),
        (["--format", "onnx", "--adapter"], "--adapter is written for PEFT, llama.cpp or diffusers"),
        (["--format", "executorch", "--max-shard-size", "1MB"], "writes no shards"),
    ):
        assert main(["export", str(folder), str(tmp_path / "out"), *words]) == 2
        assert message in capsys.readouterr().err


def test_what_a_converter_would_not_notice_is_refused_by_name():
    assert "and this is lfm3" in MLX.inexpressible(LFM3)[0]
    assert "and this is lfm3" in ONNX.inexpressible(LFM3)[0]
    assert "and this is lfm3" in EXECUTORCH.inexpressible(LFM3)[0]
    assert any("has no experts" in problem for problem in EXECUTORCH.inexpressible(MOE))
    assert MLX.inexpressible(MOE) == ONNX.inexpressible(MOE) == EXECUTORCH.inexpressible(DENSE) == []


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ('raise OSError(28, "No space left on device")', "No space left on device"),
        ("import sys; sys.exit(3)", "status 3"),
    ],
)
def test_a_converter_that_fails_half_way_leaves_nothing(folder, tmp_path, capsys, program, said):
    python = stand_in(tmp_path / "python", program)
    assert main(["export", str(folder), str(tmp_path / "out"), "--format", "mlx", "--python", python]) == 2
    assert said in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["python"]


ANSWERS = """
import json, sys, pathlib, numpy
told = json.load(sys.stdin)
out = pathlib.Path(told["out"]); out.mkdir()
(out / "model.safetensors").write_bytes(b"made")
(out.parent.parent / "told.json").write_text(json.dumps(told))
shape = (len(told["chunkings"]), len(told["tokens"]), 544)
numpy.savez(told["answers"], log_probs=numpy.full(shape, -numpy.log(544)), ids=[1], versions=json.dumps({"mlx": "1"}))
"""


def test_what_computes_something_else_is_not_exported(folder, tmp_path, capsys):
    """A stand-in that answers with the uniform distribution; and it was told what a converter needs."""
    python = stand_in(tmp_path / "python", ANSWERS)
    command = ["export", str(folder), str(tmp_path / "out"), "--format", "mlx", "--python", python]
    assert main(command) == 2
    assert "does not compute what the model computes" in capsys.readouterr().err
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["dtype"] == "float32"
    assert [sum(sizes) for sizes in told["chunkings"]] == [len(told["tokens"])] * len(CHUNKINGS)
    assert max(questions(DENSE.vocab_size)["tokens"]) < DENSE.vocab_size
    assert not (tmp_path / "out").exists()


def test_weights_on_the_grid_come_back_from_torchaos_rounding():
    """Of the spec: scale = max |w| / 7.5, codes = clip(round(w / scale), -8, 7), ties to even."""
    to = GRIDS["8da4w"]
    w = (0.1 * np.random.default_rng(1).standard_normal((64, 128))).astype(np.float32)
    w[0, :32] = 0
    w[1, :32] = np.abs(w[1, :32])
    q = rounded(w, to)

    def torchao(w):
        parts = w.reshape(*w.shape[:-1], -1, 32)
        scale = np.abs(parts).max(-1, keepdims=True) / np.float32(7.5)
        codes = np.clip(np.round(parts / np.where(scale == 0, 1, scale)), -8, 7)
        return (codes * scale).reshape(w.shape)

    assert np.array_equal(torchao(executorch.preimage(q)), q)
    # Which is not so of the weights themselves, nor are others touched.
    assert not np.array_equal(torchao(q), q)
    assert np.array_equal(executorch.preimage(w[2:]), w[2:])


def test_executorch_is_told_the_shape(tmp_path):
    export_hf(random(DENSE), DENSE, tmp_path / "m", verify=False)
    executorch.write_inputs(tmp_path / "m", DENSE, "8da4w")
    params = json.loads((tmp_path / "m" / executorch.PARAMS).read_text())
    assert (params["dim"], params["n_layers"], params["layer_types"]) == (64, 4, list(DENSE.layer_types))
    assert (tmp_path / "m" / executorch.INSTEAD).is_file()
