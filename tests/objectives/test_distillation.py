"""Distillation through the chunked head: values, gradients, memory, collectives; records and networks give the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.batches import make_examples, packed
from contracts.harness import CONFIG, SCORER, initial
from ops.test_head import relative, weight_collectives_in_loops

from jaxpo.data.packing.teacher_records import IDS, LOG_ODDS, LOGPS
from jaxpo.errors import ConfigError
from jaxpo.losses import TopKRecord, decoupled_topk_kd, topk_record
from jaxpo.models.lfm2.forward import unembedding
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.distilled import distilled_tokens, network_term, record_term
from jaxpo.objectives.methods import METHODS, resolve
from jaxpo.ops.head import choose_chunk, map_vocab
from jaxpo.sharding import batch_sharding, make_mesh, replicated, use_mesh

R, S, D, V, K = 4, 21, 16, 48, 5
METHOD = METHODS["decoupled_topk_kd"](top_k=K, tau=2.0)


@functools.cache
def arrays():
    """Weights, hidden states and targets of a student and a teacher, and the teacher's records."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    weight, hidden, other, taught = draw(V, D), draw(4 * R, S, D), draw(V, 8), draw(4 * R, S, 8)
    target = jnp.asarray(rng.integers(0, V, (4 * R, S)), jnp.int32)
    record = jax.jit(lambda h, w: topk_record(jnp.einsum("rsd,vd->rsv", h, w), K))(taught, other)
    return weight, hidden, other, taught, target, record


@functools.cache
def weighted(chunk, *, network):
    """Value and gradient of a scalar that reaches every output with its own weight; the teacher recorded, or beside."""

    def f(weight, hidden, other, taught, target, record):
        if network:
            out = map_vocab(network_term(METHOD.per_token, K), ((weight, hidden), (other, taught)), target, chunk=chunk)
        else:
            out = map_vocab(record_term(METHOD.per_token), ((weight, hidden),), (target, record), chunk=chunk)
        scale = jnp.cos(jnp.arange(target.size, dtype=jnp.float32)).reshape(target.shape)
        return jnp.sum(scale * (out[1] + 0.3 * out[0].logps)), out

    return jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))


def test_chunks_equal_the_dense_head_and_records_equal_the_network():
    args = arrays()
    expected = weighted(S, network=True)(*args)
    assert float(jnp.min(expected[0][1][1])) > 0.01
    for chunk, network in ((S, False), (4, False), (4, True)):
        got = weighted(chunk, network=network)(*args)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            assert relative(a, b) <= 2e-5


def test_stored_in_16_bits_the_loss_moves_by_the_rounding_of_the_shape_alone():
    *args, record = arrays()
    stored = TopKRecord(record.ids.astype(jnp.uint16), record.logps.astype(jnp.bfloat16), record.log_odds)
    run = weighted(4, network=False)
    (_, rounded), grads = run(*args, stored)
    (_, exact), expected = run(*args, record)
    np.testing.assert_array_equal(rounded[2]["teacher_mass"], exact[2]["teacher_mass"])
    np.testing.assert_allclose(rounded[1], exact[1], atol=2e-2)
    assert relative(grads[0], expected[0]) <= 1e-2


