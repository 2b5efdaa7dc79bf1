"""GPM, GPO, PAL, MiCRo and MaxMin-RLHF on a tiny network: what is read, trained and measured, against float64 numpy."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.batches import make_examples, packed, unpacked
from contracts.harness import SCORER, initial

from jaxpo.errors import ConfigError
from jaxpo.objectives.families.spans import first_difference, held
from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.methods.pal import START_LOG_SCALE
from jaxpo.objectives.wrappers.fixed import FIXED, with_fixed
from jaxpo.train.step import make_eval

USERS = ("a", "b", "c")


def sp(z: Any) -> Any:
    return np.logaddexp(np.asarray(z, np.float64), 0.0)


def softmax(z: Any) -> np.ndarray:
    e = np.exp(np.asarray(z, np.float64) - np.max(z, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@functools.cache
def examples(kind: str = "pair") -> Any:
    found = make_examples(kind, 16, 3)
    if kind == "pair":  # two responses that are one, and one that begins the other
        ids, prompt = found[0].segments[0]
        found[0].segments[1] = (ids.copy(), prompt)
        ids, prompt = found[1].segments[0]
        found[1].segments[1] = (ids[:-1].copy(), prompt) if len(ids) - prompt > 1 else (np.append(ids, 7), prompt)
    return found


@functools.cache
def parameters(name: str, **settings: Any) -> Any:
    method = METHODS[name](**settings)
    return initial(method.build(SCORER), method)[0].params


def measured(name: str, kind: str = "pair", **settings: Any) -> tuple[float, dict[str, float]]:
    method = METHODS[name](**settings)
    objective = method.build(SCORER)
    batch = packed(examples(kind))
    loss, metrics = jax.jit(make_eval(objective))(parameters(name, **settings), {}, {}, batch, objective.counts(batch))
    return float(loss), {key: float(m.value()) for key, m in metrics.items()}


@functools.cache
def states(kind: str = "pair") -> list[list[np.ndarray]]:
    """Final hidden states of each example's segments, of the parameters that every method starts from."""
    batch = unpacked(examples(kind))
    hidden = np.asarray(jax.jit(SCORER.hidden)(parameters("micro", heads=3)["model"], batch), np.float64)
    wide = batch.block_rows
    return [
        [hidden[i * wide + k, : len(ids)] for k, (ids, _) in enumerate(example.segments)]
        for i, example in enumerate(examples(kind))
    ]


