"""The recipes of who prefers what, short: every stage runs and reads what those before it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxpo.cli.main import main
from jaxpo.convert.model_io import load_model


def short(*stages: str) -> list[str]:
    """A few steps of each of them, of as many rows as the tests have devices."""
    given = {"num-train-epochs": "0.05", "logging-steps": "1", "rows-per-step": "8", "optimizer.warmup-steps": "0"}
    return [word for name in stages for option, value in given.items() for word in (f"--{name}.{option}", value)]


def run(recipe: str, folder: Path, *options: str) -> Path:
    home = folder / "run"
    assert main(["run", recipe, "--run", str(home), *options]) == 0
    return home


def summary(home: Path) -> dict:
    return json.loads((home / "summary.json").read_text())["work"]


@pytest.mark.slow
def test_users_and_newcomers(tmp_path: Path) -> None:
    home = run("plural", tmp_path, *short("gpm", "pal", "newcomers"))
    pal, new = (load_model(home / "stages" / name).params for name in ("pal", "newcomers"))
    for group in pal.keys() - {"users"}:
        for (path, a), (_, b) in zip(leaves(pal[group]), leaves(new[group]), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{group}{path}")
    assert new["users"]["logits"].shape == (2, 4)
    accuracy = json.loads((home / "stages" / "strangers" / "accuracy.json").read_text())
    assert set(accuracy) == {"all", "thorough", "plain"}
    assert all("longer_wins" in of for of in accuracy.values())
    page = (home / "report.html").read_text()
    assert page.count("Prototypes and users") == 2


def leaves(tree: dict) -> list:
    import jax

    return jax.tree_util.tree_flatten_with_path(jax.device_get(tree))[0]


@pytest.mark.slow
def test_both_stages_of_micro(tmp_path: Path) -> None:
    home = run("plural:micro", tmp_path, "--heads", "3", *short("micro", "router"))
    first, second = (load_model(home / "stages" / name).params for name in ("micro", "router"))
    for group in ("model", "heads"):
        for (path, a), (_, b) in zip(leaves(first[group]), leaves(second[group]), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{group}{path}")
    assert any(np.any(a != b) for (_, a), (_, b) in zip(leaves(first["router"]), leaves(second["router"]), strict=True))
    known = json.loads((home / "stages" / "split" / "known.jsonl").read_text().splitlines()[0])
    assert any(wish in str(known["prompt"]) for wish in ("Answer well.", "Say as much", "Be brief.", "No lists"))
    rows = [json.loads(line) for line in (home / "stages" / "targets" / "rows.jsonl").read_text().splitlines()]
    assert {row["user"] for row in rows} == {"thorough-5", "plain-9"}
    assert all(len(row["ratings"]) == 3 and row["prompt"][0]["content"].startswith(row["user"]) for row in rows)
    accuracy = json.loads((home / "stages" / "strangers" / "accuracy.json").read_text())
    assert set(accuracy["all"]) == {"micro", "router (user in front)", "longer_wins"}


@pytest.mark.slow
def test_a_reward_model_for_every_group(tmp_path: Path) -> None:
    stages = [f"groups_{n}_of_{k}" for n in (1, 2) for k in (0, 1)]
    home = run("plural:maxmin", tmp_path, "--separate", "True", "--rounds", "2", *short(*stages))
    assert summary(home)["assign_1"]["users_of_groups"] == [5, 5]
    assert sum(summary(home)["assign_2"]["users_of_groups"]) == 10
    assert len(summary(home)["served"]["tables"]) == 2
    one, other = (load_model(home / "stages" / f"groups_2_of_{k}").params["model"] for k in (0, 1))
    assert any(np.any(a != b) for (_, a), (_, b) in zip(leaves(one), leaves(other), strict=True))


@pytest.mark.slow
def test_groups_by_em(tmp_path: Path) -> None:
    home = run(
        "plural:maxmin",
        tmp_path,
        "--em",
        "soft",
        "--rounds",
        "2",
        *short("groups_1", "groups_2"),
    )
    found = summary(home)
    assert found["assign_1"]["users"] == found["assign_2"]["users"] == 10
    assert found["assign_1"]["users_of_groups"] == [5, 5]
    assert "log_likelihood" in found["assign_2"]
    assert len(found["assign_2"]["means"]) == 2
    accuracy = json.loads((home / "stages" / "served" / "accuracy.json").read_text())
    assert set(accuracy["all"]) == {"their group's", "all groups alike", "longer_wins"}


@pytest.mark.slow
def test_rounds_against_the_last_iterate(tmp_path: Path) -> None:
    sizes = ["--prompts", "6", "--samples", "3", "--max-new-tokens", "8", "--rounds", "2"]
    few = [w for s in ("gpo_0", "gpm") for w in (f"--{s}.max-steps", "2", f"--{s}.optimizer.warmup-steps", "0")]
    few += [w for s in ("gpo_1", "gpo_2") for w in (f"--{s}.rows-per-step", "8")]  # as many as the tests have devices
    home = run("plural:gpo", tmp_path, *sizes, *few)
    for number in (1, 2):
        rows = (home / "stages" / f"pairs_{number}" / "pairs.jsonl").read_text().splitlines()
        assert {"prompt", "chosen", "rejected", "rewards", "log_odds"} == set(json.loads(rows[0]))
        assert load_model(home / "stages" / f"gpo_{number}").about["stage"] == f"gpo_{number}"
    wins = json.loads((home / "stages" / "wins" / "wins.json").read_text())
    assert {name: set(of) for name, of in wins.items()} == {n: {"wins", "is_longer"} for n in ("gpo_1", "gpo_2")}
    assert "gpm" in json.loads((home / "stages" / "tastes" / "accuracy.json").read_text())["all"]
