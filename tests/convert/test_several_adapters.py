"""Several adapters of one base, merged with weights: base + sum of w_i scale_i B_i A_i."""

import jax
import numpy as np
import pytest
from models.adapters import drawn
from models.tiny import CONFIG, params
from models.tiny_moe import CONFIG as MOE
from models.tiny_moe import params as moe_params

from jaxpo.cli.main import main
from jaxpo.config import LoRA
from jaxpo.convert.hf import export_hf, import_hf
from jaxpo.convert.peft import export_peft
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table, merge, scale_of

LORAS = (LoRA(rank=3, alpha=2.5, use_rslora=True), LoRA(rank=2, alpha=4.0))
WEIGHTS = (0.7, 0.4)


@pytest.mark.parametrize(("config", "weights"), [(CONFIG, params()), (MOE, moe_params())], ids=["dense", "mixture"])
def test_two_adapters_with_weights(config, weights, tmp_path):
    export_hf(weights, config, tmp_path / "base", verify=False)
    wanted = jax.tree.map(np.asarray, weights)
    for i, (lora, weight) in enumerate(zip(LORAS, WEIGHTS, strict=True)):
        own = drawn(adapter_table(param_table(config), lora), seed=i)
        export_peft(own, lora, weights, config, tmp_path / f"adapter{i}", base_name="base", verify=False)
        merged = merge(weights, own, scale_of(lora))
        wanted = jax.tree.map(lambda sum_, m, b, weight=weight: sum_ + weight * (m - b), wanted, merged, weights)
    names = [str(tmp_path / f"adapter{i}") for i in range(2)]
    options = ["--method", "task_arithmetic", "--base", str(tmp_path / "base"), "--no-verify"]
    command = ["merge", *names, *options, "--weights", *map(str, WEIGHTS), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    found, _ = import_hf(tmp_path / "out")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
    # Their bases are not touched where nothing was adapted.
    np.testing.assert_array_equal(found["embed_tokens"]["weight"], weights["embed_tokens"]["weight"])
