"""HyPER: features, the subset sampler, performance models, gains, strategies; the command, the stages and files."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from cli.conftest import make_model
from construct.work_context import context_of

from jaxpo.cli.main import main
from jaxpo.construct.base import Tools
from jaxpo.construct.hybrid.features import bins, discovered, matrix, parse
from jaxpo.construct.hybrid.instances import read_instances
from jaxpo.construct.hybrid.pairs import HybridPrefs
from jaxpo.construct.hybrid.performance import fit, gains, held_out
from jaxpo.construct.hybrid.proxy import ProxyRuns, bradley_terry_head
from jaxpo.construct.hybrid.route import Route, Routing
from jaxpo.construct.hybrid.routing import Router, size_of
from jaxpo.construct.hybrid.runs import read_runs
from jaxpo.construct.hybrid.subsets import counts, random_fill, random_subsets
from jaxpo.convert.model_io import load_model
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError

N, F = 40, 6


def world(seed=0, n=N, features=F):
    rng = np.random.default_rng(seed)
    has = rng.random((n, features)) < 0.3
    masks = random_subsets(has, 60, rng)
    b = rng.normal(size=features)
    return has, counts(has, masks), b


def instances(rows):
    return read_instances([Row(__import__("pathlib").Path("x.jsonl"), i, row) for i, row in enumerate(rows, start=1)])


def row(i, **more):
    return {"prompt": f"q {i}", "responses": ["one two three", "one two"], "human": 1 + i % 2, "ai": 1} | more


def test_a_noiseless_linear_world():
    """b is recovered; gains are additive and do not depend on the mask; top-k is best for its budget."""
    has, phi, b = world()
    model = fit(phi, 0.5 + phi @ b, "linear")
    np.testing.assert_allclose(model.coefficients, b, atol=1e-9)
    g = gains(model, has)
    np.testing.assert_allclose(g, has @ b, atol=1e-9)
    start = np.random.default_rng(1).random(N) < 0.5
    np.testing.assert_allclose(gains(model, has, start), g, atol=1e-9)
    f = lambda mask: float(model.predict(counts(has, mask)[None])[0])  # noqa: E731
    assert f(start) == pytest.approx(0.5 + g[start].sum())
    few = has[:7]
    for k in (2, 4):
        every = np.asarray([few[list(subset)].sum(0) for subset in itertools.combinations(range(7), k)])
        mask = Router().route(model, few, k, np.random.default_rng(0))
        assert mask.sum() == k
        assert model.predict(counts(few, mask)[None]).item() == pytest.approx(model.predict(every).max())
    free = f(Router("positive").route(model, has, N, np.random.default_rng(0)))
    for k in (0, 9, N // 2, N):
        assert free >= f(Router().route(model, has, k, np.random.default_rng(0))) - 1e-12


@pytest.mark.parametrize("strategy", ["topk", "simulated", "greedy", "positive", "cumulative"])
def test_budgets_of_none_and_of_all(strategy):
    has, phi, b = world()
    model, rng = fit(phi, phi @ np.abs(b), "linear"), np.random.default_rng(0)
    router = Router(strategy, simulations=5)
    assert not router.route(model, has, size_of(0, N), rng).any()
    whole = router.route(model, has, size_of(1, N), rng)
    expected = np.ones(N, bool) if strategy in ("topk", "greedy") else has.any(1)
    np.testing.assert_array_equal(whole, expected)


def test_ties_go_to_the_lower_index_and_shares_are_rounded_down():
    has = np.ones((7, 1), bool)
    model = fit(np.arange(12.0)[:, None], np.arange(12.0), "linear")
    assert np.flatnonzero(Router().route(model, has, size_of(0.5, 7), np.random.default_rng(0))).tolist() == [0, 1, 2]
    assert [size_of(b, 7) for b in (0, 0.99, 1, 3, 100)] == [0, 6, 7, 3, 7]


def test_small_gains_are_not_worth_a_label():
    has = np.eye(3, dtype=bool)
    phi = np.random.default_rng(0).random((30, 3)) * 5
    model = fit(phi, phi @ [1.0, 5e-5, -1.0], "linear")
    route = lambda r: np.flatnonzero(r.route(model, has, 3, np.random.default_rng(0))).tolist()  # noqa: E731
    assert route(Router("positive")) == [0, 1]
    assert route(Router("cumulative")) == [0]
    assert route(Router("cumulative", threshold=1e-6)) == [0, 1]


def test_the_quadratic_model_contains_the_linear_one():
    _, phi, b = world(2)
    y = phi @ b
    model = fit(phi, y, "quadratic")
    assert model.regressor[0].n_output_features_ == 1 + F + F * (F + 1) // 2
    np.testing.assert_allclose(model.predict(phi), y, atol=1e-6)
    # With products, what an instance gains depends on those that are there.
    both = fit(phi, phi[:, 0] - 0.2 * phi[:, 0] ** 2 + 0.5 * phi[:, 1], "quadratic")
    two = np.asarray([[1, 0, 0, 0, 0, 0]] * 5 + [[0, 1, 0, 0, 0, 0]] * 5, bool)
    before, after = gains(both, two), gains(both, two, np.arange(10) < 3)
    assert before[0] > before[5]
    assert after[0] < after[5]
    one = Router("greedy").route(both, two, 5, np.random.default_rng(0))
    assert one[:5].sum() < 5
    assert Router().route(both, two, 5, np.random.default_rng(0))[:5].all()


def test_more_simulations_are_no_worse_and_top_k_bounds_them():
    has, phi, b = world(3)
    model = fit(phi, phi @ b, "linear")
    f = lambda mask: float(model.predict(counts(has, mask)[None])[0])  # noqa: E731
    found = [f(Router("simulated", n).route(model, has, 12, np.random.default_rng(5))) for n in (1, 5, 25, 100)]
    assert found == sorted(found)
    assert found[-1] <= f(Router().route(model, has, 12, np.random.default_rng(0))) + 1e-12


def test_the_sampler_fills_by_features():
    has = world(4)[0]
    has[3] = False
    rng = np.random.default_rng(0)
    for capacity in (0, 1, 7, 39):
        mask = random_fill(has, capacity, rng)
        assert mask.sum() == min(capacity, has.any(1).sum())
        assert not mask[3]
    np.testing.assert_array_equal(random_fill(has, 10 * N, rng), has.any(1))
    # Visited first, a feature of many is taken whole before others begin.
    one = np.zeros((20, 2), bool)
    one[:10, 0] = one[10:, 1] = True
    assert {int(random_fill(one, 10, np.random.default_rng(s))[:10].sum()) for s in range(9)} == {0, 10}


def test_boosted_trees_and_what_is_held_out():
    _, phi, b = world(5)
    rng = np.random.default_rng(0)
    y = phi @ b + rng.normal(size=60)
    for kind in ("linear", "quadratic", "boosted"):
        found = held_out(phi, y, kind, seed=1)
        order = np.random.default_rng(1).permutation(60)
        test, train = order[:12], order[12:]
        predicted = fit(phi[train], y[train], kind, 1).predict(phi[test])
        assert found.rmse == pytest.approx(np.sqrt(np.mean((predicted - y[test]) ** 2)))
        assert found.runs == 12
    assert np.isnan(held_out(phi, np.ones(60), "boosted").spearman)
    with pytest.raises(ValueError, match="no coefficient"):
        _ = fit(phi, y, "boosted").coefficients


def test_features_are_bins_ranks_and_tags():
    made = instances([
        row(0, bertscore=0.33, subject=["law", "art"], entities=[["a", "b"], ["b"]]),
        row(1, bertscore=0.2, subject="law", entities=[[], []], prompt="a long question here"),
        row(2, bertscore=0.9, entities=[["a"], ["a"]], responses=["one", "two three four five"]),
    ])  # fmt: skip
    features = discovered(made, ("bertscore", "subject", "subject?", "entity_sim"))
    assert [str(f) for f in features] == [
        "bertscore[0,0.33]", "bertscore[0.33,0.67]", "bertscore[0.67,1]", "subject=art", "subject=law", "subject?",
        "entity_sim[0,0.33]", "entity_sim[0.33,0.67]", "entity_sim[0.67,1]",
    ]  # fmt: skip
    assert [parse(str(f)) for f in features] == features
    closed = matrix(made, features, Tools())
    assert closed.astype(int).tolist() == [
        [1, 1, 0, 1, 1, 1, 0, 1, 0], [1, 0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0, 1],
    ]  # fmt: skip
    strict = matrix(made, features, Tools(), strict=True)
    assert not strict[0, :3].any()  # on an edge: both of closed bins, none of open ones
    lengths = matrix(made, [*bins("len_diff"), *bins("prompt_len")], Tools())
    # Ranks within the set: differences 1, 1, 3 are 0.5, 0.5, 1; prompts 2, 4, 2 are 0.5, 1, 0.5.
    assert lengths.astype(int).tolist() == [[0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1], [0, 0, 1, 0, 1, 0]]
    (rouge,) = matrix(made[2:], [parse("rouge[0,0]")], Tools())
    assert rouge.all()


@pytest.mark.parametrize(("word", "message"), [
    ("bertscore", "the feature 'bertscore' has no source"),
    ("cosine_sim", "give --model RUN"),
    ("entity_sim", "the feature 'entity_sim' has no source"),
    ("subjet", "no row has a column 'subjet'"),
])  # fmt: skip
def test_a_feature_without_a_source_is_refused(word, message):
    made = instances([row(0), row(1)])
    with pytest.raises((ConfigError, DataError), match=message.replace("(", "\\(")):
        matrix(made, discovered(made, (word,)), Tools())


@pytest.mark.parametrize(("change", "message"), [
    ({"responses": ["one"]}, "must be a list of two texts"),
    ({"human": 3}, "1 = the first response is better"),
    ({"ai": True}, "is True"),
])  # fmt: skip
def test_rows_that_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        instances([row(0, **change)])


def test_pairs_by_the_label_they_are_routed_to():
    rows = [row(0, human=2, route="human"), row(1, human=0, route="human"), row(2, ai=2, route="ai")]
    tools = Tools()
    made = list(HybridPrefs().run([x.row for x in instances(rows)], tools))
    assert [(x["chosen"], x["label_from"]) for x in made] == [("one two", "human"), ("one two", "ai")]
    assert tools.counts == {"labels_human": 1, "labels_ai": 1, "dropped_ties": 1}
    nine = [x.row for x in instances([row(i) for i in range(9)])]
    made = [list(HybridPrefs("random", share).run(nine, Tools())) for share in (0.0, 0.5, 1.0)]
    shares = [sum(x["label_from"] == "human" for x in one) for one in made]
    assert shares == [0, 4, 9]
    with pytest.raises(DataError, match="goes to 'human', but has no such label"):
        list(HybridPrefs("human").run([x.row for x in instances([row(0, human=None)])], Tools()))
    with pytest.raises(DataError, match="jaxpo data route"):
        list(HybridPrefs().run([x.row for x in instances([row(0)])], Tools()))


def test_a_bradley_terry_head_is_the_penalised_minimum():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)) + 0.3
    w = bradley_terry_head(x, 2.0)
    np.testing.assert_allclose(2.0 * w, x.T @ (1 / (1 + np.exp(x @ w))), atol=2e-3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(make_model(tmp_path_factory.mktemp("run") / "stages" / "sft", 0))


def write(path, rows):
    path.write_text("".join(json.dumps(x) + "\n" for x in rows))
    return str(path)


def test_from_proxy_runs_to_a_routed_set(model, tmp_path, capsys):
    """The stages of the recipe, then the command on a new set without human labels."""
    rng = np.random.default_rng(0)
    rows = [row(i, kind=["hard", "easy"][i % 2], responses=[f"a{'b' * int(k)}", "c d"], human=1 + i % 2, ai=1 + i % 3)
            for i, k in enumerate(rng.integers(1, 9, 30))]  # fmt: skip
    rows[4]["ai"] = 0
    rows = [x | {"ai": min(x["ai"], 2)} for x in rows]
    heldout = write(
        tmp_path / "heldout.jsonl", [{"prompt": f"q {i}", "chosen": "abb", "rejected": "c d"} for i in range(4)]
    )
    data = write(tmp_path / "rows.jsonl", rows)
    stage = ProxyRuns(
        rows=(data,), heldout=(heldout,), features=("kind", "len_diff", "cosine_sim"), runs=12, sample=20, max_length=64
    )
    report = stage.run(context_of(model, tmp_path / "proxies"))
    assert report["runs"] == 12
    runs = read_runs([tmp_path / "proxies" / "runs.jsonl"])
    assert [str(f) for f in runs.features][:2] == ["kind=easy", "kind=hard"]
    lines = [json.loads(line) for line in (tmp_path / "proxies" / "runs.jsonl").read_text().splitlines()]
    assert all(line["rows"] == 20 for line in lines)
    assert all(line["counts"]["kind=easy"] + line["counts"]["kind=hard"] == line["humans"] for line in lines)
    route = Route(
        rows=(data,),
        runs=(str(tmp_path / "proxies" / "runs.jsonl"),),
        routing=Routing(0.25),
        model="sft",
        max_length=64,
    )
    told = route.run(context_of(model, tmp_path / "route"))
    assert told["humans"] == 7
    assert list(told["curve"]) == ["0", "0.25", "0.5", "0.75", "1"]
    assert set(told["coefficients"]) == set(map(str, runs.features))
    # Transfer: another set, no human labels, no network for what it does not ask.
    few = [line | {"counts": {k: v for k, v in line["counts"].items() if "cosine" not in k}} for line in lines]
    words = ["--runs", write(tmp_path / "few.jsonl", few), "--budget", "0.5", "--edges", "strict"]
    new = write(tmp_path / "new.jsonl", [{"prompt": "p", "responses": ["x", "y z"], "kind": "hard"} for _ in range(5)])
    out = tmp_path / "out.jsonl"
    assert main(["data", "route", new, str(out), *words]) == 0
    assert [json.loads(line)["route"] for line in out.read_text().splitlines()] == ["human"] * 2 + ["ai"] * 3
    assert "budget 0.5: predicted" in capsys.readouterr().out
    assert main(["data", "route", new, str(tmp_path / "no.jsonl"), *words, "--budget", "-1"]) == 2
    assert "--budget is -1.0 but must be at least 0" in capsys.readouterr().err


def test_settings_that_are_refused():
    problems = ProxyRuns(runs=2, sample=0, penalty=0.0, features=()).problems()
    assert len(problems) == 6
    assert Route(routing=Routing(budget=-1.0, simulations=0)).problems()[:2] == [
        "--budget is -1.0 but must be at least 0.",
        "--simulations is 0 but must be at least 1.",
    ]
    assert HybridPrefs(share=2.0).problems()


def test_runs_that_are_refused(tmp_path):
    good = {"counts": {"kind=a": 1}, "metric": 0.5}
    for rows, message in (
        ([good] * 3, "3 runs are too few"),
        ([good] * 10 + [{"counts": {"kind=b": 1}, "metric": 0.5}], "other features"),
        ([{"counts": {}, "metric": 0.5}], "must give a number for each feature"),
        ([good] * 10 + [{"counts": {"kind=a": 1}, "metric": "x"}], "must be a number"),
    ):
        with pytest.raises(DataError, match=message):
            read_runs([write(tmp_path / "runs.jsonl", rows)])
    with pytest.raises(ConfigError, match="is no feature"):
        read_runs([write(tmp_path / "runs.jsonl", [good | {"counts": {"kind": 1}}] * 10)])
