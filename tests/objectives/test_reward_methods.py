"""The reward models of the catalogue on a tiny network: what is read, counted and measured, against float64 numpy."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.batches import make_examples, packed, unpacked
from contracts.harness import CONFIG, SCORER, assert_same, initial, run

from jaxpo.errors import ConfigError
from jaxpo.models.heads import embedding
from jaxpo.models.lfm2.forward import unembedding
from jaxpo.objectives.families.groups import WORST
from jaxpo.objectives.methods import METHODS
from jaxpo.train.step import make_eval

YES, NO = 5, 9


def sp(z: Any) -> Any:
    return np.logaddexp(np.asarray(z, np.float64), 0.0)


@functools.cache
def examples(kind: str) -> Any:
    return make_examples(kind, 16, 3)


@functools.cache
def parameters(name: str, **settings: Any) -> Any:
    method = METHODS[name](**settings)
    return initial(method.build(SCORER), method)[0].params


def measured(name: str, kind: str, groups: tuple[str, ...] = (), **settings: Any) -> tuple[float, dict[str, float]]:
    """Loss and metrics of an evaluation of packed rows."""
    method = METHODS[name](**settings)
    objective = method.build(SCORER, groups=groups)
    batch = packed(examples(kind))
    loss, metrics = jax.jit(make_eval(objective))(parameters(name, **settings), {}, {}, batch, objective.counts(batch))
    return float(loss), {key: float(m.value()) for key, m in metrics.items()}


@functools.cache
def states(kind: str) -> list[list[np.ndarray]]:
    """Final hidden states of each example's segments, of the parameters that every method starts from."""
    batch = unpacked(examples(kind))
    params = parameters("outcome_reward")["model"]
    hidden = np.asarray(jax.jit(SCORER.hidden)(params, batch), np.float64)
    widest = batch.block_rows
    return [
        [hidden[i * widest + k, : len(ids)] for k, (ids, _) in enumerate(example.segments)]
        for i, example in enumerate(examples(kind))
    ]


def last_scores(kind: str, weight: np.ndarray) -> list[list[float]]:
    return [[float(s[-1] @ weight) for s in segments] for segments in states(kind)]


def head(name: str, **settings: Any) -> np.ndarray:
    return np.asarray(parameters(name, **settings)["value"]["weight"], np.float64)[:, 0]


def test_bradley_terry_with_everything() -> None:
    settings = {"temperature": 2.0, "label_smoothing": 0.1, "margin": "ignore", "soft_labels": True,
                "center_rewards_coefficient": 0.02, "lm_coefficient": 0.5}  # fmt: skip
    loss, metrics = measured("bradley_terry", "pair", **settings)
    terms, nll, tokens = [], 0.0, 0
    output = np.asarray(unembedding(parameters("outcome_reward")["model"]), np.float64)
    for example, (w, v), segments in zip(examples("pair"), last_scores("pair", head("bradley_terry", **settings)),
                                         states("pair"), strict=True):  # fmt: skip
        p = float(example.columns["votes"][0] / np.sum(example.columns["votes"]))
        q, d = 0.9 * p + 0.1 * (1 - p), (w - v) / 2
        terms.append(q * sp(-d) + (1 - q) * sp(d) + 0.02 * (w + v) ** 2)
        ids, prompt = example.segments[0]
        for t in range(prompt, len(ids)):
            logits = segments[0][t - 1] @ output.T
            nll += np.logaddexp.reduce(logits) - logits[ids[t]]
            tokens += 1
    assert loss == pytest.approx(np.mean(terms) + 0.5 * nll / tokens, rel=1e-5)
    assert metrics["nll_loss"] == pytest.approx(nll / tokens, rel=1e-5)