def numpy(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def decided(values: list[float]) -> np.ndarray:
    """Those of pairs that are not tied, which the metrics are about."""
    return np.asarray([x for x, example in zip(values, examples(), strict=True) if not example.columns["tie"]])


GPM_SETTINGS: list[dict[str, Any]] = [
    {"size": 4},
    {"size": 4, "gate": "scaled", "unit_length": False, "temperature": 2.0, "margin": 0.1, "ptx_coefficient": 0.25,
     "ptx_beta": 0.01},
    {"size": 2, "gate": "none", "learn_temperature": True, "form": "regression"},
]  # fmt: skip


@pytest.mark.parametrize("settings", GPM_SETTINGS, ids=["default", "scaled", "learnt"])
def test_gpm(settings: dict[str, Any]) -> None:
    loss, metrics = measured("gpm", **settings)
    params = numpy({k: v for k, v in parameters("gpm", **settings).items() if k != "model"})
    k = settings["size"] // 2
    tau = settings.get("temperature", 0.1)
    if settings.get("learn_temperature"):
        tau = max(np.logaddexp(params["temperature"]["theta"][0], 0), 0.01)
    terms, odds = [], []
    for example, pair in zip(examples(), states(), strict=True):
        v = [s[-1] @ params["embedding"]["weight"] for s in pair]
        v = [x / np.linalg.norm(x) for x in v] if settings.get("unit_length", True) else v
        lam = np.ones(k)
        if settings.get("gate") != "none":
            lam = softmax(pair[0][example.segments[0][1] - 1] @ params["gate"]["weight"])
            lam = lam * (k if settings.get("gate") == "scaled" else 1)
        s = sum(lam[b] * (v[0][2 * b] * v[1][2 * b + 1] - v[0][2 * b + 1] * v[1][2 * b]) for b in range(k))
        regression = settings.get("form") == "regression"
        terms.append(0.5 * (s / tau - 10) ** 2 if regression else sp(-(s - settings.get("margin", 0.0)) / tau))
        odds.append(s / tau)
    expected = np.mean(terms)
    if c := settings.get("ptx_coefficient"):
        batch = unpacked(examples())
        logps = np.asarray(jax.jit(SCORER.logps)(parameters("gpm", **settings)["model"], batch), np.float64)
        sums = (logps * np.asarray(batch.masks["completion"])).sum(1)[:: batch.block_rows]
        expected = (1 - c) * expected + c * np.mean(sp(-settings["ptx_beta"] * sums))
        assert "nll_loss" in metrics
    assert loss == pytest.approx(expected, rel=2e-5)
    assert metrics["margin"] == pytest.approx(np.mean(decided(odds)), rel=1e-4, abs=1e-5)
    # One pair has the same text twice: which of the two wins is a processor's rounding.
    least, most = np.mean(decided(odds) > 1e-6), np.mean(decided(odds) > -1e-6)
    assert most - least <= 1 / len(decided(odds)) + 1e-9
    assert least - 1e-6 <= metrics["accuracy"] <= most + 1e-6


def test_gpm_refuses_a_reward_of_one_answer_and_odd_sizes() -> None:
    assert METHODS["gpm"](size=3).problems() == ["gpm: size is 3 but must be even: it is cut into blocks of two."]
    assert "regression has none" in METHODS["gpm"](form="regression", margin=0.1).problems()[0]
    with pytest.raises(ConfigError, match="compares answers"):
        METHODS["gpm"]().reward(None)
    assert METHODS["gpm"](gate="none", learn_temperature=True).NEEDS.extra == ("embedding", "temperature")


def test_gpo_reads_one_score_a_response() -> None:
    method = METHODS["gpo"](beta=0.5)
    objective = method.build(SCORER)
    state, frozen = initial(objective, method)
    batch, loose = packed(examples()), unpacked(examples())
    loss, _ = jax.jit(make_eval(objective))(state.params, {}, frozen, batch, objective.counts(batch))
    sums = []
    for params in (state.params["model"], frozen["reference"]):
        logps = np.asarray(jax.jit(SCORER.logps)(params, loose), np.float64)
        sums.append((logps * np.asarray(loose.masks["completion"])).sum(1).reshape(-1, 2))
    scores = np.stack([example.columns["rewards"][0] for example in examples()]).astype(np.float64)
    assert float(loss) == pytest.approx(np.mean((sums[0] - sums[1] - scores / 0.5) ** 2), rel=1e-5)
    assert "holds 2 names" in method.check_columns({"rewards": np.zeros((3, 2, 2))})[0]
    assert method.check_columns({"rewards": np.zeros((3, 1, 2))}) == []


def test_where_two_responses_part() -> None:
    batch = packed(examples())
    first, ends = (np.asarray(x) for x in first_difference(batch))
    place = {int(e): n for n, e in enumerate(np.asarray(batch.example_id)) if e >= 0}
    for i, example in enumerate(examples()):
        (c, _), (r, _) = example.segments
        shorter = min(len(c), len(r))
        apart = [t for t in range(shorter) if c[t] != r[t]]
        expected = apart[0] if apart else (shorter if len(c) != len(r) else len(c))
        assert (first[place[i]], *ends[place[i]]) == (expected, len(c), len(r))
    kept = held(jnp.asarray([[1.0, 2.0, 3.0, 4.0]]), jnp.asarray([2]))
    np.testing.assert_array_equal(kept, [[1.0, 2.0, 2.0, 2.0]])


def mlp(params: Any, x: np.ndarray, variant: str) -> np.ndarray:
    act = (lambda z: np.maximum(z, 0)) if variant == "a" else (lambda z: np.asarray(jax.nn.gelu(jnp.asarray(z))))
    z = x @ params["in"]["weight"] + params["in"]["bias"]
    z = z if variant == "a" else act(z)
    for name in ("0", "1"):
        new = act(z @ params[name]["weight"] + params[name]["bias"])
        z = z + new if variant == "a" else new
    return z @ params["out"]["weight"] + params["out"]["bias"]


PAL_SETTINGS: list[dict[str, Any]] = [
    {"variant": "a", "ideal": "mixed_first"},
    {"variant": "a", "ideal": "mixed_last", "weighting": "mean", "user_temperature": 0.5},
    {"variant": "a", "ideal": "free", "weighting": "last", "bound_coefficient": 0.5, "bound": 0.1},
    {"variant": "b", "weighting": "cumulative"},
]


def ideal_of(params: Any, w: np.ndarray, settings: dict[str, Any], prompt: np.ndarray) -> np.ndarray:
    prototypes = params["prototypes"]
    if settings["variant"] == "b":
        each = [mlp(jax.tree.map(lambda x, k=k: x[k], prototypes), prompt, "b") for k in range(len(w))]
        return np.einsum("k,kd->d", w, each)
    if settings["ideal"] == "mixed_last":
        return w @ mlp(params["projector"], prototypes["weight"], "a")
    mixed = w @ prototypes["weight"]
    return mixed if settings["ideal"] == "free" else mlp(params["projector"], mixed, "a")


@pytest.mark.parametrize("settings", PAL_SETTINGS, ids=["mixed_first", "mixed_last", "free", "b"])
def test_pal(settings: dict[str, Any]) -> None:
    how = {"users": USERS, "size": 4, "prototypes": 2, **settings}
    loss, metrics = measured("pal", **how)
    params = numpy({k: v for k, v in parameters("pal", **how).items() if k != "model"})
    variant, terms, margins = settings["variant"], [], []
    for example, pair in zip(examples(), states(), strict=True):
        (c, prompt), (r, _) = example.segments
        w = softmax(params["users"]["logits"][example.columns["user"]] / settings.get("user_temperature", 1.0))
        u = ideal_of(params, w, settings, pair[0][prompt - 1])

        def score(states: np.ndarray, u: np.ndarray = u) -> np.ndarray:
            x = mlp(params["projector"], states, variant)
            if variant == "a":
                return -np.linalg.norm(x - u, axis=-1)
            cosine = (x @ u) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(u))
            return min(np.exp(params["scale"]["log"][0]), 100) * cosine

        sides, end = [score(s) for s in pair], max(len(c), len(r))
        sides = [np.append(x, np.repeat(x[-1], end - len(x))) for x in sides]
        apart = [t for t in range(end) if t >= min(len(c), len(r)) or c[t] != r[t]]
        span = list(range(apart[0], end)) if apart else []
        n, d = len(span), sides[0] - sides[1]
        weights = {"cumulative": [j / (n * (n + 1) / 2) for j in range(1, n + 1)], "mean": [1 / max(n, 1)] * n,
                   "last": [0.0] * (n - 1) + [1.0] * (n > 0)}[settings.get("weighting", "cumulative")]  # fmt: skip
        each = [max(0, 1 - d[t]) if variant == "a" else sp(-d[t]) for t in span]
        term = float(np.dot(weights, each)) if span else 0.0
        if settings.get("bound_coefficient"):
            term += settings["bound_coefficient"] * max(np.linalg.norm(u) - settings["bound"], 0)
        terms.append(term)
        margins.append(sides[0][-1] - sides[1][-1])
    assert loss == pytest.approx(np.mean(terms), rel=5e-5)
    # The logit at the last token is the difference of the rewards, of each pair's own user.
    assert metrics["margin"] == pytest.approx(np.mean(decided(margins)), rel=2e-4, abs=1e-5)


