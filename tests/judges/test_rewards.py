"""Whatever the head, a judge gives what the method makes of it; under masks, what dropout leaves of it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from judges.reward_networks import ANSWERS, CONFIG, PROMPTS, SETTINGS, network

from jaxpo.config import Online, Reward, Run
from jaxpo.construct.batch.best import choose
from jaxpo.construct.batch.draw import Answer as Drawn
from jaxpo.construct.batch.prompts import Asked
from jaxpo.construct.on_policy.oracles import ByScore
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.construct.on_policy.tournament import TournamentPairs
from jaxpo.construct.pugc import PostQuestions
from jaxpo.convert.heads_hf import HEADS, READING, export_heads, is_heads
from jaxpo.convert.model_io import load_model, read_heads
from jaxpo.convert.reader import REWARD, reader_of, why_no_reward
from jaxpo.convert.reward_hf import rewards_of
from jaxpo.data.rows.formats import Row
from jaxpo.data.tokens.examples import Segment
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.judges import Jury, RewardJudge
from jaxpo.judges.asking import Item, Patience, Reply
from jaxpo.judges.base import Judge
from jaxpo.judges.ledger import Ledger
from jaxpo.judges.network import Network
from jaxpo.models.family import limits
from jaxpo.models.lfm2.reference import reference_hidden
from jaxpo.objectives.methods import METHODS
from jaxpo.online.answers import Answer, Group, Prompt
from jaxpo.online.rewards.win_rate import WinRateReward
from jaxpo.online.scoring import Scoring
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages.setting import Setting
from jaxpo.tools.judge import ToolRewardJudge


def states(ids: np.ndarray) -> np.ndarray:
    """Float64 hidden states by the equations alone."""
    from jaxpo.convert.hf import tensors_of
    from jaxpo.models.lfm2.table import param_table

    sources = {s.name: s for s in tensors_of(network("value").params["model"], param_table(CONFIG))}
    return reference_hidden(lambda name: sources[name].load(), CONFIG, ids)


def by_hand(name: str, segment: Segment, ends: np.ndarray) -> float:
    hidden = states(segment.tokens)
    heads = jax.tree.map(
        lambda x: np.asarray(x, np.float64), {k: v for k, v in network(name).params.items() if k != "model"}
    )
    if name == "value":
        return float(hidden[-1] @ heads["value"]["weight"][:, 0])
    if name == "aspects":
        return float((hidden[-1] @ heads["ratings"]["weight"] + heads["ratings"]["bias"]) @ [0.25, 0.75])
    if name == "embedding":
        vector = hidden[-1] @ heads["embedding"]["weight"]
        return float(vector @ heads["query"]["weight"][:, 0] / np.sqrt(vector @ vector))
    if name == "two_embeddings":
        asked = hidden[np.flatnonzero(segment.supervised)[0] - 1] @ heads["query"]["weight"]
        return float(asked @ (hidden[-1] @ heads["embedding"]["weight"]))
    if name == "steps":
        return float(np.prod(1 / (1 + np.exp(-hidden[ends] @ heads["value"]["weight"][:, 0]))))
    output = np.asarray(network(name).params["model"]["embed_tokens"]["weight"], np.float64)
    return float(hidden[-1] @ (output[65] - output[66]))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_reward_is_what_its_method_reads(name: str) -> None:
    own = network(name)
    assert own.reader is not None
    segments = own.answers(PROMPTS, ANSWERS, own.reader.method)
    expected = []
    for segment, steps in zip(segments, (1, 2, 1, 3), strict=True):
        ends = np.flatnonzero(segment.per_token.get("step_end", np.zeros(1)))
        assert len(ends) == (steps if name == "steps" else 0)
        expected.append(by_hand(name, segment, ends))
    found = own.rewards(PROMPTS, ANSWERS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own.rewards(PROMPTS[::-1], ANSWERS[::-1]), found[::-1], rtol=1e-5, atol=1e-6)
    ask = RewardJudge().open(lambda _: own)
    items = [Item(p, a, Row(Path("x"), 1, {})) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    np.testing.assert_allclose([reply.value for reply in ask(items)], found, rtol=1e-5)


@pytest.mark.parametrize("name", ["value", "steps", "aspects"])
def test_an_answer_that_the_judge_cannot_read_whole_has_no_score(name: str) -> None:
    """Cut, it would be scored for its beginning."""
    own = network(name)
    answers = [*ANSWERS[:3], ANSWERS[3] + " and ten\n" * 20]
    lengths = own.lengths(PROMPTS, answers)
    assert own.reader is not None
    short = replace(own, max_length=int(lengths[1]))
    np.testing.assert_array_equal(
        lengths[:3], [len(s.tokens) for s in own.answers(PROMPTS[:3], ANSWERS[:3], own.reader.method)]
    )
    assert lengths[3] > own.max_length > lengths[1] > max(lengths[0], lengths[2])
    judge = RewardJudge("rm", head="brief") if name == "aspects" else RewardJudge("rm")
    items = [Item(p, a, Row(Path("x"), 1, {})) for p, a in zip(PROMPTS, answers, strict=True)]
    whole = [reply.value for reply in judge.open(lambda _: own)(items[:3])]
    replies = judge.open(lambda _: short)(items)
    np.testing.assert_allclose([reply.value for reply in replies[:3]], whole, rtol=1e-5)
    why = f"prompt and answer are longer than the {lengths[1]} tokens that the judge 'rm' reads"
    assert replies[3] == Reply(failed=why, certain=True)
    assert judge.open(lambda _: short)(items[3:]) == [Reply(failed=why, certain=True)]


@pytest.mark.parametrize("name", ["value", "steps", "aspects"])
def test_an_empty_answer_has_no_score_and_stops_nothing(name: str) -> None:
    """A policy may end its turn at once; a space is an answer."""
    judge = RewardJudge("rm", head="brief") if name == "aspects" else RewardJudge("rm")
    ask = judge.open(lambda _: network(name))
    items = [Item(p, a, Row(Path("x"), 1, {})) for p, a in zip(PROMPTS, ("", ANSWERS[1], " ", ANSWERS[3]), strict=True)]
    replies = ask(items)
    assert replies[0] == Reply(failed="the answer is empty", certain=True)
    assert None not in [reply.value for reply in replies[1:]]
    np.testing.assert_allclose([r.value for r in replies[1:]], [r.value for r in ask(items[1:])], rtol=1e-5)
    assert ask(items[:1]) == replies[:1]


def test_rewards_above_a_bound_are_one_and_the_others_nothing() -> None:
    """A reward at the bound is not above it, and one that is no number stays a failure."""
    own = network("value")
    items = [Item(p, a, Row(Path("x"), 1, {})) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    rewards = [reply.value for reply in RewardJudge().open(lambda _: own)(items)]
    bound = sorted(r for r in rewards if r is not None)[1]
    judge = RewardJudge(above=bound)
    assert [r.value for r in judge.open(lambda _: own)(items)] == [float(r > bound) for r in rewards if r is not None]
    assert np.isnan(judge._judged(np.array([np.nan, 0.0]))[0])
    assert judge.identity(lambda _: own) == {**RewardJudge().identity(lambda _: own), "above": bound}
    judge.check([])
    with pytest.raises(ConfigError, match="above is nan; it must be finite"):
        RewardJudge(above=float("nan")).check([])


@pytest.mark.parametrize("judge", [RewardJudge("rm", head="brief"), ToolRewardJudge("rm")], ids=lambda j: j.NAME)
def test_scores_of_answers_that_an_earlier_version_cut_are_asked_again(judge: Judge, tmp_path: Path) -> None:
    """Its identity was today's without `answers`."""
    own = network("aspects")
    identity = judge.identity(lambda _: own)
    earlier = {name: value for name, value in identity.items() if name != "answers"}
    assert (
        earlier
        == {
            "reward": {"judge": "reward", "model": own.fingerprint(), "head": "brief"},
            "tool_reward": {"judge": "tool_reward", **dataclasses.asdict(judge), "model": own.fingerprint()},
        }[judge.NAME]
    )
    Ledger(tmp_path, judge.NAME, earlier).append([{"key": "a", "value": 7.0}])
    assert Ledger(tmp_path, judge.NAME, earlier).read() == [{"key": "a", "value": 7.0}]
    assert Ledger(tmp_path, judge.NAME, identity).read() == []


