"""Merge methods without randomness against float64 written from the papers, and their limits."""

import itertools

import numpy as np
import pytest
from merge.merge_leaves import leaves

from jaxpo.merge.base import Inputs
from jaxpo.merge.blocks import BLOCK
from jaxpo.merge.breadcrumbs import breadcrumbs, breadcrumbs_ties, crumbs
from jaxpo.merge.karcher import karcher
from jaxpo.merge.linear import linear
from jaxpo.merge.model_stock import model_stock
from jaxpo.merge.numerics import kept_count
from jaxpo.merge.nuslerp import nuslerp
from jaxpo.merge.on_base import UpdateSelective
from jaxpo.merge.passthrough import passthrough
from jaxpo.merge.sce import sce
from jaxpo.merge.slerp import slerp
from jaxpo.merge.task_arithmetic import task_arithmetic
from jaxpo.merge.ties import ties, trimmed
from jaxpo.merge.update_selective import update_selective

WEIGHTS = (0.5, 0.9, -0.3)


def close(found, expected, rtol=2e-6):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=2e-6)


def wide(base, models):
    base = np.float64(base)
    return base, [np.float64(m) - base for m in models]


def elected(base, deltas, weights, normalize, scale=1.0):
    """The sign election entry by entry, as one reads it in the paper."""
    out = np.array(base)
    for index in np.ndindex(base.shape):
        values = [w * d[index] for w, d in zip(weights, deltas, strict=True)]
        sign = 1 if sum(values) >= 0 else -1
        agreeing = [(v, w) for v, w in zip(values, weights, strict=True) if v * sign > 0]
        divisor = sum(w for _, w in agreeing) if normalize else 1
        out[index] += scale * sum(v for v, _ in agreeing) / (divisor or 1)
    return out


def by_magnitude(delta, drop_low, keep):
    """Entries `drop_low .. drop_low + keep` of a leaf in order of magnitude."""
    order = np.argsort(np.abs(delta), axis=None, kind="stable")[drop_low : drop_low + keep]
    mask = np.zeros(delta.size)
    mask[order] = 1
    return delta * mask.reshape(delta.shape)


def test_linear():
    base, models = leaves()
    close(linear(models, WEIGHTS), sum(w * np.float64(m) for w, m in zip(WEIGHTS, models, strict=True)))
    np.testing.assert_array_equal(linear([base], [1.0]), base)


@pytest.mark.parametrize("normalize", [False, True])
def test_task_arithmetic(normalize):
    base, models = leaves()
    origin, deltas = wide(base, models)
    expected = sum(w * d for w, d in zip(WEIGHTS, deltas, strict=True)) / (sum(WEIGHTS) if normalize else 1)
    close(task_arithmetic(base, models, WEIGHTS, scale=0.7, normalize=normalize), origin + 0.7 * expected)


def test_task_arithmetic_with_weights_of_sum_one_is_the_soup():
    base, models = leaves()
    close(task_arithmetic(base, models, (0.2, 0.5, 0.3)), linear(models, (0.2, 0.5, 0.3)))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), WEIGHTS])
def test_ties(weights, normalize):
    base, models = leaves()
    origin, deltas = wide(base, models)
    densities = (0.3, 0.5, 1.0)
    kept = [by_magnitude(d, d.size - int(p * d.size), int(p * d.size)) for d, p in zip(deltas, densities, strict=True)]
    found = ties(base, models, weights, densities, scale=0.8, normalize=normalize)
    close(found, elected(origin, kept, weights, normalize, 0.8), rtol=1e-5)


def test_ties_limits():
    base, models = leaves()
    close(ties(base, models[:1], (0.4,), (1.0,)), models[0])
    close(ties(base, [models[0]] * 3, (0.2, 0.3, 0.9), (1.0,) * 3), models[0])
    zero, one = np.zeros_like(base), np.ones_like(base)
    close(ties(zero, [one, -one], (0.5, 0.5), (1.0, 1.0)), one)


def test_trim_keeps_exactly_the_share_also_among_equal_entries():
    zero, delta = np.zeros((10, 10), np.float32), np.full((10, 10), 0.5, np.float32)
    mask = trimmed(zero, delta, 0.37)
    assert np.array_equal(np.flatnonzero(mask), np.arange(37)), "of equal ones the first"
    assert np.count_nonzero(trimmed(zero, delta, 0.001)) == 1
    assert ties(zero, [delta], (1.0,), (0.37,), rescale="l1").sum() == pytest.approx(50, rel=1e-6)
    many = np.random.default_rng(0).integers(-5, 6, 3 * BLOCK).astype(np.float32)
    order = np.argsort(-np.abs(many), kind="stable")[: kept_count(0.3, many.size)]
    assert np.array_equal(np.flatnonzero(trimmed(np.zeros_like(many), many, 0.3)), np.sort(order))


