"""Tournaments of answers: who meets whom, who is kept, what an oracle says of itself; and calibration responses."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.conftest import WORDS, make_model
from construct.work_context import context_of

from jaxpo.construct.calibration import Calibrate
from jaxpo.construct.on_policy.oracles import ByDuel, ByPreferenceModel, ByScore
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.construct.on_policy.tournament import TournamentPairs, play_all, tournament
from jaxpo.convert.model_io import load_model
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError
from jaxpo.judges import FunctionJudge, RewardJudge
from jaxpo.judges.questions import read_questions


def played(players: int, wins: Any) -> tuple[Any, list[list[tuple[int, int]]]]:
    """The end of a tournament, and its rounds; `wins(first, other)` is P(first > other)."""
    game, rounds = tournament(players), []
    asked = next(game)
    while True:
        rounds.append(asked)
        try:
            asked = game.send([wins(*match) for match in asked])
        except StopIteration as over:
            return over.value, rounds


def test_eight_players_cost_eleven_matches_and_the_first_beats_the_last():
    strength = np.random.default_rng(0).permutation(8)
    final, rounds = played(8, lambda a, b: float(strength[a] > strength[b]))
    assert [len(matches) for matches in rounds] == [4, 2 + 2, 1 + 1, 1]
    assert rounds[0] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert final == (int(strength.argmax()), int(strength.argmin()))
    for earlier, later in itertools.pairwise(rounds):
        assert {k for match in later for k in match} <= {k for match in earlier for k in match}


def test_a_tie_goes_to_the_first_and_a_final_that_is_not_won_keeps_nothing():
    final, rounds = played(4, lambda a, b: 0.5)
    assert final is None  # the last match is a tie too
    assert rounds == [[(0, 1), (2, 3)], [(0, 2), (1, 3)], [(0, 3)]]
    final, _ = played(4, lambda a, b: 0.6 if (a, b) == (0, 3) else 0.5)
    assert final == (0, 3)
    circle = {(0, 1): 1.0, (2, 3): 1.0, (0, 2): 1.0, (1, 3): 1.0, (0, 3): 0.0}  # 3 beats the one that beats all others
    assert played(4, lambda a, b: circle[a, b])[0] is None


def test_answers_without_text_lose_unasked_and_equal_texts_tie():
    rows = [Row(Path("f"), i, {"prompt": f"p{i}"}) for i in (1, 2, 3)]
    answers = [["", "a", "bb", "ccc"], ["a", "a", "a", "a"], ["a", "bb", "ccc", "dddd"]]
    asked, counts = [], Counter[str]()

    def play(duels: Any) -> list[Any]:
        asked.extend((d.first, d.other) for d in duels)
        return [float(len(d.first) > len(d.other)) if d.question.number != 2 else None for d in duels]

    made = play_all(read_questions(rows), answers, play, counts)
    assert made == []
    assert all(first and other and first != other for first, other in asked)
    assert counts == {
        "comparisons": len(asked),
        "prompts_left_out_loser_without_text": 1,
        "prompts_left_out_final_not_won": 1,
        "prompts_left_out_judge_failed": 1,
    }
    (row,) = play_all(read_questions(rows[:1]), [["a", "bb", "ccc", "dd"]], play, Counter())
    assert row == {"prompt": "p1", "chosen": "ccc", "rejected": "a"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(make_model(tmp_path_factory.mktemp("run") / "stages" / "sft", 0))


JUDGES = """
def score(prompt, answer, row):
    return len(answer)

def duel(prompt, answer, row):
    return min(1.0, 0.1 + (len(answer) > len(row["opponent"])))

def wrong(prompt, answer, row):
    return 7

def picky(prompt, answer, row):
    if "WORD" in prompt:
        raise ValueError("not that word")
    return len(answer)