def test_new_users_move_nothing_else() -> None:
    """Only the rows of logits have a gradient where "users/*" is trained."""
    method = METHODS["pal"](users=USERS, size=4)
    objective = with_fixed(method.build(SCORER))
    params = dict(parameters("pal", users=USERS, size=4))
    users = {"users": params.pop("users")}
    batch = packed(examples())

    def loss(own: Any) -> Any:
        features, _ = objective.encode(own, {FIXED: params}, batch, None)
        return objective.loss(features, batch, {}, objective.counts(batch)).loss

    grads = jax.jit(jax.grad(loss))(users)
    assert set(grads) == {"users"}
    assert float(jnp.max(jnp.abs(grads["users"]["logits"]))) > 0


def test_users_are_named_and_mixtures_are_mixtures() -> None:
    pal = METHODS["pal"](users=USERS, size=4)
    params = parameters("pal", users=USERS, size=4)
    with pytest.raises(ConfigError, match=r"there is no user 'anna'; the model knows 3: a, b, c\."):
        pal.mixtures(params, ["b", "anna"])
    logits = np.asarray(params["users"]["logits"], np.float64)
    np.testing.assert_allclose(pal.mixtures(params, ["c", "a"]), softmax(logits[[2, 0]]), rtol=1e-5)
    assert pal.NEEDS.names == (("user", USERS),)
    assert "2 of the users have no row (b, c)" in pal.check_columns({"user": np.zeros(4, np.int32)})[0]
    assert METHODS["pal"](users=("a", "a")).problems() == ["pal: users names somebody twice."]
    assert "mixture is (0.5, 0.6) but must be 2 numbers" in replace(pal, mixture=(0.5, 0.6)).problems()[0]
    with pytest.raises(ConfigError, match="belong to no users"):
        METHODS["micro"]().mixtures({}, ["a"])
    assert pytest.approx(2.659, abs=1e-3) == START_LOG_SCALE


