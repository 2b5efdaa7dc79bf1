"""Models of several tastes as judges: tables of scores, rewards of users and mixtures, unknown users by name."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from judges.plural_networks import SETTINGS, network
from judges.reward_networks import ANSWERS, CONFIG, PROMPTS
from judges.reward_networks import network as plain_network

from jaxpo.convert.heads_hf import HEADS, export_heads
from jaxpo.convert.model_io import load_model
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.subject import Subject
from jaxpo.evaluate.tasks.base import Reader as TaskReader
from jaxpo.judges import RewardJudge
from jaxpo.judges.asking import Item
from jaxpo.judges.network import Network

SIZES = (3, 1, 4)


def answered() -> tuple[list[str], list[str]]:
    """Three, one and four answers to three prompts."""
    prompts = [p for p, n in zip(PROMPTS, SIZES, strict=False) for _ in range(n)]
    return prompts, [f"{ANSWERS[i % 4]} {i}" for i in range(sum(SIZES))]


@pytest.mark.parametrize("name", ["gpm", pytest.param("gpm_learnt", marks=pytest.mark.slow)])
def test_tables_of_scores_come_from_one_vector_an_answer(name: str) -> None:
    own, (prompts, texts) = network(name), answered()
    values = own.read(prompts, texts, ("embedding", "gate", "temperature"))
    means, tables = own.mean_scores(prompts, texts, SIZES)
    borders = np.cumsum([0, *SIZES])
    for (a, b), table in zip(itertools.pairwise(borders), tables, strict=True):
        v, lam, tau = values["embedding"][a:b], values["gate"][a:b], values["temperature"][a]
        for i in range(b - a):
            for j in range(b - a):
                x, y = v[i].reshape(-1, 2), v[j].reshape(-1, 2)
                s = np.sum(lam[i] * (x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]))
                assert table[i, j] == pytest.approx(s / tau, rel=1e-4, abs=1e-5)
        np.testing.assert_allclose(lam, lam[:1].repeat(b - a, 0), rtol=1e-4)  # one gate for a prompt
        np.testing.assert_allclose(means[a:b], table.mean(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tables[0], -tables[0].T, atol=1e-6)
    # What the evaluation of reward models sees: in pairs the difference is the log-odds.
    method = own.asked_reader().method
    segments = own.answers(prompts, texts, method)
    heads = {k: x for k, x in own.params.items() if k != "model"}
    subject = Subject(own.params["model"], own.scorer, TaskReader(own.tokenizer, 96, own.reader), (0,), heads)
    np.testing.assert_allclose(subject.rewards(segments, sizes=SIZES), means, rtol=1e-5, atol=1e-6)


def test_a_model_that_compares_gives_no_reward_and_others_no_table() -> None:
    with pytest.raises(ConfigError, match="compares answers"):
        network("gpm").rewards(PROMPTS, ANSWERS)
    with pytest.raises(ConfigError, match="bradley_terry, which compares no answers"):
        plain_network("value").mean_scores(PROMPTS, ANSWERS, [1] * 4)
    with pytest.raises(ConfigError, match="bradley_terry, which knows one taste alone"):
        plain_network("value").rewards_under(PROMPTS, ANSWERS, mixtures=np.ones(1))


def softmax(z: Any) -> np.ndarray:
    e = np.exp(np.asarray(z, np.float64))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", ["pal_a", "pal_b"])
def test_rewards_of_users(name: str) -> None:
    own = network(name)
    method, heads = own.asked_reader().method, jax.tree.map(lambda x: np.asarray(x, np.float64), own.params)
    users = ["cat", "ann", "ann", "ben"]
    rewards = own.rewards_under(PROMPTS, ANSWERS, users=users)
    values = own.read(PROMPTS, ANSWERS, method.READ_PER_ANSWER)
    for n, user in enumerate(users):
        w = softmax(heads["users"]["logits"][method.users.index(user)])
        if name == "pal_b":
            u, x = w @ values["points"][n], values["item"][n].astype(np.float64)
            cosine = (x @ u) / np.linalg.norm(x) / np.linalg.norm(u)
            expected = min(np.exp(heads["scale"]["log"][0]), 100) * cosine
        else:
            u = np.asarray(method.ideals(own.params, w[None], None))[0]
            expected = -np.linalg.norm(values["item"][n] - u)
        assert rewards[n] == pytest.approx(expected, rel=1e-4)
    # Without a user it is the exported mixture's.
    mixture = method.mixture or (0.5, 0.5)
    np.testing.assert_allclose(
        own.rewards(PROMPTS, ANSWERS), own.rewards_under(PROMPTS, ANSWERS, mixtures=np.asarray(mixture)), rtol=1e-4
    )
    with pytest.raises(ConfigError, match=r"there is no user 'bert'; the model knows 3: ann, ben, cat\."):
        own.rewards_under(PROMPTS, ANSWERS, users=["ann", "bert", "ann", "ann"])
    with pytest.raises(ConfigError, match="users or mixtures, one of them"):
        own.rewards_under(PROMPTS, ANSWERS)


def test_a_judge_asks_for_the_user_of_each_row() -> None:
    own = network("pal_a")
    judge = RewardJudge(user="who")
    rows = [Row(Path("rows.jsonl"), i + 1, {"who": w}) for i, w in enumerate(["cat", "ann", "ben", "ann"])]
    items = [Item(p, a, row) for p, a, row in zip(PROMPTS, ANSWERS, rows, strict=True)]
    replies = judge.open(lambda name: own)(items)
    expected = own.rewards_under(PROMPTS, ANSWERS, users=["cat", "ann", "ben", "ann"])
    np.testing.assert_allclose([reply.value for reply in replies], expected, rtol=1e-6)
    assert judge.columns() == ("who",)
    assert judge.identity(lambda name: own) != RewardJudge().identity(lambda name: own)
    with pytest.raises(DataError, match=r"rows.jsonl, row 9, field 'who'"):
        judge.open(lambda name: own)([Item(PROMPTS[0], ANSWERS[0], Row(Path("rows.jsonl"), 9, {}))])


def test_rewards_of_mixtures_of_heads() -> None:
    w = np.asarray([[0.2, 0.3, 0.5]] * 4)
    micro = network("micro")
    heads = micro.read(PROMPTS, ANSWERS, ("heads", "router"))
    expected = (w * -np.logaddexp(0, -heads["heads"].astype(np.float64))).sum(1)
    np.testing.assert_allclose(micro.rewards_under(PROMPTS, ANSWERS, mixtures=w), expected, rtol=1e-5)
    routed = (softmax(heads["router"]) * -np.logaddexp(0, -heads["heads"].astype(np.float64))).sum(1)
    np.testing.assert_allclose(micro.rewards(PROMPTS, ANSWERS), routed, rtol=1e-5)
    maxmin = network("maxmin")
    r = maxmin.read(PROMPTS, ANSWERS, ("groups",))["groups"].astype(np.float64)
    z = (r - [1.0, 0.0]) / [2.0, 0.5]
    found = maxmin.rewards_under(PROMPTS, ANSWERS, mixtures=np.asarray([0.25, 0.75]))
    np.testing.assert_allclose(found, z @ [0.25, 0.75], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_head_is_exported_and_read_again(name: str, tmp_path: Path) -> None:
    own, folder = network(name), tmp_path / "model"
    report = export_heads(own.params, CONFIG, folder, own.reader, tokenizer=own.tokenizer, compare_transformers=False)
    leaves = jax.tree.leaves({k: x for k, x in own.params.items() if k != "model"})
    assert report["heads"] == len(leaves)
    assert (folder / HEADS).is_file()
    again = Network.of(load_model(folder), tokenizer=own.tokenizer, max_length=96)
    assert again.reader == own.reader
    if name.startswith("gpm"):
        prompts, texts = answered()
        found, expected = (x.mean_scores(prompts, texts, SIZES)[0] for x in (again, own))
    else:
        found, expected = (x.rewards(PROMPTS, ANSWERS) for x in (again, own))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