def test_a_run_asks_its_judges_for_all_that_they_have_positions_for(monkeypatch: pytest.MonkeyPatch) -> None:
    own = network("value")
    monkeypatch.setattr("jaxpo.stages.setting.load_model", lambda *_: own)
    setting = SimpleNamespace(
        run=SimpleNamespace(stages=()), model_folder=Path, mesh=None, rules=None,
        scorer=SimpleNamespace(dtype="float32"), inputs=SimpleNamespace(tokenizer=own.tokenizer),
    )  # fmt: skip
    assert Setting.network(setting, "rm").max_length == limits(own.config).context > 1024  # type: ignore[arg-type]


def test_an_answer_has_a_vector() -> None:
    own = network("embedding")
    found = own.embeddings(PROMPTS, ANSWERS)
    heads = np.asarray(own.params["embedding"]["weight"], np.float64)
    expected = np.stack([states(s.tokens)[-1] @ heads for s in own.answers(PROMPTS, ANSWERS, own.reader.method)])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="was trained by bradley_terry, which gives answers no vectors"):
        network("value").embeddings(PROMPTS, ANSWERS)


def test_a_value_head_alone_is_read_as_bradley_terry_reads_it() -> None:
    own = replace(network("value"), about={"stage": "of an earlier version"})
    np.testing.assert_array_equal(own.rewards(PROMPTS, ANSWERS), network("value").rewards(PROMPTS, ANSWERS))
    tokens = [s.tokens for s in own.segments(PROMPTS, ANSWERS)]
    np.testing.assert_allclose(rewards_of(own.params, CONFIG, tokens), own.rewards(PROMPTS, ANSWERS), atol=1e-5)


