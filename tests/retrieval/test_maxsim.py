"""Late interaction and its losses on the spec's check values, which the ecosystem's own code computed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo import losses
from jaxpo.objectives.families.retrieval import Vectors, batch_scores
from jaxpo.objectives.methods.colbert_distillation import ColBERTDistillation
from jaxpo.objectives.methods.info_nce import InfoNCE
from jaxpo.ops import maxsim as module
from jaxpo.ops.maxsim import maxsim, maxsim_all

TABLE = np.sin(0.7 * np.arange(40 * 4)).reshape(40, 4).astype(np.float32)
QUERIES = np.array([[1, 5, 6, 7], [1, 8, 9, 7], [1, 11, 12, 7]])
LISTS = np.array(
    [
        [[1, 20, 21, 22, 0], [1, 23, 30, 24, 25]],
        [[1, 26, 27, 0, 0], [1, 28, 29, 31, 32]],
        [[1, 33, 34, 35, 36], [1, 37, 38, 0, 0]],
    ]
)
POSITIVES = np.array([[1, 20, 21, 22, 0], [1, 23, 30, 24, 25], [1, 26, 27, 0, 0]])
NEGATIVES = np.array([[1, 28, 29, 31, 32], [1, 33, 34, 35, 36], [1, 37, 38, 0, 0]])
TEACHER = np.array([[3, 1], [0.5, 2], [1, 1]], np.float32)


def vectors(table, documents):
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    kept = (documents != 0) & (documents != 30)
    everyone = jnp.ones(documents.shape[:2], bool)
    return Vectors(
        unit(table[QUERIES]),
        jnp.ones(QUERIES.shape, bool),
        unit(table[documents]),
        jnp.asarray(kept),
        everyone,
        everyone[:, 0],
        {"scores": TEACHER},
    )


@jax.jit
def answers(table):
    kd = lambda t, normalize: ColBERTDistillation(normalize=normalize, masked="zero").loss(vectors(t, LISTS)).mean()  # noqa: E731

    def contrast(t, temperature):
        x = vectors(t, np.stack([POSITIVES, NEGATIVES], 1)).replace(columns={})
        return InfoNCE(temperature=temperature, masked="zero").loss(x).mean()

    lists = vectors(table, LISTS)
    return {
        "scores": maxsim(lists.queries[:, None], lists.documents, kept=lists.kept, masked="zero"),
        "kd": jax.value_and_grad(kd)(table, True),
        "raw": jax.value_and_grad(kd)(table, False),
        "one": jax.value_and_grad(contrast)(table, 1.0),
        "sharp": jax.value_and_grad(contrast)(table, 0.02),
    }


def test_the_check_values_of_scores_and_losses():
    got = jax.device_get(answers(TABLE))
    expected = [[2.626660, 3.974678], [3.870542, 3.390178], [3.418847, 3.239126]]
    np.testing.assert_allclose(got["scores"], expected, atol=1e-5)
    norm = lambda g: float(np.linalg.norm(g))  # noqa: E731
    for name, value, slope in (
        ("kd", 0.53487456, 0.0),
        ("raw", 0.48538756, 0.32018549),
        ("one", 2.02950501, 0.52613498),
        ("sharp", 31.53556252, 38.48023969),
    ):
        np.testing.assert_allclose(got[name][0], value, rtol=3e-6, err_msg=name)
        np.testing.assert_allclose(norm(got[name][1]), slope, rtol=3e-5, atol=1e-6, err_msg=name)


def reference(q, d, kept):
    """Float64, from the definition."""
    return sum(max((float(a @ b) for b, k in zip(d, kept, strict=True) if k), default=0.0) for a in q)


def test_scores_and_gradients_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    q, d = (rng.normal(size=s).astype(np.float32) for s in ((3, 4, 5), (6, 7, 5)))
    kept = rng.random((6, 7)) < 0.6
    kept[2] = False
    got = maxsim_all(jnp.asarray(q), jnp.asarray(d), None, jnp.asarray(kept))
    expected = [[reference(a.astype(np.float64), b, k) for b, k in zip(d, kept, strict=True)] for a in q]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    weight = rng.normal(size=got.shape).astype(np.float32)
    total = lambda q, d: jnp.sum(weight * maxsim_all(q, d, None, jnp.asarray(kept)))  # noqa: E731
    of_q, of_d = jax.grad(total, argnums=(0, 1))(jnp.asarray(q), jnp.asarray(d))
    wanted = np.zeros_like(d, np.float64)
    for (n, i), m in itertools.product(np.ndindex(3, 4), range(6)):
        if kept[m].any():
            best = max(np.flatnonzero(kept[m]), key=lambda j: q[n, i] @ d[m, j])
            wanted[m, best] += weight[n, m] * q[n, i]
    np.testing.assert_allclose(of_d, wanted, rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(of_d)[2] == 0)
    assert np.all(np.isfinite(of_q))


def test_blocks_of_queries_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    q, d = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((5, 2, 3), (4, 6, 3)))
    whole = jax.value_and_grad(lambda q: jnp.sum(jnp.sin(maxsim_all(q, d))))(q)
    monkeypatch.setattr(module, "BUDGET", 2 * 4 * 2 * 6)
    parts = jax.value_and_grad(lambda q: jnp.sum(jnp.sin(maxsim_all(q, d))))(q)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), whole, parts)


def test_the_first_of_equal_maxima_takes_the_gradient():
    q, d = jnp.ones((1, 1, 2)), jnp.ones((1, 3, 2))
    slope = jax.grad(lambda d: maxsim(q, d)[0])(d)
    np.testing.assert_array_equal(slope, [[[1, 1], [0, 0], [0, 0]]])


def test_a_row_that_is_masked_to_zero_beats_negative_ones_and_at_minus_infinity_never_does():
    q, d = jnp.ones((1, 1, 2)), -jnp.ones((1, 2, 2))
    kept = jnp.asarray([[True, False]])
    assert maxsim(q, d, kept=kept)[0] == -2
    assert maxsim(q, d, kept=kept, masked="zero")[0] == 0
    assert maxsim(q, d, jnp.zeros((1, 1), bool))[0] == 0


@pytest.mark.parametrize("masked", ["-inf", "zero"])
def test_a_document_without_a_kept_row_scores_zero_with_zero_gradient(masked):
    q, d = jnp.ones((1, 2, 3)), jnp.ones((1, 4, 3))
    kept = jnp.zeros((1, 4), bool)
    value, grads = jax.value_and_grad(lambda q, d: maxsim(q, d, kept=kept, masked=masked)[0], argnums=(0, 1))(q, d)
    assert value == 0
    assert all(np.all(np.asarray(g) == 0) for g in grads)


def test_the_positive_s_own_text_is_no_negative():
    x = vectors(jnp.asarray(TABLE), np.stack([POSITIVES, NEGATIVES], 1))
    numbers = jnp.asarray([[7, 1], [2, 7], [7, 4]])
    _, counts, target = batch_scores(x.replace(columns={"document": numbers}))
    np.testing.assert_array_equal(target, [0, 2, 4])
    np.testing.assert_array_equal(counts[0], [True, True, True, False, False, True])
    np.testing.assert_array_equal(counts[2], [False, True, True, False, True, True])


def test_what_the_teacher_likes_nearly_as_well_is_no_negative():
    x = vectors(jnp.asarray(TABLE), np.stack([POSITIVES, NEGATIVES], 1))
    x = x.replace(columns={"scores": jnp.asarray([[0.9, 0.85], [0.5, 0.9], [0.9, 0.2]])})
    _, every, target = batch_scores(x)
    assert every.all()
    np.testing.assert_array_equal(target, [0, 3, 4])
    _, counts, _ = batch_scores(x, "-inf", 0.1)
    np.testing.assert_array_equal(~counts, np.eye(6, dtype=bool)[[1, 1, 1]] & [[True], [False], [False]])
    strict, loose = (InfoNCE(false_negative_margin=m) for m in (0.0, 0.1))
    assert strict.NEEDS.columns == ("scores",)
    assert not InfoNCE().NEEDS.columns
    np.testing.assert_allclose(strict.loss(x), InfoNCE().loss(x), rtol=1e-6)
    assert loose.loss(x)[0] < strict.loss(x)[0]
    np.testing.assert_allclose(loose.loss(x)[1:], strict.loss(x)[1:], rtol=1e-6)


def test_the_laws_of_the_distillation():
    rng = np.random.default_rng(2)
    s, t = (rng.normal(size=(4, 5)).astype(np.float32) for _ in range(2))
    where = jnp.ones((4, 5), bool)
    loss = lambda s, **o: losses.colbert_distillation(s, t, where, **o)  # noqa: E731
    np.testing.assert_allclose(loss(3 * s + 7), loss(s), rtol=1e-4)
    np.testing.assert_allclose(loss(s + 7, normalize=False), loss(s, normalize=False), rtol=1e-4)
    slope = np.asarray(jax.grad(lambda s: loss(s).sum())(jnp.asarray(s)))
    np.testing.assert_allclose(slope.sum(1), 0, atol=1e-6)
    np.testing.assert_allclose((slope * s).sum(1), 0, atol=1e-6)
    two = jax.grad(lambda s: losses.colbert_distillation(s, t[:, :2], where[:, :2]).sum())(jnp.asarray(s[:, :2]))
    np.testing.assert_allclose(two, 0, atol=1e-6)
    alike = jax.value_and_grad(lambda s: loss(s).sum())(jnp.ones((4, 5)))
    assert all(np.all(np.isfinite(x)) for x in alike)
    one = losses.colbert_distillation(s[:, :1], t[:, :1], where[:, :1])
    np.testing.assert_array_equal(one, 0)
