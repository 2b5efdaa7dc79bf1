"""`jaxpo data construct`: options, what is refused, what is written and when, and constructions with a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxpo.construct.base import Construction, constructions
from jaxpo.data.tokens.inspect import inspect
from jaxpo.objectives.methods import METHODS, resolve
from jaxpo.recipe.uses import uses

Command = Callable[..., tuple[int, str, str]]
FILES = Path(__file__).parents[1] / "data" / "files"
SOLUTION = {"prompt": "3 * 4? ", "solution": ["3 * 4 ", "= 12."], "wrong": ["3 + 4 ", "= 7."]}
SCORED = {"prompt": "p", "chosen": "c", "rejected": "r", "scores_1": [1, 0], "scores_2": [2, 0]}
LISTS = {"prompt": "Films. ", "ground_truth": ["Alien", "Aliens"], "suggested": ["Dune"], "negatives": ["Toy Story"]}

# What can be made of the example files without a model: options, rows written, and what is said of the rest.
WITHOUT_A_MODEL: dict[str, tuple[str | dict[str, Any], list[str], str]] = {
    "dove": ("list.jsonl", [], "4 rows from 3, conditional_pairs 3, joint_pairs 1"),
    "irpo_ranking": (LISTS, ["--n", "4"], "1 rows from 1"),
    "lipo": ("list.jsonl", [], "3 rows from 3, dropped_empty_responses 1"),
    "mapl": ("preference.jsonl", [], "5 rows from 5"),
    "modpo": ("preference.jsonl", ["--source", "length"], "5 rows from 5"),
    "pro_ranking": ("list.jsonl", [], "3 rows from 3, dropped_empty_responses 1, dropped_tied_responses 1"),
    "rationales": ("rationale.jsonl", [], "5 rows from 5"),
    "rrpo": ("preference_chat.jsonl", [], "5 rows from 5, phrases 10"),
    "rso": ("list.jsonl", ["--n", "2"], "2 rows from 3, dropped_empty_responses 1, dropped_tied_pairs 1"),
    "spo_degree": ("preference.jsonl", [], "5 rows from 5, answers_without_key_phrase 0, key_phrases 12"),
    "secrets_rm": (SCORED, ["--policy", "margin"], "1 rows from 1, suspect 0"),
    "tpo_tree": (SOLUTION, [], "1 rows from 1, trees_with_fewer_branches 1"),
    "tpo_triple": ("list.jsonl", [], "3 rows from 3, empty_responses_ignored 1"),
    "worldpm": ("list.jsonl", ["--least-margin", "0.1"], "3 rows from 3"),
}
WITH_A_MODEL = {"bco": "unpaired.jsonl", "lcpo": "annotators.jsonl"}
# Their own files in tests/construct run them.
ELSEWHERE = {"on_policy", "hybrid_prefs", "lc_alpacaeval", "meta_rm"}
ELSEWHERE |= {"fspo", "fspo_answers", "fspo_descriptions", "fspo_personas", "themis"}
ELSEWHERE |= {"r3"}
ELSEWHERE |= {"classes", "classify", "tag", "negatives", "three_sets", "dpa", "rps", "pro_orchestrator", "pro_weights"}
# Asks for a reward model of a method of its own; `test_plural_stages.py` runs it.
WITH_HEADS = {"micro_router"}


def source(given: str | dict[str, Any], folder: Path) -> Path:
    if isinstance(given, str):
        return FILES / given
    path = folder / "in.jsonl"
    path.write_text(json.dumps(given) + "\n")
    return path


def can_train(file: Path, name: str) -> str:
    """ "" when the rows have what the method of that name asks for."""
    report = inspect(file, samples=0, uses=uses())
    return next(fit.missing[name] for fit in report.fits if name in fit.missing)


def test_every_construction_is_run_here() -> None:
    assert set(constructions()) == set(WITHOUT_A_MODEL) | set(WITH_A_MODEL) | WITH_HEADS | ELSEWHERE
    assert {resolve(name).INFO.name for name in set(constructions()) - ELSEWHERE} <= set(METHODS)


@pytest.mark.parametrize("name", sorted(WITHOUT_A_MODEL))
def test_what_is_written_trains_the_method(run: Command, tmp_path: Path, name: str) -> None:
    given, options, said = WITHOUT_A_MODEL[name]
    out = tmp_path / "out.jsonl"
    code, printed, err = run("data", "construct", name, source(given, tmp_path), out, *options)
    assert (code, err) == (0, "")
    assert printed.endswith(f"{out}: {said}\n"), printed
    assert len(out.read_text().splitlines()) == int(said.split()[0])
    assert can_train(out, resolve(name).INFO.name) == ""


def test_the_overview_and_the_help_of_one(run: Command) -> None:
    code, out, _ = run("data", "construct", "--help")
    assert code == 0
    for name, kind in constructions().items():
        assert f"  {name}: " in out
        assert f"      reads {kind.READS}; writes {kind.WRITES}" in out
    assert run("data", "construct")[0] == 2


def test_help_lists_the_options_with_type_and_default(run: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run("data", "construct", "modpo", "--help")
    assert left.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "--source SOURCE one of model, reward, length; default 'model'" in words
    assert "--beta BETA a number; default 0.1" in words
    assert "reads pairs writes the same rows with `rewards:" in words


PREFERENCE = FILES / "preference.jsonl"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["modpoo", PREFERENCE, "OUT"], "there is no construction 'modpoo'. Did you mean modpo?"),
        (["modpo", "OUT"], "data construct modpo: give at least one data file and the file to write."),
        (["modpo", PREFERENCE, "out.json"], "the output 'out.json' must be a .jsonl file."),
        (["modpo", PREFERENCE, "no/where.jsonl"], "there is no folder no to write where.jsonl to."),
        (["modpo", "gone.jsonl", "OUT", "--source", "length"], "gone.jsonl: no such file or folder."),
        (["modpo", PREFERENCE, "OUT", "--sorce", "length"], "--sorce: there is no such option. Did you mean --source"),
        (["modpo", PREFERENCE, "OUT", "--source", "guess"], "--source: expected one of model, reward, length"),
        (["modpo", PREFERENCE, "OUT", "--beta", "much"], "--beta: expected a number, got 'much'."),
        (["modpo", PREFERENCE, "OUT", "--source", "length", "--beta", "-1"], "--beta is -1.0 but must be"),
        (
            ["modpo", PREFERENCE, "OUT", "--reference", "gone"],
            "this construction needs a model; give --model RUN, STAGE or EXPORT.",
        ),
        (["modpo", PREFERENCE, "OUT", "--model", "gone", "--reference", "gone"], "there is no folder gone;"),
        (
            ["tpo_triple", FILES / "list.jsonl", "OUT", "--chosen-rank", "0"],
            "--chosen-rank is 0 but must be at least 1.",
        ),
    ],
)
def test_mistakes_exit_with_2_and_write_nothing(run: Command, tmp_path: Path, words: list[Any], message: str) -> None:
    out = tmp_path / "out.jsonl"
    code, printed, err = run("data", "construct", *(out if word == "OUT" else word for word in words))
    assert (code, printed) == (2, "")
    assert err.startswith(f"jaxpo: {message}"), err
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_left_alone(run: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine\n")
    code, _, err = run("data", "construct", "modpo", PREFERENCE, out, "--source", "length")
    assert code == 2
    assert err == f"jaxpo: {out} exists already; remove it or name another file.\n"
    assert out.read_text() == "mine\n"


def test_a_bad_row_is_named_and_nothing_is_left_behind(run: Command, tmp_path: Path) -> None:
    """Rows are written one by one; the file appears with the last one or not at all."""
    path, out = tmp_path / "lists.jsonl", tmp_path / "out.jsonl"
    good = {"prompt": "p ", "responses": ["a", "b", "c"], "scores": [3, 2, 1]}
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, good, {**good, "scores": [1, 2]})))
    code, printed, err = run("data", "construct", "tpo_triple", path, out)
    assert (code, printed) == (2, "")
    assert err == f"jaxpo: {path}, row 3, field 'scores': 3 responses but 2 scores. Give one per response.\n"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_that_all_fall_away_are_an_error_with_the_counts(run: Command, tmp_path: Path) -> None:
    path, out = tmp_path / "lists.jsonl", tmp_path / "out.jsonl"
    path.write_text(json.dumps({"prompt": "p ", "responses": ["a", "b"], "scores": [1, 1]}) + "\n")
    code, _, err = run("data", "construct", "tpo_triple", path, out)
    assert code == 2
    assert err == f"jaxpo: {path}: no row is left of 1, dropped_tie 1.\n"
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_that_json_does_not_have(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Construction):
        """Writes what no file can hold."""

        NAME, READS, WRITES = "broken", "anything", "not a number"

        def construct(self, rows: Any, tools: Any) -> Iterator[dict[str, Any]]:
            yield {"margin": 1.0}
            yield {"margin": float("nan")}

    monkeypatch.setattr("jaxpo.construct.base.constructions", lambda: {"broken": Broken})
    code, _, err = run("data", "construct", "broken", PREFERENCE, tmp_path / "out.jsonl")
    assert code == 2
    assert err.startswith('jaxpo: new row 2 holds a number that is not finite: {"margin": NaN}.')
    assert list(tmp_path.iterdir()) == []


def test_the_seed_decides(run: Command, tmp_path: Path) -> None:
    def made(name: str, *options: object) -> str:
        assert run("data", "construct", "mapl", PREFERENCE, tmp_path / name, *options)[0] == 0
        return (tmp_path / name).read_text()

    assert made("a.jsonl") == made("b.jsonl", "--seed", 0)
    assert made("a2.jsonl", "--seed", 1) != made("b2.jsonl", "--seed", 0)


def test_margins_from_two_models(run: Command, model: Path, other_model: Path, tmp_path: Path) -> None:
    """Swapping the model and its reference changes the sign of every margin."""
    rewards = []
    for k, (policy, reference) in enumerate([(model, other_model), (other_model, model)]):
        out = tmp_path / f"{k}.jsonl"
        options = ["--model", policy, "--reference", reference, "--name", "helpful"]
        code, printed, err = run("data", "construct", "modpo", PREFERENCE, out, *options)
        assert (code, printed, err) == (0, f"{out}: 5 rows from 5\n", "")
        rewards.append([json.loads(line)["rewards"]["helpful"] for line in out.read_text().splitlines()])
        assert can_train(out, "modpo") == ""
    for forth, back in zip(*rewards, strict=True):
        assert forth == pytest.approx([-x for x in back], abs=1e-9)
        assert max(map(abs, forth)) > 1e-3


def test_posteriors_and_weights_from_a_model(run: Command, model: Path, other_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "lcpo.jsonl"
    options = ["--model", model, "--reference", other_model]
    code, printed, err = run("data", "construct", "lcpo", FILES / WITH_A_MODEL["lcpo"], out, *options)
    assert (code, err) == (0, "")
    assert "reliability of the labels, by annotator" in printed
    assert printed.endswith(f"{out}: 5 rows from 5\n")
    assert all(0 <= json.loads(line)["posterior"] <= 1 for line in out.read_text().splitlines())

    out = tmp_path / "bco.jsonl"
    code, printed, err = run("data", "construct", "bco", FILES / WITH_A_MODEL["bco"], out, "--model", model)
    assert (code, err) == (0, "")
    assert f"{out}: 5 rows from 5" in printed
    assert can_train(out, "bco") == ""


def test_a_model_without_a_head_is_no_reward_model(run: Command, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    code, _, err = run("data", "construct", "modpo", PREFERENCE, out, "--source", "reward", "--reward", model)
    assert code == 2
    assert err == f"jaxpo: --reward {model}: has no value head; give the model of a reward stage.\n"