def test_what_is_no_reward_model_says_so() -> None:
    plain = replace(network("value"), params={"model": network("value").params["model"]}, about={})
    assert plain.reader is None
    assert why_no_reward(plain.params, plain.about) == "has no value head"
    with pytest.raises(ConfigError, match="has no value head; give that of a reward stage"):
        plain.rewards(PROMPTS, ANSWERS)
    with pytest.raises(ConfigError, match="the judge 'reward' has no value head; name a reward stage"):
        RewardJudge().open(lambda _: plain)
    odd = {REWARD: {"method": {"__type__": "some.where:Method"}}}
    with pytest.raises(CheckpointError, match="does not say in a known way how its rewards are read"):
        reader_of(plain.params, odd)


@pytest.mark.parametrize(("name", "why"), [("words", "tells the classes of words"), ("compared", "compares answers")])
def test_a_reward_model_without_rewards_is_no_judge(name: str, why: str) -> None:
    own = network(name)
    for judge in (RewardJudge("other"), RewardJudge("other", head="reward"), ToolRewardJudge("other")):
        with pytest.raises(ConfigError, match=rf"the judge 'other' gives answers no rewards: .*{why}"):
            judge.open(lambda _: own)


def test_a_stage_that_gives_no_rewards_is_refused_as_a_judge_before_a_run() -> None:
    words = Reward(name="words", loss=METHODS["token_classification"](classes=("O", "B-PER")))
    judge = Jury((RewardJudge("words"), RewardJudge("previous")))
    for asking in (
        Online(reward_funcs=(WinRateReward(judge=RewardJudge("words")),)),
        OnPolicyPairs(judge=judge),
        TournamentPairs(oracle=ByScore(RewardJudge("words"))),
        PostQuestions(filter=ToolRewardJudge("words")),
    ):
        run = Run(stages=(words, asking))
        found = [p for p in find_problems(run, files=False) if "gives answers no rewards" in p]
        assert len(found) == (2 if isinstance(asking, OnPolicyPairs) else 1)
        assert found[0].startswith(f"{asking.name}: the judge 'words' gives answers no rewards: a model trained by")
        good = dataclasses.replace(run, stages=(Reward(name="words"), asking))
        assert not [p for p in find_problems(good, files=False) if "gives answers no rewards" in p]


