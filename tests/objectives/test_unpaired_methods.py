"""KTO's reference point, BCO's weights and shifts, SPPO's votes and the list baselines, on arrays without a network."""

import functools

import jax
import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer, Runner, lay_out, microbatches, segments, sums, values_of

from jaxpo.objectives.methods import METHODS, resolve


def sp(z):
    return np.logaddexp(z, 0.0)


def sig(z):
    return np.exp(-sp(-np.asarray(z, np.float64)))


@functools.cache
def runner(name, **settings):
    return Runner(METHODS[name](**dict(settings)).build(ArrayScorer()))


# --- rows with a mismatched response ---

GOOD = np.array([1, 0, 1, 1, 0, 1], np.float32)


@functools.cache
def rows():
    """Five rows of two segments, own and another row's response, the fourth without the latter; an empty place."""
    flat = segments(10, seed=4)
    two = [tuple(flat[2 * i : 2 * i + 2]) for i in range(5)]
    two[3] = two[3][:1]
    return (*two, None)


def row_batch(label=GOOD, more=None, **kw):
    return lay_out(rows(), {"completion": 0, "kl": 1}, {"label": label} | (more or {}), **kw)


def log_ratios(role):
    return np.array([sums(e, "logps", role) - sums(e, "ref_logps", role) for e in rows()[:5] if role < len(e)])


def lowered(batch, params, frozen, by=1.0):
    """The same with the reference's log-probs lowered, so that log-ratios are positive."""
    return batch, params, jax.tree.map(lambda x: x - by, frozen)


SETTINGS = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7}


def test_kto_loss_and_metrics_around_a_clamped_reference_point():
    run, good = runner("kto", **SETTINGS), GOOD[:5] > 0
    mean = log_ratios(1).mean()
    assert mean < 0  # the first batch clamps the reference point, the second does not
    for shift, data in ((0.0, row_batch()), (1.0, lowered(*row_batch()))):
        # Each of the completion's tokens has its reference lowered by `shift`.
        lengths = np.array([e[0][1]["logps"].size - e[0][0] for e in rows()[:5]])
        kl_lengths = np.array([e[1][1]["logps"].size - e[1][0] for e in rows()[:5] if len(e) > 1])
        z = max(0.0, mean + shift * kl_lengths.mean())
        u = 0.3 * (log_ratios(0) + shift * lengths - z)
        terms = np.where(good, 1.2 * sig(-u), 0.7 * sig(u))
        out, _ = run(*data)
        np.testing.assert_allclose(out.loss, terms.mean(), rtol=1e-5)
        got = values_of(out)
        np.testing.assert_allclose(got["kl"], z, rtol=1e-5, atol=1e-6)
        rewards = 0.3 * (log_ratios(0) + shift * lengths)
        np.testing.assert_allclose(got["rewards/chosen"], rewards[good].mean(), rtol=1e-4)
        np.testing.assert_allclose(got["rewards/margins"], rewards[good].mean() - rewards[~good].mean(), rtol=1e-4)
        assert "rewards/accuracies" not in got
    assert got["kl"] > 0


def test_kto_trains_no_mismatched_response():
    batch, params, frozen = lowered(*row_batch())
    run = runner("kto", **SETTINGS)
    assert run.objective.coupled
    _, grads = run(batch, params, frozen)
    slope = np.asarray(grads["model"]["logps"])
    assert np.all(np.isfinite(slope))
    mask = np.asarray(batch.masks["completion"])
    # One segment per row: each example's rows are its own response, then the mismatched one.
    np.testing.assert_array_equal(slope[1::2], 0.0)
    np.testing.assert_array_equal(slope[~mask], 0.0)
    own = np.array([s[m][0] for s, m in zip(slope[0::2], mask[0::2], strict=True) if m.any()])
    np.testing.assert_array_equal(np.sign(own), np.where(GOOD[:5] > 0, -1, 1))


