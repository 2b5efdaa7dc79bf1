"""What a run says to data its method cannot use: file, row, field and remedy, before anything is trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stages.recipe as recipes

from jaxpo.config import SFT, Data, Online, Preference, Reward, Run, Stage, Tokenizer
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.errors import DataError
from jaxpo.objectives.methods import METHODS
from jaxpo.online.rewards import VerifierReward
from jaxpo.recipe.checks.run import find_problems
from jaxpo.stages.run_inputs import RunInputs, make_inputs

PAIR = {"prompt": "p ", "chosen": "good", "rejected": "bad"}
GOOD = {"prompt": "p ", "completion": "good", "label": True}
BAD = {"prompt": "q ", "completion": "bad", "label": False}
LIST = {"prompt": "p ", "responses": ["a", "b", "c"], "scores": [0.9, 0.5, 0.1]}
TREE = {"prompt": "p ", "steps": [["a ", "b"], ["c"]], "scores": [1.0, 0.0]}
Row = dict[str, Any]
Prepare = Callable[..., RunInputs]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["good bad open close"] * 4, 300).save(folder)
    return folder


@pytest.fixture
def prepare(tmp_path: Path, tokenizer: Path) -> Prepare:
    """What a run does first: `prepare(stage, row, row, ..., held_out=[row, ...], say=...)`."""

    def make(stage: Stage, *rows: Row, held_out: tuple[Row, ...] = (), say: Any = lambda line: None) -> RunInputs:
        files = {"train": rows, "eval": held_out}
        for name, content in files.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        named = {name: (str(tmp_path / f"{name}.jsonl"),) for name, content in files.items() if content}
        stage = dataclasses.replace(stage, data=Data(max_length=32, row_length=64, **named), max_steps=1)
        run = Run(model=recipes.MODEL, tokenizer=Tokenizer(path=str(tokenizer)), stages=(stage,))
        assert list(find_problems(run)) == []
        return make_inputs(run, tmp_path / "run", say)

    return make


def method(name: str, **settings: Any) -> Preference:
    loss = METHODS[name](**settings)
    return Preference(loss=loss, precompute_ref_log_probs=loss.NEEDS.kind("reference") != "vocab")


# What a stage lacks, or cannot use, in which row (None: in the whole file) and column; and what to do.
CASES: dict[str, tuple[Stage, list[Row], int | None, str, str]] = {
    # A method without its column.
    "no margin of rewards": (method("modpo"), [PAIR], 1, "rewards", r"missing.* Add a column `rewards`"),
    "no list": (method("lipo"), [PAIR], 1, "responses", "'responses' is missing"),
    "no tree": (method("tpo_tree"), [LIST], 1, "steps", "'steps' is missing"),
    "no items": (method("irpo_ranking"), [PAIR], 1, "items", "'items' is missing"),
    "no rationale": (method("rationales"), [PAIR], None, "rationale", r"Add it to some rows, or choose"),
    "no instructions": (method("mapl"), [PAIR], None, "inter_prompt", r"Add it to some rows, or choose"),
    "no instructions for a reward": (
        Reward(loss=METHODS["mapl_reward"]()),
        [PAIR],
        None,
        "inter_prompt",
        r"Add it to some rows, or choose",
    ),
    "no gold": (method("tpo_triple"), [PAIR], 1, "gold", "'gold' is missing"),
    "no phrases": (method("rrpo"), [PAIR], 1, "chosen_spans", "'chosen_spans' is missing"),
    "no key phrases": (method("spo_degree"), [PAIR], 1, "chosen_keywords", "'chosen_keywords' is missing"),
    "no votes": (method("sppo_soft"), [PAIR], 1, "votes", r"Add a column `votes`"),
    "no label": (method("kto"), [{"prompt": "p", "completion": "c"}], 1, "label", "Add a column `label`: true for"),
    "no pair": (method("dpo"), [GOOD, BAD], 1, "chosen", "'chosen' is missing"),
    "no pair for a reward": (Reward(), [GOOD, BAD], 1, "chosen", "'chosen' is missing"),
    "no demonstration": (
        SFT(loss=METHODS["implicit_reward"]()),
        [PAIR],
        1,
        "completion",
        "rename `chosen` to `completion`",
    ),
    "a later row lacks it": (
        method("sppo_soft"),
        [{**PAIR, "votes": [2, 1]}, PAIR],
        2,
        "votes",
        "the file's other rows have it.*add it or remove the row",
    ),
    # Lists.
    "one response": (
        method("lipo"),
        [LIST, {**LIST, "responses": ["a"], "scores": [1.0]}],
        2,
        "responses",
        r"1 response\(s\); a ranked list needs at least 2\. Remove the row",
    ),
    "one branch": (method("tpo_tree"), [{**TREE, "steps": [["a"]], "scores": [1]}], 1, "steps", "needs at least 2"),
    "more responses than scores": (
        method("lipo"),
        [LIST, {**LIST, "scores": [0.9, 0.5]}],
        2,
        "scores",
        r"3 responses but 2 scores\. Give one per response",
    ),
    "a tie": (
        method("pro_ranking"),
        [LIST, {**LIST, "scores": [0.5, 0.5, 0.1]}],
        2,
        "scores",
        r"1 list\(s\) hold responses with equal scores.*leave out tied responses.*or set ties",
    ),
    "a tie in a Plackett-Luce order": (
        method("lipo", loss_type="list_mle"),
        [{**LIST, "scores": [0.5, 0.5, 0.1]}, LIST],
        1,
        "scores",
        r"a Plackett-Luce order has no ties; leave out",
    ),
    "nothing but a tie": (
        method("pro_ranking", ties="order"),
        [LIST, LIST, {**LIST, "scores": [0.5, 0.5, 0.5]}],
        3,
        "scores",
        r"all scores are equal in 1 list\(s\).*remove these lists",
    ),
    "scores beyond 1": (
        method("lipo"),
        [LIST, {**LIST, "scores": [7.0, 0.5, 0.1]}],
        2,
        "scores",
        r"scores lie between 0\.1 and 7, .*rescale them to win probabilities, or set gain to False",
    ),
    "grades beyond 1": (method("tpo_tree"), [{**TREE, "scores": [100, 0]}], 1, "scores", r"rescale them, for example"),
    "nan score": (method("lipo"), [{**LIST, "scores": [1, float("nan"), 0]}], 1, "scores", "nan is not finite"),
    # Numbers of pairs.
    "nan margin": (Reward(), [{**PAIR, "margin": 1.0}, {**PAIR, "margin": float("nan")}], 2, "margin", "nan is not"),
    "infinite margin": (Reward(), [{**PAIR, "margin": float("-inf")}], 1, "margin", r"-inf is not finite\. Use a fin"),
    "margin of another method": (method("dpo"), [{**PAIR, "margin": float("nan")}], 1, "margin", "nan is not finite"),
    "nan reward": (method("modpo"), [{**PAIR, "rewards": {"x": [1, float("nan")]}}], 1, "rewards", "nan is not finite"),
    "more rewards than weights": (
        method("modpo"),
        [{**PAIR, "rewards": {"x": [1, 2], "y": [0, 1]}}],
        1,
        "rewards",
        r"2 reward\(s\) per response, but weights has 2 entries; give 3",
    ),
    "an annotator without a rate": (
        method("rdpo_robust", annotator_label_smoothing=(0.1,)),
        [{**PAIR, "annotator": "ann"}, {**PAIR, "annotator": "bob"}],
        2,
        "annotator",
        r"runs from 0 to 1, .* has 1 entries; give one for every annotator",
    ),
    # Single responses.
    "label 2": (method("kto"), [GOOD, {**BAD, "label": 2}], 2, "label", r"2 is not a label\. Use true/false or 1/0"),
    "label -1": (method("bco"), [{**BAD, "label": -1}, GOOD], 1, "label", r"-1 is not a label\. Use true/false"),
    "kto on good ones alone": (method("kto"), [GOOD, GOOD | {"prompt": "q"}], None, "label", "Add rows with label fal"),
    "bco on bad ones alone": (method("bco"), [BAD, BAD], None, "label", "no row is labelled good.*Add rows with label"),
    "one row for KTO": (method("kto"), [GOOD], 1, "completion", "there is no other row"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_named_before_anything_is_trained(prepare: Prepare, tmp_path: Path, name: str) -> None:
    stage, rows, row, field, words = CASES[name]
    with pytest.raises(DataError, match=words) as caught:
        prepare(stage, *rows)
    where = "" if row is None else f", row {row}"
    assert str(caught.value).startswith(f"{tmp_path / 'train.jsonl'}{where}, field {field!r}: ")


def test_signed_margins_and_responses_of_unequal_number_are_sound(prepare: Prepare) -> None:
    data = prepare(Reward(), {**PAIR, "margin": -0.5}, {**PAIR, "margin": 2}).stages["reward"].train
    assert [example.columns["margin"] for example in data.store.read([0, 1])] == [-0.5, 2.0]
    lists = [LIST, {"prompt": "p ", "responses": ["a", "b"], "scores": [1.0, 0.0]}]
    assert len(prepare(method("lipo"), *lists).stages["preference"].train) == 2


def answering(**changes: Any) -> Online:
    """A stage on answers of its own model, as small as can be."""
    sizes = {"num_generations": 2, "prompts_per_step": 2, "max_completion_length": 8, "rows_per_step": 4}
    return Online(**{**sizes, "reward_funcs": (VerifierReward(),), **changes})


def test_a_row_that_a_reward_cannot_use_is_named_before_any_stage(prepare: Prepare, tmp_path: Path) -> None:
    asked, bare = {"prompt": "p ", "answer": "4"}, {"prompt": "q "}
    assert prepare(answering(), asked, held_out=(asked,)).stages["online"].held_out is not None
    with pytest.raises(DataError, match=r"train.jsonl, row 2, field 'answer': column 'answer' holds no number"):
        prepare(answering(), asked, bare)
    # Held-out prompts are answered, too; those that are not measured may be anything.
    with pytest.raises(DataError, match=r"eval.jsonl, row 2, field 'answer'"):
        prepare(answering(), asked, held_out=(asked, bare))
    prepare(answering(eval_rows=1), asked, held_out=(asked, bare))
    with pytest.raises(DataError, match="column 'name' is empty or missing, which names the problem"):
        prepare(answering(loss=METHODS["hapo"](problem="name")), asked)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("simpo", "not used: the method has no reference model."),
        ("dpo", "ignored: reference log-probs are computed anew from the reference model"),
    ],
)
def test_reference_log_probs_of_the_data_are_warned_about(prepare: Prepare, name: str, why: str) -> None:
    said: list[str] = []
    prepare(method(name), {**PAIR, "ref_chosen_logps": -1.0}, say=said.append)
    (line,) = [line for line in said if line.startswith("warning: ")]
    assert f"column ref_chosen_logps {why}" in line


VOTES = {**PAIR, "votes": [2, 1]}


def test_a_metric_that_needs_a_column_the_held_out_rows_lack(prepare: Prepare, tmp_path: Path) -> None:
    stage = dataclasses.replace(
        method("dpo"),
        diagnostics=("ranking_accuracy",),
        metric_for_best_model="eval_ranking_accuracy/idealised",
    )
    with pytest.raises(DataError, match=r"is measured on rows with a column 'votes'.* Add a column `votes`") as caught:
        prepare(stage, VOTES, held_out=(PAIR,))
    assert str(caught.value).startswith(f"{tmp_path / 'eval.jsonl'}, field 'votes': preference.metric_for_best_model")
    assert prepare(stage, PAIR, held_out=(VOTES,)).stages["preference"].held_out is not None
    unasked = dataclasses.replace(stage, metric_for_best_model="eval_ranking_accuracy")
    assert prepare(unasked, PAIR, held_out=(PAIR,)).stages["preference"].held_out is not None


def test_a_metric_that_needs_a_reference_the_method_does_not_have(tmp_path: Path, tokenizer: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(VOTES) + "\n")
    data = Data(train=(str(file),), eval=(str(file),), max_length=32, row_length=64)

    def problems(name: str, metric: str) -> list[str]:
        stage = dataclasses.replace(
            method(name), data=data, max_steps=1, diagnostics=("ranking_accuracy",), metric_for_best_model=metric
        )
        return list(find_problems(Run(model=recipes.MODEL, tokenizer=Tokenizer(path=str(tokenizer)), stages=(stage,))))

    (problem,) = problems("simpo", "eval_difficulty/mean")
    assert "a Preference stage has no metric 'eval_difficulty/mean'" in problem
    assert problems("dpo", "eval_difficulty/mean") == []
    assert problems("simpo", "eval_ranking_accuracy_norm") == []
