"""The README tells the truth: its code runs, its commands exist, its files are there."""

import importlib.util
import re
from pathlib import Path

import pytest

from jaxpo.cli.main import COMMANDS
from jaxpo.objectives.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_loss_in_three_lines_runs():
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "jaxpo.losses" in block)
    scope: dict = {}
    exec(code, scope)
    assert scope["loss"].shape == (1,)
    assert float(scope["loss"][0]) == pytest.approx(0.5981388)


@pytest.mark.parametrize(
    "command",
    sorted(set(re.findall(r"jaxpo (run|chat|generate|export|import|data|losses|explain|selftest|recipes)\b", README))),
)
def test_commands_exist(command):
    assert command in COMMANDS  # whose help tests/cli/test_main.py calls


def test_files_that_are_named_exist():
    for name in re.findall(r"(?:configs|scripts|docs)/[\w.]+|CHANGELOG.md", README):
        assert (ROOT / name).exists(), name


def test_the_numbers_of_methods_and_claims_are_those_of_the_catalogue_and_the_evidence():
    families = [m.INFO.family for m in METHODS.values()]
    others = sum(
        families.count(family) for family in ("sft", "reward model", "distillation", "rollouts", "retrieval", "images")
    )
    count, on_preferences = re.search(r"(\d+) methods, (\d+) of\s+them on preferences", README).groups()
    assert (int(count), int(on_preferences)) == (len(METHODS), len(METHODS) - others)
    evidence = (ROOT / "docs" / "evidence.md").read_text()
    measured, reproduced = re.search(r"(\d+) claims: (\d+) reproduced", evidence).groups()
    papers = len(set(re.findall(r"^\| [^|]+ \| (arXiv:[\d.]+) \|", evidence, re.M)))
    stated = re.search(r"(\d+) claims of (\d+) papers were measured, of which (\d+) were\s+reproduced", README).groups()
    assert stated == (measured, str(papers), reproduced)


def test_where_modules_have_moved_to_there_are_modules():
    table = re.findall(r"^\| `jaxpo\.[^|]*\| ([^|]*) \|$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    names = re.findall(r"`(jaxpo[.\w]+)`", " ".join(table))
    assert len(names) > 15
    for name in names:
        assert importlib.util.find_spec(name), name


def test_every_room_of_the_house_is_described():
    rooms = {p.name for p in (ROOT / "jaxpo").iterdir() if p.is_dir() and not p.name.startswith("__")}
    described = set(re.findall(r"^  (\w+)/ ", README, re.M))
    assert rooms == described