def test_kto_does_not_depend_on_layout_or_order():
    run = runner("kto", **SETTINGS)
    out, _ = run(*lowered(*row_batch()))
    for other in (row_batch(order=[5, 3, 0, 4, 2, 1]), row_batch(per_row=2)):
        moved, _ = run(*lowered(*other))
        np.testing.assert_allclose(moved.loss, out.loss, rtol=1e-6)
        np.testing.assert_allclose(values_of(moved)["kl"], values_of(out)["kl"], rtol=1e-6)


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
def test_a_step_of_one_class_and_an_empty_step(name):
    run = runner(name, **SETTINGS)
    for label in (np.ones(6, np.float32), np.zeros(6, np.float32)):
        out, grads = run(*row_batch(label))
        assert 0 < float(out.loss) < 1.2
        assert np.all(np.isfinite(np.asarray(grads["model"]["logps"])))
        assert values_of(out)["rewards/margins"] == 0.0
    batch, params, frozen = row_batch()
    out, grads = run(batch.replace(example_id=np.full(6, -1, np.int32)), params, frozen)
    assert out.loss == 0.0
    assert not np.any(np.asarray(grads["model"]["logps"]))
    if name == "kto":
        assert out.metrics["kl"].count == 0


def test_apo_zero_unpaired_loss():
    run, good = runner("apo_zero_unpaired", **SETTINGS), GOOD[:5] > 0
    out, _ = run(*row_batch())
    u = 0.3 * log_ratios(0)
    np.testing.assert_allclose(out.loss, np.where(good, 1.2 * sig(-u), 0.7 * sig(u)).mean(), rtol=1e-5)
    assert not run.objective.coupled
    counts = run.counts(row_batch()[0])
    parts = [run(*micro, counts=counts)[0] for micro in microbatches(*row_batch())]
    np.testing.assert_allclose(parts[0].loss + parts[1].loss, out.loss, rtol=1e-6)


# --- BCO's prompt weights and its two shifts ---


def test_bco_weighs_bad_rows_alone():
    run, good = runner("bco", beta=0.3), GOOD[:5] > 0
    weight = np.array([9, 0.5, 9, 9, 3, 9], np.float32)
    out, _ = run(*row_batch(more={"weight": weight}))
    r = 0.3 * log_ratios(0)
    d = (r[good].mean() + r[~good].mean()) / 2
    np.testing.assert_allclose(out.loss, np.where(good, sp(-(r - d)), weight[:5] * sp(r - d)).mean(), rtol=1e-5)
    ones, _ = run(*row_batch(more={"weight": np.ones(6, np.float32)}))
    np.testing.assert_allclose(ones.loss, runner("bco", beta=0.3)(*row_batch())[0].loss, rtol=1e-6)


def test_bco_with_trls_shift_takes_the_mean_of_all_rewards_seen():
    run, good = runner("bco", beta=0.3, shift="cumulative"), GOOD[:5] > 0
    r, carry = 0.3 * log_ratios(0), run.objective.init_carry()
    seen = []
    for label in (GOOD, np.ones(6, np.float32)):
        out, _ = run(*row_batch(label), carry=carry)
        seen.append(r)
        np.testing.assert_allclose(values_of(out)["delta"], np.mean(seen), rtol=1e-5)
        before, carry = carry, run.objective.after(carry, out.stats)
    assert carry["mean"][0] == before["mean"][0]  # the second step has no bad row
    np.testing.assert_allclose(carry["mean"][0], r[~good].mean(), rtol=1e-5)
    np.testing.assert_array_equal(carry["seen"], [2, 3 + 5])


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired", "bco"])
def test_data_sets_of_one_class_are_refused(name):
    method = METHODS[name]()
    assert method.check_columns({"label": np.array([True, False])}) == []
    assert method.check_columns({"label": np.array([1.0, 0.0, 0.0], np.float32)}) == []
    assert method.check_columns({"label": np.zeros(0)}) == []
    (problem,) = method.check_columns({"label": np.ones(7, bool)})
    assert problem.startswith(f"{name}: all 7 rows are labelled good")
    assert "add rows with label false" in problem
    (problem,) = method.check_columns({"label": np.zeros(2, np.float32)})
    assert "all 2 rows are labelled bad" in problem
    assert "add rows with label true" in problem


# --- SPPO-soft and TDPO1 on pairs ---


@functools.cache
def pairs():
    flat = segments(10, seed=6)
    return (*(tuple(flat[2 * i : 2 * i + 2]) for i in range(5)), None)


def pair_sums(name):
    return tuple(np.array([sums(p, name, k) for p in pairs()[:5]]) for k in (0, 1))