@pytest.mark.parametrize("network", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["records", "teacher"])
def test_temp_memory_is_an_eighth_of_the_dense_head(network):
    """Compiled value-and-gradient of the head alone at [8, 2048], d 1024, V 65,536, K 32 (nothing is allocated)."""
    like = jax.ShapeDtypeStruct
    weight, hidden = like((65536, 1024), jnp.float32), like((8, 2048, 1024), jnp.bfloat16)
    record = TopKRecord(
        like((8, 2048, 32), jnp.uint16), like((8, 2048, 32), jnp.bfloat16), like((8, 2048), jnp.float32)
    )
    wide = METHODS["decoupled_topk_kd"]()

    def temp_bytes(chunk):
        def f(weight, hidden, target, record):
            if network:
                term, streams = network_term(wide.per_token, 32), ((weight, hidden), (weight, hidden))
                return jnp.sum(map_vocab(term, streams, target, chunk=chunk)[1])
            return jnp.sum(
                map_vocab(record_term(wide.per_token), ((weight, hidden),), (target, record), chunk=chunk)[1]
            )

        compiled = (
            jax.jit(jax.value_and_grad(f, argnums=(0, 1)))
            .lower(weight, hidden, like((8, 2048), jnp.int32), record)
            .compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    assert choose_chunk(8, 2048, 65536, 2 if network else 1) < 2048
    assert temp_bytes(None) <= temp_bytes(2048) / 8


def test_mesh_gives_the_same_numbers_and_no_weight_collective_inside_the_loop():
    args = arrays()
    expected = weighted(4, network=False)(*args)
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    with use_mesh(mesh):
        where = batch_sharding(mesh)
        vocab = jax.sharding.NamedSharding(mesh, jax.P("tensor", "fsdp"))
        placed = [jax.device_put(x, vocab if i in (0, 2) else where) for i, x in enumerate(args)]
        compiled = jax.jit(weighted(4, network=False), out_shardings=replicated(mesh)).lower(*placed).compile()
        got = compiled(*placed)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert relative(a, b) <= 2e-5
    assert not weight_collectives_in_loops(compiled.as_text(), (V // 2, D))


def model(seed):
    return init_params(param_table(CONFIG), jax.random.key(seed))


def recorded(batch, teacher):
    """The batch with its teacher's records, made without the objective's code: in target coordinates."""
    record = jax.jit(lambda t, b: topk_record(jnp.einsum("rsd,vd->rsv", SCORER.hidden(t, b), unembedding(t)), K))(
        teacher, batch
    )
    per_token = {
        name: jnp.roll(x, 1, axis=1)  # what is said of token s stands at s
        for name, x in zip((IDS, LOGPS, LOG_ODDS), record, strict=True)
    }
    return batch.__class__(**{**batch.__dict__, "per_token": per_token})


def test_every_token_gets_the_loss_of_the_logits_before_it():
    batch = packed(make_examples("completion", 6), blocks=2)
    student, teacher = model(1), model(2)
    got = jax.jit(lambda s, t, b: distilled_tokens(SCORER, s, b, METHOD.per_token, top_k=K, teacher=t)[0])(
        student, teacher, batch
    )
    z, t = (
        np.einsum("rsd,vd->rsv", np.float64(jax.jit(SCORER.hidden)(m, batch)), np.float64(unembedding(m)))
        for m in (student, teacher)
    )
    ids = np.argsort(-t, -1, kind="stable")[..., :K]
    total = np.log(np.exp(t).sum(-1))
    loss = np.asarray(
        jax.jit(lambda *a: decoupled_topk_kd(*a, tau=2.0))(
            np.float32(z), np.float32(np.take_along_axis(t, ids, -1)), np.float32(total), ids
        )
    )
    mask = np.asarray(batch.masks["completion"])
    rows, at = np.nonzero(mask)
    assert len(rows) > 20
    np.testing.assert_allclose(np.asarray(got.kd)[rows, at], loss[rows, at - 1], rtol=1e-4, atol=1e-5)
    mass = np.take_along_axis(np.exp(t - total[..., None]), ids, -1).sum(-1)
    np.testing.assert_allclose(np.asarray(got.masses["teacher_mass"])[rows, at], mass[rows, at - 1], rtol=1e-4)
    starts = np.asarray(batch.positions) == 0
    np.testing.assert_array_equal(np.asarray(got.kd)[starts], 0.0)


def test_an_objective_on_records_is_the_one_beside_the_teacher():
    batch = packed(make_examples("completion", 6), blocks=2)
    online = METHOD.build(SCORER)
    state, frozen = initial(online)
    offline = METHOD.build(SCORER, recorded=("teacher",))

    @functools.partial(jax.jit, static_argnums=0)
    def run(objective, params, frozen, batch):
        def total(params):
            out = objective.loss(objective.encode(params, frozen, batch, None)[0], batch, {}, objective.counts(batch))
            return out.loss, {k: m.value() for k, m in out.metrics.items()}

        return jax.value_and_grad(total, has_aux=True)(params)

    expected = run(online, state.params, frozen, batch)
    got = run(offline, state.params, {}, recorded(batch, frozen["teacher"]))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert float(jnp.max(jnp.abs(a - b))) <= 2e-5 * (float(jnp.max(jnp.abs(b))) + 1)
    metrics = expected[0][1]
    assert set(metrics) == {"entropy", "mean_token_accuracy", "ce_loss", "kd_loss", "teacher_mass", "student_mass"}
    weights = METHODS["decoupled_topk_kd"](top_k=K, tau=2.0, ce_weight=0.25, kd_weight=2.0)
    other = run(weights.build(SCORER), state.params, frozen, batch)[0][0]
    assert float(other) == pytest.approx(0.25 * float(metrics["ce_loss"]) + 2 * float(metrics["kd_loss"]), rel=1e-5)


def test_a_teacher_may_be_of_another_shape():
    batch = packed(make_examples("text", 6), blocks=2)
    wide = CONFIG.__class__(**{**CONFIG.__dict__, "hidden_size": 24, "layer_types": ("conv", "full_attention")})
    teacher = init_params(param_table(wide), jax.random.key(4))
    objective = METHODS["forward_kl"]().build(SCORER, scorers={"teacher": Scorer(wide)})
    found, _ = jax.jit(objective.encode)({"model": model(1)}, {"teacher": teacher}, batch, None)
    assert np.all(np.isfinite(found.kd))
    assert found.masses == {}
    assert float(jnp.sum(found.kd)) > 0.1


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("decoupled_topk_kd", {"tau": 0.0}, "decoupled_topk_kd: tau is 0.0 but must be a number greater than 0."),
        ("decoupled_topk_kd", {"top_k": 0}, "top_k is 0 but must be a number at least 1."),
        ("bucket_topk_kl", {"top_k": 2.5}, "top_k is 2.5 but must be a whole number."),
        ("forward_kl", {"ce_weight": 0.0, "kd_weight": 0.0}, "ce_weight and kd_weight are both 0"),
        ("generalized_jsd", {"beta": 1.5}, "beta is 1.5 but must be a number at least 0 and at most 1."),
    ],
)
def test_settings_out_of_range_are_named(name, settings, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.").replace("^", r"\^")):
        METHODS[name](**settings).build(SCORER)


def test_a_loss_on_whole_distributions_refuses_records():
    with pytest.raises(ConfigError, match=r"reverse_kl: precompute_teacher cannot be used.*keeps its likeliest tokens"):
        METHODS["reverse_kl"]().build(SCORER, recorded=("teacher",))
    assert resolve("lfm2-kd") is METHODS["decoupled_topk_kd"]
