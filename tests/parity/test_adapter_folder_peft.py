"""Adapter folders that peft wrote, read on their base: the weights that peft's own merging gives."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]  # peft looks for the base on the Hub
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")
transformers = pytest.importorskip("transformers", reason="parity tests need transformers (scripts/test --parity)")
peft = pytest.importorskip("peft", reason="parity tests need peft (scripts/test --parity)")

from models.tiny import CONFIG, LFM3, params  # noqa: E402
from models.tiny_moe import CONFIG as MOE  # noqa: E402
from models.tiny_moe import params as moe_params  # noqa: E402

from jaxpo.convert.hf import export_hf  # noqa: E402
from jaxpo.convert.open_model import open_model  # noqa: E402
from jaxpo.errors import CheckpointError  # noqa: E402

MODULES = ["q_proj", "k_proj", "in_proj", "w1"]
TIED_LFM3 = dataclasses.replace(LFM3, tie_word_embeddings=True)
SETTINGS = {
    "plain": (CONFIG, {"r": 3, "lora_alpha": 7, "target_modules": MODULES}),
    "all": (CONFIG, {"r": 2, "target_modules": "all-linear"}),
    "patterns": (
        CONFIG,
        {
            "r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": MODULES,
            "rank_pattern": {"q_proj": 2, "^model.layers.0.conv.in_proj": 4},
            "alpha_pattern": {r"layers\.1\..*\.w1": 11, "w1": 1},
        },
    ),
    "mixture": (MOE, {"r": 2, "target_modules": ["q_proj", "out_proj"]}),
    "lfm3": (TIED_LFM3, {"r": 2, "target_modules": ["q_proj", "g_proj", "o_proj", "w2"]}),
}  # fmt: skip


def adapter_of(config, settings, folder):
    """An adapter with every matrix drawn, saved by peft beside its base; returns peft's model."""
    export_hf((moe_params if config.num_experts else params)(config), config, folder / "base", verify=False)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    model.peft_config["default"].base_model_name_or_path = "base"
    model.save_pretrained(folder / "adapter")
    return model


@pytest.mark.parametrize("name", SETTINGS)
def test_the_weights_are_those_of_merge_and_unload(name, tmp_path):
    config, settings = SETTINGS[name]
    merged = adapter_of(config, settings, tmp_path).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    changed = 0
    with (
        open_model(tmp_path / "adapter") as ours,
        open_model(tmp_path / "merged") as theirs,
        open_model(tmp_path / "base") as base,
    ):
        assert ours.leaves.keys() == theirs.leaves.keys()
        for leaf in ours.leaves:
            got, expected = ours.leaves[leaf].read(), theirs.leaves[leaf].read()
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5, err_msg=leaf)
            changed += not np.array_equal(got, base.leaves[leaf].read())
    assert changed > 1


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": MODULES, "use_dora": True},
        {"target_modules": MODULES, "modules_to_save": ["embed_tokens"]},
        {"target_modules": MODULES, "bias": "all"},
        {"target_modules": MODULES, "init_lora_weights": "pissa"},
        {"target_modules": [*MODULES, "embed_tokens"]},
        {"target_modules": MODULES, "trainable_token_indices": [1, 2]},
        {"target_modules": MODULES, "lora_bias": True},
    ],
)
def test_what_is_more_than_pairs_of_matrices_is_refused(settings, tmp_path):
    adapter_of(CONFIG, settings, tmp_path)
    with pytest.raises(CheckpointError, match="more than pairs of matrices added to projections"):  # noqa: SIM117
        with open_model(tmp_path / "adapter"):
            pass