def test_sppo_soft_reads_win_probabilities_from_votes():
    votes = np.array([[3, 1], [1, 0], [2, 2], [0, 5], [7, 3], [0, 0]], np.float32)
    run = runner("sppo_soft", beta=0.05)
    out, grads = run(*lay_out(pairs(), {"chosen": 0, "rejected": 1}, {"votes": votes}))
    win = votes[:5, 0] / votes[:5].sum(1)
    rho = [p - r for p, r in zip(pair_sums("logps"), pair_sums("ref_logps"), strict=True)]
    terms = (rho[0] - 20 * (win - 0.5)) ** 2 + (rho[1] - 20 * (0.5 - win)) ** 2
    np.testing.assert_allclose(out.loss, terms.mean(), rtol=1e-5)
    assert np.all(np.isfinite(np.asarray(grads["model"]["logps"])))
    assert METHODS["sppo_soft"].NEEDS.columns == ("votes",)


def test_tdpo1_trains_both_kls():
    run = runner("tdpo1", beta=0.3)
    out, grads = run(*lay_out(pairs(), {"chosen": 0, "rejected": 1}, {}))
    (p_w, p_l), (r_w, r_l), (k_w, k_l) = (pair_sums(name) for name in ("logps", "ref_logps", "kl"))
    np.testing.assert_allclose(out.loss, sp(-0.3 * ((p_w - r_w) - (p_l - r_l) - (k_l - k_w))).mean(), rtol=1e-5)
    got = values_of(out)
    np.testing.assert_allclose((got["kl/chosen"], got["kl/rejected"]), (k_w.mean(), k_l.mean()), rtol=1e-5)
    slope = np.nan_to_num(np.asarray(grads["model"]["kl"]))
    assert slope[0::2].min() < 0
    assert slope[0::2].max() <= 0
    assert slope[1::2].max() > 0


# --- lists ---

SCORES = np.array([[0.5, 0.9, 0.1, 0.3], [0.2, 0.2, 0.7, 0.0], [0.4, 0.4, 0.4, 0.4], [0.6, 0.1, 0.0, 0.0]], np.float32)


@functools.cache
def lists():
    """Lists of 4, 3, 4 (all scores equal) and 1 response."""
    flat = segments(12, seed=2)
    return (tuple(flat[:4]), tuple(flat[4:7]), tuple(flat[7:11]), tuple(flat[11:12]))


def soft(x):
    e = np.exp(x - np.max(x))
    return e / e.sum()


ONE_LIST = {
    "infonca": ({"beta": 0.2, "alpha": 0.3}, lambda s, g: -np.sum(soft(g / 0.3) * np.log(soft(s)))),
    "nca": ({"beta": 0.2, "alpha": 0.3}, lambda s, g: np.sum(soft(g / 0.3) * sp(-s)) + np.mean(sp(s))),
    "exo_rw": (
        {"beta": 0.2, "beta_r": 0.3},
        lambda s, g: np.sum(soft(s) * (np.log(soft(s)) - np.log(soft(g / 0.3)))),
    ),
}


@pytest.mark.parametrize("name", ONE_LIST)
def test_list_baselines_average_over_lists(name):
    settings, one = ONE_LIST[name]
    run = runner(name, **settings)
    data = lay_out(lists(), {"candidate": [0, 1, 2, 3]}, {"scores": SCORES})
    out, grads = run(*data)
    terms = []
    for example, scores in zip(lists(), SCORES.astype(np.float64), strict=True):
        n = len(example)
        s = np.array([0.2 * (sums(example, "logps", k) - sums(example, "ref_logps", k)) for k in range(n)])
        terms.append(one(s, scores[:n]))
    np.testing.assert_allclose(out.loss, np.mean(terms), rtol=1e-5)
    assert np.all(np.isfinite(np.asarray(grads["model"]["logps"])))
    assert {"rewards/chosen", "rewards/accuracies", "rewards/margins"} <= set(out.metrics)


def test_names_of_trl_and_of_the_papers():
    for given, name in (("kto", "kto"), ("apo_zero_unpaired", "apo_zero_unpaired"), ("InfoNCA", "infonca"),
                        ("info-nca", "infonca"), ("exo-rw", "exo_rw"), ("sppo-soft", "sppo_soft")):  # fmt: skip
        assert resolve(given) is METHODS[name]
