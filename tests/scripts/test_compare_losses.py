"""The comparison on real data: facts of the file, how it is cut and split, what is measured, and that it runs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from comparison import data, experiment, main  # noqa: E402
from comparison.measure import Bootstrap, HeldOut, length_correlation, row_of  # noqa: E402
from comparison.settings import Settings  # noqa: E402


@pytest.fixture(scope="module")
def rows(shared_data):
    return data.read(shared_data / "alpaca_eval_ranked.jsonl.gz")


def whole(rows):
    """Prompts with lengths in characters, uncut."""
    return [
        data.Prompt(n, r["prompt"], tuple(r["responses"]), tuple(map(len, r["responses"])), tuple(r["scores"]))
        for n, r in enumerate(rows)
    ]


def test_empty_and_repeated_responses_are_left_out_and_counted(rows):
    found, counts = rows
    assert counts["prompts"] == 805
    assert counts["empty_responses"] == 22
    assert counts["repeated_responses"] >= 1
    assert all(len(set(r["responses"])) == len(r["responses"]) == len(r["scores"]) for r in found)


def test_longer_wins_mostly_on_all_pairs_and_hardly_on_matched_ones(rows):
    prompts = whole(rows[0])
    right = {True: [], False: []}
    for p in prompts:
        for i, j in data.pairs_of(p, 0.1):
            right[data.is_matched(p, i, j, 0.2)].append(p.lengths[i] > p.lengths[j])
    everything = np.mean(right[True] + right[False])
    assert everything > 0.75
    assert 0.5 < np.mean(right[True]) < 0.65 < everything


def test_prompts_are_split_and_half_of_the_held_out_pairs_are_matched(rows):
    prompts, settings = whole(rows[0]), Settings()
    train, held = data.split(len(prompts), settings)
    assert not set(train) & set(held)
    assert sorted(train + held) == list(range(805))
    pairs = data.evaluation_pairs(prompts, held, settings)
    assert {p.prompt for p in pairs} <= set(held)
    assert np.mean([p.matched for p in pairs]) == 0.5
    for p in pairs:
        assert prompts[p.prompt].scores[p.chosen] - prompts[p.prompt].scores[p.rejected] >= settings.gap


def test_votes_and_items_follow_from_the_scores():
    p = data.Prompt(0, "q\n", ("a b c", "d e"), (3, 2), (0.9, 0.5))
    row = data.pair_row(p, 0, 1)
    assert row["margin"] == 0.4
    assert row["votes"] == [90, 10]  # odds of 9 to 1
    items = data.items_row(p, np.random.default_rng(0))
    assert dict(zip(items["items"], items["relevance"], strict=True)) == {"a b c": 2, "d e": 1}
    assert "".join(data.tree_row(p)["steps"][0]) == "a b c"


def held_out():
    """Two prompts: one with three responses and two pairs, one with two responses and a pair."""
    return HeldOut(
        chosen=np.array([0, 0, 3]),
        rejected=np.array([1, 2, 4]),
        prompt=np.array([0, 0, 1]),
        matched=np.array([True, False, True]),
        tokens=np.array([2.0, 4.0, 8.0, 5.0, 5.0]),
        owner=np.array([0, 0, 0, 1, 1]),
        sft=np.array([-4.0, -8.0, -16.0, -5.0, -10.0]),
    )


def test_a_row_averages_seeds_and_measures_per_token():
    held = held_out()
    better = held.sft + np.array([2.0, -4.0, -8.0, 5.0, 0.0])
    row = row_of(
        held, "x", "pairs", [{"scores": better, "step_cpu_seconds": 0.2}, {"scores": held.sft, "step_cpu_seconds": 0.4}]
    )
    # Log-ratios per token of the first seed: 1, -1, -1, 1, 0; of the second: 0.
    assert row.shift_chosen == pytest.approx(np.mean([1, 1, 1]) / 2)
    assert row.shift_rejected == pytest.approx(np.mean([-1, -1, 0]) / 2)
    assert row.margin == pytest.approx(row.shift_chosen - row.shift_rejected)
    np.testing.assert_allclose(row.reward, [0.75, 0.75, 0.75])  # right, and a tie
    np.testing.assert_allclose(row.likelihood, [0.75, 0.75, 1.0])  # the SFT model ties on the first prompt
    assert row.step_cpu_seconds == pytest.approx(0.3)
    assert length_correlation(held, -held.tokens) == pytest.approx(-1.0)


def test_the_bootstrap_resamples_prompts():
    held = held_out()
    boot = Bootstrap(held, 500)
    correct = np.array([1.0, 1.0, 0.0])
    mean, low, high = boot.interval(correct, np.ones(3, bool))
    assert mean == pytest.approx(2 / 3)
    assert (low, high) == (0.0, 1.0)  # both prompts drawn may be the same one
    assert boot.interval(np.ones(3), held.matched) == (1.0, 1.0, 1.0)


def test_every_method_is_compared_or_left_out_for_a_reason():
    from jaxpo.objectives.methods import METHODS

    absent = set(METHODS) - set(experiment.compared()) - set(experiment.LEFT_OUT)
    # They train no language policy on preferences.
    others = ("sft", "reward model", "retrieval", "distillation", "rollouts", "images", "pairs of images")
    assert absent == {n for n, m in METHODS.items() if m.INFO.family in others}
    shown = (Path(experiment.__file__).parents[2] / "docs" / "compare_losses.md").read_text()
    assert all(f"| {name} |" in shown for name in experiment.compared())


# One method of every way to make its data and to read its features; all of them with --smoke take a quarter of an hour.
SMOKE = ("dpo", "kto", "aot", "lipo", "irpo_ranking", "tpo_tree", "modpo", "sppo_soft", *experiment.CONSTRUCTED)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_smoke_run_of_the_comparison_and_resume(shared_data, tmp_path, capsys):
    where = [*SMOKE, "--smoke", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    assert main.main(where) == 0
    table = (tmp_path / "out" / "compare_losses.md").read_text()
    assert all(f"| {name} |" in table for name in SMOKE)
    assert (tmp_path / "out" / "compare_losses.png").stat().st_size > 10_000
    capsys.readouterr()
    victim = next((tmp_path / "cache").rglob("dpo.0.json"))
    before = json.loads(victim.read_text())["scores"]
    victim.unlink()
    assert main.main(where) == 0
    out = capsys.readouterr().out
    assert "[1/1] dpo seed 0" in out
    np.testing.assert_allclose(json.loads(victim.read_text())["scores"], before, rtol=1e-6)
