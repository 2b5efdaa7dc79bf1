"""An export of LFM2-VL in transformers: the model on an image, and a reload of what transformers saves of it."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")
transformers = pytest.importorskip("transformers", reason="parity tests need transformers (scripts/test --parity)")

from contracts.families import EXAMPLES  # noqa: E402

from jaxpo.convert.hf import export_hf, import_hf  # noqa: E402
from jaxpo.models.family import param_table  # noqa: E402
from jaxpo.models.spec import init_params  # noqa: E402

CONFIG = EXAMPLES["jaxpo.models.lfm2_vl.config:LFM2VLConfig"]


@pytest.mark.parametrize("layer_norm", [True, False])
def test_transformers_loads_an_export_and_computes_the_same_on_an_image(layer_norm, tmp_path):
    config = dataclasses.replace(CONFIG, projector_use_layernorm=layer_norm)
    params = init_params(param_table(config), jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    report = export_hf(params, config, tmp_path / "ours", compare_transformers=True)
    assert report["transformers"]["max_logprob_error"] < 1e-4
    # What transformers writes of it is the same model again, bit for bit.
    model, about = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "ours", dtype=torch.float32, output_loading_info=True
    )
    assert not about["missing_keys"]
    assert not about["unexpected_keys"]
    model.save_pretrained(tmp_path / "theirs")
    again, found = import_hf(tmp_path / "theirs")
    assert found == config
    jax.tree.map(np.testing.assert_array_equal, again, params)
    written = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert written["architectures"] == ["Lfm2VlForConditionalGeneration"]
