"""What we read out of a config.json is what transformers reads out of it."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.parity
transformers = pytest.importorskip("transformers", reason="parity tests need transformers (scripts/test --parity)")
torch = pytest.importorskip("torch", reason="parity tests need torch (scripts/test --parity)")

from convert.test_config_json import COMMON, WRITTEN  # noqa: E402
from models.tiny import CONFIG, LFM3  # noqa: E402
from models.tiny_moe import CONFIG as MOE  # noqa: E402

from jaxpo.convert.config_json import config_from_json, config_to_json  # noqa: E402

SHARED = (
    *("vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "norm_eps", "initializer_range"),
    *("tie_word_embeddings", "max_position_embeddings", "bos_token_id", "pad_token_id"),
)


def theirs(document):
    """As `from_pretrained` makes it of the file."""
    kind = transformers.AutoConfig.for_model(document["model_type"])
    return type(kind).from_dict(dict(document))


def compare(document):
    ours, other = config_from_json(document), theirs(document)
    assert {name: getattr(ours, name) for name in SHARED} == {name: getattr(other, name) for name in SHARED}
    assert list(ours.layer_types) == other.layer_types[: other.num_hidden_layers]
    assert ours.conv_kernel == other.conv_L_cache
    ends = other.eos_token_id if isinstance(other.eos_token_id, list) else [other.eos_token_id]
    assert ours.eos_token_id == ends[0]
    rope = other.rope_parameters
    assert ours.rope_theta == rope.get("full_attention", rope)["rope_theta"]
    return ours, other


@pytest.mark.parametrize("name", WRITTEN)
def test_released_and_written_forms(name):
    from transformers.models.lfm2.modeling_lfm2 import Lfm2MLP

    ours, other = compare({**COMMON, **WRITTEN[name]})
    with torch.device("meta"):
        assert Lfm2MLP(other).w1.out_features == ours.intermediate_size


@pytest.mark.parametrize("config", [CONFIG, MOE, LFM3], ids=["dense", "mixture", "lfm3"])
def test_our_own_files(config):
    ours, other = compare(config_to_json(config, "float32"))
    assert ours == config
    assert other.head_dim == config.head_dim
    if config is CONFIG:
        assert (other.block_dim, other.conv_dim) == (config.hidden_size, config.hidden_size)  # as vLLM asks for them
