"""What is special about listwise methods: LiPO's losses, PRO's sorting, steps of trees, items of a response."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer, Runner, lay_out, segments, sums, values_of

from jaxpo import losses
from jaxpo.errors import ConfigError
from jaxpo.objectives.diagnostics import measure_list_ranking
from jaxpo.objectives.families.features import Side
from jaxpo.objectives.families.lists import Ranked
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.methods.list_checks import tied_lists

SCORES = np.array([[0.5, 0.9, 0.1, 0.3], [0.2, 0.25, 0.7, 0.0], [0.4, 0.3, 0.2, 0.1], [0.6, 0.1, 0.0, 0.0]], np.float32)


@functools.cache
def runner(name, **settings):
    return Runner(METHODS[name](**dict(settings)).build(ArrayScorer()))


@functools.cache
def encoded(name, placed):
    """Features of a method, its batch and counts: encoded once for all settings that read the networks alike."""
    batch, params, frozen = placed()
    objective = METHODS[name]().build(ArrayScorer())
    features, _ = jax.jit(objective.encode)(params, frozen, batch, jax.random.key(0))
    return features, batch, jax.jit(objective.counts)(batch)


def evaluated(name, placed, **settings):
    """`Out` of the method with these settings."""
    features, batch, counts = encoded(name, placed)
    method = METHODS[name](**settings)
    return jax.jit(lambda f: method.evaluate(f, batch, {}, counts))(features)


@functools.cache
def lists():
    """Lists of 4, 3, 4 and 2 responses."""
    flat = segments(13, seed=2)
    return (tuple(flat[:4]), tuple(flat[4:7]), tuple(flat[7:11]), tuple(flat[11:13]))


def list_batch(**kw):
    return lay_out(lists(), {"candidate": [0, 1, 2, 3]}, {"scores": SCORES}, **kw)


def rewards(beta):
    """`beta (P - R)` of every response, list by list."""
    return [np.array([beta * (sums(e, "logps", k) - sums(e, "ref_logps", k)) for k in range(len(e))]) for e in lists()]


# --- diagnostics ---


def test_diagnostics_compare_the_ends_of_a_list_and_judge_its_whole_order():
    features, batch, counts = encoded("lipo", list_batch)
    names = ("ranking_accuracy", "likelihood")
    objective = METHODS["lipo"]().build(ArrayScorer(), diagnostics=names)
    got = values_of(jax.jit(lambda f: objective.loss(f, batch, {}, counts))(features))
    policy, before = ([[sums(e, k, i) for i in range(len(e))] for e in lists()] for k in ("logps", "ref_logps"))
    ends = [(int(np.argmax(s[: len(p)])), int(np.argmin(s[: len(p)]))) for s, p in zip(SCORES, policy, strict=True)]
    gain, c = (
        np.array([p[best] - p[worst] for p, (best, worst) in zip(x, ends, strict=True)]) for x in (policy, before)
    )
    np.testing.assert_allclose(got["ranking_accuracy"], np.mean(gain >= 0), rtol=1e-6)
    np.testing.assert_allclose(got["difficulty/mean"], -np.mean(c), rtol=1e-4)
    np.testing.assert_allclose(got["likelihood/log_gradient_ratio"], np.mean(gain), rtol=1e-4)
    whole = [
        all(p[i] >= p[j] for i in range(len(p)) for j in range(len(p)) if s[i] > s[j])
        for s, p in zip(SCORES, policy, strict=True)
    ]
    np.testing.assert_allclose(got["ranking_accuracy/list"], np.mean(whole), rtol=1e-6)


def test_a_list_in_the_order_of_its_labels_counts_as_ranked_and_ties_ask_for_nothing():
    logps = np.array([[-1.0, -2, -3], [-3, -2, -1], [-5, -5, -5], [-2, -1, 9]], np.float32)
    labels = np.array([[3.0, 2, 1], [3, 2, 1], [1, 1, 1], [1, 2, 5]], np.float32)
    present = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0]], bool)
    side = Side(logps, np.zeros_like(logps), *(np.ones_like(logps) for _ in range(3)))
    (mean,) = measure_list_ranking(Ranked(side, labels, present, {})).values()
    assert (float(mean.value()), float(mean.count)) == (pytest.approx(2 / 3), 3)


# --- LiPO ---

OTHERS = ("point_mse", "point_sigmoid", "pair_logistic", "pair_hinge", "list_mle", "softmax")


@pytest.mark.parametrize("loss_type", OTHERS)
def test_lipo_takes_the_mean_over_lists_of_the_chosen_loss(loss_type):
    out = evaluated("lipo", list_batch, beta=0.2, loss_type=loss_type)
    scores, where = np.full((4, 4), np.nan, np.float32), np.zeros((4, 4), bool)
    for n, s in enumerate(rewards(0.2)):
        scores[n, : len(s)], where[n, : len(s)] = s, True
    pure = jax.jit(getattr(losses, "list_softmax" if loss_type == "softmax" else loss_type))
    np.testing.assert_allclose(out.loss, np.mean(pure(scores, SCORES, where)), rtol=1e-5)


def test_lipo_refuses_a_mean_over_pairs_of_what_is_no_sum_over_pairs():
    lipo = METHODS["lipo"]
    assert lipo(loss_type="pair_hinge", reduction="pairs").problems() == []
    for loss_type in ("point_mse", "list_mle", "softmax"):
        with pytest.raises(ConfigError, match='reduction "pairs" divides by the number of pairs'):
            lipo(loss_type=loss_type, reduction="pairs").build(ArrayScorer())


def test_lipo_checks_the_columns_that_its_loss_reads():
    lipo = METHODS["lipo"]
    wide, tied = {"scores": np.array([[1.0, 9.5, np.nan]])}, {"scores": np.array([[0.1, 0.5, 0.1], [0.2, 0.9, np.nan]])}
    for settings, columns, message in (
        ({}, wide, "gain 2^score needs them in [0, 1]"),
        ({"loss_type": "point_sigmoid"}, wide, "targets of a probability"),
        ({"loss_type": "softmax"}, {"scores": np.array([[-1.0, 2.0]])}, "shift them to 0 and above"),
        ({"loss_type": "list_mle"}, tied, "1 list(s) hold responses with equal scores"),
    ):
        (problem,) = lipo(**settings).check_columns(columns)
        assert message in problem
    for settings, columns in (
        ({"loss_type": "softmax"}, wide),
        ({"loss_type": "pair_logistic"}, wide),
        ({"loss_type": "point_mse"}, wide),
        ({"gain": False}, wide),
        ({"loss_type": "list_mle", "ties": "order"}, tied),
        ({}, tied),
    ):
        assert lipo(**settings).check_columns(columns) == []


def test_ties_are_counted_per_list():
    scores = np.array([[0.1, 0.5, 0.1], [0.2, np.nan, np.nan], [0.3, 0.3, np.nan], [0.1, 0.2, 0.3]])
    assert tied_lists({"scores": scores}) == (2, 1)
    assert tied_lists({"scores": np.zeros((0, 3))}) == (0, 0)


# --- PRO ---


def pro_expected(weight, gaps=True):
    total = []
    for example, psi in zip(lists(), SCORES.astype(float), strict=True):
        order = sorted(range(len(example)), key=lambda k: -psi[k])
        logps = [sums(example, "logps", k) for k in order]
        means = [p / len(example[k][1]["logps"][example[k][0] :]) for p, k in zip(logps, order, strict=True)]
        loss = -weight * (len(order) - 1) ** 2 * logps[0]
        for k in range(len(order) - 1):
            w = np.array([psi[order[k]] - psi[i] if gaps else 1.0 for i in order[k + 1 :]])
            own = w.max() * means[k]
            loss += np.logaddexp.reduce([own, *(w * np.array(means[k + 1 :]))]) - own
        total.append(loss)
    return np.mean(total)


@pytest.mark.parametrize("gaps", [True, False])
def test_pro_sorts_each_list_by_its_scores(gaps):
    out = evaluated("pro_ranking", list_batch, sft_weight=0.1, reward_gaps=gaps)
    np.testing.assert_allclose(out.loss, pro_expected(0.1, gaps), rtol=1e-5)
    got = values_of(out)
    best = [(e[k], sums(e, "logps", k)) for e, k in zip(lists(), (1, 2, 0, 0), strict=True)]
    nll = -sum(p for _, p in best) / sum(len(s[1]["logps"]) - s[0] for s, _ in best)
    np.testing.assert_allclose(got["nll_loss"], nll, rtol=1e-5)
    np.testing.assert_allclose(got["ranking_loss"], pro_expected(0.0, gaps), rtol=1e-5)
    assert {"nll_loss", "ranking_loss"} == set(METHODS["pro_ranking"].METRICS)


def test_pro_refuses_lists_that_rank_nothing_and_ties():
    pro = METHODS["pro_ranking"]
    flat, tied = {"scores": np.array([[0.3, 0.3], [0.1, 0.2]])}, {"scores": np.array([[0.3, 0.3, 0.1]])}
    assert "all scores are equal in 1 list(s)" in pro().check_columns(flat)[0]
    assert "all scores are equal" in pro(ties="order").check_columns(flat)[0]
    assert "1 list(s) hold responses with equal scores" in pro().check_columns(tied)[0]
    assert pro(ties="order").check_columns(tied) == []
    assert pro().check_columns({"scores": np.array([[0.3, 0.2, np.nan]])}) == []


# --- trees ---

STEPS = {4: [1, 2, 3, 0], 2: [1, 1], 5: [1, 2, 2, 3, 4], 3: [1, 2, 0], 1: [1], 6: [1, 1, 2, 2, 3, 0]}
"""Step of each supervised token, by their number; 0 is the turn end."""


def with_labels(placed, name, of_length):
    """Add per-token labels to a batch: those of `of_length` on the supervised tokens of every segment."""
    batch, params, frozen = placed
    seg, mask = np.asarray(batch.segment_ids), np.asarray(batch.masks["completion"])
    labels = np.zeros(seg.shape, np.int32)
    for r in range(seg.shape[0]):
        for slot in range(1, batch.slots + 1):
            at = np.flatnonzero((seg[r] == slot) & mask[r])
            if len(at):
                labels[r, at] = of_length[len(at)]
    return batch.replace(per_token=batch.per_token | {name: jnp.asarray(labels)}), params, frozen


def tree_batch(**kw):
    return with_labels(list_batch(**kw), "step", STEPS)


def tree_expected(mode, beta=0.5, most=32):
    """Loops over lists, branches, steps, in float64."""
    total, right, number = [], [], []
    for example, psi in zip(lists(), SCORES.astype(float), strict=True):
        members = []
        for q, data in example:
            labels = np.array(STEPS[len(data["logps"]) - q])
            owner = np.minimum(np.maximum.accumulate(labels), most)
            members.append((labels, owner, {k: v[q:].astype(float) for k, v in data.items()}))
        fewest = min(m[1].max() for m in members)
        number += [fewest] * len(members)
        best = int(np.argmax(psi[: len(members)]))

        def state(m, k, fewest=fewest):
            inside = (np.minimum(m[0], fewest) == k) & (m[0] > 0)
            return m[2]["hidden"][inside].mean(axis=0)

        s = []
        for m in members:
            weights, ratios = [], []
            for k in range(1, fewest + 1):
                u, v = state(m, k), state(members[best], k)
                cos = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
                weights.append({"one_plus_cos": 1 + cos, "one_minus_cos": 1 - cos, "uniform": 1.0}[mode])
                inside = np.minimum(m[1], fewest) == k
                ratios.append((m[2]["logps"] - m[2]["ref_logps"])[inside].mean())
            mass = sum(weights) if m is not members[best] or mode != "one_minus_cos" else 0.0
            s.append(beta * np.dot(weights, ratios) / mass if mass else 0.0)
        tau = [1 + sum(x > y or (x == y and j < i) for j, x in enumerate(s)) for i, y in enumerate(s)]
        loss = 0.0
        for i in range(len(s)):
            for j in range(len(s)):
                if psi[i] > psi[j]:
                    gap = abs(1 / math.log(1 + tau[i]) - 1 / math.log(1 + tau[j]))
                    loss += abs(2 ** psi[i] - 2 ** psi[j]) * gap * np.logaddexp(0, s[j] - s[i])
                    right.append(s[i] > s[j])
        total.append(loss)
    return np.mean(total), np.mean(right), np.mean(number)


@pytest.mark.parametrize("mode", ["one_plus_cos", "one_minus_cos", "uniform"])
def test_trees_pool_merge_and_weight_steps(mode):
    out = evaluated("tpo_tree", tree_batch, step_weights=mode)
    loss, right, steps = tree_expected(mode)
    np.testing.assert_allclose(out.loss, loss, rtol=2e-5)
    got = values_of(out)
    np.testing.assert_allclose(got["rewards/tree_accuracies"], right, rtol=1e-6)
    np.testing.assert_allclose(got["steps"], steps, rtol=1e-6)
    assert {"rewards/tree_accuracies", "steps"} == set(METHODS["tpo_tree"].METRICS)
    assert (mode != "uniform") == METHODS["tpo_tree"](step_weights=mode).HIDDEN


@pytest.mark.parametrize("stop", [True, False])
def test_trees_let_the_gradient_into_the_weights_only_when_asked(stop):
    out, grads = runner("tpo_tree", stop_gradient=stop)(*tree_batch(per_row=2))
    np.testing.assert_allclose(out.loss, tree_expected("one_plus_cos")[0], rtol=2e-5)
    assert np.all(np.isfinite(np.asarray(grads["model"]["logps"])))
    hidden = np.asarray(grads["model"]["hidden"])
    assert np.all(np.isfinite(hidden))
    assert np.any(hidden) == (not stop)


class WithoutHidden(ArrayScorer):
    """Its hidden states may be passed on, not read."""

    def hidden(self, params, batch, rng=None):
        return None


def test_uniform_weights_ask_for_no_hidden_states():
    batch, params, frozen = tree_batch()
    objective = METHODS["tpo_tree"](step_weights="uniform").build(WithoutHidden())
    assert jax.eval_shape(objective.encode, params, frozen, batch, jax.random.key(0))[0].extra == {}


def test_trees_merge_beyond_max_steps_and_check_their_grades():
    out = evaluated("tpo_tree", tree_batch, step_weights="uniform", max_steps=2)
    np.testing.assert_allclose(out.loss, tree_expected("uniform", most=2)[0], rtol=2e-5)
    (problem,) = METHODS["tpo_tree"]().check_columns({"scores": np.array([[100.0, -20.0]])})
    assert "(score + 100) / 200" in problem
    assert METHODS["tpo_tree"](gain=False).check_columns({"scores": np.array([[100.0, -20.0]])}) == []


# --- items ---

ITEMS = {4: [1, 1, 0, 2], 2: [1, 1], 5: [1, 0, 2, 2, 3], 3: [1, 2, 3], 1: [1], 6: [1, 0, 2, 0, 3, 0]}
RELEVANCE = np.array([[1, 2, -1], [0, -1, -1], [2, 0, 1], [0, 1, 2], [2, -1, -1]], np.int32)


@functools.cache
def responses():
    return tuple((s,) for s in segments(5, seed=5))


def item_batch(**kw):
    return with_labels(lay_out(responses(), {"items": 0}, {"relevance": RELEVANCE}, **kw), "item", ITEMS)


def test_items_are_read_out_of_one_response():
    run = runner("irpo_ranking", beta=0.7)
    out, grads = run(*item_batch())
    total, pairs, good, reciprocal = [], 0, [], []
    for ((q, data),), y in zip(responses(), RELEVANCE, strict=True):
        owner = np.array(ITEMS[len(data["logps"]) - q])
        here = [i for i in range(3) if y[i] >= 0]
        x = {k: [data[k][q:][owner == i + 1].astype(float).mean() for i in here] for k in ("logps", "ref_logps")}
        r, n = np.array(x["logps"]) - x["ref_logps"], len(here)
        t = [1 + sum(y[j] > y[i] or (y[j] == y[i] and j < i) for j in here) for i in here]
        w = [(2.0 ** y[i] - 1) / math.log2(1 + t[k]) for k, i in enumerate(here)]
        loss = 0.0
        for k in range(n if n > 1 else 0):
            loss += w[k] * math.log1p(sum(math.exp(0.7 * (r[j] - r[k])) for j in range(n) if j != k) / (n - 1)) / n
        total.append(loss)
        pairs += sum(y[i] > y[j] for i in here for j in here)
        if any(y[i] > 0 for i in here):
            order = sorted(range(n), key=lambda k: -x["logps"][k])
            dcg = lambda ks, y=y, here=here: sum((2.0 ** y[here[k]] - 1) / math.log2(2 + p) for p, k in enumerate(ks))  # noqa: E731
            good.append(dcg(order) / dcg(sorted(range(n), key=lambda k: -y[here[k]])))
            reciprocal.append(1 / (1 + next(p for p, k in enumerate(order) if y[here[k]] > 0)))
    np.testing.assert_allclose(out.loss, np.mean(total), rtol=1e-5)
    counts = run.counts(item_batch()[0])
    assert (float(counts["lists"]), float(counts["pairs"])) == (5.0, pairs)
    got = values_of(out)
    np.testing.assert_allclose(got["ndcg"], np.mean(good), rtol=1e-5)
    np.testing.assert_allclose(got["mrr"], np.mean(reciprocal), rtol=1e-5)
    batch = item_batch()[0]
    g, labels = np.asarray(grads["model"]["logps"]), np.asarray(batch.per_token["item"])
    np.testing.assert_array_equal(g[labels == 0], 0.0)
    assert np.all(np.isfinite(g))


def test_an_item_that_was_cut_off_is_no_competitor():
    batch, params, frozen = item_batch()
    labels = np.asarray(batch.per_token["item"])
    cut = batch.replace(per_token=batch.per_token | {"item": jnp.asarray(np.where(labels == 3, 0, labels))})
    fewer = RELEVANCE.copy()
    fewer[:, 2] = -1
    gone = batch.replace(per_example={"relevance": jnp.asarray(fewer)})
    run = runner("irpo_ranking", beta=0.7)
    np.testing.assert_allclose(run(cut, params, frozen)[0].loss, run(gone, params, frozen)[0].loss, rtol=1e-6)


# --- RSO ---


def test_rso_losses_are_dpo_and_hinge():
    flat = segments(6, seed=3)
    pairs = tuple(tuple(flat[2 * i : 2 * i + 2]) for i in range(3))
    features, batch, counts = encoded("rso", functools.partial(lay_out, pairs, {"chosen": 0, "rejected": 1}, {}))
    for loss_type, name in (("sigmoid", "dpo"), ("hinge", "hinge")):
        got, same = METHODS["rso"](loss_type=loss_type), METHODS[name](beta=0.05)
        assert got.NEEDS == same.NEEDS
        a, b = (jax.jit(lambda f, m=m: m.evaluate(f, batch, {}, counts))(features) for m in (got, same))
        np.testing.assert_array_equal(a.loss, b.loss)
        np.testing.assert_array_equal(values_of(a)["rewards/margins"], values_of(b)["rewards/margins"])
