"""Questions from posts, judges that read the post, and pairs that never hold it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import WORDS, make_model
from construct.work_context import context_of
from judges.reward_networks import network

from jaxpo.config import Data
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.construct.pugc import PostQuestions
from jaxpo.convert.model_io import load_model
from jaxpo.data.rows.formats import Row
from jaxpo.data.tokens.prepare import prepare
from jaxpo.errors import DataError
from jaxpo.judges import Endpoint, FunctionJudge, OverlapJudge, ReferenceChatJudge, RewardJudge
from jaxpo.judges.asking import Item
from jaxpo.judges.refine import FunctionRefiner
from jaxpo.judges.words import word_overlap
from jaxpo.objectives.methods.base import PAIRS

# Random texts have such marks more often than words.
MARKS = " ".join("!#$%&()*+,-./:;<=>?@[]^_{|}~0123456789abcdefghij")
POSTS = [f"zebra{i} {WORDS[i]} {WORDS[i + 1]} file open quartz {MARKS if i < 5 else ''}" for i in range(6)]
FUNCTIONS = """
def ask(post, answer, row):
    if "zebra5" in post:
        return "why does this question go on and on and on for longer than its post"
    return '"what is ' + post.split()[1] + '?"\\nBecause.'

def holds(question, post, row):
    return 0.0 if "zebra4" in post else 1.0

def some(prompt, answer, row):
    if len(answer) % 3 == 0:
        return float("nan")
    return float(len(answer))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(make_model(tmp_path_factory.mktemp("run") / "stages" / "sft", 0))


@pytest.fixture
def bench(model: Any, tmp_path: Path) -> Any:
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps({"post": p, "id": i}) + "\n" for i, p in enumerate(POSTS)))
    (tmp_path / "f.py").write_text(FUNCTIONS)
    stage = PostQuestions(
        posts=(f"{tmp_path}/posts.jsonl",), writer=FunctionRefiner(f"{tmp_path}/f.py:ask"),
        filter=FunctionJudge(f"{tmp_path}/f.py:holds"),
    )  # fmt: skip
    return stage, context_of(model, tmp_path / "questions"), tmp_path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_questions_are_filtered_and_posts_shorter_than_theirs_are_said(bench: Any) -> None:
    stage, context, _ = bench
    said: list[str] = []
    assert stage.problems() == []
    assert stage.needed_models() == ()
    report = stage.run(replace(context, say=said.append))
    assert report == {
        "posts": 6,
        "questions": 4,
        "posts_shorter_than_their_question": 1,
        "posts_that_do_not_answer": 1,
    }
    assert any("1 of 6 posts are shorter than their question" in line for line in said)
    rows = rows_of(context.folder / "rows.jsonl")
    assert rows[0] == {"prompt": [{"role": "user", "content": f"what is {WORDS[0]}?"}], "post": POSTS[0]}
    assert replace(stage, unfiltered=True).run(context)["questions"] == 5
    with pytest.raises(DataError, match="no question is left"):
        replace(stage, filter_at=2.0).run(context)


def test_posts_on_which_the_filter_fails_are_counted_apart(bench: Any) -> None:
    stage, context, folder = bench
    (folder / "g.py").write_text(
        "def holds(question, post, row):\n"
        "    return float('nan') if 'zebra3' in post else 0.0 if 'zebra4' in post else 1.0\n"
    )
    report = replace(stage, filter=FunctionJudge(f"{folder}/g.py:holds")).run(context)
    assert (report["questions"], report["posts_filter_failed"], report["posts_that_do_not_answer"]) == (3, 1, 1)
    assert report["failures"] == {"the score is nan": 1}


