"""The same YAML through mergekit's own command and through ours, on tiny LFM2 checkpoints: every tensor compared."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from models.tiny import CONFIG, params

from jaxpo.cli.main import main
from jaxpo.convert.config_json import config_from_json, read_json
from jaxpo.convert.hf import export_hf
from jaxpo.convert.shards import open_shards

pytestmark = pytest.mark.parity

YAML = {
    "linear with a gradient and a filter": """
models:
  - model: MODELS/a
    parameters: {weight: [0.2, 1.0, 0.4]}
  - model: MODELS/b
    parameters:
      weight:
        - {filter: feed_forward, value: 0.1}
        - {value: 0.7}
merge_method: linear
dtype: float32
""",
    "slerp by kind of layer": """
slices:
  - sources:
      - {model: MODELS/a, layer_range: [0, 3]}
      - {model: MODELS/b, layer_range: [0, 3]}
merge_method: slerp
base_model: MODELS/b
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: feed_forward, value: [1, 0.5, 0.7, 0.3, 0]}
    - value: 0.5
""",
    "nuslerp on a base": """
models:
  - {model: MODELS/a, parameters: {weight: 0.3}}
  - {model: MODELS/b, parameters: {weight: 0.9}}
merge_method: nuslerp
base_model: MODELS/base
parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}
""",
    "task arithmetic": """
models:
  - {model: MODELS/a, parameters: {weight: 0.3}}
  - {model: MODELS/b, parameters: {weight: -0.9}}
merge_method: task_arithmetic
base_model: MODELS/base
parameters: {lambda: 0.5}
""",
    "ties with densities per model and layer": """
models:
  - {model: MODELS/base}
  - {model: MODELS/a, parameters: {weight: 1.0, density: [1, 0.5]}}
  - {model: MODELS/b, parameters: {weight: 0.5, density: 0.6}}
merge_method: ties
base_model: MODELS/base
parameters: {lambda: [0.5, 1e0], int8_mask: true, rescale: true}
""",
    "breadcrumbs with ties": """
models:
  - {model: MODELS/a, parameters: {weight: 1.0}}
  - {model: MODELS/b, parameters: {weight: 0.5}}
merge_method: breadcrumbs_ties
base_model: MODELS/base
parameters: {density: 0.5, gamma: 0.02, normalize: true}
""",
    "dare keeping everything": """
models:
  - {model: MODELS/a, parameters: {weight: 1.0}}
  - {model: MODELS/b, parameters: {weight: 0.5}}
merge_method: dare_ties
base_model: MODELS/base
""",
    "model stock": """
models: [{model: MODELS/a}, {model: MODELS/b}, {model: MODELS/c}]
merge_method: model_stock
base_model: MODELS/base
parameters: {filter_wise: true}
""",
    "karcher": """
models: [{model: MODELS/a}, {model: MODELS/b}, {model: MODELS/c}]
merge_method: karcher
""",
    "sce": """
models: [{model: MODELS/a}, {model: MODELS/b}, {model: MODELS/c}]
merge_method: sce
base_model: MODELS/base
parameters: {select_topk: 0.6}
""",
    "slices of two models": """
slices:
  - sources: [{model: MODELS/a, layer_range: [0, 2], parameters: {scale: 0.5}}]
  - sources: [{model: MODELS/b, layer_range: [2, 3]}]
merge_method: passthrough
""",
    "a deeper stack": """
slices:
  - sources: [{model: MODELS/a, layer_range: [0, 2]}]
  - sources:
      - model: MODELS/b
        layer_range: [0, 3]
        parameters:
          scale: [{filter: out_proj, value: 0.0}, {value: 1.0}]
merge_method: passthrough
""",
}
DEEPER = "a deeper stack"
STACKS = ("slices of two models", DEEPER)
FINAL_NORM = "model.embedding_norm.weight"
"""mergekit writes its tensors and then stops: it does not carry LFM2's kinds of layers over to another depth."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for i, name in enumerate(("base", "a", "b", "c")):
        rng = np.random.default_rng(i)
        move = lambda x: x + np.float32(0.1 * (i > 0)) * rng.normal(size=x.shape).astype(np.float32)  # noqa: B023, E731
        export_hf(jax.tree.map(move, params()), CONFIG, root / name, verify=False)
    return root


def run_mergekit(text: str, out: Path) -> None:
    yaml = pytest.importorskip("yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = pytest.importorskip("mergekit.config").MergeConfiguration
        merge = pytest.importorskip("mergekit.merge")
        options = pytest.importorskip("mergekit.options").MergeOptions
    logging.getLogger("mergekit").setLevel(logging.ERROR)
    settings = options(quiet=True, copy_tokenizer=False, write_model_card=False)
    merge.run_merge(config.model_validate(yaml.safe_load(text)), str(out), settings)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    with open_shards(folder) as stored:
        return {name: np.float32(tensor.read()) for name, tensor in stored.items()}


@pytest.mark.parametrize("name", YAML)
def test_the_same_file_gives_the_same_model(models, tmp_path, name, capsys):
    text = YAML[name].replace("MODELS", str(models))
    (tmp_path / "merge.yaml").write_text(text)
    if name == DEEPER:
        with pytest.raises(Exception, match="num_hidden_layers"):
            run_mergekit(text, tmp_path / "theirs")
    else:
        run_mergekit(text, tmp_path / "theirs")
    assert main(["merge", str(tmp_path / "merge.yaml"), str(tmp_path / "ours"), "--no-verify"]) == 0
    ours, theirs = tensors(tmp_path / "ours"), tensors(tmp_path / "theirs")
    assert ours.keys() == theirs.keys() - {"lm_head.weight"}
    for tensor, value in ours.items():
        if tensor == FINAL_NORM and name in STACKS:
            # The norm after the last layer goes with the last layer here, with the first one there.
            np.testing.assert_array_equal(value, tensors(models / "b")[tensor])
            assert not np.array_equal(theirs[tensor], value)
            continue
        np.testing.assert_allclose(value, theirs[tensor], rtol=0, atol=3e-6 * np.abs(value).max(), err_msg=tensor)
    config = config_from_json(read_json(tmp_path / "ours" / "config.json"))
    assert len(config.layer_types) == 1 + max(int(n.split(".")[2]) for n in ours if ".layers." in n)
