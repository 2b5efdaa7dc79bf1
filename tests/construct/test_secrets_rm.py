"""Strength by an ensemble, what is done with pairs by it, the sets of MetaRM, and both recipes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli.conftest import make_model
from construct.work_context import context_of

from jaxpo.construct.base import Tools
from jaxpo.construct.ensemble import Ensemble
from jaxpo.construct.meta_rm import MetaRM
from jaxpo.construct.secrets_rm import SecretsRM, lowest, strength
from jaxpo.convert.model_io import load_model
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import read_record
from jaxpo.data.rows.segments import lacks
from jaxpo.errors import ConfigError, DataError
from jaxpo.recipe.overrides import call_config, load_run
from jaxpo.recipes import secrets_rm

SCORES = {"scores_a": [[3, 1], [0, 1], [0, 2], [1, 0]], "scores_b": [[2, 1], [1, 0], [0, 1], [5, 1]]}
MU = [1.5, 0.0, -1.5, 2.5]
SIGMA = [0.5, 1.0, 0.5, 1.5]


def rows(**more):
    made = []
    for i in range(4):
        scores = {name: values[i] for name, values in SCORES.items()}
        made.append({"prompt": f"p{i}", "chosen": f"c{i}", "rejected": f"r{i}"} | scores | more)
    return [Row(Path("x.jsonl"), i, row) for i, row in enumerate(made, start=1)]


def made(construction, **more):
    return list(construction.run(rows(**more), Tools()))


def test_strength_is_the_mean_over_models():
    found = made(SecretsRM())
    assert [row["strength"] for row in found] == MU
    assert [row["strength_std"] for row in found] == SIGMA
    assert set(found[0]) == {"prompt", "chosen", "rejected", "strength", "strength_std"}
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(size=(2, 10, 7))
    mu, sigma = strength(chosen, rejected)
    np.testing.assert_allclose(mu, (chosen - rejected).mean(0))
    np.testing.assert_allclose(sigma, np.sqrt(((chosen - rejected - mu) ** 2).mean(0)))


def test_the_policies():
    flipped = made(SecretsRM(policy="flip"))
    assert [row["chosen"] for row in flipped] == ["c0", "c1", "r2", "c3"]
    assert [row.get("flipped", False) for row in flipped] == [False, False, True, False]
    assert "margin" not in flipped[0]
    assert [row["margin"] for row in made(SecretsRM(policy="margin"))] == MU
    # A flipped pair carries the margin of its new direction.
    assert [row["margin"] for row in made(SecretsRM(policy="flip_margin"))] == [1.5, 0.0, 1.5, 2.5]
    assert [row["votes"] for row in made(SecretsRM(policy="soften"))] == [[1, 0], [1, 0], [0.9, 0.1], [1, 0]]
    both = made(SecretsRM(policy="soft_margin", smoothing=0.2, soften_top=0.25))
    assert [row["votes"] for row in both] == [[1, 0], [1, 0], [0.8, 0.2], [0.8, 0.2]]
    assert [row["margin"] for row in both] == MU
    assert [row["chosen"] for row in made(SecretsRM(policy="flip", suspect=0.5))] == ["c0", "r1", "r2", "c3"]
    assert lowest(np.asarray([3.0, 1, 1, 0]), 0.5).tolist() == [False, True, False, True]


def test_what_columns_say_of_a_side_goes_along_with_it():
    more = {"rewards": {"a": [1.0, 2.0]}, "chosen_keywords": ["x"], "rejected_keywords": ["y"], "group": "g"}
    found = made(SecretsRM(policy="flip"), **more)
    assert {name: found[0][name] for name in more} == more
    swapped = {"rewards": {"a": [2.0, 1.0]}, "chosen_keywords": ["y"], "rejected_keywords": ["x"], "group": "g"}
    assert {name: found[2][name] for name in more} == swapped
    with pytest.raises(DataError, match="field 'rewards'"):
        made(SecretsRM(policy="flip"), rewards={"a": 1.0})


def test_what_is_refused():
    with pytest.raises(DataError, match=r"two finite numbers; found \[nan, 1\].*leave a model"):
        made(SecretsRM(), scores_c=[float("nan"), 1])
    with pytest.raises(DataError, match="1 columns of scores; a strength is the mean of several"):
        made(SecretsRM(scores=("scores_a",)))
    with pytest.raises(DataError, match=r"must be \[chosen, rejected\]"):
        made(SecretsRM(scores=("scores_a", "scores_c")))
    with pytest.raises(DataError, match="there is a column 'margin' already"):
        made(SecretsRM(), margin=1.0)
    assert len(SecretsRM(suspect=2.0, smoothing=-1.0, soften_top=0.1).problems()) == 3
    assert len(MetaRM(samples=1, temperature=0.0).problems()) == 2
    assert len(Ensemble(stages=("a", "a")).problems()) == 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(make_model(tmp_path_factory.mktemp("run") / "stages" / "sft", 0))


class Answers:
    """A network that says its seed, and nothing at every third answer."""

    def generate(self, prompts, n, *, temperature, top_k, max_new_tokens, seed):
        assert (temperature, top_k, max_new_tokens) == (1.0, 0, 6)
        return [[f"{prompt} {k} {seed}" if (k + 1) % 3 else " " for k in range(n)] for prompt in prompts]


def test_samples_become_segments_of_the_pair():
    tools = Tools(7, {"model": Answers()})
    found = list(MetaRM(samples=3, max_new_tokens=6).run(rows()[:2], tools))
    assert [row["samples"] for row in found] == [["p0 0 7", "p0 1 7"], ["p1 0 7", "p1 1 7"]]
    assert tools.counts == {"empty_samples": 2}
    row, n = Row(Path("x.jsonl"), 1, found[0]), 2
    roles = tuple(f"sample_{i}" for i in range(1, 5) if not lacks(row, f"sample_{i}"))
    assert roles == tuple(f"sample_{i}" for i in range(1, n + 1))
    sides = read_record(row, "preference", roles=roles).sides
    assert [side.completion for side in sides[2:]] == row.data["samples"]
    with pytest.raises(DataError, match="expected a list of answers"):
        lacks(Row(Path("x.jsonl"), 1, {"samples": "a"}), "sample_1")


def test_an_ensemble_scores_each_pair_by_every_stage(model, tmp_path, monkeypatch):
    class Reader:
        def __init__(self, name):
            self.k = len(name)

        def rewards(self, prompts, completions):
            return np.asarray([self.k * int(text[1]) + (text[0] == "c") for text in completions], float)

    monkeypatch.setattr("jaxpo.construct.context.WorkContext.network", lambda self, name, max_length: Reader(name))
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        "".join(json.dumps({k: row.data[k] for k in ("prompt", "chosen", "rejected")}) + "\n" for row in rows())
    )
    stage = Ensemble(rows=(str(file),), stages=("x", "yy"))
    assert stage.run(context_of(model, tmp_path / "work")) == {"rows": 4, "models": 2}
    found = [json.loads(line) for line in (tmp_path / "work" / "scored.jsonl").read_text().splitlines()]
    assert found[3]["scores_yy"] == [7.0, 6.0]
    assert [
        row["strength"] for row in SecretsRM().run([Row(Path("x"), i, r) for i, r in enumerate(found)], Tools())
    ] == [1.0] * 4


def test_the_recipes_name_their_stages():
    run = load_run("secrets_rm")
    assert [stage.name for stage in run.stages][-5:] == ["member_10", "ensemble", "mended", "reward", "measured"]
    assert len({stage.seed for stage in run.stages[:10]}) == 10
    rounds = load_run("meta_rm")
    names = [stage.name for stage in rounds.stages]
    assert names[:6] == ["reward_0", "policy_0", "samples_1", "reward_1", "pairs_1", "policy_1"]
    assert [s.seed for s in rounds.stages if s.name.startswith("samples")] == [1, 2, 3]


def test_a_recipes_numbers_are_given_as_flags():
    path = Path(secrets_rm.__file__)
    run, rest = call_config(secrets_rm, path, "config", ["--members", "2", "--name", "x"])
    assert [stage.name for stage in run.stages] == ["member_1", "member_2", "ensemble", "mended", "reward", "measured"]
    assert rest == ["--name", "x"]
    with pytest.raises(ConfigError, match="--members: expected an integer, got 'two'"):
        call_config(secrets_rm, path, "config", ["--members", "two"])