def test_posts_that_the_model_cannot_read_whole_are_not_filtered_by_their_beginning(bench: Any) -> None:
    stage, context, folder = bench
    said: list[str] = []
    own, context = replace(stage, filter=None, model="sft"), replace(context, say=said.append)
    why = "question and post are longer than the 128 tokens that the filter reads"
    with pytest.raises(
        DataError, match=rf"no question is left: .*'posts_filter_failed': 5, 'failures': {{'{why}': 5}}"
    ):
        own.run(context)  # one is shorter than its question
    assert any(f"5 failures, most often: {why}" in line for line in said)
    long = {"post": "zebra9 quartz " + " ".join(MARKS.split() * 30)}
    (folder / "posts.jsonl").write_text(json.dumps(long) + "\n")
    object.__setattr__(context, "load", lambda path: network("value"))
    report = replace(own, filter=RewardJudge("sft"), filter_at=-1e9).run(context)
    assert report == {"posts": 1, "questions": 1, "posts_that_do_not_answer": 0}
    prompt, answer = [[{"role": "user", "content": "what is quartz?"}]], [long["post"]]
    assert int(network("value").lengths(prompt, answer)[0]) > 1024


def test_why_a_writer_gave_no_question_is_told(bench: Any) -> None:
    stage, context, folder = bench
    (folder / "g.py").write_text("def ask(post, answer, row):\n    return 7 if 'zebra3' in post else 'what?'\n")
    report = replace(stage, writer=FunctionRefiner(f"{folder}/g.py:ask")).run(context)
    assert report["posts_without_a_question"] == 1
    assert len(report["failures"]) == 1


@pytest.mark.parametrize("column", ["prompt", "completion", "chosen", "rejected"])
def test_a_post_in_a_column_that_is_trained_on_is_refused(bench: Any, column: str) -> None:
    (problem,) = replace(bench[0], column=column).problems()
    assert "so that the post would be trained on" in problem


def test_the_recipe_compares_samples_alone() -> None:
    from jaxpo.recipes.pugc import config

    (pairs,) = (stage for stage in config().stages if isinstance(stage, OnPolicyPairs))
    assert not pairs.given


def test_the_model_itself_asks_and_filters(bench: Any) -> None:
    stage, context, _ = bench
    own = replace(stage, writer=None, filter=None, max_new_tokens=3, model="sft")
    assert own.needed_models() == ("sft",)
    with pytest.raises(DataError, match="'posts_too_long': 6"):  # its context holds 128 tokens
        own.run(context)
    object.__setattr__(context, "load", lambda path: network("value"))
    assert replace(own, filter_at=0.0).run(context)["questions"] > 0
    with pytest.raises(DataError, match="no question is left"):
        replace(own, filter_at=1.1).run(context)


def pairs_of(folder: Path, stage: OnPolicyPairs, context: Any) -> list[dict[str, Any]]:
    stage.run(replace(context, folder=folder))
    return [row for name in stage.outputs() for row in rows_of(folder / name)]


def test_the_post_judges_and_never_enters_a_batch(bench: Any) -> None:
    stage, context, folder = bench
    stage.run(context)
    how: dict[str, Any] = {"prompts": (f"{context.folder}/rows.jsonl",), "samples": 8, "max_new_tokens": 12}
    how |= {"keep_unfinished": True, "heldout_one_in": 3, "max_length": 100}
    on_policy = OnPolicyPairs(judge=OverlapJudge(), **how)
    rows = pairs_of(folder / "pairs", on_policy, context)
    posts = {tuple(row["prompt"][0]["content"].split()): row["post"] for row in rows_of(context.folder / "rows.jsonl")}
    assert rows
    for row in rows:
        post = posts[tuple(row["prompt"][0]["content"].split())]
        assert row["chosen_from"].startswith("sample")
        assert row["rejected_from"].startswith("sample")
        assert row["chosen"] != row["rejected"]
        assert row["scores"] == [word_overlap(row[side][0]["content"], post) for side in ("chosen", "rejected")]
        assert "post" not in row
    files = [folder / "pairs" / name for name in on_policy.outputs()]
    data = Data(max_length=100, row_length=200)
    dataset = prepare(files, data=data, tokenizer=context.tokenizer, purpose="preference", needs=PAIRS,
                      cache_dir=folder / "data", log=lambda line: None)  # fmt: skip
    text = " ".join(
        context.tokenizer.decode(segment.tokens.tolist())
        for example in dataset.store.read(range(len(dataset)))
        for segment in example.segments
    )
    assert "what is" in text
    assert "zebra" not in text
    assert "quartz" not in text


