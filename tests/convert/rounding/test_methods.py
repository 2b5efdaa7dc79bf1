"""GPTQ, AWQ and what they are told of a text, against what they promise; on models that have learnt something."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.gguf_models import DENSE, MOE, random, tokenizer, trained
from convert.many_languages import TEXTS

from jaxpo.convert.rounding.awq import best_factors, scaled
from jaxpo.convert.rounding.gptq import gptq, objective
from jaxpo.convert.rounding.inputs import input_grams
from jaxpo.convert.rounding.methods import METHODS, quantize_model
from jaxpo.convert.verify import compare, log_probs
from jaxpo.errors import ConfigError
from jaxpo.models.grids import placements, rounded_model
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.quantize import quantized
from jaxpo.models.spec import leaves
from jaxpo.ops.grids import absmax_scales, best_scales, grid, rounded
from jaxpo.ops.quant import Quant

IDS = np.concatenate([[1, *tokenizer().encode(text)] for text in TEXTS])
WINDOWS = IDS[: 48 * 12].reshape(12, 48)
RNG = np.random.default_rng(8)


def axes_of(config, to):
    table = param_table(config)
    found = placements(table, config, to)
    return {path: found[id(param)].axis for path, param in leaves(table) if id(param) in found}


def correlated(n=400, i=64):
    return RNG.standard_normal((n, i)) @ (0.3 * RNG.standard_normal((i, i)) + np.eye(i))


@pytest.mark.parametrize("name", ["int4", "q4_0", "8da4w", "int8"])
@pytest.mark.parametrize("group", [32, 0])
def test_gptq_is_never_worse_than_rounding_in_its_objective(name, group):
    if name == "q4_0" and not group:
        return
    to = grid(name, group)
    x, w = correlated(), RNG.standard_normal((24, 64)).astype(np.float32)
    gram = x.T @ x
    q = gptq(w, gram, to)
    errors = [objective(w, rounded(w, to, scales(w, to)), gram) for scales in (absmax_scales, best_scales)]
    assert (objective(w, q, gram) <= errors[1] * (1 + 1e-9)).all()
    assert objective(w, q, gram).sum() < 0.8 * min(e.sum() for e in errors)
    # The objective is the squared error of the outputs.
    np.testing.assert_allclose(objective(w, q, gram), (((w - q) @ x.T) ** 2).sum(1), rtol=1e-6)


def test_gptq_without_correlations_is_rounding():
    """H = c I: no column can make up for another."""
    w = RNG.standard_normal((8, 64)).astype(np.float32)
    to = grid("int4")
    assert np.array_equal(gptq(w, 3.0 * np.eye(64), to), rounded(w, to, best_scales(w, to)))
    assert np.array_equal(gptq(w, np.zeros((64, 64)), to), rounded(w, to, best_scales(w, to)))


def test_what_matrices_are_multiplied_with():
    """`X^T X` in one pass and in several, and against the traces that the norms' weights say."""
    config = MOE
    params = random(config)
    axes = axes_of(config, grid("int4"))
    found = input_grams(params, config, WINDOWS[:2], axes)
    parts = input_grams(params, config, WINDOWS[:2], axes, budget=200_000)
    assert found.keys() == parts.keys() == axes.keys()
    for path, gram in found.items():
        np.testing.assert_allclose(parts[path], gram, rtol=1e-4, atol=1e-3)
    # A normalised input has a mean square of 1 before its weight.
    norm = np.asarray(params["layers"]["0"]["operator_norm"]["weight"], np.float64)
    diagonal = np.diag(found["layers/0/conv/in_proj/weight"])
    np.testing.assert_allclose((diagonal / norm**2).sum(), WINDOWS[:2].size * norm.size, rtol=1e-3)
    assert np.linalg.eigvalsh(found["layers/1/self_attn/out_proj/weight"]).min() > -1e-3
    # Every token chose two of four experts, all of which read the same normalised input.
    stacked = found["layers/1/feed_forward/experts/w1/weight"]
    own = np.asarray(params["layers"]["1"]["ffn_norm"]["weight"], np.float64)
    total = (np.diagonal(stacked, axis1=1, axis2=2) / own**2).sum()
    np.testing.assert_allclose(total, 2 * WINDOWS[:2].size * own.size, rtol=1e-3)