@pytest.mark.parametrize("variant", ["mixture", "mixed_rewards", "heads"])
@pytest.mark.parametrize("router", ["prompt", "global"])
def test_micro(variant: str, router: str) -> None:
    settings = {"heads": 3, "variant": variant, "router": router, "label_smoothing": 0.1, "entropy_coefficient": 0.3}
    loss, metrics = measured("micro", **settings)
    params = numpy({k: v for k, v in parameters("micro", **settings).items() if k != "model"})
    weight = params["heads"]["weight"] + params["heads"]["prior"]
    terms, entropies = [], []
    for example, pair in zip(examples(), states(), strict=True):
        r = [s[-1] @ weight for s in pair]
        at = [s[-1] for s in pair] if variant == "mixed_rewards" else [pair[0][example.segments[0][1] - 1]] * 2
        pi = [softmax(params["router"]["weight"] if router == "global" else x @ params["router"]["weight"]) for x in at]
        d = r[0] - r[1]
        if variant == "heads":
            terms.append(np.mean(0.9 * sp(-d) + 0.1 * sp(d)))
        elif variant == "mixed_rewards":
            d = pi[0] @ r[0] - pi[1] @ r[1]
            terms.append(0.9 * sp(-d) + 0.1 * sp(d))
        else:
            win, lose = (np.log(pi[0] @ (1 / (1 + np.exp(-x)))) for x in (d, -d))
            terms.append(-0.9 * win - 0.1 * lose + 0.3 * np.sum(pi[0] * np.log(pi[0])))
        entropies.append(-np.sum(pi[0] * np.log(pi[0])))
    assert loss == pytest.approx(np.mean(terms), rel=2e-5)
    assert metrics["router_entropy"] == pytest.approx(np.mean(entropies), rel=1e-4)


