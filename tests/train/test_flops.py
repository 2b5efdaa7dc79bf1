"""The analytic count of operations against sums written out."""

import dataclasses

import numpy as np
import pytest

from jaxpo.models.lfm2.presets import preset
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import leaves
from jaxpo.train.flops import training_flops_per_token


def by_hand(config, length):
    """Mean over the positions of one segment: two per weight that multiplies, four per query value and key seen."""
    weights = sum(p.size for name, p in leaves(param_table(config)) if len(p.shape) > 1 and "embed_tokens" not in name)
    if config.tie_word_embeddings:
        weights += config.vocab_size * config.hidden_size
    position = np.arange(length) + 0.5  # a position sees itself half, in the limit of many
    seen = {"conv": 0.0, "full_attention": position.mean()}
    seen["sliding_attention"] = np.minimum(position, config.sliding_window).mean()
    keys = sum(seen[kind] for kind in config.layer_types)
    return 3 * (2 * weights + 4 * config.num_attention_heads * config.head_dim * keys)


@pytest.mark.parametrize("length", [8, 32, 64, 1000])
@pytest.mark.parametrize("name", ["nano", "nano_lfm3"])
def test_operations_of_a_segment(name, length):
    """Below, at and above LFM3's window of 32; with and without an output matrix of its own."""
    config = preset(name)
    assert training_flops_per_token(config, length / 2) == pytest.approx(by_hand(config, length), rel=1e-6)
    if name == "nano_lfm3":
        untied = dataclasses.replace(config, tie_word_embeddings=False)
        assert training_flops_per_token(untied, length / 2) == pytest.approx(by_hand(untied, length), rel=1e-6)
        wide = dataclasses.replace(config, sliding_window=4096)
        more = training_flops_per_token(wide, length / 2) > training_flops_per_token(config, length / 2)
        assert more == (length > config.sliding_window)
