"""SPO-degree as an objective: features of the degree task, bases it can carry, terms and metrics."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.batches import VOCAB, make_examples, packed, unpacked

from jaxpo.errors import ConfigError
from jaxpo.losses import degree_loss, keep_masks
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.degree import level_logits
from jaxpo.objectives.methods import METHODS

K, D, COUNT = 4, 5, 6
SIDES = ("chosen", "rejected")
SPO = METHODS["spo_degree"]
CONFIG = LFM2Config(vocab_size=VOCAB, hidden_size=8, intermediate_size=8, layer_types=("conv",))


@functools.cache
def head():
    keys = jax.random.split(jax.random.key(0))
    return jax.random.normal(keys[0], (D, K)), jax.random.normal(keys[1], (K,))


@functools.cache
def features(layout):
    """Hidden states that are a function of token and position, whatever the layout."""
    b = layout(make_examples("pair", COUNT))
    table = jax.random.normal(jax.random.key(1), (VOCAB, 20, D))
    hidden = jnp.where(b.segment_ids[..., None] > 0, table[b.tokens, b.positions], jnp.nan)
    got = jax.jit(lambda h, b, *head: level_logits(h, b, *head, SIDES))(hidden, b, *head())
    return b, np.asarray(hidden), {k: np.asarray(v) for k, v in got.items()}


def test_levels_pool_the_states_of_kept_tokens():
    b, hidden, got = features(unpacked)
    weight, bias = (np.asarray(x, np.float64) for x in head())
    for s, side in enumerate(SIDES):
        for n in range(COUNT):
            row = 2 * n + s
            mask = np.asarray(b.masks["completion"])[row]
            rank = np.where(mask, np.asarray(b.per_token["keyword"])[row], 0)
            assert got[f"{side}_phrases"][n] == rank.max()
            kept = np.asarray(keep_masks(rank[None], mask[None], levels=K))[0]
            for k in range(K):
                on = hidden[row][kept[k]].astype(np.float64)
                f = on.mean(0) if len(on) else np.zeros(D)
                np.testing.assert_allclose(got[f"{side}_logits"][n, k], f @ weight + bias, rtol=1e-4, atol=1e-5)


def test_packing_does_not_matter():
    (a, _, apart), (b, _, together) = features(unpacked), features(packed)
    where = [int(np.flatnonzero(np.asarray(b.example_id) == i)[0]) for i in np.asarray(a.example_id)]
    for name, x in apart.items():
        np.testing.assert_allclose(x, together[name][where], rtol=1e-5, atol=1e-5, err_msg=name)


def pair():
    rng = np.random.default_rng(0)
    logps = tuple(jnp.asarray(-rng.gamma(9.0, 2.0, 3), jnp.float32) for _ in range(4))
    extra = {f"{s}_logits": jnp.asarray(rng.standard_normal((3, K, K)), jnp.float32) for s in SIDES}
    extra |= {"chosen_phrases": jnp.array([2, 1, 3]), "rejected_phrases": jnp.array([0, 4, 1])}
    return SimpleNamespace(
        logps=logps,
        policy_logps=logps[:2],
        chosen=SimpleNamespace(logps=logps[0]),
        extra=extra,
        present=jnp.array([True, True, False]),
    )


def test_the_degree_terms_join_the_base_loss():
    p = pair()
    degree = [np.asarray(degree_loss(p.extra[f"{s}_logits"])) for s in SIDES]
    added = 0.5 * 0.4 * (degree[0] + np.array([0, 1, 0]) * degree[1]) * np.array([1, 1, 0])
    base = METHODS["dpo"](beta=0.3)
    np.testing.assert_allclose(SPO(beta=0.3, gamma=0.4).loss(p), base.loss(p) + added, rtol=1e-5)
    np.testing.assert_array_equal(SPO(beta=0.3, gamma=0.0).loss(p), base.loss(p))
    # A base with several terms keeps their denominators: the task counts per pair.
    terms, plain = SPO(base="cpo", beta=0.3, gamma=0.4).loss(p), METHODS["cpo"](beta=0.3).loss(p)
    assert terms.keys() == plain.keys()
    np.testing.assert_allclose(terms["pairs"], plain["pairs"] + added, rtol=1e-5)
    np.testing.assert_array_equal(terms["chosen_tokens"], plain["chosen_tokens"])


def test_metrics_are_per_response_with_a_key_phrase():
    p = pair()
    got = SPO().metrics(p)
    assert set(got) == set(SPO().METRICS)
    rows = np.concatenate([np.asarray(p.extra["chosen_logits"])[:2], np.asarray(p.extra["rejected_logits"])[1:2]])
    np.testing.assert_allclose(got["degree_loss"].value(), np.mean(degree_loss(rows)), rtol=1e-5)
    np.testing.assert_allclose(got["degree_accuracy"].value(), np.mean(rows.argmax(-1) == np.arange(K)), rtol=1e-6)


def test_the_head_starts_at_log_k_and_follows_the_levels():
    table = SPO(levels=6).extra_tables(CONFIG)["degree"]
    assert table["weight"].shape == (8, 6)
    assert SPO(levels=6).NEEDS.extra == ("degree",)
    assert not np.any(table["weight"].init(jax.random.key(0), (8, 6), jnp.float32))


@pytest.mark.parametrize(("base", "reference"), [("dpo", "logps"), ("simpo", "none"), ("tdpo2", "vocab")])
def test_bases_bring_their_needs_and_metrics(base, reference):
    m = SPO(base=base, beta=2.0)
    assert m.problems() == []
    assert m.NEEDS.kind("reference") == reference
    assert m.NEEDS.per_token == ("keyword",)
    assert set(m.METRICS) == {*METHODS[base].METRICS, "degree_loss", "degree_accuracy"}
    side = SimpleNamespace(logps=-6.0, log_ratio=3.0, length=jnp.float32(2.0))
    assert m.reward(side) == METHODS[base](beta=2.0).reward(side)


@pytest.mark.parametrize("base", ["bco", "lcpo", "aot", "lipo", "rrpo", "sparsepo", "spo_degree", "nonsense", "tpo"])
def test_bases_that_cannot_carry_the_task_are_refused(base):
    with pytest.raises(ConfigError, match="base"):
        SPO(base=base).build(Scorer(CONFIG))
