"""The orchestrator's rows: rewards of preferred answers, prompts that say their weights, and judges weighed by them."""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest

from jaxpo.construct.base import Tools, constructions
from jaxpo.construct.orchestrator.rewards import PROOrchestrator
from jaxpo.construct.orchestrator.weights import PROWeights
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError
from jaxpo.judges import FunctionJudge, Jury, RewardJudge
from jaxpo.judges.asking import Item, Patience, Reply
from jaxpo.judges.base import Judge
from jaxpo.judges.ledger import Ledger
from jaxpo.judges.orchestrated import OrchestratedJudge
from jaxpo.judges.scoring import plainly, score_all
from jaxpo.objectives.methods.pro_orchestrator import PROOrchestrator as Method
from jaxpo.online.answers import Answer, Group, Prompt
from jaxpo.online.rewards import WinRateReward
from jaxpo.online.scoring import Scoring
from jaxpo.recipe.checks.run import find_problems
from jaxpo.recipe.overrides import load_run

PAIRS = (
    {"prompt": "short", "chosen": "a", "rejected": "bb"},
    {"prompt": "a long one", "chosen": "ccc", "rejected": "d"},
)
JUDGES = "def one(p, a, r):\n    return len(a)\n\ndef two(p, a, r):\n    return -10 * len(a)\n"


class Adapter:
    """Weighs the first objective by the length of the prompt."""

    def __init__(self):
        self.params = {"orchestrator": {"offset": np.array([1.0, 0.0]), "scale": np.array([2.0, 10.0])}}

    reader = type("Reader", (), {"method": Method()})

    def heads(self, prompts, completions):
        assert completions is None
        first = np.array([min(len(p), 10) / 10 for p in prompts])
        return ("helpful", "short"), np.stack([first, 1 - first], -1)

    def fingerprint(self):
        return "adapter"


class Rater:
    max_length = 100

    def lengths(self, prompts, completions):
        return np.asarray([len(c) for c in completions])

    def heads(self, prompts, completions):
        return ("helpful", "short"), np.array([[len(c), -len(c)] for c in completions], float)


def rows(*data):
    return [Row(Path("rows.jsonl"), i, dict(d)) for i, d in enumerate(data, start=1)]


def run(construction, data=PAIRS, **networks):
    tools = Tools(networks=networks, say=lambda text: None)
    return list(construction.run(rows(*data), tools)), tools.counts


@pytest.fixture
def judges(tmp_path):
    file = tmp_path / "judges.py"
    file.write_text(JUDGES)
    return (f"{file}:one", f"{file}:two")


def test_preferred_answers_are_scored_by_every_head_or_judge(judges):
    made, _ = run(PROOrchestrator(), reward=Rater())
    assert made == [
        {"prompt": "short", "ratings": {"helpful": 1.0, "short": -1.0}},
        {"prompt": "a long one", "ratings": {"helpful": 3.0, "short": -3.0}},
    ]
    made, _ = run(PROOrchestrator(attributes=("x", "y"), judges=judges))
    assert made[1]["ratings"] == {"x": 3.0, "y": -30.0}
    with pytest.raises(DataError, match="has no preferred response"):
        run(PROOrchestrator(), [{"prompt": "p", "responses": ["a"], "scores": [1.0]}], reward=Rater())
    with pytest.raises(ConfigError, match="the reward model rates helpful, short"):
        run(PROOrchestrator(attributes=("x", "y")), reward=Rater())
    with pytest.raises(ConfigError, match="--reward"):
        run(PROOrchestrator())


