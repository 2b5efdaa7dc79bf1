"""Adapters beside a mixture of experts: what they are put on, and that adapted equals merged, packed and cached."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.adapters import drawn
from models.tiny import assert_trees_close
from models.tiny_moe import CONFIG, hidden_and_gradient, params

from jaxpo.config import LoRA
from jaxpo.errors import ConfigError
from jaxpo.models.lfm2.forward import init_cache, step
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_leaves, adapter_table, attach, describe_adapter, merge, scale_of

TABLE, ALL = param_table(CONFIG), LoRA(rank=3, alpha=6.0)
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (1, 16))


def test_all_linear_leaves_experts_and_router_alone_and_says_so():
    adapter = adapter_table(TABLE, ALL)
    paths = [path for path, _, _ in adapter_leaves(adapter)]
    assert "layers/0/feed_forward/w1/weight" in paths
    assert "layers/1/self_attn/q_proj/weight" in paths
    assert not any("experts" in path or "gate" in path for path in paths)
    assert any("not adapted: experts" in line for line in describe_adapter(TABLE, adapter, ALL))


@pytest.mark.parametrize("pattern", ["*/experts/w1/weight", "*/gate/weight", "*/expert_bias/bias"])
def test_a_pattern_that_names_experts_or_router_is_refused(pattern):
    with pytest.raises(ConfigError, match="the router and the experts of a mixture get none"):
        adapter_table(TABLE, LoRA(target_modules=(pattern,)))


def test_adapted_equals_merged_packed_and_cached():
    adapter = drawn(adapter_table(TABLE, ALL))
    adapted, merged = (f(params(), adapter, scale_of(ALL)) for f in (attach, merge))
    segments = np.repeat([[1, 2, 0]], 1, 0).repeat([9, 5, 2], 1)
    positions = np.concatenate([np.arange(9), np.arange(5), np.zeros(2, int)])[None]
    weight = np.random.default_rng(1).standard_normal((1, 16, 16)).astype(np.float32) * (segments[..., None] > 0)
    a, sums, gradient = hidden_and_gradient(adapted, TOKENS, segments, positions, weight)
    b, plain, _ = hidden_and_gradient(merged, TOKENS, segments, positions, weight)
    real = segments[0] > 0
    np.testing.assert_allclose(np.asarray(a)[0, real], np.asarray(b)[0, real], atol=5e-5)
    assert_trees_close(sums, plain, 1e-5)
    assert float(jnp.abs(gradient["layers"]["1"]["self_attn"]["q_proj"]["weight"].a).max()) > 0
    cache, outs = init_cache(CONFIG, 1, 9), []
    run = jax.jit(functools.partial(step, config=CONFIG))
    for n in (slice(0, 4), slice(4, 5), slice(5, 9)):
        hidden, cache = run(adapted, TOKENS[:, n], cache)
        outs.append(hidden)
    np.testing.assert_allclose(np.concatenate(outs, 1)[0], np.asarray(a)[0, :9], atol=5e-5)
