"""Thresholds of rewards: Nelder and Mead's search, the same search as a fold over a ledger, what nobody can reach."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from online.rollout_numbers import (
    KNOWN,
    MASK,
    NEW,
    NEW_VALUES,
    OLD,
    REF,
    VALUES,
    features,
    generation,
    on_grid,
    recorded,
)
from online.test_ppo_stage import unfinished
from online.test_recipe import steps
from online.tiny import HERE, online, recipe

from jaxpo.config import MaxMin
from jaxpo.losses import whiten
from jaxpo.objectives.methods.constrained_rlhf import ConstrainedRLHF, ThresholdSearch
from jaxpo.online.ledger import Journal
from jaxpo.online.nelder_mead import Simplex, nelder_mead
from jaxpo.online.recording import Recorded, Recorder
from jaxpo.online.rewards import FunctionReward
from jaxpo.online.thresholds import first_simplex, out_of_reach, reached, replayed
from jaxpo.online.token_advantages import made_of
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages import run as running


def bowl(x):
    return float((x[0] - 0.3) ** 2 + 2 * (x[1] + 0.2) ** 2 + 0.5 * x[0] * x[1])


def searched(first, how, most=200):
    machine, asked = nelder_mead(first, how), []
    try:
        x = next(machine)
        while len(asked) < most:
            asked.append(x.copy())
            x = machine.send(bowl(x))
    except StopIteration as end:
        return end.value, asked
    return None, asked


def test_the_least_of_a_quadratic_is_found():
    first = np.asarray([[1.0, 1.0], [1.5, 1.0], [1.0, 1.4]])
    best, asked = searched(first, Simplex(same=1e-5, spread=1e-6), most=400)
    least = np.linalg.solve([[2, 0.5], [0.5, 4]], [0.6, -0.8])
    best = min(asked, key=bowl) if best is None else best
    np.testing.assert_allclose(best, least, atol=5e-3)
    for i, x in enumerate(asked):
        assert all(np.any(np.abs(x - other) >= 1e-5) for other in asked[:i])  # what is known is not asked again


def test_it_ends_after_a_shrink_whose_values_are_alike():
    machine = nelder_mead(np.asarray([[0.0], [1.0]]), Simplex())
    asked, best, x = [], None, next(machine)
    while best is None:
        asked.append(float(x[0]))
        try:
            x = machine.send(1.0)
        except StopIteration as end:
            best = float(end.value[0])
    assert asked == [0.0, 1.0, -1.0, 0.5]  # reflection and contraction gain nothing; the shrunk vertex is known
    assert best in asked


SEARCH = ThresholdSearch(low=(0.0, 0.5), high=(1.0, 0.9), score="gold", generations=3)


def test_a_vertex_is_tried_until_it_is_reached_or_its_generations_are_spent():
    first = first_simplex(SEARCH)
    assert np.all((first >= [0.0, 0.5]) & (first <= [1.0, 0.9]))
    far = [{"returns": [9.0, 9.0]}] * 2
    found = replayed(SEARCH, far)
    np.testing.assert_array_equal(found.thresholds, first[0])
    assert not found.due
    assert replayed(SEARCH, [*far, far[0]]).due
    there = [{"returns": (first[0] * 1.04).tolist()}]
    found = replayed(SEARCH, there)
    assert found.due
    np.testing.assert_array_equal(found.thresholds, first[0])
    np.testing.assert_array_equal(replayed(SEARCH, there, score=0.2).thresholds, first[1])
    assert reached([0.951, -1.049], [1.0, -1.0])
    assert not reached([0.94, -1.0], [1.0, -1.0])


def test_the_search_goes_on_from_its_ledger_as_if_nothing_had_happened():
    """The fold over lines equals the search asked in one go, at every place where a run may have been killed."""
    search = dataclasses.replace(SEARCH, generations=2)
    _, asked = searched(first_simplex(search), Simplex(), most=12)
    lines, tried = [], []
    for _ in range(22):
        found, scored = replayed(search, lines), {}
        if found.due:
            scored = {"score": -bowl(tried[-1])}
            found = replayed(search, lines, scored["score"])
        lines = json.loads(json.dumps([*lines, {"returns": [9.0, 9.0], **scored}]))
        tried.append(found.thresholds)
    for i, vertex in enumerate(asked[:11]):
        np.testing.assert_array_equal(tried[2 * i], vertex)
        np.testing.assert_array_equal(tried[2 * i + 1], vertex)


def test_thresholds_that_nobody_can_reach_are_said():
    low = [[0.1, 0.5]] * 10
    how = {"bound": "tanh"}
    said = out_of_reach(("a", "b"), low, {"a": 0.9, "b": 0.5}, (0.99, 0.0), **how)
    assert set(said) == {"a"}
    assert "0.9 of a seems out of reach" in said["a"]
    assert set(out_of_reach(("a", "b"), low, {"a": -0.9, "b": 0.1}, (-0.5, -0.99), **how)) == {"b"}
    assert not out_of_reach(("a",), low[:9], {"a": 0.9}, (0.99,), **how)
    assert not out_of_reach(("a",), low, {"a": 0.9}, (0.5,), **how)
    assert not out_of_reach(("a",), low, {"a": 0.9}, (5.0,), bound="unbounded")


METHOD = ConstrainedRLHF(thresholds=(("a", 0.4), ("b", 0.1)), kl_coef=0.3, cliprange_value=0.2, multiplier_start=0.3)
REWARDS = np.stack([np.where(np.isnan(generation().rewards[..., 0]), np.nan, 1.0), generation().rewards[..., 0]], -1)
REWARDS[1, 0, 0] = -2.0
HEADS = {"": VALUES, "a": VALUES + 0.3, "b": 2 * VALUES}


def rows(x):
    return [np.float32(x[i][MASK[i]]) for i in range(len(x))]


def made():
    columns = {f"old_values:{s}" if s else "old_values": rows(x) for s, x in HEADS.items()}
    known = Recorded({**recorded().columns, **columns}, 0.3)
    whole = dataclasses.replace(generation(), rewards=REWARDS)
    return made_of(whole, known, METHOD, np.ones(2), aggregation="sum_then_normalize", longest=6, names=("a", "b"))[1]


def test_an_answer_without_one_of_its_rewards_is_not_trained_on():
    holes = REWARDS.copy()
    holes[0, 1, 0] = np.nan
    columns = {f"old_values:{s}" if s else "old_values": rows(x) for s, x in HEADS.items()}
    whole = dataclasses.replace(generation(), rewards=holes)
    how = {"aggregation": "sum_then_normalize", "longest": 6, "names": ("a", "b")}
    found, got = made_of(whole, Recorded({**recorded().columns, **columns}, 0.3), METHOD, np.ones(2), **how)
    np.testing.assert_array_equal(np.isnan(found.reward), np.isnan(holes).any(-1))
    assert not np.any(got["returns:b"][1])


def estimated(rewards, values, gamma, lam):
    """Advantages and returns by loops, NaN outside."""
    advantages = np.full(MASK.shape, np.nan)
    for i in range(len(MASK)):
        length, after = MASK[i].sum(), 0.0
        for t in reversed(range(length)):
            later = values[i, t + 1] if t + 1 < length else 0.0
            after = rewards[i, t] + gamma * later - values[i, t] + gamma * lam * after
            advantages[i, t] = after
    return advantages, advantages + values


def test_every_stream_has_advantages_of_its_own():
    got = made()
    last = np.cumsum(MASK, 1) == MASK.sum(1, keepdims=True)
    for s, values in HEADS.items():
        rewards = -0.3 * (OLD - REF) if not s else 0 * OLD
        if s:
            score = REWARDS[..., "ab".index(s)].reshape(-1, 1)
            rewards = np.where(last & MASK, np.nan_to_num(score), 0.0)
        advantages, returns = estimated(rewards, values, 0.99, 0.95)
        on = advantages[KNOWN]
        expected = np.where(KNOWN, (advantages - on.mean()) / on.std(ddof=1), 0.0)
        suffix = f":{s}" if s else ""
        for name, wanted in (("advantages", expected), ("returns", np.where(KNOWN, returns, 0.0))):
            for i, part in enumerate(got[name + suffix]):
                np.testing.assert_allclose(part, wanted[i][MASK[i]], rtol=2e-4, atol=2e-5)


def stepped():
    values = {"values" + (f":{s}" if s else ""): jnp.asarray(NEW_VALUES + i) for i, s in enumerate(HEADS)}
    x = features(made(), jnp.asarray(NEW))
    about = {"reward:a": jnp.float32(REWARDS[..., 0].reshape(-1)), "reward:b": jnp.float32(REWARDS[..., 1].reshape(-1))}
    extra = {**values, "multipliers": METHOD.multipliers(METHOD.init_carry())}
    return dataclasses.replace(x, columns={**x.columns, **about}, extra=extra)


def test_the_loss_is_ppos_on_mixed_advantages_and_every_critics_own():
    x, got, m = stepped(), made(), np.tanh(0.3)
    each = {
        s: np.stack([np.pad(p, (0, 6 - len(p))) for p in got["advantages" + (f":{s}" if s else "")]]) for s in HEADS
    }
    mixed = (2 - 2 * m) * each[""] + m * each["a"] + m * each["b"]
    ratio = np.exp(np.float32(NEW) - np.float32(OLD))
    policy = -np.minimum(ratio * mixed, np.clip(ratio, 0.8, 1.2) * mixed)
    weights, total = {"": 0.4, "a": 1.0, "b": 1.0}, policy
    for i, (s, old) in enumerate(HEADS.items()):
        aim = np.stack([np.pad(p, (0, 6 - len(p))) for p in got["returns" + (f":{s}" if s else "")]])
        v = NEW_VALUES + i
        near = np.clip(v, old - 0.2, old + 0.2)
        total = total + weights[s] * 0.5 * np.maximum((v - aim) ** 2, (near - aim) ** 2)
    plain = dataclasses.replace(METHOD, importance_sampling_correction="none")
    expected = np.sum(np.where(KNOWN, total, 0), axis=1)
    np.testing.assert_allclose(plain.terms(x, 6)["tokens"], expected, rtol=2e-4, atol=1e-4)


def test_the_multipliers_follow_the_rewards_of_the_step():
    stats = METHOD.stats(stepped())
    has = ~np.isnan(REWARDS).any(-1)
    np.testing.assert_allclose(stats["returns"], REWARDS[has].sum(0), rtol=1e-5)
    np.testing.assert_allclose(stats["thresholds"], has.sum() * np.asarray([0.4, 0.1]), rtol=1e-5)
    assert stats["answers"] == has.sum() == 5
    carry = METHOD.init_carry()
    after = METHOD.after(carry, stats)
    gap = REWARDS[has].mean(0) - [0.4, 0.1]
    np.testing.assert_array_equal(np.sign(np.asarray(after["logits"] - carry["logits"])), -np.sign(gap))
    nobody = jax.tree.map(jnp.zeros_like, stats)
    np.testing.assert_array_equal(METHOD.after(carry, nobody)["logits"], carry["logits"])
    found = {name: float(v.value()) for name, v in METHOD.metrics(stepped()).items() if name.startswith("constraints")}
    assert found["constraints/a/multiplier"] == pytest.approx(np.tanh(0.3), rel=1e-5)
    assert found["constraints/b/gap"] == pytest.approx(gap[1], rel=1e-4)


def test_what_is_clipped_is_told_by_the_mixed_advantages_and_the_critics_loss_has_no_weights():
    x = stepped()
    found = {name: float(v.value()) for name, v in METHOD.metrics(x).items() if name[:6] in ("policy", "loss/v")}
    each = np.stack([on_grid(made()["advantages" + (f":{s}" if s else "")]) for s in HEADS])
    m, values = np.tanh(0.3), np.zeros(MASK.shape)
    mixed = (2 - 2 * m) * each[0] + m * each[1] + m * each[2]
    ratio = np.exp(np.float32(NEW) - np.float32(OLD))
    clipped = np.where(mixed > 0, ratio > 1.2, (mixed < 0) & (ratio < 0.8))
    assert not np.array_equal(clipped[KNOWN], np.where(each[0] > 0, ratio > 1.2, ratio < 0.8)[KNOWN])
    for i, (s, old) in enumerate(HEADS.items()):
        aim, v = on_grid(made()["returns" + (f":{s}" if s else "")]), NEW_VALUES + i
        values = values + 0.5 * np.maximum((v - aim) ** 2, (np.clip(v, old - 0.2, old + 0.2) - aim) ** 2)
    assert found["policy/clipfrac_avg"] == pytest.approx(clipped[KNOWN].mean())
    assert found["loss/value_avg"] == pytest.approx(values[KNOWN].mean(), rel=1e-4)


def test_lines_of_generations_before_are_read_once(tmp_path):
    asked = []

    class Read(Recorder):
        def _found(self, number, lines=1):
            asked.append(number)
            return SimpleNamespace(read=lambda: [{}, {"returns": [float(number)]}])

    own = Read(Journal(tmp_path, {}), None, (), None, None, False, None, 6)
    assert own._before(0) == []
    assert [line["returns"] for line in own._before(2)] == [[0.0], [1.0]]
    assert len(own._before(3)) == 3
    assert asked == [0, 1, 2]
    assert len(own._before(1)) == 1, "a run that goes back"
    assert len(own._before(2)) == 2
    assert asked == [0, 1, 2, 1], "and reads again what it wrote anew"


def test_whitening_is_what_the_definition_says():
    x = np.random.default_rng(0).normal(size=MASK.shape)
    np.testing.assert_allclose(whiten(x, MASK)[MASK], (x[MASK] - x[MASK].mean()) / x[MASK].std(ddof=1), rtol=1e-6)


GOLD = {"threshold_search": ThresholdSearch(low=(0.2,), high=(0.4,), score="short", generations=2)}
TWO = (FunctionReward(function=f"{HERE}:vowels"), FunctionReward(function=f"{HERE}:short"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_device):
    """Six steps of one generation each, whose threshold is searched; checkpoints are of steps 3 and 6."""
    folder = tmp_path_factory.mktemp("constrained")
    loss = ConstrainedRLHF(thresholds=(("vowels", 0.3),), critic="head", **GOLD)
    run = recipe(
        folder, online(folder, loss=loss, reward_funcs=TWO, num_generations=1, prompts_per_step=8, save_steps=3)
    )
    assert running.execute(run) == 0
    return run, folder / "runs" / "tiny"


def trainer(folder):
    found = []
    for number in range(6):
        (path,) = (folder / "stages/online/rollouts" / f"{number:08d}").glob("trainer-*.jsonl")
        found.append([json.loads(line) for line in path.read_text().splitlines()][-1])
    return found


@pytest.mark.slow  # a stage is compiled, and again
@pytest.mark.usefixtures("one_device")
def test_a_stage_searches_its_thresholds_and_goes_on_in_the_middle_of_it(finished, tmp_path_factory):
    run, folder = finished
    lines, records = trainer(folder), steps(folder)
    first = first_simplex(GOLD["threshold_search"])
    thetas = [line["thresholds"]["vowels"] for line in lines]
    assert thetas[0] == first[0, 0]
    assert len(set(thetas)) >= 2
    scored = [i for i, line in enumerate(lines) if "score" in line]
    assert scored
    assert all(-1 <= lines[i]["score"] <= 0 for i in scored)  # "short" of answers to held-out prompts
    for record, line in zip(records, lines, strict=True):
        gap = line["returns"][0] - line["thresholds"]["vowels"]
        assert record["constraints/vowels/gap"] == pytest.approx(gap, rel=1e-3, abs=1e-5)
    again = tmp_path_factory.mktemp("again")
    assert running.execute(unfinished(run, folder, again), resume=3) == 0
    assert trainer(again / "tiny") == lines
    same = (
        [a["constraints/vowels/multiplier"] for a in records],
        [a["constraints/vowels/multiplier"] for a in steps(again / "tiny")],
    )
    assert same[0] == same[1]


ONE = {"thresholds": (("vowels", 0.3),)}


def bad(**more):
    return {"loss": ConstrainedRLHF(**ONE | more)}


def bad_search(low, high, score):
    return bad(threshold_search=ThresholdSearch((low,), (high,), score))


WRONG = [
    (bad(thresholds=(("vowel", 0.3),)), "online.loss.thresholds: there is no reward 'vowel'"),
    (bad() | {"reward_weights": (1.0,)}, "online.reward_weights: con"),
    (bad(thresholds=()), "online.loss: constrained_rlhf.thresholds: none"),
    (bad(thresholds=ONE["thresholds"] * 2), "online.loss: constrained_rlhf.thresholds: vowels"),
    (bad_search(0.4, 0.2, "x"), "online.loss: constrained_rlhf.threshold_search: every low"),
    (bad_search(0.1, 0.2, "vowels"), "online.loss: constrained_rlhf.threshold_search.score: 'vowels'"),
    (bad_search(0.1, 0.2, "gold"), "online.loss.threshold_search.score: there is no reward 'gold'"),
    (bad() | {"critic_from": "reward"}, "online.critic_from: 'reward' has one"),
    ({"maxmin": MaxMin(mode="worst")}, "online.maxmin.mode: expected one of group"),
    ({"maxmin": MaxMin(learning_rate=0.0)}, "online.maxmin.learning_rate: 0.0 must be"),
    ({"maxmin": MaxMin(), "reward_weights": (0.5,)}, "online.reward_weights: (0.5,), but groups"),
    ({"maxmin": MaxMin(), "dynamic_sampling": 1}, "online.dynamic_sampling: which group"),
    (bad() | {"maxmin": MaxMin()}, "online.maxmin: constrained_rlhf holds"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_mistakes_are_found_before_any_work(changes, message, tmp_path):
    run = recipe(tmp_path, online(tmp_path, **changes), reward=True)
    assert any(problem.startswith(message) for problem in find_problems(run)), list(find_problems(run))


def test_a_search_needs_held_out_prompts(tmp_path):
    stage = online(tmp_path, loss=ConstrainedRLHF(thresholds=(("vowels", 0.3),), **GOLD), reward_funcs=TWO)
    stage = dataclasses.replace(stage, data=dataclasses.replace(stage.data, eval=()))
    assert any(
        p.startswith("online.data.eval: thresholds are searched") for p in find_problems(recipe(tmp_path, stage))
    )