def test_prompts_say_the_predicted_weights_and_a_user_may_have_others():
    made, counts = run(PROWeights(), reward=Adapter())
    assert made[0]["weights"] == {"helpful": 0.5, "short": 0.5}
    assert made[0]["prompt"] == "Weigh this answer so, in percent: helpful 50, short 50.\nshort"
    assert made[1]["weights"] == {"helpful": 1.0, "short": 0.0}
    assert made[1]["chosen"] == "ccc"
    assert counts == {"largest_weight_helpful": 2}
    (half, _), _ = run(PROWeights(share=0.5, user=(0.0, 4.0)), reward=Adapter())
    assert half["weights"] == {"helpful": 0.25, "short": 0.75}
    own = [PAIRS[0] | {"user_weights": {"short": 1, "helpful": 3}}]
    (mine,), _ = run(PROWeights(share=1.0), own, reward=Adapter())
    assert mine["weights"] == {"helpful": 0.75, "short": 0.25}
    with pytest.raises(DataError, match="are no weights of helpful, short"):
        run(PROWeights(share=1.0), [PAIRS[0] | {"user_weights": {"short": 1}}], reward=Adapter())
    assert len(PROWeights(share=2.0, user=(-1.0,), text="x").problems()) == 3
    assert {"pro_orchestrator", "pro_weights"} <= set(constructions())


def test_the_ledger_has_the_weights_of_every_prompt(judges, tmp_path):
    judge = OrchestratedJudge(tuple(FunctionJudge(name) for name in judges), "adapter")
    items = [Item(row["prompt"], row["chosen"], r) for row, r in zip(PAIRS, rows(*PAIRS), strict=True)]
    networks = lambda name: Adapter()  # noqa: E731
    folder = tmp_path / "kept"
    found = score_all(judge, items, networks, folder, plainly(say=lambda text: None))
    (file,) = folder.iterdir()
    records = Ledger(folder, "scores-orchestrated", judge.identity(networks)).read()
    assert file.name.startswith("scores-orchestrated-")
    assert [record["parts"]["weights"] for record in records] == [
        {"helpful": 0.5, "short": 0.5},
        {"helpful": 1.0, "short": 0.0},
    ]
    assert [record["parts"]["scores"] for record in records] == [
        {"helpful": 1.0, "short": -10.0},
        {"helpful": 3.0, "short": -30.0},
    ]
    assert sorted(found.values.values()) == sorted(record["value"] for record in records)