def test_awq_scales_without_changing_the_function():
    config = MOE
    params, to = random(config), grid("int4")
    names = [path for path, _ in leaves(param_table(config))]
    weights = {n: np.asarray(x) for n, x in zip(names, jax.tree.leaves(params), strict=True)}
    grams = input_grams(params, config, WINDOWS[:3], axes_of(config, to))
    other = scaled(weights, grams, config.num_hidden_layers, to)
    moved = [n for n in names if not np.array_equal(other[n], weights[n])]
    assert len(moved) > 4
    again = jax.tree.unflatten(jax.tree.structure(params), [jnp.asarray(other[n]) for n in names])
    tokens = WINDOWS[5]
    assert (
        compare(log_probs(params, config, tokens, None), log_probs(again, config, tokens, None))["max_logprob_error"]
        < 5e-4
    )


def test_awq_is_never_worse_than_rounding_in_its_objective():
    w, to = RNG.standard_normal((64, 24)).astype(np.float32), grid("int4")
    x = correlated() * np.exp(RNG.standard_normal(64))
    gram = x.T @ x
    s = best_factors([w], [gram], to)

    def error(s):
        larger = (w.T * s).astype(np.float32)
        return objective(w.T, rounded(larger, to, best_scales(larger, to)) / s, gram).sum()

    assert error(s) <= error(np.ones(64, np.float32)) * (1 + 1e-6)
    assert error(s) < 0.95 * error(np.ones(64, np.float32))


@pytest.mark.slow
def test_all_methods_on_a_trained_model():
    """KL on text that calibration did not see; calibrated columns beat plain rounding."""
    params, to = trained(), grid("int4")
    tokens = IDS[48 * 12 : 48 * 16]
    exact = log_probs(params, DENSE, tokens, None)
    cost = {}
    for method in METHODS:
        q = quantize_model(params, DENSE, to, method, WINDOWS)
        cost[method] = compare(exact, log_probs(q, DENSE, tokens, None))["kl"]
    print(cost)
    assert all(0 < kl < 0.2 for kl in cost.values())
    assert cost["gptq"] < cost["rtn"]


def test_rounding_to_nearest_is_the_models_own_rounding_and_the_engines_integers():
    params = random(DENSE)
    for name, group in (("int4", 32), ("int8", 0)):
        to = grid(name, group)
        found = quantize_model(params, DENSE, to, "rtn")
        jax.tree.map(np.testing.assert_array_equal, found, rounded_model(params, DENSE, to))
    # Whole rows in 8 bits: what the engine rounds to, and so what it holds without a further loss.
    held = quantized(jax.tree.map(jnp.asarray, found), DENSE)
    kept = [leaf for leaf in jax.tree.leaves(held, is_leaf=lambda x: isinstance(x, Quant)) if isinstance(leaf, Quant)]
    assert len(kept) > 10
    for path in ("self_attn", "q_proj"), ("feed_forward", "w2"):
        w = found["layers"]["1"][path[0]][path[1]]["weight"]
        np.testing.assert_allclose(held["layers"]["1"][path[0]][path[1]]["weight"].dense(), w, rtol=1e-6)


def test_what_is_asked_wrongly():
    with pytest.raises(ConfigError, match="there are rtn, mse"):
        quantize_model(random(DENSE), DENSE, grid("int4"), "gtpq")
    with pytest.raises(ConfigError, match="looks at a text"):
        quantize_model(random(DENSE), DENSE, grid("int4"), "awq")
    with pytest.raises(ConfigError, match="divide no matrix"):
        quantize_model(random(DENSE), DENSE, grid("int4", 7), "rtn")
