"""SparsePO's weights on a real network: which state weighs which token, packing, dropout, gradients, metrics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.batches import VOCAB, make_examples, packed, unpacked

from jaxpo.errors import ConfigError
from jaxpo.losses import mapo_map, mask_network
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families import token_masks
from jaxpo.objectives.methods import METHODS

CONFIG = LFM2Config(
    vocab_size=VOCAB,
    hidden_size=8,
    intermediate_size=8,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=8,
    layer_types=("conv", "full_attention"),
    initializer_range=0.3,
)
SCORER = Scorer(CONFIG)
COUNT = 6
SIDES = ("chosen", "rejected")


def method(**settings):
    return METHODS["sparsepo"](**settings)


@functools.cache
def reference():
    return init_params(param_table(CONFIG), jax.random.key(2))


@functools.cache
def networks(heads="all_layers", independent=True):
    table = method(mask=heads, independent=independent).extra_tables(CONFIG)["mask"]
    drawn = init_params(table, jax.random.key(5))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), drawn)


@functools.cache
def batch(layout):
    return layout(make_examples("pair", COUNT))


@functools.cache
def encode(independent=True, mask_dropout=0.3, **more):
    """`(mask networks, batch, rng) -> weights`, compiled; rng None is evaluation."""
    m, ref = method(independent=independent, mask_dropout=mask_dropout, **more), reference()

    def run(nets, batch, rng):
        return m.encode_extra(SCORER, {"mask": nets}, {"reference": ref}, batch, None, rng)

    return jax.jit(run)


def responses(layout):
    """Per side the response mask `[N, T]`."""
    b = batch(layout)
    mask = b.masks["completion"].astype(jnp.float32)
    return {s: np.asarray(token_masks.rows_of(mask, b.roles[s], b)) > 0 for s in SIDES}


def test_a_token_is_weighed_by_the_states_that_predict_it():
    b = batch(unpacked)
    got = encode()(networks(), b, None)
    tap = lambda name, x: x if name in ("layers/0", "embedding_norm") else None  # noqa: E731
    kept = jax.jit(lambda ref, b: SCORER.taps(ref, b, tap))(reference(), b)
    hidden = [kept["layers/0"], kept["embedding_norm"]]
    for s, (side, mask) in enumerate(responses(unpacked).items()):
        for net in ("reward", "kl"):
            whole = np.asarray(mask_network(networks()[net], hidden))
            for n in range(COUNT):  # unpacked: example n's two segments are rows 2 n and 2 n + 1
                on = np.flatnonzero(mask[n])
                np.testing.assert_allclose(got[f"{side}_{net}"][n][on], whole[2 * n + s][on - 1], rtol=1e-4, atol=1e-6)
    assert np.abs(np.asarray(got["chosen_reward"] - got["chosen_kl"])).max() > 0.01


@pytest.mark.parametrize("settings", [{}, {"mask": "random"}])
def test_weights_and_their_draws_do_not_depend_on_packing(settings):
    run, nets, rng = encode(**settings), networks(), jax.random.key(7)
    apart, together = run(nets, batch(unpacked), rng), run(nets, batch(packed), rng)
    ids = [np.asarray(batch(layout).example_id) for layout in (unpacked, packed)]
    where = [int(np.flatnonzero(ids[1] == i)[0]) for i in ids[0]]
    masks = responses(unpacked)
    for name, weight in apart.items():
        on = masks[name.split("_")[0]]
        np.testing.assert_allclose(
            np.asarray(weight)[on], np.asarray(together[name])[where][on], rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_dropout_is_new_in_every_step_and_absent_at_evaluation():
    run, nets, b = encode(), networks(), batch(unpacked)
    first, again, second = (run(nets, b, jax.random.key(k))["chosen_reward"] for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    on = responses(unpacked)["chosen"]
    whole = np.asarray(run(nets, b, None)["chosen_reward"])
    for dropped in (first, second):
        zeroed = (np.asarray(dropped) == 0) & (whole > 0) & on
        assert 0.1 < zeroed.sum() / ((whole > 0) & on).sum() < 0.6
    assert np.any(np.asarray(first) != np.asarray(second))


def test_gradients_reach_the_mask_networks_and_not_the_reference():
    m, b = method(), batch(unpacked)

    @jax.jit
    def grads(nets, ref):
        def total(nets, ref):
            x = m.encode_extra(SCORER, {"mask": nets}, {"reference": ref}, b, None, None)
            return sum(jnp.sum(w) for w in x.values())

        return jax.grad(total, (0, 1))(nets, ref)

    to_nets, to_reference = grads(networks(independent=False), reference())
    assert all(np.any(g) for g in jax.tree.leaves(to_nets))
    assert not any(np.any(g) for g in jax.tree.leaves(to_reference))


def test_sign_masks_are_binary_and_have_no_gradient():
    m, b, ref = method(mask="sign"), batch(unpacked), reference()

    @jax.jit
    def run(nets):
        def total(nets):
            got = m.encode_extra(SCORER, {"mask": nets}, {"reference": ref}, b, None, None)["chosen_reward"]
            return jnp.sum(got), got

        return jax.grad(total, has_aux=True)(nets)

    grad, got = run(networks(independent=False))
    assert set(np.unique(got)) == {0.0, 1.0}
    assert not any(np.any(g) for g in jax.tree.leaves(grad))


class Activations:
    """A network of one layer that shows given arrays, one in each of MaPO's families and one outside them."""

    def __init__(self, arrays):
        self.arrays = arrays

    def taps(self, params, batch, tap):
        seen = {name: tap(name, x) for name, x in self.arrays.items()}
        return {name: x for name, x in seen.items() if x is not None}