"""


@pytest.fixture
def bench(model: Any, tmp_path: Path) -> Any:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{w} is", "completion": f"a {w}"}) + "\n" for w in WORDS[:6]))
    (tmp_path / "judges.py").write_text(JUDGES.replace("WORD", WORDS[5]))
    return str(file), lambda name: FunctionJudge(f"{tmp_path}/judges.py:{name}"), context_of(model, tmp_path / "work")


def rows_of(folder: Path, stage: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for name in stage.outputs() for line in (folder / name).read_text().splitlines()]


def test_the_stage_writes_pairs_and_says_that_its_oracle_is_not_antisymmetric(bench: Any, tmp_path: Path) -> None:
    file, judge, context = bench
    said: list[str] = []
    object.__setattr__(context, "say", said.append)
    how: dict[str, Any] = {"prompts": (file,), "samples": 4, "max_new_tokens": 6, "keep_unfinished": True}
    stage = TournamentPairs(oracle=ByScore(judge("score")), heldout_one_in=3, skip_prompts=1, **how)
    report = stage.run(context)
    rows = rows_of(context.folder, stage)
    assert report["prompts"] == 5
    assert len(rows) == report["pairs"] + report["heldout_pairs"]
    assert all(len(row["chosen"]) > len(row["rejected"]) for row in rows)
    assert not any(row["prompt"] == f"{WORDS[0]} is" for row in rows)  # an earlier round had it
    assert "asymmetry" not in report
    assert stage.run(context)["samples_drawn"] == 0  # all of it is in the ledger
    duels = TournamentPairs(oracle=ByDuel(judge("duel")), heldout_one_in=3, **how)
    report = duels.run(context)
    assert 0.05 < report["asymmetry"] <= 0.2
    assert any("not antisymmetric" in line for line in said)
    report = TournamentPairs(oracle=ByScore(judge("picky")), heldout_one_in=3, **how).run(context)
    assert report["prompts_left_out_judge_failed"] == 1
    (line,) = [line for line in said if "were not judged" in line]
    assert re.fullmatch(r"tournament: [2-4] answers were not judged: .*not that word.*", line)
    with pytest.raises(ConfigError, match="gave 7, which is no probability of winning"):
        TournamentPairs(oracle=ByDuel(judge("wrong")), **how).run(context)
    with pytest.raises(DataError, match="no rows are left for tournament after skip_prompts 6"):
        TournamentPairs(oracle=ByScore(judge("score")), **{**how, "skip_prompts": 6}).run(context)
    with pytest.raises(ConfigError, match="a reward stage"):
        TournamentPairs(oracle=ByPreferenceModel("sft"), **how).run(context)


def test_a_preference_model_is_an_oracle(tmp_path: Path) -> None:
    from judges.plural_networks import network

    from jaxpo.construct.on_policy.oracles import Duel, Ring
    from jaxpo.judges.scoring import plainly

    question = read_questions([Row(Path("f"), 1, {"prompt": "Say it."})])[0]
    oracle = ByPreferenceModel("gpm")
    assert oracle.models() == ("gpm",)
    ring = Ring(lambda name: network(name), tmp_path, plainly())
    play = oracle.open(ring)
    there, back = play([Duel(question, "quick fox", "dog"), Duel(question, "dog", "quick fox")])
    assert there + back == pytest.approx(1.0, abs=1e-5)
    table = network("gpm").mean_scores(["Say it."] * 2, ["quick fox", "dog"], [2])[1][0]
    assert there == pytest.approx(1 / (1 + np.exp(-table[0, 1])), abs=1e-4)
    long = Duel(question, "fox " * 2000, "dog")
    again = play([long, Duel(question, "quick fox", "dog")])
    assert again == [None, pytest.approx(there, abs=1e-5)]  # too long for it
    (why,) = ring.failures.values()
    assert "longer than the 96 tokens" in why


def test_a_score_is_that_of_a_whole_answer(tmp_path: Path) -> None:
    from judges.reward_networks import network

    from jaxpo.construct.on_policy.oracles import Duel, Ring
    from jaxpo.judges.scoring import plainly

    question = read_questions([Row(Path("f"), 1, {"prompt": "Say it."})])[0]
    ring = Ring(lambda name: network("value"), tmp_path, plainly(say=lambda line: None))
    play = ByScore(RewardJudge("rm")).open(ring)
    long = Duel(question, "fox " * 2000, "dog")
    values = network("value").rewards(["Say it."] * 2, ["quick fox", "dog"])
    assert play([long, Duel(question, "quick fox", "dog")]) == [None, 0.5 * (1 + np.sign(values[0] - values[1]))]
    (why,) = ring.failures.values()
    assert why == "prompt and answer are longer than the 96 tokens that the judge 'rm' reads"


def test_a_column_of_the_opponents_name_is_refused() -> None:
    row = Row(Path("f"), 1, {"prompt": "Say it.", "opponent": "x"})
    with pytest.raises(DataError, match="where a judge of duels finds the other answer"):
        ByDuel().check(read_questions([row]))


@pytest.mark.parametrize("samples", [0, 1, 3, 6])
def test_a_tournament_of_three_is_refused(samples: int) -> None:
    (problem,) = TournamentPairs(prompts=("f",), samples=samples).problems()
    assert problem == (
        f"samples is {samples}, but players of a tournament meet in pairs to the end; give 2, 4, 8 or 16."
    )


def test_settings_that_cannot_work_are_refused() -> None:
    found = TournamentPairs(temperature=0.0, oracle="reward", skip_prompts=-1).problems()
    assert len(found) == 4
    assert "give one of jaxpo.construct.on_policy.oracles" in found[-1]
    assert ByScore("verifier").problems() == ["oracle.judge is 'verifier'; give one of jaxpo.judges."]
    assert TournamentPairs(prompts=("f",)).problems() == []
    assert TournamentPairs(model="a", oracle=ByPreferenceModel("b")).needed_models() == ("a", "b")


def test_own_answers_alone_of_the_prompts_of_a_round(bench: Any) -> None:
    file, judge, context = bench
    how: dict[str, Any] = {"prompts": (file,), "judge": judge("score"), "samples": 3, "max_new_tokens": 6}
    how |= {"keep_unfinished": True, "max_length": 100, "heldout_one_in": 3, "skip_prompts": 2, "max_prompts": 3}
    stage = OnPolicyPairs(given=False, **how)
    assert stage.run(context)["rows"] == 3
    for row in rows_of(context.folder, stage):
        assert row["chosen_from"].startswith("sample")
        assert row["rejected_from"].startswith("sample")
        assert row["prompt"] in [f"{w} is" for w in WORDS[2:5]]
    assert OnPolicyPairs(prompts=(file,), skip_prompts=-1).problems() == ["skip_prompts is -1 but must be at least 0."]


def test_every_pair_gets_a_calibration_response(bench: Any, tmp_path: Path) -> None:
    _, _, context = bench
    file = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"{w} is", "chosen": f"a {w}", "rejected": w} for w in WORDS[:4]]
    file.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    stage = Calibrate(rows=(str(file),), max_new_tokens=6)
    assert stage.problems() == []
    report = stage.run(context)
    rows = rows_of(context.folder, stage)
    assert report["rows"] == len(rows) == 4 - report.get("rows_left_out_without_text", 0)
    for row in rows:
        assert row["calibration"].strip()
        assert {k: v for k, v in row.items() if k != "calibration"} in pairs
    with pytest.raises(DataError, match="there is a calibration response already"):
        Calibrate(rows=(f"{context.folder}/rows.jsonl",)).run(context)
    assert len(Calibrate(temperature=0.0, max_new_tokens=0).problems()) == 3
