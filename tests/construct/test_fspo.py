"""FSPO's data: every episode is of one user, descriptions and two-step answers, personas that decide in the end."""

from pathlib import Path

import numpy as np
import pytest

from jaxpo.construct.base import Tools, constructions
from jaxpo.construct.fspo.descriptions import FSPOAnswers, FSPODescriptions, words_f1
from jaxpo.construct.fspo.episodes import FSPO, episodes
from jaxpo.construct.fspo.layout import few_shot
from jaxpo.construct.fspo.personas import FSPOPersonas
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError


def rows(data):
    return [Row(Path("pairs.jsonl"), i, dict(d)) for i, d in enumerate(data, start=1)]


def pair(user, i, **more):
    return {"prompt": f"q{user}{i}", "chosen": f"good {user}{i}", "rejected": f"bad {user}{i}", "user": user, **more}


PAIRS = [pair(user, i) for user, n in (("ann", 7), ("bob", 5), ("cy", 2)) for i in range(n)]


def run(construction, data, **networks):
    said = []
    tools = Tools(seed=0, networks=networks, say=said.append)
    return list(construction.run(rows(data), tools)), tools.counts, said


def test_every_episode_has_different_rows_of_one_user():
    made, counts, _ = run(FSPO(shots=2), PAIRS)
    assert counts == {
        "users": 3, "users_with_too_few_rows": 1, "rows_of_users_with_too_few": 2, "episodes": 6 * 2 + 6 * 1,
    }  # fmt: skip
    assert len(made) == 18
    for row in made:
        asked = [line for line in row["prompt"].splitlines() if line.startswith("q")]
        assert len(asked) == len(set(asked)) == 3
        assert all(question.startswith(f"q{row['user']}") for question in asked)
        assert row["chosen"] == f"## Preferred Response\ngood {asked[-1][1:]}"
        assert row["rejected"] == f"## Preferred Response\nbad {asked[-1][1:]}"
    assert {row["user"] for row in made} == {"ann", "bob"}


def test_the_window_wastes_rows_and_tests_take_one_pass():
    rng = np.random.default_rng(0)
    assert len(list(episodes(12, 3, 4, 1, rng))) == 3
    assert len(list(episodes(12, 3, 5, 1, rng))) == 2
    assert not list(episodes(4, 3, 5, 1, rng))
    assert len(run(FSPO(shots=2, window=4, passes=1), PAIRS)[0]) == 2
    first, second = (list(episodes(8, 3, 4, 1, np.random.default_rng(s))) for s in (0, 1))
    assert first != second
    assert list(episodes(8, 3, 4, 1, np.random.default_rng(0))) == first


def test_the_prompt_shows_the_shots_then_the_task():
    text = few_shot([("ask", "yes", "no")], [{"role": "user", "content": "and now?"}])
    head = "# Example 1\n## Question\nask\n\n## Preferred Response\nyes\n\n## Dispreferred Response\nno\n\n# Task\n"
    assert text.startswith(head)
    assert text.endswith("\n\n## Question\nand now?\n\n")


def test_no_shots_leave_the_rows_as_they_are():
    made, _, _ = run(FSPO(shots=0, passes=1), PAIRS)
    key = lambda row: row["prompt"]  # noqa: E731
    assert sorted(made, key=key) == sorted(PAIRS, key=key)


def test_rows_to_begin_with_have_the_chosen_response_or_both():
    chosen, _, _ = run(FSPO(shots=2, form="sft"), PAIRS)
    both, _, _ = run(FSPO(shots=2, form="sft", targets="both"), PAIRS)
    assert len(both) == 2 * len(chosen)
    assert [row for row in both if "good" in row["completion"]] == chosen
    assert set(chosen[0]) == {"prompt", "completion", "user"}


def test_conversations_stay_conversations():
    turns = [
        {"prompt": [{"role": "user", "content": f"q{i}"}], "chosen": f"g{i}", "rejected": f"b{i}", "user": "u"}
        for i in range(3)
    ]
    made, _, said = run(FSPO(shots=1, passes=1), turns)
    assert made[0]["prompt"][0]["role"] == "user"
    assert "# Example 1" in made[0]["prompt"][0]["content"]
    assert made[0]["chosen"][0]["role"] == "assistant"
    assert "nobody to be told from" in said[0]


def test_users_are_held_out_whole():
    many = [pair(f"u{k}", i) for k in range(30) for i in range(3)]
    kept, held = (
        {row["user"] for row in run(FSPO(shots=1, users=part, heldout_users_one_in=3), many)[0]}
        for part in ("train", "held_out")
    )
    assert kept
    assert held
    assert kept | held == {f"u{k}" for k in range(30)}
    assert not kept & held


