"""The README tells the truth: its code runs, its commands exist, its files are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_loss_in_three_lines_runs():
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "jaxpo.losses" in block)
    scope: dict = {}
    exec(code, scope)
    assert scope["loss"].shape == (1,)
    assert float(scope["loss"][0]) == pytest.approx(0.5981388)


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"jaxpo (run|chat|generate|export|import|data|losses|explain)\b", README)))
)
def test_commands_exist(command):
    done = subprocess.run([sys.executable, "-m", "jaxpo", command, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_files_that_are_named_exist():
    for name in re.findall(r"(?:configs|scripts|docs)/[\w.]+", README):
        assert (ROOT / name).exists(), name


def test_every_room_of_the_house_is_described():
    rooms = {p.name for p in (ROOT / "jaxpo").iterdir() if p.is_dir() and not p.name.startswith("__")}
    described = set(re.findall(r"^  (\w+)/ ", README, re.M))
    assert rooms == described
