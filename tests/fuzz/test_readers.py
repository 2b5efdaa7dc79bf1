"""Any file is read, or refused with its name by an error that is meant for the user; within bounds, whatever it holds.

The cases in `corpus/` failed once and are always tried. `JAXPO_FUZZ=N` tries N further ones per reader; N of another
run are others: `JAXPO_FUZZ=1000 scripts/test tests/fuzz -m 'slow or not slow'`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from fuzz.bounds import bounded, little_memory
from fuzz.damage import damaged, nonsense
from fuzz.targets import TARGETS, Target, forget
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxpo.errors import JaxpoError

CORPUS = Path(__file__).parent / "corpus"
EXAMPLES = int(os.environ.get("JAXPO_FUZZ", "0"))
FEW = {"derandomize": True, "max_examples": 12, "database": None}
MANY = {"max_examples": EXAMPLES or 500}
CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
CASES = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.fixture(scope="module", autouse=True)
def bounds():
    with little_memory():
        yield
    forget()


@pytest.fixture
def place(tmp_path):
    """`place(target)` -> where its file lies, in a folder of its own in which everything else is whole."""

    def place(target: Target) -> Path:
        folder = tmp_path / target.name
        shutil.copytree(target.make(), folder, dirs_exist_ok=True)
        return folder / target.file

    return place


def outcome(target: Target, file: Path, content: bytes) -> str:
    """ "read" or "refused"; anything else that is raised fails the test."""
    file.write_bytes(content)
    try:
        with bounded():
            target.read(file)
    except JaxpoError as error:
        said = str(error)
        assert any(str(place) in said for place in (file, *list(file.parents)[:2])), f"names no file: {said[:500]}"
        assert len(said) < 20_000, f"says {len(said):,} characters: {said[:200]}"
        return "refused"
    return "read"


@pytest.mark.parametrize("name", TARGETS)
def test_whole_files_are_read(place, name):
    file = place(TARGETS[name])
    assert outcome(TARGETS[name], file, file.read_bytes()) == "read"


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_failed_once(place, case):
    target = TARGETS[case.parent.name]
    assert outcome(target, place(target), case.read_bytes()) == "refused"


def contents(target: Target) -> st.SearchStrategy[bytes]:
    found = damaged(target.whole)
    return found | nonsense(json.loads(target.whole)) if target.document else found


def fuzz(target: Target, place, how: dict) -> None:
    file = place(target)

    @settings(**how, suppress_health_check=CHECKS, deadline=None)
    @given(contents(target))
    def check(content: bytes) -> None:
        outcome(target, file, content)

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_damaged_is_read_or_refused(place, name):
    fuzz(TARGETS[name], place, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_at_length(place, name):
    fuzz(TARGETS[name], place, MANY)