def test_rows_that_cannot_be_used_are_named():
    with pytest.raises(DataError, match=r"has the 9 rows of an episode; the most are 7, of 'ann'"):
        run(FSPO(shots=8), PAIRS)
    with pytest.raises(DataError, match=r"row 1, field 'user'|user"):
        run(FSPO(shots=1), [{k: v for k, v in PAIRS[0].items() if k != "user"}])
    with pytest.raises(ConfigError, match="--window is 2 but an episode has 3 rows"):
        run(FSPO(shots=2, window=2), PAIRS)
    with pytest.raises(ConfigError, match="--shots is -1"):
        run(FSPO(shots=-1), PAIRS)
    assert {"fspo", "fspo_descriptions", "fspo_answers", "fspo_personas"} <= set(constructions())


class Scribe:
    """Writes what stands in a list, and remembers what it was asked."""

    def __init__(self, *texts):
        self.texts, self.asked = list(texts), []

    def generate(self, prompts, n, *, begun, stop, **settings):
        self.asked.append((list(prompts), list(begun)))
        assert "\n## " in stop
        return [[f"{self.texts[k % len(self.texts)]} " for k in range(n)] for _ in prompts]


DESCRIBED = {**pair("ann", 1), "prompt": "# Example 1 ...", "description": "likes short formal answers"}


def test_the_description_nearest_to_the_true_one_is_chosen():
    scribe = Scribe("likes long answers", "likes short answers", "is tall")
    made, _, _ = run(FSPODescriptions(n=3), [DESCRIBED], model=scribe)
    assert made[0]["chosen"] == "## User Description\nlikes short answers"
    assert made[0]["rejected"] == "## User Description\nis tall"
    assert made[0]["prompt"] == DESCRIBED["prompt"]
    assert words_f1("a b", "a b") == 1.0
    assert words_f1("a a", "a b") == 0.5
    none, counts, _ = run(FSPODescriptions(n=2), [DESCRIBED], model=Scribe("same"))
    assert none == []
    assert counts == {"rows_left_out_equally_near": 1}
    with pytest.raises(DataError, match="description"):
        run(FSPODescriptions(part="responses"), [PAIRS[0]])


def test_responses_are_learnt_given_the_description_and_written_in_two_steps():
    (given,), _, _ = run(FSPODescriptions(part="responses"), [DESCRIBED])
    assert given["prompt"] == "# Example 1 ...\n\n## User Description\nlikes short formal answers\n\n"
    assert given["chosen"] == DESCRIBED["chosen"]
    scribe = Scribe("text")
    (answered,), _, _ = run(FSPOAnswers(), [DESCRIBED], model=scribe)
    assert answered["description"] == answered["completion"] == "text"
    assert scribe.asked == [
        (["# Example 1 ..."], ["## User Description\n"]),
        (["# Example 1 ...\n\n## User Description\ntext\n\n"], ["## Preferred Response\n"]),
    ]
    (plain,), _, _ = run(FSPOAnswers(describe=False), [DESCRIBED], model=Scribe("text"))
    assert "description" not in plain


JUDGE = '''
def taste(prompt, answer, row):
    """Prefers blue, and what the persona is said to prefer; by a hair whatever stands first."""
    likes = lambda text: text == "blue" or f'prefers "{text}"' in row["persona"]
    return 5 + likes(row["first"]) - likes(row["second"]) + 0.25
'''


def test_a_persona_that_cannot_tell_is_refined_until_it_does(tmp_path):
    judge = tmp_path / "taste.py"
    judge.write_text(JUDGE)
    asked = [
        {"prompt": "colour?", "responses": ["red", "blue"], "user": "ann", "persona": "loves blue things"},
        {"prompt": "food?", "responses": ["rice", "bread"], "user": "ann", "persona": "loves blue things"},
        {"prompt": "food?", "responses": ["bread", "rice"], "user": "ann", "persona": "loves blue things"},
    ]
    construction = FSPOPersonas(judge=(f"{judge}:taste",))
    made, counts, said = run(construction, asked)
    assert made[0]["chosen"] == "blue"
    assert [row["decided"] for row in made] == [True, False, True]
    assert made[2]["chosen"] == made[1]["chosen"]
    assert counts == {"decided": 2, "drawn_and_added_to_the_persona": 1}
    assert made[1]["persona"].startswith('loves blue things Asked "food?", this user prefers "')
    assert made[0]["persona"] == "loves blue things"
    assert "the longer ones" in said[0]
    with pytest.raises(DataError, match="expected two responses"):
        run(construction, [{**asked[0], "responses": ["one"]}])
    with pytest.raises(ConfigError, match="--undecided is -1"):
        run(FSPOPersonas(undecided=-1.0), asked)
