"""BCO on unpaired rows, LiPO on lists, and the reward model, on arrays without a network."""

import functools
import itertools
import math

import numpy as np
import pytest
from objectives.feature_checks import LENGTHS, ArrayScorer, Runner, lay_out, microbatches, segments, sums, values_of

from jaxpo.objectives.methods import METHODS


def sp(z):
    return np.logaddexp(z, 0.0)


@functools.cache
def runner(name, **settings):
    return Runner(METHODS[name](**dict(settings)).build(ArrayScorer()))


# --- BCO ---

GOOD = np.array([1, 0, 1, 1, 0, 1], np.float32)


@functools.cache
def singles():
    return (*((s,) for s in segments(5, seed=1)), None)


def bco_batch(label=GOOD, **kw):
    return lay_out(singles(), {"completion": 0}, {"label": label}, **kw)


def bco_rewards(beta=0.3):
    return np.array([beta * (sums(e, "logps") - sums(e, "ref_logps")) for e in singles()[:5]])


@pytest.mark.parametrize("reduction", ["rows", "classes"])
def test_bco_moves_the_shift_and_then_takes_the_loss(reduction):
    run = runner("bco", beta=0.3, momentum=0.6, reduction=reduction)
    r, good = bco_rewards(), GOOD[:5] > 0
    carry, mean = run.objective.init_carry(), None
    for step in range(2):
        out, _ = run(*bco_batch(), carry=carry)
        means = np.array([r[~good].mean(), r[good].mean()])
        mean = means if step == 0 else 0.6 * mean + 0.4 * means
        d = mean.mean()
        terms = np.where(good, sp(-(r - d)), sp(r - d))
        expected = terms.mean() if reduction == "rows" else terms[good].mean() + terms[~good].mean()
        np.testing.assert_allclose(out.loss, expected, rtol=1e-5)
        got = values_of(out)
        np.testing.assert_allclose(got["delta"], d, rtol=1e-5)
        carry = run.objective.after(carry, out.stats)
        np.testing.assert_allclose(carry["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(got["rewards/chosen"], r[good].mean(), rtol=1e-5)
    np.testing.assert_allclose(got["rewards/margins"], r[good].mean() - r[~good].mean(), rtol=1e-5)
    bad = [sums(e, "logps") for e, is_good in zip(singles()[:5], good, strict=True) if not is_good]
    np.testing.assert_allclose(got["logps/rejected"], np.mean(bad), rtol=1e-5)
    np.testing.assert_allclose(
        got["entropy"], sum(sums(e, "entropy") for e in singles()[:5]) / sum(LENGTHS[:5]), rtol=1e-5
    )


def test_bco_keeps_the_running_value_of_a_class_that_is_absent():
    run = runner("bco", beta=0.3, momentum=0.6, reduction="rows")
    carry = run.objective.after(run.objective.init_carry(), run(*bco_batch())[0].stats)
    out, _ = run(*bco_batch(np.ones(6, np.float32)), carry=carry)
    after = run.objective.after(carry, out.stats)
    assert after["mean"][0] == carry["mean"][0]
    assert after["mean"][1] != carry["mean"][1]
    np.testing.assert_allclose(values_of(out)["delta"], np.mean(after["mean"]), rtol=1e-6)
    assert out.metrics["rewards/rejected"].count == 0
    assert values_of(out)["rewards/margins"] == 0.0


def test_bco_is_coupled_and_does_not_depend_on_layout_or_order():
    run = runner("bco", beta=0.3, momentum=0.6, reduction="rows")
    assert run.objective.coupled
    out, grads = run(*bco_batch())
    order = [5, 3, 0, 4, 2, 1]
    shuffled, _ = run(*bco_batch(order=order))
    np.testing.assert_allclose(shuffled.loss, out.loss, rtol=1e-6)
    g = np.asarray(grads["model"]["logps"])
    mask = np.asarray(bco_batch()[0].masks["completion"])
    np.testing.assert_array_equal(g[~mask], 0.0)
    rows = np.array([row[m][0] for row, m in zip(g, mask, strict=True) if m.any()])
    assert np.all(rows[GOOD[:5] > 0] < 0)
    assert np.all(rows[GOOD[:5] == 0] > 0)


# --- LiPO ---

SCORES = np.array([[0.5, 0.9, 0.1, 0.3], [0.2, 0.2, 0.7, 0.0], [0.4, 0.4, 0.4, 0.4], [0.6, 0.1, 0.0, 0.0]], np.float32)


@functools.cache
def lists():
    """Lists of 4, 3, 4 (all labels equal) and 2 responses."""
    flat = segments(13, seed=2)
    return (tuple(flat[:4]), tuple(flat[4:7]), tuple(flat[7:11]), tuple(flat[11:13]))


def lipo_batch(**kw):
    return lay_out(lists(), {"candidate": [0, 1, 2, 3]}, {"scores": SCORES}, **kw)


def lipo_expected(beta):
    total, n = [], 0
    for example, psi in zip(lists(), SCORES.astype(float), strict=True):
        s = [beta * (sums(example, "logps", k) - sums(example, "ref_logps", k)) for k in range(len(example))]
        order = sorted(range(len(s)), key=lambda i: -s[i])
        tau = [order.index(i) + 1 for i in range(len(s))]
        here = 0.0
        for i, j in itertools.permutations(range(len(s)), 2):
            if psi[i] > psi[j]:
                n += 1
                gap = abs(1 / math.log(1 + tau[i]) - 1 / math.log(1 + tau[j]))
                here += abs(2 ** psi[i] - 2 ** psi[j]) * gap * float(sp(s[j] - s[i]))
        total.append(here)
    return np.array(total), n


@pytest.mark.parametrize("reduction", ["lists", "pairs"])
def test_lipo_objective(reduction):
    run = runner("lipo", beta=0.2, reduction=reduction)
    out, grads = run(*lipo_batch())
    total, pairs = lipo_expected(0.2)
    counts = run.counts(lipo_batch()[0])
    assert (float(counts["lists"]), float(counts["pairs"])) == (4.0, pairs)
    np.testing.assert_allclose(out.loss, total.sum() / (4 if reduction == "lists" else pairs), rtol=1e-5)
    assert np.all(np.isfinite(np.asarray(grads["model"]["logps"])))
    packed, _ = run(*lipo_batch(per_row=2))
    np.testing.assert_allclose(packed.loss, out.loss, rtol=1e-5)
    got = values_of(out)
    r = [[0.2 * (sums(e, "logps", k) - sums(e, "ref_logps", k)) for k in range(len(e))] for e in lists()]
    ordered = [
        (ri[i] > ri[j])
        for ri, psi in zip(r, SCORES, strict=True)
        for i, j in itertools.permutations(range(len(ri)), 2)
        if psi[i] > psi[j]
    ]
    np.testing.assert_allclose(got["rewards/accuracies"], np.mean(ordered), rtol=1e-5)
    np.testing.assert_allclose(got["rewards/chosen"], np.mean([r[0][1], r[1][2], r[3][0]]), rtol=1e-5)
    np.testing.assert_allclose(got["rewards/rejected"], np.mean([r[0][2], r[1][0], r[3][1]]), rtol=1e-5)


def test_lipo_splits_add_up():
    run = runner("lipo", beta=0.2, reduction="lists")
    batch, params, frozen = lipo_batch()
    counts = run.counts(batch)
    parts = [run(*micro, counts=counts)[0] for micro in microbatches(batch, params, frozen)]
    np.testing.assert_allclose(parts[0].loss + parts[1].loss, run(*lipo_batch())[0].loss, rtol=1e-5)


# --- reward model ---

ROLES = {"chosen": 0, "rejected": 1}


@functools.cache
def pairs():
    flat = segments(10, seed=3)
    return (*(tuple(flat[2 * i : 2 * i + 2]) for i in range(5)), None)


def reward_batch(columns, **kw):
    batch, params, _ = lay_out(pairs(), ROLES, columns, **kw)
    return batch, params | {"value": {"weight": np.array([[0.5], [-1.0], [0.25]], np.float32)}}, {}


def last_rewards():
    w = np.array([0.5, -1.0, 0.25])
    return tuple(np.array([p[k][1]["hidden"][-1].astype(float) @ w for p in pairs()[:5]]) for k in (0, 1))


@pytest.mark.parametrize("with_margin", [False, True])
def test_reward_model_loss_and_metrics(with_margin):
    margin = np.array([0.5, 0, 1, 0.2, 0.3, 9], np.float32)
    columns = {"margin": margin} if with_margin else {}
    run = runner("bradley_terry", label_smoothing=0.1, center_rewards_coefficient=0.02)
    out, grads = run(*reward_batch(columns))
    rw, rl = last_rewards()
    d = rw - rl - (margin[:5] if with_margin else 0)
    np.testing.assert_allclose(out.loss, np.mean(0.9 * sp(-d) + 0.1 * sp(d) + 0.02 * (rw + rl) ** 2), rtol=1e-5)
    got = values_of(out)
    expected = {
        "accuracy": np.mean(rw > rl),
        "margin": np.mean(rw - rl),
        "mean_reward": np.mean([rw, rl]),
        "min_reward": np.min([rw, rl]),
        "max_reward": np.max([rw, rl]),
    }
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)
    packed, _ = run(*reward_batch(columns, per_row=2))
    np.testing.assert_allclose(packed.loss, out.loss, rtol=1e-6)
    g = np.asarray(grads["model"]["hidden"])
    batch = reward_batch(columns)[0]
    ids = np.asarray(batch.segment_ids)
    last = (ids > 0) & (np.pad(ids[:, 1:], ((0, 0), (0, 1))) == 0)
    assert np.all(np.any(g[last] != 0, axis=1))
    np.testing.assert_array_equal(g[~last], 0.0)


def test_equal_rewards_count_as_wrong_and_an_empty_step_is_zero():
    batch, params, _ = reward_batch({})
    flat = params | {"value": {"weight": np.zeros((3, 1), np.float32)}}
    run = runner("bradley_terry", label_smoothing=0.1, center_rewards_coefficient=0.02)
    assert values_of(run(batch, flat, {})[0])["accuracy"] == 0.0
    out, grads = run(batch.replace(example_id=np.full(6, -1, np.int32)), params, {})
    assert out.loss == 0.0
    assert not np.any(np.asarray(grads["value"]["weight"]))