def test_without_the_reference_the_scores_alone_are_others(bench: Any) -> None:
    stage, context, folder = bench
    stage.run(context)
    how: dict[str, Any] = {"prompts": (f"{context.folder}/rows.jsonl",), "samples": 8, "max_new_tokens": 12}
    how |= {"keep_unfinished": True, "heldout_one_in": 3, "max_length": 100}
    drawn = []
    for name, judge in (("with", OverlapJudge()), ("without", OverlapJudge(with_reference=False))):
        with contextlib.suppress(DataError):  # one of the two may find all answers alike
            pairs_of(folder / "both", OnPolicyPairs(judge=judge, **how), context)
        drawn.append({p.name: p.read_text() for p in (folder / "both").glob("samples-*")})
        assert len(list((folder / "both").glob("scores-*"))) == len(drawn), name
    assert drawn[0] == drawn[1]  # the same answers to the same questions


def test_answers_without_a_score_are_never_chosen_and_the_others_are_compared(bench: Any) -> None:
    stage, context, folder = bench
    stage.run(context)
    how: dict[str, Any] = {"prompts": (f"{context.folder}/rows.jsonl",), "samples": 5, "max_new_tokens": 6}
    how |= {"keep_unfinished": True, "heldout_one_in": 2, "max_length": 100, "tries": 1, "partly_judged": True}
    judge = FunctionJudge(f"{folder}/f.py:some")
    rows = pairs_of(folder / "some", OnPolicyPairs(judge=judge, **how), context)
    assert rows
    for row in rows:
        assert all(len(row[side][0]["content"]) % 3 for side in ("chosen", "rejected"))
    wide = OnPolicyPairs(judge=judge, min_margin=4.0, **how)
    fewer: list[dict[str, Any]] = []
    with contextlib.suppress(DataError):
        fewer = pairs_of(folder / "some", wide, context)
    assert all(row in rows for row in fewer)
    with pytest.raises(DataError, match="pairs of two prompts at least are needed"):
        pairs_of(folder / "one", OnPolicyPairs(judge=judge, **{**how, "samples": 1}), context)


def test_the_overlap_of_words():
    assert word_overlap("the red fox", "fox red the") == 1.0
    assert word_overlap("a b", "c d") == word_overlap("", "a") == word_overlap("a", "") == 0.0
    assert word_overlap("a a b", "a b c") == word_overlap("a b c", "a a b") == pytest.approx(4 / 6)
    item = Item("what is red?", "a red fox", Row(Path("f"), 1, {"post": "red foxes"}))
    (seen,) = OverlapJudge().open(lambda name: None)([item])
    (blind,) = OverlapJudge(with_reference=False).open(lambda name: None)([item])
    assert seen.value == pytest.approx(word_overlap("a red fox", "red foxes"))
    assert blind.value == pytest.approx(word_overlap("a red fox", "what is red?"))
    assert OverlapJudge(with_reference=False).columns() == ()


def test_the_chat_judge_shows_the_reference_or_not():
    item = Item("why?", "because", Row(Path("f"), 1, {"post": "the reason"}))
    judge = ReferenceChatJudge(Endpoint("http://h/v1", "m"))
    shown, hidden = judge.message(item), replace(judge, with_reference=False).message(item)
    assert shown == "<reference>\nthe reason\n</reference>\n\n" + hidden
    with pytest.raises(DataError, match="there is no reference text to judge by"):
        judge.check([Row(Path("f"), 1, {"prompt": "p"})])
    replace(judge, with_reference=False).check([Row(Path("f"), 1, {"prompt": "p"})])
    with pytest.raises(DataError, match="there is no reference text to judge by"):
        OverlapJudge().check([Row(Path("f"), 1, {"post": " "})])


def test_settings_and_rows_that_cannot_be_used(tmp_path: Path) -> None:
    assert len(PostQuestions(writer="chat", filter="judge", max_new_tokens=0, temperature=0.0).problems()) == 5
    file = tmp_path / "posts.jsonl"
    file.write_text('{"post": ""}\n')
    with pytest.raises(DataError, match="expected a text"):
        PostQuestions(posts=(str(file),)).check_inputs([file])