def test_a_margin_shifts_weighs_or_does_nothing() -> None:
    pairs = last_scores("pair", head("bradley_terry"))
    margins = [example.columns["margin"] for example in examples("pair")]
    found = {how: measured("bradley_terry", "pair", margin=how)[0] for how in ("shift", "ignore", "weight")}
    both = list(zip(pairs, margins, strict=True))
    assert found["shift"] == pytest.approx(np.mean([sp(v - w + m) for (w, v), m in both]), rel=1e-5)
    assert found["ignore"] == pytest.approx(np.mean([sp(v - w) for w, v in pairs]), rel=1e-5)
    assert found["weight"] == pytest.approx(np.mean([m * sp(v - w) for (w, v), m in both]), rel=1e-5)
    weighs = METHODS["bradley_terry"](margin="weight")
    assert weighs.NEEDS.columns == ("margin",)
    (problem,) = weighs.check_columns({"margin": np.float32([1.0, -0.5])})
    assert "a pair's margin is -0.5, but as its weight it must be above 0" in problem
    assert weighs.check_columns({"margin": np.float32([1.0, 0.5])}) == []


@pytest.mark.parametrize("name", ["rao_kupper", "davidson"])
def test_ties_are_trained_and_not_measured(name: str) -> None:
    loss, metrics = measured(name, "pair", center_rewards_coefficient=0.1)
    pairs, tied = last_scores("pair", head(name)), [e.columns["tie"] for e in examples("pair")]
    assert 0 < sum(tied) < len(tied)
    terms = []
    for (w, v), tie in zip(pairs, tied, strict=True):
        d = w - v
        if name == "rao_kupper":
            win, lose = sp(np.log(1.5) - d), sp(np.log(1.5) + d)
            term = win + lose - np.log(1.5**2 - 1) if tie else win
        else:
            whole = np.logaddexp.reduce([w, v, np.log(0.5) + (w + v) / 2])
            term = whole - (np.log(0.5) + (w + v) / 2 if tie else w)
        terms.append(term + 0.1 * (w + v) ** 2)
    assert loss == pytest.approx(np.mean(terms), rel=1e-5)
    decided = [w > v for (w, v), tie in zip(pairs, tied, strict=True) if not tie]
    assert metrics["accuracy"] == pytest.approx(np.mean(decided))
    columns = {"tie": np.array([True, False, True])}
    forbidding = METHODS[name](**({"threshold": 1.0} if name == "rao_kupper" else {"nu": 0.0}))
    assert "2 pair(s) are tied, and with" in forbidding.check_columns(columns)[0]
    assert METHODS[name]().check_columns(columns) == []


