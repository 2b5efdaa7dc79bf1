"""Directions, neighbours, the choice by projection, and the rows of DPA and RPS."""

from pathlib import Path

import numpy as np
import pytest

from jaxpo.construct.base import Tools, constructions
from jaxpo.construct.rps.directions import angle_between, at_angle, cap, conditioned, grid, percent, unit
from jaxpo.construct.rps.dpa import DPA
from jaxpo.construct.rps.neighbours import RPS
from jaxpo.construct.rps.selection import projections, select
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError


def test_directions_are_unit_vectors_near_the_one_asked_for():
    v = at_angle(25.0)
    near = grid(v, 30.0, 5)
    np.testing.assert_allclose(np.linalg.norm(near, axis=1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(near[2], v)
    np.testing.assert_allclose([angle_between(x, v) for x in near], [30, 15, 0, 15, 30], atol=1e-9)
    assert percent(at_angle(-15.0)) == [97, -26]
    np.testing.assert_array_equal(grid(v, 0.0, 3), np.tile(v, (3, 1)))
    np.testing.assert_array_equal(grid(v, 30.0, 1), [v])
    w = unit([1.0, 2.0, -1.0, 0.5])
    drawn = cap(w, 20.0, 200, np.random.default_rng(0))
    angles = np.array([angle_between(x, w) for x in drawn])
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1.0, rtol=1e-12)
    assert angles.max() <= 20.0 + 1e-9
    assert 8 < angles.mean() < 12
    with pytest.raises(ValueError, match="no direction"):
        unit([0.0, 0.0])


def test_prompts_say_the_weights():
    assert conditioned("Why?", ("a", "b"), (97, -26)) == "Weigh this answer so, in percent: a 97, b -26.\nWhy?"
    turns = [{"role": "user", "content": "Why?"}]
    said = conditioned(turns, ("a", "b"), (1, 2), "{weights}")
    assert said == [{"role": "system", "content": "a 1, b 2"}, *turns]
    assert conditioned(said, ("a",), (3,), "{weights}")[0]["content"] == "a 3\na 1, b 2"


def test_the_choice_is_the_best_projection():
    rng = np.random.default_rng(1)
    rewards, v = rng.normal(size=(30, 5, 3)), np.stack([unit(x) for x in rng.normal(size=(30, 3))])
    best = [max(range(5), key=lambda k: float(rewards[i, k] @ v[i])) for i in range(30)]
    np.testing.assert_array_equal(select(rewards, v), best)
    np.testing.assert_array_equal(select(3.0 * rewards, 0.2 * v), best)
    across = rng.normal(size=(30, 3))
    across -= np.sum(across * v, -1, keepdims=True) * v
    np.testing.assert_array_equal(select(rewards + across[:, None], v), best)
    assert np.any(select(rewards * [1, 50, 1], v) != best)
    nested = [projections(rewards[:, :k], v).max(1) for k in range(1, 6)]
    assert np.all(np.diff(nested, axis=0) >= 0)
    assert np.all(nested[-1] >= projections(rewards, v).mean(1))


def test_failed_candidates_are_not_chosen_and_of_equal_ones_the_first_is():
    rewards = np.array([[[1.0, 0], [3, 0], [2, 0]], [[1, 0], [1, 0], [0, 0]], [[1, 0], [2, 0], [0, 0]]])
    rewards[0, 1, 1] = np.nan
    rewards[2] = np.nan
    assert select(rewards, np.tile([1.0, 0.0], (3, 1))).tolist() == [2, 0, -1]


class Writer:
    """Writes the weights that it is asked for, the number of the prompt behind them."""

    def __init__(self, silent=()):
        self.silent, self.asked = silent, []

    def generate(self, prompts, n, **settings):
        self.asked.append(list(prompts))
        said = [p.partition("percent: ")[2].partition(".")[0] for p in prompts]
        return [["" if i in self.silent else f"{text} x{'y' * k}" for k in range(n)] for i, text in enumerate(said)]


JUDGES = """
def first(prompt, answer, row):
    return float(answer.split()[1].strip(",")) + answer.count("y")

def second(prompt, answer, row):
    return float(answer.split()[3].strip(","))
"""


@pytest.fixture
def judged(tmp_path):
    file = tmp_path / "judges.py"
    file.write_text(JUDGES)
    return {"attributes": ("a", "b"), "judges": (f"{file}:first", f"{file}:second")}


def rows(*data):
    return [Row(Path("prompts.jsonl"), i, dict(d)) for i, d in enumerate(data, start=1)]


def run(construction, data, model):
    said: list[str] = []
    tools = Tools(seed=0, networks={"model": model}, say=said.append)
    return list(construction.run(rows(*data), tools)), tools.counts, said


ASKED = [{"prompt": f"q{i}"} for i in range(4)]


def test_dpa_keeps_the_best_of_n_along_a_drawn_direction(judged):
    made, counts, _ = run(DPA(cone=10.0, n=3, **judged), ASKED, Writer(silent=(2,)))
    assert counts["rows_left_out_without_an_answer"] == 1
    assert len(made) == 3
    for row in made:
        assert angle_between(np.array(row["direction"]), at_angle(0.0)) <= 10.0
        assert row["completion"].endswith("xyy")
        assert row["prompt"].startswith("Weigh this answer so, in percent: a ")
        np.testing.assert_allclose(row["score"], np.dot(row["direction"], list(row["rewards"].values())))


def test_rps_chooses_among_neighbours_beside_the_best_for_the_direction_itself(judged):
    made, counts, said = run(RPS(angle=60.0, cone=45.0, **judged), ASKED, Writer())
    assert len(made) == 4
    assert "4 of 4 directions lie outside the trained cone (45 degrees around [100, 0]), by up to 15 degrees" in said[0]
    assert counts["directions_outside_the_trained_cone"] == 4
    for row in made:
        # The writer's rewards are the weights that it is asked for: along v itself nothing beats v.
        np.testing.assert_allclose(row["written_for"], at_angle(60.0), atol=1e-9)
        np.testing.assert_allclose(row["score"], row["baseline_score"])
    assert counts["rps_ties"] == 4
    _, counts, said = run(RPS(angle=45.0, **judged), ASKED, Writer())
    assert not said
    assert "directions_outside_the_trained_cone" not in counts


def test_without_spread_it_is_the_baseline_and_failed_candidates_are_masked(judged):
    writer = Writer()
    run(RPS(spread=0.0, n=3, **judged), ASKED, writer)
    assert writer.asked[0] == writer.asked[1]
    made, counts, _ = run(RPS(n=2, baseline=False, **judged), ASKED[:2], Writer(silent=(0, 1, 2)))
    assert len(made) == 1
    assert made[0]["scores"][0] is None
    assert counts["rows_without_an_answer"] == 1


def test_a_row_whose_baseline_alone_failed_is_kept_and_counted(judged):
    class OnceSilent(Writer):
        def generate(self, prompts, n, **settings):
            self.silent = (0, 1) if self.asked else ()  # both answers of the first prompt, of the baseline alone
            return super().generate(prompts, n, **settings)

    made, counts, _ = run(RPS(n=2, **judged), ASKED[:2], OnceSilent())
    assert [row["baseline_score"] is None for row in made] == [True, False]
    assert made[0]["baseline_completion"] is None
    assert np.isfinite(made[0]["score"])
    assert counts["rows_without_an_answer_of_the_baseline"] == 1
    assert counts["rps_wins"] + counts["rps_ties"] + counts["rps_loses"] == 1
    assert "rows_without_an_answer" not in counts


def test_rows_have_directions_of_their_own(judged):
    made, _, _ = run(RPS(n=1, **judged), [{"prompt": "q", "direction": [0, 2]}], Writer())
    assert made[0]["direction"] == [0.0, 1.0]
    with pytest.raises(DataError, match=r"field 'direction': .* is no direction"):
        run(RPS(**judged), [{"prompt": "q", "direction": [0, 0]}], Writer())
    with pytest.raises(DataError, match="is no direction"):
        run(RPS(**judged), [{"prompt": "q", "direction": [1, 0, 0]}], Writer())


def test_options_that_do_not_go_together_are_named(judged):
    with pytest.raises(ConfigError, match="--judges has 1 entries for 2 attributes"):
        run(DPA(attributes=("a", "b"), judges=("verifier",)), ASKED, Writer())
    with pytest.raises(ConfigError, match=r"there are 2 attributes .a, b. for 3 weights"):
        run(DPA(centre=(1.0, 1.0, 1.0), **judged), ASKED, Writer())
    with pytest.raises(ConfigError, match="--neighbours grid has two attributes"):
        run(RPS(centre=(1.0, 1.0, 1.0), **judged), ASKED, Writer())
    with pytest.raises(ConfigError, match="--reward"):
        run(DPA(), ASKED, Writer())
    assert DPA(cone=200.0, text="x").problems()
    assert {"dpa", "rps"} <= set(constructions())
