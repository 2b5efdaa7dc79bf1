"""MAPL as a reward model: value head, loss, gradient and metrics against float64 numpy, from packed segments."""

import functools

import numpy as np
from objectives.feature_checks import ArrayScorer, Runner, lay_out, segments, values_of

from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.methods.mapl import INTER, INTRA

ORDER = ("chosen", "rejected", *INTER, *INTRA)
ROLES = {role: k for k, role in enumerate(ORDER)}
HEAD = np.array([0.5, -1.0, 0.25])
SIGN = np.array([1, -1, 1, -1, 0], np.float32)
# Which comparisons an example has; the last place is empty.
HAS_INTER = np.array([True, True, False, False])
HAS_INTRA = np.array([[True, True], [False, False], [True, False], [False, False]])


@functools.cache
def examples():
    flat = segments(4 * len(ORDER), seed=7)
    return (*(tuple(flat[len(ORDER) * i : len(ORDER) * (i + 1)]) for i in range(4)), None)


@functools.cache
def runner(name="mapl_reward", **settings):
    return Runner(METHODS[name](**settings).build(ArrayScorer()))


def batch_of(inter=HAS_INTER, intra=HAS_INTRA, **kw):
    """Packed examples whose absent comparisons lack at least one role; their segments are in the rows all the same."""
    batch, params, _ = lay_out(examples(), ROLES, {"inter_sign": SIGN}, **kw)
    roles = {role: np.array(index) for role, index in batch.roles.items()}
    for i in range(4):
        if not inter[i]:
            roles["inter_rejected"][i] = -1
        for k, end in enumerate(("chosen", "rejected")):
            if not intra[i, k]:
                roles[f"intra_{end}_plus"][i] = -1
    return batch.replace(roles=roles), params | {"value": {"weight": HEAD[:, None].astype(np.float32)}}, {}


def last_states():
    """`[4, 8, 3]` hidden states of the last tokens, roles in the order of ORDER."""
    return np.array([[data["hidden"][-1] for _, data in example] for example in examples()[:4]], np.float64)


def sig(x):
    return 1 / (1 + np.exp(-x))


def reference(intra_weight, inter_weight):
    """`(mean loss, gradient in the rewards [4, 8])` in float64."""
    r = last_states() @ HEAD
    grad = np.zeros_like(r)

    def add(total, weight, plus, minus, sign=1.0):
        """weight softplus(-sign (sum of r[plus] - sum of r[minus])) of one example."""
        i, plus, minus = total[1], list(plus), list(minus)
        z = sign * (r[i, plus].sum() - r[i, minus].sum())
        grad[i, plus] -= weight * sign * sig(-z)
        grad[i, minus] += weight * sign * sig(-z)
        total[0] += weight * np.logaddexp(0, -z)

    loss = 0.0
    for i in range(4):
        total = [0.0, i]
        add(total, 1.0, [0], [1])
        for k in np.flatnonzero(HAS_INTRA[i]):
            add(total, intra_weight / HAS_INTRA[i].sum(), [4 + 2 * k], [5 + 2 * k])
        if HAS_INTER[i]:
            add(total, inter_weight, [2, 1], [3, 0], SIGN[i])
        loss += total[0] / 4
    return loss, grad / 4


def test_loss_and_gradient_through_the_value_head():
    loss, by_reward = reference(0.7, 0.4)
    for kw in ({}, {"per_row": 2}):
        batch, params, frozen = batch_of(**kw)
        out, grads = runner(intra_weight=0.7, inter_weight=0.4)(batch, params, frozen)
        np.testing.assert_allclose(out.loss, loss, rtol=1e-5)
        by_weight = np.einsum("er,erd->d", by_reward, last_states())
        np.testing.assert_allclose(np.asarray(grads["value"]["weight"])[:, 0], by_weight, rtol=1e-4, atol=1e-6)
        g, ids = np.asarray(grads["model"]["hidden"]), np.asarray(batch.segment_ids)
        last = (ids > 0) & (np.pad(ids[:, 1:], ((0, 0), (0, 1))) == 0)
        np.testing.assert_array_equal(g[~last], 0.0)
        np.testing.assert_allclose(g[last].reshape(4, 8, 3), by_reward[..., None] * HEAD, rtol=1e-4, atol=1e-6)


def test_metrics_are_a_reward_models_and_the_two_accuracies():
    got = values_of(runner()(*batch_of())[0])
    r = last_states() @ HEAD
    right = [r[i, 4 + 2 * k] > r[i, 5 + 2 * k] for i, k in zip(*np.nonzero(HAS_INTRA), strict=True)]
    moved = SIGN[:4] * ((r[:, 2] - r[:, 3]) - (r[:, 0] - r[:, 1])) > 0
    expected = {
        "accuracy": np.mean(r[:, 0] > r[:, 1]),
        "margin": np.mean(r[:, 0] - r[:, 1]),
        "mean_reward": np.mean(r[:, :2]),
        "min_reward": np.min(r[:, :2]),
        "max_reward": np.max(r[:, :2]),
        "intra/accuracies": np.mean(right),
        "inter/accuracies": np.mean(moved[HAS_INTER]),
    }
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)


def test_rows_without_instructions_are_bradley_terrys():
    """Their roles are absent, or the data set has no such roles at all; weights of 0 give the same."""
    plain, gradient = runner("bradley_terry")(*batch_of())
    none = batch_of(np.zeros(4, bool), np.zeros((4, 2), bool))
    pairs = none[0].replace(roles={role: none[0].roles[role] for role in ("chosen", "rejected")}, per_example={})
    for run, batch in (
        (runner(), none[0]),
        (runner(), pairs),
        (runner(intra_weight=0.0, inter_weight=0.0), batch_of()[0]),
    ):
        out, grads = run(batch, *none[1:])
        np.testing.assert_allclose(out.loss, plain.loss, rtol=1e-6)
        np.testing.assert_allclose(grads["model"]["hidden"], gradient["model"]["hidden"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(grads["value"]["weight"], gradient["value"]["weight"], rtol=1e-5, atol=1e-7)


def test_an_empty_step_is_zero():
    batch, params, frozen = batch_of()
    out, grads = runner()(batch.replace(example_id=np.full(5, -1, np.int32)), params, frozen)
    assert out.loss == 0.0
    assert not np.any(np.asarray(grads["value"]["weight"]))