def test_mapo_averages_families_of_activations_of_the_reference():
    b = batch(unpacked)
    names = ("layers/0/feed_forward/hidden", "layers/0/mixer/q", "layers/0/mixer/v", "layers/0", "logits")
    keys = jax.random.split(jax.random.key(0), len(names))
    shapes = [(3,), (2, 4), (1, 4), (5,), (7,)]  # attention's have a head axis
    arrays = {n: jax.random.normal(k, (*b.tokens.shape, *s)) for n, k, s in zip(names, keys, shapes, strict=True)}
    got = jax.jit(lambda arrays, b: token_masks.mapo(Activations(arrays), None, b))(arrays, b)
    for s, (side, mask) in enumerate(responses(unpacked).items()):
        maps = {}
        for name, x in arrays.items():
            mean = np.asarray(x).reshape(*b.tokens.shape, -1).mean(-1)[s::2]
            predicts = np.concatenate([np.zeros((COUNT, 1)), mean[:, :-1]], axis=1)
            maps[name] = np.asarray(mapo_map(predicts, mask))
        expected = (maps[names[0]] + (maps[names[1]] + maps[names[2]]) / 2 + maps[names[3]]) / 3
        np.testing.assert_allclose(got[f"{side}_reward"], expected, atol=1e-5)
        assert not np.asarray(got[f"{side}_reward"])[~mask].any()


def test_mapo_on_a_real_network_lies_in_the_unit_interval():
    got = encode(independent=False, mask="mapo")({}, batch(packed), None)
    assert set(got) == {"chosen_reward", "rejected_reward"}
    for weight in got.values():
        assert np.min(weight) >= 0
        assert 0.5 < np.max(weight) <= 1


def test_sparsity_counts_response_tokens_of_present_pairs():
    from types import SimpleNamespace

    masks = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool), np.array([[1, 0, 0, 0], [1, 1, 1, 1]], bool)
    weights = np.array([[0.0, 2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]), np.array([[0.3, 0, 0, 0], [0, 0, 0, 1.0]])
    extra = {"chosen_reward": jnp.asarray(weights[0]), "rejected_reward": jnp.asarray(weights[1])}
    pair = SimpleNamespace(
        token_masks=masks, extra=extra, present=jnp.array([True, False]), kls=(jnp.array([2.0, 9.0]),) * 2
    )
    got = method().metrics(pair)
    assert set(got) == set(method().METRICS)
    assert float(got["sparsity"].value()) == float(got["sparsity_kl"].value()) == 0.25  # 1 of 4 tokens of pair 0
    assert float(got["kl/chosen"].value()) == 2.0


def test_settings_decide_what_is_needed():
    assert method().NEEDS.extra == ("mask",)
    assert set(method(independent=True).extra_tables(CONFIG)["mask"]) == {"reward", "kl"}
    assert method(mask="two_layer").extra_tables(CONFIG)["mask"]["reward"]["layers"]["1"]["hidden"]["weight"].shape == (
        8,
        200,
    )
    for mask in ("mapo", "random"):
        assert method(mask=mask).NEEDS.extra == ()
        assert method(mask=mask).extra_tables(CONFIG) == {}
    with pytest.raises(ConfigError, match="independent"):
        method(mask="mapo", independent=True).build(SCORER)
    with pytest.raises(ConfigError, match="precompute_ref_log_probs"):
        method().build(SCORER, recorded=("reference",))


def test_the_l1_norm_is_of_common_masks_unless_told_otherwise():
    assert method().l1_weights() == (1e-3, 1e-3)
    assert method(independent=True).l1_weights() == (0.0, 0.0)
    assert method(independent=True, lambda_u=0.5).l1_weights() == (0.5, 0.0)
    assert method(lambda_d=0.0).l1_weights() == (1e-3, 0.0)
    assert method(mask="random", lambda_u=0.5).l1_weights() == (0.0, 0.0)
    assert method(lambda_u=None).problems() == []
    (problem,) = method(lambda_u=-1.0).problems()
    assert problem == "sparsepo: lambda_u is -1.0 but must be a number at least 0."
    (problem,) = method(beta=None).problems()
    assert "beta is None but must be a number" in problem


def test_a_new_mask_network_starts_alive():
    drawn = init_params(method(independent=True).extra_tables(CONFIG)["mask"], jax.random.key(0))
    weights = encode()(drawn, batch(unpacked), None)["chosen_reward"]
    assert np.mean(np.asarray(weights)[responses(unpacked)["chosen"]] > 0) > 0.3
