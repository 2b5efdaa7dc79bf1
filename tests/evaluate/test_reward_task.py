"""The task `reward` on rewards that are made by hand, every number by float64 numpy; limit cases; files' mistakes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpo.cli.main import main
from jaxpo.convert.model_io import load_model, save_model
from jaxpo.data.rows.formats import Row
from jaxpo.errors import DataError
from jaxpo.evaluate.intervals import Measurement, bootstrap, combined, share
from jaxpo.evaluate.rewards import bench
from jaxpo.evaluate.rewards.files import Answers, read_answers
from jaxpo.evaluate.rewards.judged import best_of, pairs_of
from jaxpo.evaluate.rewards.measures import BINS, calibration_error, length_correlation
from jaxpo.evaluate.rewards.style import FEATURES, differences, fit, losses, phi, standardised, style_of
from jaxpo.evaluate.tasks.base import Reply, measure
from jaxpo.evaluate.tasks.reward import Reward, RewardAsk

TASK = Reward(source="x")


def judged(kind, rewards, quality, lengths=None, subset="", texts=None, tied=None, task=TASK):
    """A prompt whose answers got these rewards."""
    texts = texts or [f"answer {i}" for i in range(len(rewards))]
    row = Row(Path("x"), 1, {})
    example = Answers(row, kind, "Why?", tuple(texts), tuple(map(float, quality)), subset, tied=tied)
    lengths = tuple(lengths or [3] * len(rewards))
    return task.score(example, Reply(RewardAsk(tokens=lengths), rewards=tuple(map(float, rewards))))


def random_lists(n=60, seed=0, style=False):
    generator = np.random.Generator(np.random.Philox(seed))
    made = []
    for _ in range(n):
        quality, lengths = generator.normal(size=5), generator.integers(5, 90, 5)
        rewards = quality + 0.03 * lengths + generator.normal(size=5)
        texts = ["**b**\n" + "* item\n" * int(k) for k in generator.integers(0, 4, 5)] if style else None
        made.append(judged("lists", rewards, quality, lengths.tolist(), texts=texts))
    return made


def every_pair(made):
    d, n, z = [], [], []
    for one in made:
        for i, j in itertools.permutations(range(len(one.quality)), 2):
            if one.quality[i] > one.quality[j]:
                d.append(one.rewards[i] - one.rewards[j])
                n.append(int(one.lengths[i]) - int(one.lengths[j]))
                a, b = one.style[i], one.style[j]
                z.append([(x - y) / (x + y) if x + y else 0.0 for x, y in zip(a, b, strict=True)])
    return np.asarray(d), np.asarray(n), np.asarray(z)


def test_pairs_ties_are_wrong_and_longer_wins_stands_beside():
    rewards, lengths = [(2, 1), (1, 1), (0, 3), (5, 4)], [(9, 2), (2, 9), (4, 4), (7, 1)]
    made = [
        judged("pairs", r, (1, 0), n, subset="ab"[i % 2]) for i, (r, n) in enumerate(zip(rewards, lengths, strict=True))
    ]
    found = measure(made, TASK.scores())
    assert found["accuracy"] == share(2, 4)
    assert found["accuracy_longer_wins"] == share(2, 4)
    assert found["accuracy_a"] == share(1, 2)
    assert found["accuracy_b"] == share(1, 2)
    assert found["margin"].value == pytest.approx((1 + 0 - 3 + 1) / 4)
    assert found["loss"].value == pytest.approx(np.mean([math.log1p(math.exp(-d)) for d in (1, 0, -3, 1)]))
    assert found["reward"].value == pytest.approx(17 / 8)
    assert "pair_accuracy" not in found


def test_pairs_of_lists_by_numpy():
    made = random_lists()
    found = measure(made, TASK.scores())
    d, n, _ = every_pair(made)
    assert len(d) == 60 * 10
    assert found["pair_accuracy"].value == pytest.approx(np.mean(d > 0))
    assert found["pair_accuracy_longer_wins"].value == pytest.approx(np.mean(n > 0))
    assert found["pair_accuracy"].n == 60
    assert found["margin"].value == pytest.approx(d.mean())
    assert found["loss"].value == pytest.approx(np.logaddexp(0, -d).mean())
    assert "accuracy" not in found


def test_the_gap_chooses_pairs():
    assert pairs_of([0.5, 0.55, 0.9], 0.0).tolist() == [[1, 0], [2, 0], [2, 1]]
    assert pairs_of([0.5, 0.55, 0.9], 0.1).tolist() == [[2, 0], [2, 1]]
    assert pairs_of([1.0, 1.0], 0.0).shape == (0, 2)


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 0.0, 1.0], [2.0] * 4])
def test_best_of_n_by_enumeration(values):
    quality = np.asarray([0.1, 0.7, 0.4, 0.2])
    for n in range(1, 5):
        expected = []
        for chosen in itertools.combinations(range(4), n):
            best = [i for i in chosen if values[i] == max(values[j] for j in chosen)]
            expected.append(np.mean(quality[best]))
        assert best_of(np.asarray(values), quality, n) == pytest.approx(np.mean(expected))


def test_the_curve_grows_with_a_perfect_reward_and_is_flat_with_a_constant_one():
    quality = np.random.Generator(np.random.Philox(1)).normal(size=7)
    curve = [best_of(quality, quality, n) for n in range(1, 8)]
    assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(quality.max())
    assert [best_of(np.zeros(7), quality, n) for n in range(1, 8)] == pytest.approx([quality.mean()] * 7)


def test_calibration_by_numpy():
    made = random_lists()
    d, _, _ = every_pair(made)
    # Every pair both ways round, in equal bins of [0, 1].
    p = 1 / (1 + np.exp(-np.concatenate([d, -d])))
    y = np.concatenate([np.ones_like(d), np.zeros_like(d)])
    edges = np.minimum((p * 2 * BINS).astype(int), 2 * BINS - 1)
    ece = sum(abs(y[edges == b].mean() - p[edges == b].mean()) * (edges == b).mean() for b in set(edges))
    found = calibration_error(made)
    assert found.value == pytest.approx(ece, abs=1e-9)
    assert found.n == 60


def test_length_correlation_by_numpy():
    made = random_lists()
    r, n = (np.concatenate([getattr(one, name) for one in made]) for name in ("rewards", "lengths"))
    found = length_correlation(made)
    assert found.value == pytest.approx(np.corrcoef(r, n)[0, 1])
    assert found.low < found.value < found.high


def test_style_counts():
    text = "# Head\n\n- one\n* two\n3. three\n**bold** and __bold__\n```\n# no\n- no\n```\nnot#a head, 1.5"
    assert style_of(text, 40) == (40, 3, 1, 2)


def test_style_fit_meets_the_first_order_condition_and_nests():
    made = random_lists(n=24, style=True)
    d, _, z = every_pair(made)
    found = Reward(source="x").further(made)
    spread = np.sqrt((z**2).mean(0))
    x = np.column_stack([d, np.divide(z, spread, out=np.zeros_like(z), where=spread > 0)])
    w = np.asarray([found["style_alpha"].value, *(found[f"style_beta_{name}"].value for name in FEATURES)])
    assert np.abs(x.T @ (1 / (1 + np.exp(-x @ w)) - 1)).max() / len(x) < 1e-7
    assert w[3] == w[0] * 0  # No answer has a header.
    assert found["style_loss"].value == pytest.approx(np.logaddexp(0, -x @ w).mean())
    assert found["style_accuracy"].value == pytest.approx(np.mean(x @ w > 0))
    assert found["style_loss"].value < found["uncontrolled_loss"].value < math.log(2)
    for name in ("style_loss", "uncontrolled_loss", "style_alpha", "style_beta_length"):
        assert found[name].low < found[name].value < found[name].high


def test_style_control_says_the_same_of_swapped_pairs():
    """(D, z, 1) and (-D, -z, 0): binary cross-entropy with labels, by scipy-free gradient descent on the labels."""
    d, _, z = every_pair(random_lists(style=True))
    x, sign = np.column_stack([d, standardised(z)]), np.where(np.arange(len(d)) % 2, -1.0, 1.0)
    w = fit(x, np.ones((1, len(x))))[0]
    swapped, y = x * sign[:, None], sign > 0
    p = 1 / (1 + np.exp(-swapped @ w))
    assert np.abs(swapped.T @ (p - y)).max() / len(x) < 1e-7
    assert np.allclose(standardised(z * sign[:, None]), standardised(z) * sign[:, None])


def test_style_without_information_leaves_the_loss():
    generator = np.random.Generator(np.random.Philox(3))
    d = generator.normal(0.5, 1, 200)
    x = np.column_stack([d, np.zeros((200, 4))])
    ones = np.ones((1, 200))
    assert losses(x, fit(x, ones), ones) == pytest.approx(losses(x[:, :1], fit(x[:, :1], ones), ones))
    assert differences(np.zeros((2, 4)), np.asarray([[0, 1]])).tolist() == [[0.0] * 4]


def test_a_reward_that_ignores_length_recovers_under_control():
    """Labels = content + taste for length; the reward knows the content alone."""
    generator = np.random.Generator(np.random.Philox(4))
    made = []
    for _ in range(60):
        content, lengths = generator.normal(size=2), generator.integers(10, 200, 2)
        quality = content + 2 * np.log(lengths)
        made.append(judged("lists", content, quality, lengths.tolist()))
    found = Reward(source="x").further(made)
    plain = measure(made, TASK.scores())["margin"]
    assert plain.n == 60
    assert found["style_accuracy"].value > 0.95
    assert found["style_loss"].value < 0.3 * found["uncontrolled_loss"].value


def test_phi_is_pearsons_of_both_ways_round():
    generator = np.random.Generator(np.random.Philox(5))
    a, b = generator.integers(-1, 2, (2, 300))
    both = (a != 0) & (b != 0)
    u, v = np.concatenate([a[both], -a[both]]) > 0, np.concatenate([b[both], -b[both]]) > 0
    unit = np.arange(300)
    assert phi(a, b, unit, 300).value == pytest.approx(np.corrcoef(u, v)[0, 1])
    assert phi(-a, b, unit, 300).value == pytest.approx(-np.corrcoef(u, v)[0, 1])
    assert phi(np.zeros(3), np.ones(3), np.arange(3), 3) is None


def test_constant_rewards():
    made = [judged("pairs", (0.7, 0.7), (1, 0), (3 + i, 2)) for i in range(20)]
    found, further = measure(made, TASK.scores()), TASK.further(made)
    assert found["accuracy"].value == 0
    assert found["loss"].value == pytest.approx(math.log(2))
    assert further["ece"].value == 0
    assert "length_correlation" not in further
    assert "phi_longer" not in further
    assert further["uncontrolled_loss"].value == pytest.approx(math.log(2))
    assert further["style_alpha"].value == 0
    assert further["reward_min"].value == further["reward_max"].value == 0.7


def test_perfect_rewards():
    made = [
        judged("lists", quality, quality) for quality in np.random.Generator(np.random.Philox(6)).normal(size=(20, 4))
    ]
    found, further = measure(made, TASK.scores()), TASK.further(made)
    assert found["pair_accuracy"].value == 1
    assert found["best_of_4"].value == pytest.approx(np.mean([one.quality.max() for one in made]))
    assert further["uncontrolled_loss"].value < 1e-6
    assert further["style_accuracy"].value == 1
    assert all(np.isfinite(m.value) for m in further.values())


def test_sections_weigh_subsets_by_their_published_numbers():
    generator = np.random.Generator(np.random.Philox(7))
    right = {name: generator.integers(0, 2, 12).tolist() for name in bench.SUBSETS}
    found = bench.sections(right)
    reasoning = (984 * np.mean(right["math-prm"]) + sum(164 * np.mean(right[name]) for name in bench.CODE)) / (2 * 984)
    assert found["section_reasoning"].value == pytest.approx(reasoning)
    chat = bench.SECTIONS["chat"]
    assert found["section_chat"].value == pytest.approx(sum(n * np.mean(right[s]) for s, n in chat.items()) / 358)
    four = [found[f"section_{name}"].value for name in bench.SECTIONS]
    assert found["overall"].value == pytest.approx(np.mean(four))
    assert "overall" not in bench.sections({"math-prm": [1.0]})
    assert sum(sum(section.values()) for section in bench.SECTIONS.values()) == 2985 - 447 + 984


def test_best_of_four_and_ties_by_hand():
    rewards = {
        # spread, gap: tied 0.5, 1.0; ref 2.0; and of the second tied 2.0, 1.0; ref -1.0
        ("tied", 0): ([3.0, 2.5, 1.5], [1, 1, 0]),
        ("ref", 0): ([4.0, 2.0], [1, 0]),
        ("tied", 1): ([5.0, 3.0, 2.0], [1, 1, 0]),
        ("ref", 1): ([1.0, 2.0], [1, 0]),
    }
    made = [judged("reward_bench_2", r, q, subset="Ties", tied=key) for key, (r, q) in rewards.items()]
    bonus = np.mean([np.tanh(1.0 / 0.5 - 1), np.tanh(-1.0 / 2.0 - 1)])
    expected = 0.3 * 1 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * bonus
    assert bench.ties(made, [one.rewards for one in made]).value == pytest.approx(expected)
    fours = {
        "Factuality": (3, 1, 2, 0),
        "Precise IF": (3, 3, 2, 0),
        "Math": (0, 1, 2, 3),
        "Safety": (3, 1, 2, 0),
        "Focus": (9, 1, 2, 0),
    }
    made += [judged("reward_bench_2", r, (1, 0, 0, 0), subset=name) for name, r in fours.items()]
    found = measure(made, TASK.scores())
    assert found["accuracy"] == share(3, 5)
    assert found["accuracy_Precise IF"].value == 0
    assert "accuracy_Ties" not in found
    further = TASK.further(made)
    assert further["ties"].value == pytest.approx(expected)
    assert further["overall"].value == pytest.approx((3 + expected) / 6)
    assert further["overall_longer_wins"].value == pytest.approx(0)


@pytest.mark.parametrize(("least", "bonus"), [(1.0, 1.0), (-1.0, -1.0), (0.0, 0.0)])
def test_ties_without_spread(least, bonus):
    made = [
        judged("reward_bench_2", (2.0, 2.0, 2.0 - least), (1, 1, 0), subset="Ties", tied=("tied", 1)),
        judged("reward_bench_2", (9.0, 9.0 - least), (1, 0), subset="Ties", tied=("ref", 1)),
    ]
    assert bench.ties(made, [one.rewards for one in made]).value == pytest.approx((least > 0) + 0.01 * bonus)


def test_combined_intervals():
    assert combined([share(3, 10)], [2.0]).low == pytest.approx(share(3, 10).low)
    a, b = share(3, 10), share(9, 12)
    found = combined([a, b], [1.0, 3.0])
    assert found.value == pytest.approx(0.25 * a.value + 0.75 * b.value)
    assert found.low == pytest.approx(found.value - math.hypot(0.25 * (a.value - a.low), 0.75 * (b.value - b.low)))
    assert found.n == 22
    assert combined([Measurement(0.5, 1), a], [1, 1]).high == pytest.approx(0.4 + 0.5 * (a.high - a.value))


def test_bootstrap_of_a_mean_is_that_of_ratio():
    from jaxpo.evaluate.intervals import mean

    x = np.random.Generator(np.random.Philox(8)).normal(size=40)
    (found,) = bootstrap(lambda counts: (counts @ x / counts.sum(1))[:, None], 40)
    expected = mean(x)
    assert (found.value, found.n) == (pytest.approx(expected.value), 40)
    assert found.low == pytest.approx(expected.low, abs=0.03)
    assert found.high == pytest.approx(expected.high, abs=0.03)


BENCH_2 = {"id": "1", "prompt": "Why?", "chosen": ["So."], "rejected": ["a", "b", "c"], "subset": "Math"}
TIE = {"id": "ref:1", "prompt": "A colour?", "chosen": ["red"], "rejected": ["dog"], "subset": "Ties"}


def write(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_formats_are_seen(tmp_path):
    pair = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    for rows, kind in (
        ([pair], "pairs"),
        ([{**pair, "subset": "mine"}], "pairs"),
        ([{**pair, "subset": "hep-go"}], "reward_bench"),
        ([{"prompt": "Why?", "responses": ["a", "", "b"], "scores": [1, 2, 3]}], "lists"),
        ([BENCH_2, TIE, {**TIE, "id": "tied:1", "chosen": ["red", "blue"]}], "reward_bench_2"),
    ):
        found = read_answers(write(tmp_path, rows), None)
        assert {one.kind for one in found} == {kind}
    assert [one.subset for one in found] == ["Math", "Ties", "Ties"]
    assert found[2].quality == (1.0, 1.0, 0.0)
    assert found[2].tied == ("tied", 1)


def test_an_empty_response_is_left_out_and_counted(tmp_path):
    row = {"prompt": "Why?", "responses": ["a", "", "b"], "scores": [1, 2, 3]}
    (found,) = read_answers(write(tmp_path, [row]), None)
    assert (found.texts, found.quality, found.empty) == (("a", "b"), (1.0, 3.0), 1)


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (
            [{**BENCH_2, "subset": "Maths"}],
            None,
            r"row 1, field 'subset': there is no subset 'Maths'. Did you mean Math\?",
        ),
        ([{**BENCH_2, "rejected": ["a"]}], None, "row 1, field 'rejected': 1 chosen and 1 rejected"),
        ([BENCH_2, {**BENCH_2, "chosen": "So."}], None, "row 2, field 'chosen': must be a list of texts"),
        ([{**BENCH_2, "prompt": None}], None, "row 1, field 'prompt'"),
        ([TIE], None, "row 1, field 'id': tied:1 is missing"),
        ([TIE, TIE], None, "row 2, field 'id': ref:1 is there twice"),
        ([{**TIE, "id": "7"}], None, "row 1, field 'id': is '7'"),
        (
            [{"prompt": "x", "chosen": "a", "rejected": "b"}],
            "reward_bench",
            "row 1, field 'subset': column 'subset' is missing",
        ),
        ([{"prompt": "x", "chosen": "a", "rejected": "a"}], None, "row 1, field 'rejected': chosen == rejected"),
        ([{"prompt": "x", "responses": ["", ""], "scores": [1, 2]}], None, "every response is empty"),
        ([{"prompt": "x", "completion": "y"}], None, "is of type 'prompt_completion'"),
    ],
)
def test_mistakes_in_files(tmp_path, rows, kind, message):
    with pytest.raises(DataError, match=message):
        read_answers(write(tmp_path, rows), kind)


def test_a_reward_that_is_no_number_is_named():
    with pytest.raises(DataError, match=r"x, row 1: the model gives an answer the reward nan"):
        judged("pairs", (math.nan, 1.0), (1, 0))


@pytest.fixture(scope="module")
def reward_model(model_folders, tmp_path_factory):
    model = load_model(model_folders[0])
    folder = tmp_path_factory.mktemp("reward") / "model"
    head = {"weight": 3 * jax.random.normal(jax.random.key(7), (16, 1))}
    save_model(folder, {**model.params, "value": head}, model.config, {"stage": "reward"})
    model.tokenizer.save(folder / "tokenizer")
    return folder


def test_the_command_gives_the_rewards_that_data_score_gives(reward_model, tmp_path, capsys):
    rows = [
        {"prompt": f"What is {i}?", "responses": ["one", "**two** or more of it", "three " * i], "scores": [0, i, 2]}
        for i in range(1, 9)
    ]
    path, out = write(tmp_path, rows), tmp_path / "out"
    assert (
        main(
            [
                "data",
                "score",
                str(path),
                str(tmp_path / "scored.jsonl"),
                "--column",
                "score",
                "--reward",
                str(reward_model),
            ]
        )
        == 0
    )
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    words = ["eval", str(reward_model), "--tasks", f"reward:{path}", "--out", str(out)]
    assert main(words) == 0
    (task,) = json.loads((out / "results.json").read_text())["tasks"].values()
    found = task["results"]
    assert found["pair_accuracy"]["low"] <= found["pair_accuracy"]["value"] <= found["pair_accuracy"]["high"]
    page = (out / "report.html").read_text()
    assert "Calibration" in page
    assert "Reward over length" in page
    assert page.count("<svg") == 2
    rewards = [row["score"] for row in scored]
    margins = [
        r[i] - r[j]
        for row, r in zip(rows, rewards, strict=True)
        for i, j in itertools.permutations(range(3), 2)
        if row["scores"][i] > row["scores"][j]
    ]
    assert found["margin"]["value"] == pytest.approx(np.mean(margins), abs=1e-5)


def test_a_model_without_rewards_and_an_answer_that_is_too_long(reward_model, model_folders, tmp_path, capsys):
    path = write(tmp_path, [{"prompt": "Why?", "chosen": "So. " * 400, "rejected": "No."}])
    words = ["--tasks", f"reward:{path}", "--out", str(tmp_path / "out")]
    assert main(["eval", str(model_folders[0]), *words]) == 2
    assert "the model is no reward model" in capsys.readouterr().err
    assert main(["eval", str(reward_model), *words]) == 2
    assert "rows.jsonl, row 1" in capsys.readouterr().err
    assert main(["eval", str(reward_model), *words, "--set", "reward.truncation=response_right"]) == 0
    (task,) = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"].values()
    assert task["results"]["cut"]["value"] == 1


def test_groups_of_subsets_have_their_own_style_and_phi():
    made = [
        dataclasses.replace(one, group=("adversarial", "subjective")[i % 2])
        for i, one in enumerate(random_lists(20, style=True))
    ]
    found = TASK.further(made)
    alone = TASK.further([one for one in made if one.group == "subjective"])
    for name in ("style_loss", "uncontrolled_loss", "style_accuracy", "phi_longer", "phi_markdown_gold"):
        assert found[f"{name}_subjective"] == alone[name]
    assert found["style_loss_adversarial"].n == 10
    assert "style_loss_adversarial" not in alone
