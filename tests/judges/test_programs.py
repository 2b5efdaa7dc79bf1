"""Judges that run code: unit tests of answers, and a checker of somebody else's; with limits, kept and counted."""

from __future__ import annotations

from pathlib import Path

import pytest

import jaxpo.sandbox as sandbox
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError
from jaxpo.judges import ProgramJudge, UnitTestJudge
from jaxpo.judges.asking import Item, ask_all
from jaxpo.judges.ledger import Ledger
from jaxpo.judges.named import JudgeOptions
from jaxpo.online.rewards import FunctionReward, UnitTestReward, named_reward

TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"]
ANSWERS = {
    "right": "Here it is.\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds.",
    "partly": "def add(a, b):\n    return int(a) + int(b)",
    "raises": "def add(a, b):\n    return a + b\nraise ValueError('no')",
    "ends": "def add(a, b):\n    return a + b\nimport os\nos._exit(0)",
    "claims": "for i in range(3):\n    print(f'\\n0 {i}')\nimport sys\nsys.exit(0)",
    "loops": "def add(a, b):\n    return a + b\nwhile True:\n    pass",
    "prints": "def add(a, b):\n    return a + b\nprint('x' * (1 << 20))",
    "allocates": "x = bytearray(1 << 40)",
}
VALUES = {"right": (1.0, 1.0), "partly": (0.0, 2 / 3)}
NOTES = {"raises": "raised", "loops": "timed out", "prints": "too much output"}
NOTES |= {"allocates": "out of memory"}


@pytest.fixture(autouse=True)
def fenceless(monkeypatch):
    """The fence has tests of its own (tests/test_sandbox.py); here the limits do."""
    monkeypatch.setattr(sandbox, "why_no_fence", lambda: "bubblewrap (bwrap) is not installed")


def item(answer: str, number: int = 1, **columns: object) -> Item:
    return Item("Add.", answer, Row(Path("rows.jsonl"), number, {"tests": TESTS, **columns}))


def test_unit_tests_and_how_programs_end(tmp_path):
    """All or nothing, and shares, by the same programs; what happened is kept in the ledger, and said in numbers."""
    judge = UnitTestJudge(seconds=2.0, output_kb=4, unsandboxed=True)
    items = {name: item(answer, n) for n, (name, answer) in enumerate(ANSWERS.items())}
    said: list[str] = []
    ledger = Ledger(tmp_path, "scores", judge.identity(lambda _: None))
    found = ask_all(items, judge.open(lambda _: None), ledger, what="score", say=said.append)
    assert found.values == {name: VALUES.get(name, (0.0, 0.0))[0] for name in ANSWERS}
    assert found.notes == NOTES
    assert said == ["score: of 8 answers 1 raised, 1 timed out, 1 too much output, 1 out of memory"]
    again = ask_all(items, lambda _: pytest.fail("it is kept"), ledger, what="score", say=said.append)
    assert (again.values, again.notes, len(said)) == (found.values, NOTES, 1)
    shares = UnitTestJudge(share=True, unsandboxed=True).open(lambda _: None)([items["right"], items["partly"]])
    assert [reply.value for reply in shares] == [VALUES["right"][1], pytest.approx(VALUES["partly"][1])]


def test_rows_without_tests_are_refused():
    judge = UnitTestJudge(unsandboxed=True)
    for tests in (None, [], "", ["assert 1", 2], {"a": 1}):
        row = Row(Path("rows.jsonl"), 4, {} if tests is None else {"tests": tests})
        with pytest.raises(DataError, match=r"rows.jsonl, row 4, field 'tests': column 'tests' holds no tests"):
            judge.check([row])
    judge.check([Row(Path("x"), 1, {"tests": "assert True"})])
    with pytest.raises(ConfigError, match=r"bwrap\) is not installed.*--unsandboxed"):
        UnitTestJudge().check([])


CHECKER = """
import json, sys
about = json.loads(sys.stdin.readline())
do = about["answer"]
if do == "raise": raise KeyError(do)
while do == "loop": pass
print("x" * (1 << 20) if do == "print" else "thinking")
print("good" if do == "words" else len(do) + about["row"]["more"])
"""


def test_a_checker_of_somebody_else(tmp_path):
    file = tmp_path / "checker.py"
    file.write_text(CHECKER)
    judge = ProgramJudge(program=str(file), seconds=2.0, output_kb=4, unsandboxed=True)
    answers = ["fine", "raise", "loop", "print", "words"]
    replies = judge.open(lambda _: None)([item(answer, more=0.5) for answer in answers])
    assert [reply.value for reply in replies] == [4.5, None, None, None, None]
    raised, looped, printed, words = (reply.failed for reply in replies[1:])
    assert raised == "the program ended with 1: KeyError: 'raise'"
    assert looped.startswith("the program was stopped after 2.")
    assert "bytes, more than are kept" in printed
    assert words == "the last line that the program printed is no number but 'good'"
    assert [reply.note for reply in replies] == ["", "raised", "timed out", "too much output", ""]
    one = judge.identity(lambda _: None)
    file.write_text(CHECKER + "\n")
    assert judge.identity(lambda _: None) != one
    assert "unsandboxed" not in one
    with pytest.raises(ConfigError, match=r"nowhere.py: cannot be read"):
        ProgramJudge(program="nowhere.py", unsandboxed=True).check([])


def test_by_name():
    judge = JudgeOptions(judge=("unit_tests",), tests="checks", unsandboxed=True).judges()
    assert judge == UnitTestJudge(tests="checks", unsandboxed=True)
    assert JudgeOptions(judge=("a.py",)).judges() == ProgramJudge(program="a.py")
    assert named_reward("unit_tests", unsandboxed=True) == UnitTestReward(unsandboxed=True)
    assert named_reward("a.py") == ProgramJudge(program="a.py")
    assert named_reward("a.py:f") == FunctionReward(function="a.py:f")