def test_plackett_luce_of_the_first_places() -> None:
    loss, metrics = measured("plackett_luce", "list", top_k=2, temperature=0.5)
    terms, right, margins = [], [], []
    for example, scores in zip(
        examples("list"), last_scores("list", head("plackett_luce", top_k=2, temperature=0.5)), strict=True
    ):
        labels = np.asarray(example.columns["scores"])[: len(scores)]
        order = np.argsort(-labels, kind="stable")
        s = np.asarray(scores)[order] / 0.5
        terms.append(sum(np.logaddexp.reduce(s[k:]) - s[k] for k in range(2)))
        for i in range(len(s)):
            for j in range(i + 1, len(s)):
                right.append(s[i] > s[j])
                margins.append((s[i] - s[j]) * 0.5)
    assert loss == pytest.approx(np.mean(terms), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(np.mean(right))
    assert metrics["margin"] == pytest.approx(np.mean(margins), rel=1e-4)


def test_outcomes() -> None:
    loss, metrics = measured("outcome_reward", "completion", groups=())
    scores = [s[0] for s in last_scores("completion", head("outcome_reward"))]
    labels = [e.columns["label"] for e in examples("completion")]
    assert loss == pytest.approx(np.mean([sp(-r if y else r) for r, y in zip(scores, labels, strict=True)]), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(
        np.mean([(r > 0) == bool(y) for r, y in zip(scores, labels, strict=True)])
    )
    good, bad = ([r for r, y in zip(scores, labels, strict=True) if bool(y) == which] for which in (True, False))
    assert metrics["margin"] == pytest.approx(np.mean(good) - np.mean(bad), rel=1e-4)


@pytest.mark.parametrize("last", [False, True])
def test_steps_are_judged_where_they_end(last: bool) -> None:
    loss, metrics = measured("process_reward", "steps", last_step_only=last, combine="product")
    weight = head("process_reward", last_step_only=last, combine="product")
    terms, rewards, right = [], [], []
    for example, segments in zip(examples("steps"), states("steps"), strict=True):
        ids, prompt = example.segments[0]
        n = len(ids) - prompt
        step = 1 + np.arange(n) * min(3, n) // n
        ends = np.flatnonzero(np.diff(step, append=0))
        logits = np.asarray([segments[0][prompt + t] @ weight for t in ends])
        labels = np.asarray([example.columns["labels"][step[t] - 1] for t in ends])
        known = np.flatnonzero(labels >= 0)
        for k in known[-1:] if last else known:
            terms.append(labels[k] * sp(-logits[k]) + (1 - labels[k]) * sp(logits[k]))
            right.append((logits[k] > 0) == (labels[k] >= 0.5))
        rewards.append(np.prod(1 / (1 + np.exp(-logits))))
    assert loss == pytest.approx(np.mean(terms), rel=1e-5)
    assert metrics["mean_reward"] == pytest.approx(np.mean(rewards), rel=1e-4)
    assert metrics["accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize("form", ["mse", "bce"])
def test_ratings_of_which_some_are_missing(form: str) -> None:
    settings: dict[str, Any] = {"aspects": ("a", "b"), "form": form, "low": -2.0, "high": 6.0, "weights": (0.25, 0.75)}
    loss, metrics = measured("rating", "completion", **settings)
    table = jax.tree.map(lambda x: np.asarray(x, np.float64), parameters("rating", **settings)["ratings"])
    scores = np.stack([s[0][-1] @ table["weight"] + table["bias"] for s in states("completion")])
    ratings = np.stack([e.columns["ratings"] for e in examples("completion")]).astype(np.float64)
    here, place = ~np.isnan(ratings), (ratings + 2) / 8
    terms = (scores - ratings) ** 2 if form == "mse" else place * sp(-scores) + (1 - place) * sp(scores)
    assert loss == pytest.approx(np.sum(terms[here]) / here.sum(), rel=1e-5)
    predicted = scores if form == "mse" else -2 + 8 / (1 + np.exp(-scores))
    assert metrics["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - ratings)[here] ** 2)), rel=1e-4)
    each = [np.corrcoef(predicted[here[:, c], c], ratings[here[:, c], c])[0, 1] for c in (0, 1)]
    assert metrics["correlation"] == pytest.approx(np.mean(each), abs=1e-3)
    assert metrics["mean_reward"] == pytest.approx(np.mean(scores @ [0.25, 0.75]), rel=1e-4)


def test_ratings_that_do_not_fit() -> None:
    method = METHODS["rating"](aspects=("a", "b"), low=0.0, high=5.0)
    good = np.float32([[1.0, np.nan], [5.0, 0.0]])
    assert method.check_columns({"ratings": good}) == []
    assert (
        "ratings lie between 1 and 6, but low is 0.0 and high is 5.0" in method.check_columns({"ratings": good + 1})[0]
    )
    assert "holds 1 rating(s), but aspects has 2 entries" in method.check_columns({"ratings": good[:, :1]})[0]
    assert "the rows rate x, y, but aspects is a, b" in method.check_names({"ratings": ("x", "y")})[0]
    wrong = METHODS["rating"](aspects=("b", "a"), form="bce", weights=(1.0,), low=3.0)
    assert len(wrong.problems()) == 3
    assert METHODS["rating"](low=2.0, high=1.0).problems() == [
        "rating: low is 2 and high is 1; the first must be smaller."
    ]


@pytest.mark.parametrize("query", ["vector", "prompt"])
def test_a_reward_is_the_product_of_an_embedding_with_a_query(query: str) -> None:
    settings: dict[str, Any] = {"size": 6, "query": query, "temperature": 0.5, "center_rewards_coefficient": 0.1}
    start = parameters("embedding_reward", **settings)
    heads = {name: np.asarray(start[name]["weight"], np.float64) for name in ("embedding", "query")}
    loss, metrics = measured("embedding_reward", "pair", **settings)
    terms, right = [], []
    for example, segments in zip(examples("pair"), states("pair"), strict=True):
        e = np.stack([s[-1] @ heads["embedding"] for s in segments])
        e /= np.linalg.norm(e, axis=1, keepdims=True)
        prompts = np.stack([s[prompt - 1] for s, (_, prompt) in zip(segments, example.segments, strict=True)])
        q = prompts @ heads["query"] if query == "prompt" else heads["query"].T
        w, v = np.sum(q * e, axis=1)
        terms.append(sp(-(w - v - example.columns["margin"]) / 0.5) + 0.1 * (w + v) ** 2)
        right.append(w > v)
    assert loss == pytest.approx(np.mean(terms), rel=1e-5)
    decided = [ok for ok, example in zip(right, examples("pair"), strict=True) if not example.columns["tie"]]
    assert metrics["accuracy"] == pytest.approx(np.mean(decided))


def test_embeddings_have_a_finite_gradient_everywhere() -> None:
    """Also at 0, and the gradient is that of differences; a vector of unit length has none along itself."""
    eye = {"weight": jnp.eye(3)}
    f = lambda h: jnp.sum(embedding(eye, h) * jnp.asarray([1.0, -2.0, 0.5]))  # noqa: E731
    assert np.all(np.isfinite(jax.grad(f)(jnp.zeros(3))))
    h = jnp.asarray([0.3, -1.2, 2.0])
    grad = np.asarray(jax.grad(f)(h), np.float64)
    assert grad @ np.asarray(h, np.float64) == pytest.approx(0.0, abs=1e-6)
    g = lambda x: x @ [1.0, -2.0, 0.5] / np.linalg.norm(x)  # noqa: E731
    x = np.asarray(h, np.float64)
    numeric = [(g(x + d) - g(x - d)) / 2e-6 for d in 1e-6 * np.eye(3)]
    np.testing.assert_allclose(grad, numeric, atol=1e-5)


def test_yes_and_no_need_no_head() -> None:
    loss, _ = measured("bradley_terry", "pair", yes_no=(YES, NO), margin="ignore")
    assert "value" not in parameters("bradley_terry", yes_no=(YES, NO), margin="ignore")
    output = np.asarray(unembedding(parameters("outcome_reward")["model"]), np.float64)
    pairs = last_scores("pair", output[YES] - output[NO])
    assert loss == pytest.approx(np.mean([sp(v - w) for w, v in pairs]), rel=1e-5)
    method = METHODS["bradley_terry"](yes_no=(YES, CONFIG.vocab_size))
    with pytest.raises(ConfigError, match=r"yes_no is \(5, 48\), but the model has 48 tokens"):
        jax.eval_shape(method.build(SCORER).encode, parameters("outcome_reward"), {}, packed(examples("pair")), None)
    assert "must be the ids of two different tokens" in METHODS["bradley_terry"](yes_no=(3, 3)).problems()[0]


@pytest.mark.parametrize("name", ["bradley_terry", "dpo"])
def test_accuracy_by_group(name: str) -> None:
    """The groups' accuracies average to the whole one, weighted by their pairs; the worst is the smallest."""
    if name == "dpo":
        method = METHODS[name]()
        objective = method.build(SCORER, groups=("even", "odd", "never"))
        state, frozen = initial(objective, method)
        batch = packed(examples("pair"))
        _, found = jax.jit(make_eval(objective))(state.params, {}, frozen, batch, objective.counts(batch))
        metrics, whole = {key: float(m.value()) for key, m in found.items()}, "rewards/accuracies"
    else:
        metrics, whole = measured(name, "pair", ("even", "odd", "never"), margin="ignore")[1], "accuracy"
    even, odd = (metrics[f"rewards/accuracies/{group}"] for group in ("even", "odd"))
    decided = [e.columns["group"] for e in examples("pair") if name == "dpo" or not e.columns["tie"]]
    share = np.mean(np.asarray(decided) == 0)
    assert metrics[whole] == pytest.approx(share * even + (1 - share) * odd, rel=1e-5)
    assert metrics[WORST] == pytest.approx(min(even, odd))
    assert metrics["rewards/accuracies/never"] == 0.0
    assert not any(key.startswith("rewards/") for key in measured("bradley_terry", "pair")[1])


def judgements(kind: str, i: int) -> int:
    """How many an example of the kind has: pairs of candidates, labelled steps, ratings."""
    example = examples(kind)[i]
    if kind == "list":
        n = len(example.segments)
        return n * (n - 1) // 2
    if kind == "steps":
        ids, prompt = example.segments[0]
        return int(np.sum(example.columns["labels"][: min(3, len(ids) - prompt)] >= 0))
    return int(np.sum(~np.isnan(example.columns["ratings"])))


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [("plackett_luce", "list", {"top_k": 2, "temperature": 0.5}),
     ("process_reward", "steps", {"last_step_only": False, "combine": "product"}),
     ("rating", "completion", {"aspects": ("a", "b"), "tolerance": 1.5})],
)  # fmt: skip
def test_accuracy_by_group_counts_judgements(name: str, kind: str, settings: dict[str, Any]) -> None:
    """Of lists every two candidates, of answers in steps each step, of ratings each number."""
    metrics = measured(name, kind, ("even", "odd"), **settings)[1]
    each = [metrics[f"rewards/accuracies/{group}"] for group in ("even", "odd")]
    count = [sum(judgements(kind, i) for i in range(16) if i % 2 == which) for which in (0, 1)]
    assert 0 < metrics["accuracy"] < 1
    assert metrics["accuracy"] == pytest.approx(np.dot(each, count) / np.sum(count), rel=1e-5)
    assert metrics[WORST] == pytest.approx(min(each))


DROPPING = replace(SCORER, pooled_dropout=0.3, embedding_dropout=0.2)


@functools.cache
def dropped() -> Any:
    method = METHODS["bradley_terry"](margin="ignore")
    objective = method.build(DROPPING)
    batches = [packed(make_examples("pair", 16, seed)) for seed in (0, 1)]
    return method, objective, batches, run(objective, batches, method)


@pytest.mark.parametrize("layout", [{"microbatches": 4}, pytest.param({"devices": 4}, marks=pytest.mark.slow)])
def test_what_is_dropped_is_keyed_by_the_example(layout: dict[str, int]) -> None:
    """Of the embedding and of what the head reads: microbatches and devices agree."""
    method, objective, batches, whole = dropped()
    assert_same(run(objective, batches, method, **layout), whole, initial(objective, method)[0])


def test_an_evaluation_drops_nothing() -> None:
    method, objective, batches, whole = dropped()
    params, counts = initial(objective, method)[0].params, objective.counts(batches[0])
    both = [jax.jit(make_eval(o))(params, {}, {}, batches[0], counts)[0] for o in (objective, method.build(SCORER))]
    assert float(both[0]) == float(both[1])
    assert abs(whole[1][0]["loss"] - float(both[0])) > 1e-4


def test_the_two_draws_differ() -> None:
    """The head's mask is not the embedding's: with one key both rates draw from different streams."""
    batch = packed(examples("pair"))
    scorer = replace(SCORER, pooled_dropout=0.5)
    ones = jnp.ones((batch.rows, batch.tokens.shape[1], CONFIG.hidden_size))
    from jaxpo.objectives.encode import row_keys
    from jaxpo.ops.dropout import dropout

    key = jax.random.key(7)
    pooled, embedded = scorer.pooled(ones, batch, key), dropout(ones, row_keys(key, batch), 0.5)
    assert 0.4 < float(jnp.mean(pooled > 0)) < 0.6
    assert 0.4 < float(jnp.mean((pooled > 0) == (embedded > 0))) < 0.6