def test_the_priors_stay_and_are_no_parameters() -> None:
    method = METHODS["micro"](heads=3)
    table = method.extra_tables(SCORER.config)["heads"]
    assert table["prior"].buffer
    objective, batch = method.build(SCORER), packed(examples())

    def loss(params: Any) -> Any:
        features, _ = objective.encode(params, {}, batch, None)
        return objective.loss(features, batch, {}, objective.counts(batch)).loss

    grads = jax.jit(jax.grad(loss))(parameters("micro", heads=3))
    assert float(jnp.max(jnp.abs(grads["heads"]["prior"]))) == 0.0
    assert float(jnp.max(jnp.abs(grads["heads"]["weight"]))) > 0.0


def test_the_context_router() -> None:
    loss, metrics = measured("micro_router", "mixture", heads=2)
    params = numpy(parameters("micro_router", heads=2)["router"])
    terms, least = [], []
    for example, (state,) in zip(examples("mixture"), states("mixture"), strict=True):
        w = np.asarray(example.columns["ratings"], np.float64)
        pi = softmax(state[example.segments[0][1] - 1] @ params["weight"])
        terms.append(-np.sum(w * np.log(pi)))
        least.append(-np.sum(w * np.log(w)))
    assert loss == pytest.approx(np.mean(terms), rel=1e-5)
    assert metrics["excess"] == pytest.approx(np.mean(terms) - np.mean(least), rel=1e-4, abs=1e-6)
    method = METHODS["micro_router"](heads=2)
    assert "weights of 3 heads" in method.check_names({"ratings": ("head_000", "head_001", "head_002")})[0]
    assert method.check_names({"ratings": ("head_000", "head_001")}) == []
    assert "whose sum is 1" in method.check_columns({"ratings": np.float32([[0.5, np.nan]])})[0]


def test_maxmin_rlhf() -> None:
    loss, metrics = measured("maxmin_rlhf", groups=2)
    weight = numpy(parameters("maxmin_rlhf", groups=2)["groups"])["weight"]
    gamma = np.stack([e.columns["responsibilities"] for e in examples()]).astype(np.float64)
    margins = np.stack([(pair[0][-1] - pair[1][-1]) @ weight for pair in states()])
    assert loss == pytest.approx(np.sum((gamma * sp(-margins)).sum(0) / gamma.sum(0)), rel=1e-5)
    worst = ((margins > 1e-7) * gamma).sum(0) / gamma.sum(0)
    assert metrics["group_accuracy_min"] == pytest.approx(worst.min(), rel=1e-5)
    method = METHODS["maxmin_rlhf"](means=(1.0, 0.0), scales=(2.0, 0.5), mixture=(0.25, 0.75))
    rewards = jnp.asarray([[3.0, 1.0], [-1.0, 2.0]])
    np.testing.assert_allclose(
        method.under({}, {"groups": rewards}, jnp.asarray([[0.25, 0.75]] * 2)), [1.75, 2.75], rtol=1e-6
    )
    least = replace(method, combine="least")
    np.testing.assert_allclose(least.under({}, {"groups": rewards}, jnp.ones((2, 2)) / 2), [1.0, -1.0])
    alone, metrics = measured("maxmin_rlhf", groups=2, own=1)
    assert alone == pytest.approx(np.sum(gamma[:, 1] * sp(-margins[:, 1])) / gamma[:, 1].sum(), rel=1e-5)
    assert metrics["group_accuracy_min"] == pytest.approx(worst[1], rel=1e-5)
    second = METHODS["maxmin_rlhf"](own=1)
    np.testing.assert_allclose(second.reward({"groups": rewards}), [1.0, 2.0])
    assert "own is 2 but must be below groups, 2" in METHODS["maxmin_rlhf"](own=2).problems()[0]
    assert "scales is (1.0, 0.0)" in METHODS["maxmin_rlhf"](scales=(1.0, 0.0)).problems()[0]
    assert "whose sum is 1" in method.check_columns({"responsibilities": np.float32([[0.5, 0.6]])})[0]
    assert "weights of 3 groups" in method.check_names({"responsibilities": ("a", "b", "c")})[0]
