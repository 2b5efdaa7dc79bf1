"""Configurations of LFM2-VL out and in, sizes of the released ones, and files of other models."""

from __future__ import annotations

import pytest

from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.lfm2_vl.config import LFM2VLConfig
from jaxpo.models.lfm2_vl.config_json import config_from_json, config_to_json
from jaxpo.models.lfm2_vl.presets import PRESETS
from jaxpo.models.lfm2_vl.table import param_table
from jaxpo.models.siglip.config import SiglipConfig
from jaxpo.models.spec import leaves, param_count


@pytest.mark.parametrize(
    ("name", "total", "vision", "connector", "tensors"),
    [
        ("lfm2_vl_450m", 450_822_656, 85_843_200, 10_495_488, 351),
        ("lfm2_vl_1_6b", 1_600_043_504, 412_649_712, 17_053_184, 591),
    ],
)
def test_released_sizes(name, total, vision, connector, tensors):
    table = param_table(PRESETS[name])
    assert param_count(table) == total
    assert (param_count(table["vision"]), param_count(table["connector"])) == (vision, connector)
    names = [param.hf for _, param in leaves(table)]
    assert len(set(names)) == len(names) == tensors
    for prefix in ("model.language_model.layers.0.", "model.vision_tower.encoder.layers.0.self_attn.out_proj."):
        assert any(each.startswith(prefix) for each in names)


@pytest.mark.parametrize("config", PRESETS.values(), ids=list(PRESETS))
def test_out_and_in_again(config):
    assert config_from_json(config_to_json(config, "bfloat16"), "config.json") == config


def written(**changes):
    return {**config_to_json(PRESETS["lfm2_vl_450m"], "float32"), **changes}


def test_the_other_name_of_the_image_token():
    document = written(image_token_index=124907, text_config={**written()["text_config"], "vocab_size": 128_000})
    del document["image_token_id"]
    assert config_from_json(document, "config.json").image_token_id == 124907


VISION = written()["vision_config"]
WRONG = [
    ({"image_token_index": 7}, "image_token_id is 396 and image_token_index is 7"),
    ({"downsample_factor": 3}, "downsample_factor is 3"),
    ({"projector_hidden_act": "relu"}, "exact GELU"),
    ({"image_token_id": 65536}, "not in the vocabulary"),
    ({"vision_config": {**VISION, "model_type": "clip"}}, "vision_config.model_type is 'clip'"),
    ({"vision_config": {**VISION, "num_patches": 200}}, "no square number"),
    ({"vision_config": {**VISION, "hidden_size": "wide"}}, "vision_config.hidden_size is 'wide'"),
    ({"text_config": {"model_type": "llama"}}, "LFM2-VL has an LFM2"),
    ({"text_config": 3}, "text_config is 3"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_files_of_other_models_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        config_from_json(written(**changes), "config.json")


def test_every_inconsistent_field_is_named():
    with pytest.raises(ConfigError, match=r"(?s)projector_hidden_size.*image_mean"):
        LFM2VLConfig(projector_hidden_size=0, image_std=(1.0,))
    with pytest.raises(ConfigError, match=r"(?s)vision num_hidden_layers.*not divisible"):
        SiglipConfig(num_hidden_layers=0, hidden_size=10, num_attention_heads=3)