@pytest.mark.parametrize("method", [breadcrumbs, breadcrumbs_ties])
def test_breadcrumbs(method):
    base, models = leaves(shape=(20, 10))
    origin, deltas = wide(base, models)
    density, gamma = 0.4, 0.05
    kept = [by_magnitude(d, 200 - 80 - 10, 80) for d in deltas]
    found = method(base, models, WEIGHTS, (density,) * 3, (gamma,) * 3, scale=0.6)
    if method is breadcrumbs:
        expected = origin + 0.6 * sum(w * d for w, d in zip(WEIGHTS, kept, strict=True))
    else:
        expected = elected(origin, kept, WEIGHTS, False, 0.6)
    close(found, expected, rtol=1e-5)


def test_crumbs_gives_up_outliers_before_density():
    delta = np.arange(1, 101, dtype=np.float32)
    assert np.count_nonzero(crumbs(delta, 0.9, 0.2)) == 90
    assert crumbs(delta, 0.9, 0.2)[90:].sum() == 0
    assert np.flatnonzero(crumbs(delta, 0.5, 0.1)).tolist() == list(range(40, 90))


def test_slerp_on_the_circle():
    a, b = np.float32([1, 0]), np.float32([0, 1])
    for t in (0.0, 0.25, 0.5, 1.0):
        angle = t * np.pi / 2
        close(slerp(a, b, t), [np.cos(angle), np.sin(angle)])
    close(slerp(a, -a, 0.25), 0.75 * a - 0.25 * a)
    close(slerp(a, np.zeros(2, np.float32), 0.25), 0.75 * a)


def test_slerp_of_near_models_is_the_line():
    base, (model, *_) = leaves(delta=1e-3)
    close(slerp(base, model, 0.3), 0.7 * np.float64(base) + 0.3 * np.float64(model))