def test_masks_belong_to_the_answer_and_the_seed() -> None:
    own = network("value", pooled_dropout=0.3)
    drawn = own.rewards(PROMPTS, ANSWERS, masks=3, seed=5)
    assert drawn.shape == (4, 3)
    assert len(np.unique(drawn)) == 12
    np.testing.assert_array_equal(own.rewards(PROMPTS, ANSWERS, masks=2, seed=5), drawn[:, :2])
    np.testing.assert_allclose(own.rewards(PROMPTS[:2], ANSWERS[:2], masks=3, seed=5), drawn[:2], rtol=1e-5)
    assert np.all(own.rewards(PROMPTS, ANSWERS, masks=3, seed=6) != drawn)
    np.testing.assert_array_equal(own.rewards(PROMPTS, ANSWERS), network("value").rewards(PROMPTS, ANSWERS))
    many = own.rewards(PROMPTS[:1], ANSWERS[:1], masks=200, seed=0)
    spread = np.std(many) / np.sqrt(200)
    assert abs(np.mean(many) - own.rewards(PROMPTS[:1], ANSWERS[:1])[0]) < 4 * spread  # the head is linear
    with pytest.raises(ConfigError, match="was trained without dropout, so all masks would be alike"):
        network("value").rewards(PROMPTS, ANSWERS, masks=2)


@pytest.mark.parametrize("name", ["aspects", "two_embeddings", "steps", "yes_no"])
def test_every_head_goes_out_and_comes_back(name: str, tmp_path: Path) -> None:
    own, folder = network(name), tmp_path / "model"
    report = export_heads(own.params, CONFIG, folder, own.reader, tokenizer=own.tokenizer, compare_transformers=False)
    assert is_heads(folder)
    assert report["heads"] == sum(len(v) for k, v in own.params.items() if k != "model")
    assert (folder / HEADS).exists() == (name != "yes_no")
    again = Network.of(load_model(folder), max_length=96)
    assert again.reader == own.reader
    assert set(read_heads(folder)) == own.params.keys() - {"model"}
    np.testing.assert_array_equal(again.rewards(PROMPTS, ANSWERS), own.rewards(PROMPTS, ANSWERS))


def test_heads_that_are_not_those_described_are_refused(tmp_path: Path) -> None:
    own, folder = network("aspects"), tmp_path / "model"
    export_heads(own.params, CONFIG, folder, own.reader, tokenizer=own.tokenizer, verify=False)
    text = (folder / READING).read_text()
    (folder / READING).write_text(text.replace('"ratings.bias"', '"ratings.offset"'))
    with pytest.raises(CheckpointError, match=r"heads.safetensors: ratings.bias is \[2\], and reward.json says absent"):
        load_model(folder)
    (folder / READING).write_text("{}")
    with pytest.raises(CheckpointError, match=r"reward.json does not describe a reward model"):
        load_model(folder)


def test_an_online_stage_and_the_best_of_n_ask_in_the_same_words(tmp_path: Path) -> None:
    """Their numbers are those of the network."""
    own = network("aspects")
    about = [Prompt(i, np.int32([1]), p, {"prompt": p}, "x", i + 1) for i, p in enumerate(PROMPTS[:2])]
    none = np.zeros(0, np.float32)
    drawn = [[Answer(np.int32([1]), none, none, True, text) for text in ANSWERS[:2]] for _ in about]
    groups = [Group(i, i, one, tuple(own)) for i, (one, own) in enumerate(zip(about, drawn, strict=True))]
    scoring = Scoring((RewardJudge("rm"),), {"rm": own}.__getitem__, Patience(), lambda line: None)
    values, failed = scoring.score(groups, lambda name, identity: Ledger(tmp_path, name, identity))
    expected = own.rewards([p for p in PROMPTS[:2] for _ in (0, 1)], ANSWERS[:2] * 2).reshape(2, 2)
    np.testing.assert_allclose(values[..., 0], expected, rtol=1e-5)
    assert not failed.any()
    asked = [Asked(Row(Path("x"), i + 1, {}), p, [1]) for i, p in enumerate(PROMPTS[:2])]
    answers = {i: [Drawn(text, "stop_id", 3) for text in ANSWERS[:2]] for i in (0, 1)}
    best = choose(
        asked, answers, RewardJudge("rm"), {"rm": own}.__getitem__, tmp_path / "best", failures=Counter(), say=len
    )
    assert [best[i].answer.text for i in (0, 1)] == [ANSWERS[k] for k in expected.argmax(1)]
    np.testing.assert_allclose([best[i].score for i in (0, 1)], expected.max(1), rtol=1e-5)
