"""WorldPM: pairs from posts with votes; the power law of a loss, and the command that fits it over runs; style."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr
from scipy.stats import t as student

from jaxpo.cli.main import main
from jaxpo.construct.base import Tools
from jaxpo.construct.worldpm import WorldPM
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import read_record
from jaxpo.errors import DataError
from jaxpo.evaluate.power_law import fit, fit_floor
from jaxpo.evaluate.rewards.judged import best_of
from jaxpo.evaluate.rewards.style import differences, losses, standardised
from jaxpo.evaluate.rewards.style import fit as style_fit


def rows(*data):
    return [Row(Path("posts.jsonl"), i, one) for i, one in enumerate(data, start=1)]


def made(construction, *data, seed=0):
    tools = Tools(seed=seed)
    return list(construction.run(rows(*data), tools)), tools


POST = {"prompt": "Why?", "responses": ["a", "b", "c", "d"], "scores": [5, 2, 2, -1]}


def test_the_answer_with_more_votes_is_chosen():
    votes = dict(zip(POST["responses"], POST["scores"], strict=True))
    found = set()
    for seed in range(40):
        (pair,), _ = made(WorldPM(), POST, seed=seed)
        assert votes[pair["chosen"]] - votes[pair["rejected"]] == pair["vote_margin"] > 0
        found.add((pair["chosen"], pair["rejected"]))
    assert len(found) == 5  # every pair but the tied one


def test_margins_pairs_per_post_groups_and_posts_without_a_pair():
    every, _ = made(WorldPM(pairs_per_post=9), POST)
    assert len(every) == 5
    assert {pair["vote_margin"] for pair in made(WorldPM(9, least_margin=4), POST)[0]} == {6.0}
    assert {pair["vote_margin"] for pair in made(WorldPM(9, most_margin=3), POST)[0]} == {3.0}
    pairs, tools = made(
        WorldPM(), POST | {"scores": [1, 1, 1, 1]}, POST | {"group": "code"}, {**POST, "responses": ["", "b", "", ""]}
    )
    assert tools.counts == {"posts_without_a_pair": 2}
    assert [pair["group"] for pair in pairs] == ["code"]
    with pytest.raises(DataError, match="net votes"):
        made(WorldPM(), {"prompt": "Why?", "chosen": "a", "rejected": "b"})


def test_the_papers_empty_system_prompt():
    (pair,), _ = made(WorldPM(system=""), POST)
    assert pair["prompt"] == [{"role": "system", "content": ""}, {"role": "user", "content": "Why?"}]
    assert [side.role for side in read_record(rows(pair)[0], "preference").sides] == ["chosen", "rejected"]


def test_options_that_are_refused():
    assert len(WorldPM(pairs_per_post=0, least_margin=0, most_margin=-1).problems()) == 3


def test_an_exact_power_law_is_recovered():
    n = np.asarray([100, 200, 400, 800, 1600])
    law = fit(n, 3.0 * n**-0.37)
    assert (law.exponent, law.scale, law.r_squared) == pytest.approx((0.37, 3.0, 1.0))
    assert law.high - law.low < 1e-6
    found = fit_floor(n, 0.25 + 3.0 * n**-0.37)
    assert (found.exponent, found.floor) == pytest.approx((0.37, 0.25), abs=2e-3)
    np.testing.assert_allclose(found.loss(n), 0.25 + 3.0 * n**-0.37, rtol=1e-3)
    assert fit_floor(n, 3.0 * n**-0.37).floor == pytest.approx(0, abs=1e-3)


def test_the_interval_is_students():
    rng = np.random.default_rng(0)
    n = np.geomspace(100, 6400, 9)
    loss = 2 * n**-0.5 * np.exp(0.1 * rng.normal(size=9))
    law = fit(n, loss)
    x, y = np.log(n), np.log(loss)
    slope = np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2)
    residual = y - y.mean() - slope * (x - x.mean())
    error = np.sqrt(residual @ residual / 7 / np.sum((x - x.mean()) ** 2))
    assert law.exponent == pytest.approx(-slope)
    assert law.high - law.exponent == pytest.approx(student.ppf(0.975, 7) * error)
    assert law.r_squared == pytest.approx(1 - residual @ residual / np.sum((y - y.mean()) ** 2))


def test_what_no_power_law_goes_through():
    with pytest.raises(ValueError, match="3 different"):
        fit([1, 2, 2], [1, 1, 1])
    with pytest.raises(ValueError, match="not above the floor"):
        fit([1, 2, 3], [1, 0.5, 0.5], floor=0.5)


def test_runs_of_three_sizes_beside_one_another(tmp_path, capsys):
    for name, b in (("small", 0.05), ("medium", 0.1), ("large", 0.2)):
        (tmp_path / name).mkdir()
        lines = [{"stage": "pretrained", "step": s, "eval_loss": 0.7 * s**-b, "loss": 1.0} for s in (10, 100, 1000)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text)
    runs = [str(tmp_path / name) for name in ("small", "medium", "large")]
    assert main(["report", *runs, "--scaling", "eval_loss"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["run", "stage", "points", "exponent", "b", "95%", "interval", "R^2", "floor"]
    assert [line.split()[3] for line in said[1:]] == ["+0.0500", "+0.1000", "+0.2000"]
    assert main(["report", *runs, "--scaling", "eval_los"]) == 2
    assert "no stage was evaluated at 3 steps" in capsys.readouterr().err
    assert main(["report", *runs, "--floor"]) == 2


def styled(seed=0, n=300):
    """Margins and style differences of pairs whose labels follow both."""
    rng = np.random.default_rng(seed)
    z, d = rng.normal(size=(n, 4)), rng.normal(size=n)
    label = rng.random(n) < 1 / (1 + np.exp(-(1.5 * d + z @ [1.0, 0.5, 0.0, -0.5])))
    return d, z, label


def test_the_fit_meets_the_first_order_condition_and_style_helps():
    d, z, label = styled()
    sign = np.where(label, 1.0, -1.0)
    x = np.column_stack([d, z]) * sign[:, None]
    ones = np.ones((1, len(x)))
    w = style_fit(x, ones)
    # X^T (p - Y) = 0 in the file's own order, Y = 1 where the first is preferred.
    raw, p = np.column_stack([d, z]), 1 / (1 + np.exp(-(np.column_stack([d, z]) @ w[0])))
    np.testing.assert_allclose(raw.T @ (p - label), 0, atol=1e-6)
    alone = style_fit(x[:, :1], ones)
    assert losses(x, w, ones)[0] < losses(x[:, :1], alone, ones)[0]
    # Swapped, D, z, Y -> -D, -z, 1 - Y: the same rows.
    swapped = np.column_stack([-d, -z]) * -sign[:, None]
    np.testing.assert_allclose(style_fit(swapped, ones), w)
    empty = np.column_stack([x[:, 0], np.zeros((len(x), 4))])
    assert losses(empty, style_fit(empty, ones), ones)[0] == pytest.approx(losses(x[:, :1], alone, ones)[0])


def test_style_differences_are_the_specs():
    counts = np.asarray([[10.0, 2, 0, 0], [30, 0, 0, 1]])
    z = differences(counts, np.asarray([[0, 1]]))
    np.testing.assert_allclose(z, [[-0.5, 1.0, 0.0, -1.0]])
    both = np.concatenate([z, -z])
    np.testing.assert_allclose(standardised(z)[0][:2], (z / both.std(axis=0).clip(1e-9))[0][:2])


def test_phi_is_pearsons_of_two_verdicts():
    from jaxpo.evaluate.rewards.style import phi

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=80), rng.normal(size=80) + 0.5
    first, second = (np.concatenate([x, -x]) > 0 for x in (a, b))
    n11, n00, n10, n01 = ((first == i) & (second == j) for i, j in ((1, 1), (0, 0), (1, 0), (0, 1)))
    n11, n00, n10, n01 = (int(x.sum()) for x in (n11, n00, n10, n01))
    table = (n11 * n00 - n10 * n01) / np.sqrt((n11 + n10) * (n01 + n00) * (n11 + n01) * (n10 + n00))
    found = phi(a, b, np.arange(80), 80).value
    assert found == pytest.approx(table)
    assert found == pytest.approx(pearsonr(first, second).statistic)
    assert phi(-a, b, np.arange(80), 80).value == pytest.approx(-found)


def test_best_of_n_does_not_fall_with_n():
    rng = np.random.default_rng(1)
    quality = rng.normal(size=12)
    curve = [best_of(quality + 0.0, quality, n) for n in range(1, 13)]
    assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(quality.max())