@pytest.mark.parametrize(("flatten", "row_wise"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("with_base", [False, True])
def test_nuslerp(flatten, row_wise, with_base):
    base, (a, b, _) = leaves(delta=0.7)
    origin = np.float64(base) if with_base else np.zeros(base.shape)
    u, v = np.float64(a) - origin, np.float64(b) - origin
    t = 0.6 / (0.2 + 0.6)

    def arc(x, y):
        omega = np.arccos(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        return (np.sin((1 - t) * omega) * x + np.sin(t * omega) * y) / np.sin(omega)

    if flatten:
        expected = arc(u.ravel(), v.ravel()).reshape(u.shape)
    elif row_wise:
        expected = np.stack([arc(x, y) for x, y in zip(u.T, v.T, strict=True)], 1)
    else:
        expected = np.stack([arc(x, y) for x, y in zip(u, v, strict=True)])
    found = nuslerp(a, b, (0.2, 0.6), base if with_base else None, flatten=flatten, row_wise=row_wise)
    close(found, origin + expected, rtol=1e-5)


def test_slerp_of_leaves_is_that_of_their_plane():
    _, (a, b, _) = leaves(delta=2.0)
    x, y = np.float64(a).ravel(), np.float64(b).ravel()
    omega = np.arccos(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    expected = (np.sin(0.7 * omega) * x + np.sin(0.3 * omega) * y) / np.sin(omega)
    close(slerp(a, b, 0.3), expected.reshape(a.shape), rtol=1e-5)


def test_nuslerp_limits():
    _, (a, b, _) = leaves()
    close(nuslerp(a, 2 * a, (1.0, 1.0)), 1.5 * np.float64(a))
    close(nuslerp(a, a, (1.0, 3.0)), a)
    close(nuslerp(a, b, (1.0, -1.0)), nuslerp(a, b, (1.0, 1.0)))
    close(nuslerp(a, b, (1.0, 0.0)), a)


@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock(filter_wise):
    base, models = leaves(4, delta=0.3)
    models = [m + np.float32(0.2) for m in models]
    origin, deltas = wide(base, models)

    def ratio(rows):
        pairs = itertools.combinations(rows, 2)
        cosine = np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in pairs])
        return 4 * cosine / (1 + 3 * cosine)

    if filter_wise:
        t = np.array([ratio([d[r] for d in deltas]) for r in range(len(base))])[:, None]
    else:
        t = ratio([d.ravel() for d in deltas])
    close(model_stock(base, models, filter_wise=filter_wise), origin + t * np.mean(deltas, axis=0), rtol=1e-5)


def test_model_stock_limits():
    base, models = leaves()
    close(model_stock(base, [models[0]] * 3), models[0])
    apart = [base + np.eye(1, base.size, k).reshape(base.shape).astype(np.float32) for k in range(3)]
    close(model_stock(base, apart), base)
    close(model_stock(base, [base, base]), base)
    zero, one = np.zeros_like(base), np.ones_like(base)
    close(model_stock(zero, [one, -one]), zero)


def test_karcher_is_where_the_weighted_logs_cancel():
    _, models = leaves(4, shape=(5, 6), delta=2.0)
    weights = (0.4, 0.1, 0.2, 0.3)
    found = np.float64(karcher(models, weights, max_iter=100, tol=1e-6)).ravel()
    rows = [np.float64(m).ravel() for m in models]
    lengths = [np.linalg.norm(x) for x in rows]
    assert np.linalg.norm(found) == pytest.approx(np.dot(weights, lengths), rel=1e-5)
    unit = found / np.linalg.norm(found)
    total = np.zeros_like(unit)
    for w, x, length in zip(weights, rows, lengths, strict=True):
        u = x / length
        angle = np.arccos(unit @ u)
        total += w * angle / np.sin(angle) * (u - (unit @ u) * unit)
    assert np.linalg.norm(total) < 1e-5


def test_karcher_limits():
    _, (a, b, _) = leaves(delta=1.0)
    close(karcher([a], (1.0,)), a)
    close(karcher([a, a], (0.5, 0.5)), a, rtol=1e-5)
    zero = np.zeros_like(a)
    close(karcher([zero, zero], (0.5, 0.5)), zero)
    close(karcher([a, zero], (0.5, 0.5)), 0.5 * a, rtol=1e-5)
    same = b * np.float32(np.linalg.norm(a) / np.linalg.norm(b))
    close(karcher([a, same], (0.7, 0.3), max_iter=50, tol=1e-7), slerp(a, same, 0.3, collinear=1), rtol=1e-4)


@pytest.mark.parametrize("topk", [1.0, 0.4])
def test_sce(topk):
    base, models = leaves(delta=0.5)
    origin, deltas = wide(base, models)
    if topk < 1:
        variance = np.var(np.stack(deltas), axis=0)
        order = np.argsort(variance, axis=None, kind="stable")[-int(variance.size * topk) :]
        mask = np.isin(np.arange(variance.size), order).reshape(variance.shape)
        deltas = [d * mask for d in deltas]
    energy = [np.sum(d**2) for d in deltas]
    weights = np.array(energy) / np.sum(energy)
    out = np.array(origin)
    for index in np.ndindex(out.shape):
        sign = 1 if sum(d[index] for d in deltas) >= 0 else -1
        agreeing = [(w, d[index]) for w, d in zip(weights, deltas, strict=True) if d[index] * sign > 0]
        out[index] += sum(w * d for w, d in agreeing) / (sum(w for w, _ in agreeing) or 1)
    close(sce(base, models, select_topk=topk), out, rtol=1e-5)


def test_sce_weighs_by_energy_whatever_the_scale_of_the_task_vectors():
    base = np.zeros((4, 4), np.float32)
    small = [base + np.float32(1e-4), base + np.float32(3e-4)]
    close(sce(base, small) * 1e4, np.full((4, 4), (1 * 1 + 9 * 3) / 10))


def test_passthrough():
    base, _ = leaves()
    np.testing.assert_array_equal(passthrough(base), base)
    close(passthrough(base, 0.5), 0.5 * np.float64(base))


def test_half_precision_leaves_are_merged_in_float32():
    import ml_dtypes

    base, models = leaves()
    half = [m.astype(ml_dtypes.bfloat16) for m in models]
    expected = np.mean([np.float64(h) for h in half], axis=0)
    close(linear(half, (1 / 3,) * 3), expected)
    close(ties(base.astype(ml_dtypes.bfloat16), half[:1], (1.0,), (1.0,)), np.float64(half[0]))


def test_update_selective_moves_the_largest_changes_alone():
    rng = np.random.default_rng(4)
    base, model = (rng.standard_normal((9, 7)).astype(np.float32) for _ in range(2))
    got = update_selective(base, model)
    moved = got != base
    count = round(0.25 * base.size)
    assert moved.sum() == count
    change = np.abs(model - base)
    assert change[moved].min() >= change[~moved].max()
    np.testing.assert_array_equal(got[~moved].view(np.int32), base[~moved].view(np.int32))
    np.testing.assert_allclose(got[moved], (base + 0.7 * (model - base))[moved], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(update_selective(base, model, density=1.0, scale=1.0), model)
    np.testing.assert_array_equal(update_selective(base, model, density=0.0), base)
    np.testing.assert_array_equal(update_selective(base, model, scale=0.0), base)
    same = UpdateSelective().merge(Inputs([model], (1.0,), base, lambda i: rng))
    np.testing.assert_array_equal(same, got)
    (problem,) = UpdateSelective().problems(2, True)
    assert problem == "models: update_selective merges exactly 1 besides the base, got 2."