def test_judges_are_weighed_for_each_prompt_by_normalised_scores(judges):
    judge = OrchestratedJudge(tuple(FunctionJudge(name) for name in judges), "adapter")
    items = [Item(row["prompt"], row["chosen"], r) for row, r in zip(PAIRS, rows(*PAIRS), strict=True)]
    replies = judge.open(lambda name: Adapter())(items)
    np.testing.assert_allclose([r.value for r in replies], [0.5 * 0 + 0.5 * -1.0, 1.0 * (3 - 1) / 2], rtol=1e-6)
    plain = dataclasses.replace(judge, normalise=False).open(lambda name: Adapter())(items)
    np.testing.assert_allclose([r.value for r in plain], [0.5 * 1 + 0.5 * -10, 1.0 * 3], rtol=1e-6)
    mine = dataclasses.replace(judge, share=0.5, own=(0.0, 1.0))
    replies = mine.open(lambda name: Adapter())(items)
    np.testing.assert_allclose([r.value for r in replies], [0.25 * 0 + 0.75 * -1.0, 0.5 * 1.0 + 0.5 * -3.0], rtol=1e-6)
    for bad, message in (
        ({"share": 2.0}, "share is 2.0"),
        ({"share": 0.5}, "own has 0 weights for 2 judges"),
        ({"own": (0.5, 0.5)}, "while share is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(judge, **bad).check(())
    assert judge.models() == ("adapter",)
    assert judge.columns() is None
    assert "adapter" in judge.identity(lambda name: Adapter()).values()
    with pytest.raises(ConfigError, match="weighs helpful, short, and there are 1 judges"):
        OrchestratedJudge(judge.judges[:1]).open(lambda name: Adapter())
    with pytest.raises(ConfigError, match="no judges"):
        OrchestratedJudge().check(())
    with pytest.raises(ConfigError, match="a jury cannot be weighed"):
        OrchestratedJudge((Jury(judge.judges),)).check(())


class Silent(Judge):
    """Says nothing, in the main thread."""

    NAME = "silent"
    MAIN_THREAD = True

    def open(self, networks):
        return lambda items: [Reply() for _ in items]


def test_of_an_answer_about_which_one_judge_says_nothing_nothing_is_said(judges):
    judge = OrchestratedJudge((FunctionJudge(judges[0]), Silent()), "adapter")
    items = [Item(row["prompt"], row["chosen"], r) for row, r in zip(PAIRS, rows(*PAIRS), strict=True)]
    assert judge.open(lambda name: Adapter())(items) == [Reply()] * len(items)


def test_who_asks_others_works_where_they_work(judges):
    plain = FunctionJudge(judges[0])
    for wrapped in (OrchestratedJudge, Jury):
        assert wrapped((plain, Silent())).MAIN_THREAD
        assert not wrapped((plain,)).MAIN_THREAD
    assert WinRateReward(judge=Silent()).MAIN_THREAD
    assert not WinRateReward().MAIN_THREAD


def test_the_orchestrated_judge_is_a_reward_of_an_online_stage(judges, tmp_path):
    """As any judge: asked about a generation's answers, kept in its ledger, one adapter's weights per prompt."""
    judge = OrchestratedJudge(tuple(FunctionJudge(name) for name in judges), "adapter")
    scoring = Scoring((judge,), lambda name: Adapter(), Patience(2), lambda line: None)

    def answer(text):
        return Answer(np.int32([1]), np.zeros(1, np.float32), np.zeros(1, np.float32), True, text)

    groups = [
        Group(i, i, Prompt(i, np.int32([1]), prompt, {"prompt": prompt}), (answer("a"), answer("ccc")))
        for i, prompt in enumerate(("short", "a long one"))
    ]
    values, failed = scoring.score(groups, lambda name, about: Ledger(tmp_path, name, about))
    np.testing.assert_allclose(values[..., 0], [[-0.5, 0.5 * 1 + 0.5 * -3], [0, 1]], rtol=1e-6)
    assert not failed.any()
    again = Scoring((judge,), lambda name: Adapter(), Patience(2), lambda line: None)
    np.testing.assert_array_equal(again.score(groups, lambda name, about: Ledger(tmp_path, name, about))[0], values)


def test_a_reward_model_is_asked_for_one_head_or_one_group():
    network = Rater()
    network.params, network.about = {"value": 0}, {}
    network.mixture_method = lambda: types.SimpleNamespace(parts=2)
    network.rewards_under = lambda prompts, answers, mixtures: mixtures @ np.asarray([3.0, 5.0]) * np.ones(len(answers))
    items = [Item(row["prompt"], row["chosen"], r) for row, r in zip(PAIRS, rows(*PAIRS), strict=True)]
    ask = lambda **how: [r.value for r in RewardJudge("m", **how).open(lambda name: network)(items)]  # noqa: E731
    assert ask(head="short") == [-1, -3]
    assert ask(part=1) == [5, 5]
    for how, message in (({"head": "long"}, "has no head 'long'"), ({"part": 2}, "none with number 2")):
        with pytest.raises(ConfigError, match=message):
            ask(**how)
    with pytest.raises(ConfigError, match="one of them says"):
        RewardJudge(head="short", part=1).check(())


def test_the_recipe_ends_with_an_online_stage_on_these_rewards():
    run = load_run("pro_orchestrator:online")
    *before, last = run.stages
    assert [stage.name for stage in before] == ["sft", "rewards", "scored", "adapter"]
    (judge,) = last.reward_funcs
    assert judge.models() == ("adapter", "rewards", "rewards")
    assert [one.head for one in judge.judges] == ["helpful", "short"]
    problems = [p for p in find_problems(run) if p.startswith("online")]
    assert problems == []
