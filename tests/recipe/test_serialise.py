"""A saved configuration equals the one that was run, and foreign or broken ones are named."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from jaxpo.config import Preference, Run, serialise
from jaxpo.config.moved import MOVED
from jaxpo.config.serialise import from_jsonable, read_again, to_jsonable
from jaxpo.corpora.stdlib_docs import StdlibDocs
from jaxpo.errors import ConfigError
from jaxpo.judges import VerifierJudge
from jaxpo.recipe.overrides import load_run, resolve_run


def without_method(run: Run) -> Run:
    stages = tuple(dataclasses.replace(s, loss=None) if isinstance(s, Preference) else s for s in run.stages)
    return dataclasses.replace(run, stages=stages)


def test_round_trip_is_exact(recipe: Run) -> None:
    run = resolve_run(without_method(recipe), ["--model.hidden-size", "64", "--mesh.rules", "mlp", "None"]).run
    again = serialise.from_jsonable(json.loads(serialise.dump(run)))
    assert again == run
    assert serialise.dump(again) == serialise.dump(run)
    assert isinstance(again.stages[3].weights, tuple)


@pytest.mark.parametrize("value", [0.1, 1e-300, float("inf"), 2**53 + 1, "ü\n", None, True, (), ((1,), "a"), [1, (2,)]])
def test_values_keep_their_type(value: Any) -> None:
    again = serialise.from_jsonable(json.loads(json.dumps(serialise.to_jsonable(value))))
    assert again == value
    assert type(again) is type(value)


def test_dataclasses_of_a_configuration_file_need_trust(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom jaxpo.config import SFT, Run\n\n\n"
        "@dataclass(frozen=True)\nclass Corpus:\n    rows: int = 3\n"
        "    def build(self, directory):\n        pass\n\n\n"
        "def config():\n    return Run(corpus=Corpus(rows=5), stages=(SFT(),))\n"
    )
    run = load_run(str(path))
    saved = tmp_path / "config.json"
    saved.write_text(serialise.dump(run))
    with pytest.raises(ConfigError, match=r"own\.py:Corpus' is not jaxpo's own, and loading it would execute foreign"):
        serialise.load(saved)
    assert load_run(str(saved)).corpus.rows == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n', "config.json, line 2: is not valid JSON"),
        ('{"a": 1}', "config.json: is not a saved jaxpo configuration (it has no '__type__')."),
        (
            '{"__type__": "jaxpo.config:Run", "sed": 1}',
            "config.sed: Run has no such field. Did you mean seed?",
        ),
        (
            '{"__type__": "jaxpo.config:Gone"}',
            "config: 'jaxpo.config:Gone' is not a dataclass of this version of jaxpo.",
        ),
        ('{"__type__": "os:system"}', "is not jaxpo's own"),
        ('{"__type__": "jaxpo.nowhere:X"}', "cannot be imported"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        serialise.load(path)
    assert message in str(caught.value)


def test_what_json_cannot_hold(recipe: Run) -> None:
    with pytest.raises(ConfigError, match=r"numbers, strings, tuples and frozen dataclasses; got set"):
        serialise.dump(dataclasses.replace(recipe, corpus={1, 2}))


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_modules_that_moved_are_there(old: str, new: str) -> None:
    importlib.import_module(new)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(old)


def test_types_of_an_earlier_version_are_found() -> None:
    stored = {"__type__": "jaxpo.construct.judges.verifier:VerifierJudge"}
    judge = from_jsonable(stored)
    assert type(judge) is VerifierJudge
    assert to_jsonable(judge)["__type__"] == "jaxpo.judges.verifier:VerifierJudge"
    corpus = from_jsonable({"__type__": "jaxpo.data.stdlib_docs:StdlibDocs"})
    assert type(corpus).__module__ == "jaxpo.corpora.stdlib_docs"


def test_a_stored_run_is_read_with_the_defaults_of_newer_fields(recipe: Run) -> None:
    stored = to_jsonable(dataclasses.replace(recipe, corpus=StdlibDocs(), stages=recipe.stages[:2]))
    old = json.loads(json.dumps(stored).replace("jaxpo.corpora.stdlib_docs", "jaxpo.data.stdlib_docs"))
    del old["stages"][0]["use_ema"], old["report_to"]
    assert read_again(old) == stored
    foreign = {**old, "colour": "blue"}
    assert read_again(foreign) == {**stored, "colour": "blue"}


def test_an_import_of_a_module_that_moved_says_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from jaxpo.construct.judges import Jury\n")
    with pytest.raises(ConfigError, match=r"mine.py, line 1.*It is jaxpo.judges now\."):
        load_run(str(path))
