"""The work stages of GPO, MaxMin-RLHF, MiCRo and PAL around networks with random heads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from construct.work_context import context_of
from judges.plural_networks import network

from jaxpo.construct.base import Tools
from jaxpo.construct.gpo import GPOPairs
from jaxpo.construct.groups import MeasureGroups
from jaxpo.construct.iterates import MeasureIterates
from jaxpo.construct.maxmin import AssignUsers
from jaxpo.construct.micro_router import MicroContext, with_context
from jaxpo.construct.newcomers import SplitUsers
from jaxpo.construct.tastes import MeasureTastes
from jaxpo.construct.users import MapUsers
from jaxpo.data.rows.formats import read_rows
from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.report.read import RunData
from jaxpo.evaluate.report.sections import work
from jaxpo.stages.working import told

WORDS = ("rivers", "bread", "stars", "music", "ships", "paper")
USERS = ("ann", "ben", "cat")


def pairs(n: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Say {WORDS[i % 6]}.",
            "chosen": f"{WORDS[i % 6]} {i}",
            "rejected": f"no {WORDS[(i + 1) % 6]} at all {i}",
            "user": USERS[i % 3],
            "group": "odd" if i % 3 else "even",
            "context": f"likes {USERS[i % 3]}",
        }
        for i in range(n)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def context(tmp_path: Path, **models: str) -> Any:
    """Stages by name, each the network of another name."""
    some = network(next(iter(models.values())))
    object.__setattr__(some, "path", tmp_path / "stages" / "sft")
    return context_of(
        some, tmp_path / "stages" / "work", load=lambda path: network(models[path.name]), stages=tuple(models),
        run_dir=tmp_path,
    )  # fmt: skip


def test_gpo_keeps_the_best_and_the_worst_of_the_answers(tmp_path: Path) -> None:
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"Say {w}."} for w in WORDS])
    stage = GPOPairs(
        prompts=(prompts,), model="policy", preference="gpm", samples=4, max_new_tokens=6, heldout_one_in=3
    )
    assert stage.problems() == []
    where = context(tmp_path, policy="micro", gpm="gpm")
    report = stage.run(where)
    rows = [row for name in stage.outputs() for row in rows_of(where.folder / name)]
    assert report["pairs"] + report["heldout_pairs"] == len(rows) == 6
    assert report["samples_drawn"] == 24
    assert report["answers_without_text"] == 0
    assert report["longer_wins"] == np.mean([len(row["chosen"]) > len(row["rejected"]) for row in rows])
    chat = write(tmp_path / "chat.jsonl", [{"prompt": [{"role": "user", "content": f"Say {w}."}]} for w in WORDS])
    report = replace(stage, prompts=(chat,)).run(replace(where, folder=tmp_path / "chat"))
    rows = [row for name in stage.outputs() for row in rows_of(tmp_path / "chat" / name)]
    longer = [len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"]) for row in rows]
    assert report["longer_wins"] == np.mean(longer)
    rows = [row for name in stage.outputs() for row in rows_of(where.folder / name)]
    for row in rows:
        best, worst = row["rewards"]["gpm"]
        table = np.asarray(row["log_odds"])
        np.testing.assert_allclose(table, -table.T, atol=1e-6)
        assert best > worst
        if len(table) == 4:  # no answer came twice
            means = table.mean(1)
            assert (best, worst) == (pytest.approx(means.max()), pytest.approx(means.min()))
        odds = network("gpm").mean_scores([row["prompt"]] * 2, [row["chosen"], row["rejected"]], [2])[1][0]
        i, j = np.argmax(table.mean(1)), np.argmin(table.mean(1))
        if len(table) == 4:
            assert odds[0, 1] == pytest.approx(table[i, j], rel=1e-3, abs=1e-4)
    with pytest.raises(ConfigError, match="compares no answers; name a stage of gpm"):
        GPOPairs(prompts=(prompts,), model="policy", preference="policy").run(where)
    assert len(GPOPairs(samples=1).problems()) == 2


@pytest.mark.parametrize("em", ["hard", "soft"])
def test_users_are_assigned_to_groups(tmp_path: Path, em: Any) -> None:
    file = write(tmp_path / "pairs.jsonl", pairs())
    where = context(tmp_path, groups="maxmin")
    start = AssignUsers(name="start", rows=(file,))
    assert start.run(where)["users_of_groups"] == [2, 1]  # user i belongs to group i modulo 2
    first = rows_of(where.folder / "rows.jsonl")
    assert [r["responsibilities"]["group_000"] for r in first[:3]] == [1.0, 0.0, 1.0]
    stage = AssignUsers(rows=(file,), model="groups", em=em)
    report = stage.run(where)
    own, data = network("maxmin"), pairs()
    r = [
        own.read([x["prompt"] for x in data], [x[k] for x in data], ("groups",))["groups"]
        for k in ("chosen", "rejected")
    ]
    likelihood = -np.logaddexp(0, -(r[0] - r[1]).astype(np.float64))
    of_users = np.stack([likelihood[u::3].sum(0) for u in range(3)])
    soft = np.exp(of_users - np.logaddexp.reduce(of_users, axis=1, keepdims=True))
    expected = soft if em == "soft" else np.eye(2)[of_users.argmax(1)]
    for i, row in enumerate(rows_of(where.folder / "rows.jsonl")):
        assert list(row["responsibilities"].values()) == pytest.approx(expected[i % 3], abs=1e-5)
    both = np.concatenate(r).astype(np.float64)
    assert report["means"] == pytest.approx(both.mean(0), rel=1e-4)
    assert report["scales"] == pytest.approx(both.std(0), rel=1e-4)
    held = of_users.max(1).sum() if em == "hard" else np.logaddexp.reduce(of_users + np.log(0.5), axis=1).sum()
    assert report["log_likelihood"] == pytest.approx(held, rel=1e-5)


def test_one_annotator_alone_and_a_row_without_one_are_refused(tmp_path: Path) -> None:
    stage = AssignUsers(rows=("x",))
    alone = write(tmp_path / "alone.jsonl", [{**row, "user": "ann"} for row in pairs()])
    with pytest.raises(DataError, match="all rows are of one user"):
        stage.check_inputs([Path(alone)])
    nobody = write(tmp_path / "nobody.jsonl", [*pairs(2), {k: v for k, v in pairs()[2].items() if k != "user"}])
    with pytest.raises(DataError, match=r"nobody.jsonl, row 3, field 'user': expected a name"):
        stage.check_inputs([Path(nobody)])
    assert AssignUsers(rows=("x",), before="a").problems() == [
        "before belongs to the soft form, after a stage has been trained; leave it out."
    ]
    where, three = context(tmp_path, groups="maxmin"), write(tmp_path / "p.jsonl", pairs())
    with pytest.raises(ConfigError, match="no stage of maxmin_rlhf with 3 groups"):
        AssignUsers(rows=(three,), model="groups", groups=3).run(where)


def test_every_group_may_have_a_model_of_its_own(tmp_path: Path) -> None:
    """Of each the column that it was trained for is read."""
    file = write(tmp_path / "pairs.jsonl", pairs())
    where = context(tmp_path, first="maxmin_0", second="maxmin_1", all="maxmin")
    report = AssignUsers(rows=(file,), models=("first", "second")).run(where)
    data = pairs()
    networks = [network("maxmin_0"), network("maxmin_1")]
    prompts = [x["prompt"] for x in data]
    each = [
        np.stack(
            [n.read(prompts, [x[side] for x in data], ("groups",))["groups"][:, k] for k, n in enumerate(networks)]
        )
        for side in ("chosen", "rejected")
    ]
    r = np.concatenate(each, axis=1).T.astype(np.float64)
    assert report["means"] == pytest.approx(r.mean(0), rel=1e-4)
    likelihood = -np.logaddexp(0, -(r[: len(data)] - r[len(data) :]))
    best = np.stack([likelihood[u::3].sum(0) for u in range(3)]).argmax(1)
    found = json.loads((where.folder / "users.json").read_text())["responsibilities"]
    assert [np.argmax(found[user]) for user in USERS] == best.tolist()
    with pytest.raises(ConfigError, match="'second' trains group 1 alone; name the stages of all groups as models"):
        AssignUsers(rows=(file,), models=("second", "first")).run(where)
    with pytest.raises(ConfigError, match="'all' shares one model among the groups; name it as model"):
        AssignUsers(rows=(file,), models=("all", "second")).run(where)
    assert (
        "models names 1 stages; name one for each of 2 groups" in AssignUsers(rows=(file,), models=("a",)).problems()[0]
    )
    assert len(AssignUsers(rows=(file,), model="a", models=("b", "c")).problems()) == 1


@pytest.mark.parametrize("separate", [False, True])
def test_held_out_pairs_under_the_reward_of_each_users_group(tmp_path: Path, separate: bool) -> None:
    file = write(tmp_path / "pairs.jsonl", pairs())
    where = context(tmp_path, first="maxmin_0", second="maxmin_1", all="maxmin")
    gamma = {"ann": [1.0, 0.0], "ben": [0.25, 0.75], "cat": [0.0, 1.0]}
    users = tmp_path / "users.json"
    users.write_text(json.dumps({"responsibilities": gamma}))
    where = replace(where, resolve=lambda names: [users if str(n).startswith("stage:") else Path(n) for n in names])
    judges: dict[str, Any] = {"models": ("first", "second")} if separate else {"model": "all"}
    stage = MeasureGroups(rows=(file,), **judges)
    assert stage.problems() == []
    stage.check_inputs([Path(file), users])
    report = stage.run(where)
    data = pairs()
    each = [network("maxmin_0"), network("maxmin_1")] if separate else [network("maxmin")] * 2
    r = np.stack([
        [m.read([x["prompt"] for x in data], [x[side] for x in data], ("groups",))["groups"][:, k] for side in
         ("chosen", "rejected")] for k, m in enumerate(each)
    ]).astype(np.float64)  # fmt: skip
    margins = (r[:, 0] - r[:, 1]) / r.reshape(2, -1).std(1)[:, None]
    own = np.asarray([gamma[x["user"]] for x in data]).T
    accuracy = json.loads((where.folder / "accuracy.json").read_text())
    assert accuracy["all"]["their group's"]["value"] == pytest.approx(np.mean((own * margins).sum(0) > 0))
    assert accuracy["all"]["all groups alike"]["value"] == pytest.approx(np.mean(margins.sum(0) > 0))
    assert accuracy["all"]["longer_wins"]["value"] == 0.0
    assert report["tables"][1]["rows"] == [["even", 1, 0], ["odd", 0, 2]]
    users.write_text(json.dumps({"responsibilities": {"ann": [1.0, 0.0]}}))
    with pytest.raises(DataError, match=r"pairs.jsonl, row 2, field 'user': assign has put no user 'ben' into a group"):
        stage.run(where)
    assert MeasureGroups(rows=(file,)).problems() == ["model and models name no stage; name what judges."]


def test_iterates_against_the_model_they_began_from(tmp_path: Path) -> None:
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"Say {w}."} for w in (*WORDS, WORDS[0])])
    where = context(tmp_path, first="micro", same="micro", other="gpm", gpm="gpm")
    stage = MeasureIterates(prompts=(prompts,), models=("first", "same", "other"), preference="gpm", max_new_tokens=6)
    assert stage.problems() == []
    report = stage.run(where)
    assert report["prompts"] == 6  # the one that came twice is asked once
    found = json.loads((where.folder / "wins.json").read_text())
    assert found["same"]["is_longer"]["value"] == 0.5
    # The same text twice in a row of the batch: some processors round its two places differently.
    assert found["same"]["wins"]["value"] == pytest.approx(0.5, abs=1e-7)
    samples = {
        name: network(name).generate(
            [f"Say {w}." for w in WORDS], 1, temperature=1.0, top_k=0, max_new_tokens=6, seed=3
        )
        for name in ("micro", "gpm")
    }
    odds = [
        network("gpm").mean_scores([f"Say {w}."] * 2, [b[0], a[0]], [2])[1][0][0, 1]
        for w, a, b in zip(WORDS, samples["micro"], samples["gpm"], strict=True)
    ]
    assert found["other"]["wins"]["value"] == pytest.approx(np.mean(1 / (1 + np.exp(-np.asarray(odds)))), rel=1e-3)
    assert report["tables"][0]["head"] == ["", "wins", "is longer"]
    with pytest.raises(ConfigError, match="'first' compares no answers; name a stage of gpm"):
        replace(stage, preference="first").run(where)
    assert len(MeasureIterates(models=("a",), max_new_tokens=0).problems()) == 3


def test_a_few_comparisons_become_targets_of_the_router(tmp_path: Path) -> None:
    rows = list(read_rows([Path(write(tmp_path / "pairs.jsonl", pairs()))]))
    own = network("micro")
    tools = Tools(networks={"reward": own})
    made = list(MicroContext(comparisons=3, eta=0.5).run(rows, tools))
    assert len(made) == 3  # one of four pairs of each user is left
    data = pairs()
    for user in range(3):
        first, rest = data[user::3][:3], data[user::3][3:]
        d = [
            own.read([x["prompt"] for x in first], [x[k] for x in first], ("heads",))["heads"]
            for k in ("chosen", "rejected")
        ]
        loss = np.logaddexp(0, d[1] - d[0]).astype(np.float64).sum(0)
        prompt = f"likes {USERS[user]}\n\n{rest[0]['prompt']}"
        z = own.read([prompt], [rest[0]["chosen"]], ("router",))["router"][0].astype(np.float64)
        w = np.exp(z - 0.5 * loss)
        assert (made[user]["prompt"], made[user]["completion"]) == (prompt, rest[0]["chosen"])
        assert list(made[user]["ratings"].values()) == pytest.approx(w / w.sum(), rel=1e-4)
        assert list(made[user]["ratings"]) == ["head_000", "head_001", "head_002"]
    chat = [{"role": "user", "content": "Hello"}]
    assert with_context("brief", chat) == [{"role": "user", "content": "brief\n\nHello"}]
    assert chat[0]["content"] == "Hello"
    with pytest.raises(ConfigError, match="this one is of maxmin_rlhf"):
        list(MicroContext().run(rows, Tools(networks={"reward": network("maxmin")})))
    with pytest.raises(ConfigError, match="mixes rewards by a router at the end of each answer"):
        list(MicroContext().run(rows, Tools(networks={"reward": network("micro_mixed")})))
    assert len(MicroContext(comparisons=0, eta=0.0).problems()) == 2


def test_how_models_serve_tastes_with_the_users_name_in_front(tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.jsonl", pairs())
    where = context(tmp_path, gpm="gpm", micro="micro")
    stage = MeasureTastes(rows=(file,), models=("gpm", "micro"), named=("micro",), max_length=96)
    assert stage.problems() == []
    report = stage.run(where)
    accuracy = json.loads((where.folder / "accuracy.json").read_text())
    assert set(accuracy["odd"]) == {"gpm", "micro (user in front)", "longer_wins"}
    asked = [f"{x['user']}\n\n{x['prompt']}" for x in pairs()]
    sides = [network("micro").rewards(asked, [x[k] for x in pairs()]) for k in ("chosen", "rejected")]
    assert accuracy["all"]["micro (user in front)"]["value"] == pytest.approx(np.mean(sides[0] > sides[1]))
    assert report["tables"][0]["head"][-1] == "longer wins"
    known = accuracy["all"]["gpm"]
    assert report["tables"][0]["rows"][0][2] == f"{known['value']:.3f} ({known['low']:.3f}..{known['high']:.3f})"
    first, title, head, *lines = told(report | {"pictures": []})
    assert (first, title) == ("pairs 12", "Pairs in the order that their people gave them")
    assert head.split() == ["n", "gpm", "micro", "(user", "in", "front)", "longer", "wins"]
    assert lines[0].split()[:2] == ["all", "12"]
    # A prompt that is longer than all there is room for loses its start, not the answer.
    long = write(tmp_path / "long.jsonl", [{**row, "prompt": "word " * 60 + row["prompt"]} for row in pairs()])
    cut = MeasureTastes(rows=(long,), models=("gpm", "micro"), max_length=8).run(where)
    assert cut["tables"][0]["rows"][0][-1].startswith(
        "0.000 (0.000.."
    )  # the worse answer is the longer one, whatever room there is
    MapUsers(rows=(long,), model="pal", max_length=48).run(context(tmp_path / "map", pal="pal_a"))
    assert "must name a stage" in MeasureTastes(rows=("x",), models=("a",), named=("b",)).problems()[0]
    # Pairs of nobody in particular are measured too, unless a name would have to stand in front.
    anybody = [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in pairs()]
    rows = (write(tmp_path / "anybody.jsonl", anybody),)
    assert replace(stage, rows=rows, named=()).run(where)["tables"][0]["rows"][0][:2] == ["all", 12]
    with pytest.raises(DataError, match=r"anybody.jsonl, row 1, field 'user': the row names no user"):
        replace(stage, rows=rows).check_inputs([Path(rows[0])])


def test_known_people_say_what_they_want_and_newcomers_do_not(tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.jsonl", pairs())
    stage = SplitUsers(train=file, heldout=file, new=("cat",), few=2, wishes=(("odd", "Be brief."),))
    where = context(tmp_path, micro="micro")
    assert stage.run(where) == {"known.jsonl": 8, "few.jsonl": 2, "heldout_known.jsonl": 8, "heldout_new.jsonl": 4}
    known, new = (rows_of(where.folder / name) for name in ("known.jsonl", "heldout_new.jsonl"))
    assert [row["prompt"].startswith("Be brief.\n\nSay ") for row in known] == [row["group"] == "odd" for row in known]
    assert {row["prompt"] for row in new} == {row["prompt"] for row in pairs() if row["user"] == "cat"}


@pytest.mark.parametrize("name", ["pal_a", pytest.param("pal_b", marks=pytest.mark.slow)])
def test_the_map_of_users(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "pairs.jsonl", pairs())
    where = context(tmp_path, pal=name, gpm="gpm", micro="micro")
    stage = MapUsers(rows=(file,), model="pal", others=("gpm", "micro"), max_length=96)
    report = stage.run(where)
    own, data = network(name), pairs()
    users = [row["user"] for row in data]
    sides = [
        own.rewards_under([x["prompt"] for x in data], [x[k] for x in data], users=users)
        for k in ("chosen", "rejected")
    ]
    accuracy = json.loads((where.folder / "accuracy.json").read_text())
    assert accuracy["all"]["pal"]["value"] == pytest.approx(np.mean(sides[0] > sides[1]))
    assert accuracy["all"]["longer_wins"]["value"] == 0.0  # every rejected answer is the longer one
    assert set(accuracy) == {"all", "even", "odd"}
    assert set(accuracy["odd"]) == {"pal", "pal (all prototypes alike)", "gpm", "micro", "longer_wins"}
    mixtures = json.loads((where.folder / "users.json").read_text())
    assert {user: pytest.approx(1.0) == sum(w) for user, w in mixtures.items()} == dict.fromkeys(USERS, True)
    with np.load(where.folder / "prototypes.npz") as kept:
        if name == "pal_a":
            assert kept["prototypes"].shape == (2, 16)
            assert kept["ideal"].shape == (2, 5)
            assert kept["users"].shape == (3, 5)
        else:
            assert kept["in.weight"].shape == (2, 16, 5)
    (html,) = work(RunData(tmp_path, "run", {}, {}, {"work": {"users": report}}))
    assert "Prototypes and users" in html
    assert "<svg" in html
    assert "longer wins" in html
    stranger = write(tmp_path / "stranger.jsonl", [{**pairs()[0], "user": "zoe"}])
    with pytest.raises(DataError, match=r"stranger.jsonl, row 1, field 'user': the model knows no user 'zoe'"):
        MapUsers(rows=(stranger,), model="pal").run(where)
    with pytest.raises(ConfigError, match="is of micro, not of pal"):
        MapUsers(rows=(file,), model="micro").run(where)
