"""Unit tests in Python as a judge of answers that are programs."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.judges.asking import Item, Reply
from jaxpo.judges.fenced import FencedJudge
from jaxpo.sandbox import Sandbox

FENCE = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
# Runs inside. Tests are reported under a word that the answer has not seen: to end the process early passes none.
PROGRAM = """
import json, sys
def run():
    word, write, flush = sys.stdin.readline().strip(), sys.stdout.write, sys.stdout.flush
    read = lambda name: open("../input/" + name, encoding="utf-8").read()
    names, tests, code = {"__name__": "answer"}, json.loads(read("tests.json")), read("answer.py")
    exec(compile(code, "answer.py", "exec"), names)
    for number, test in enumerate(tests):
        try:
            exec(compile(test, f"test {number}", "exec"), names)
        except BaseException as error:
            sys.stderr.write(f"test {number}: {type(error).__name__}: {error}\\n"[:500])
            continue
        write(f"\\n{word} {number}\\n")
        flush()
run()
"""


@dataclass(frozen=True)
class UnitTestJudge(FencedJudge):
    """1 where the program in the answer passes all the tests of its row, else 0; in a sandbox.

    The program is the last block between ``` and ```, or the whole answer. Tests are run one after another in its
    names; one that raises has not passed, and one that does not end takes those after it along. Whoever trains on this
    should look at what high values say: a program shares a process with its tests, and may set out to fool them.

    Attributes:
      tests: the column with the tests, as MBPP's `test_list`: a list of texts such as `assert add(1, 2) == 3`, or one.
      share: the share of the tests that pass, in place of all or nothing.
    """

    tests: str = "tests"
    share: bool = False

    NAME: ClassVar[str] = "unit_tests"

    def columns(self) -> tuple[str, ...]:
        return (self.tests,)

    def check(self, rows: Sequence[Row]) -> None:
        super().check(rows)
        for row in rows:
            if not self.tests_of(row):
                raise row.error(
                    f"column {self.tests!r} holds no tests, which the answer is to pass.",
                    field=self.tests,
                    remedy='Add a list of statements such as "assert add(1, 2) == 3" to every row, or name another.',
                )

    def tests_of(self, row: Row) -> list[str]:
        """The row's tests; none where the column holds something else."""
        found = row.data.get(self.tests)
        listed = [found] if isinstance(found, str) else found
        fits = isinstance(listed, list) and all(isinstance(test, str) and test.strip() for test in listed)
        return listed if fits and listed else []

    def reply(self, sandbox: Sandbox, item: Item) -> Reply:
        tests, word = self.tests_of(item.row), secrets.token_hex(16)
        files = {"answer.py": program_in(item.answer), "tests.json": json.dumps(tests)}
        result = sandbox.python(PROGRAM, stdin=word + "\n", files=files)
        passed = {line.partition(" ")[2] for line in result.output.splitlines() if line.startswith(f"{word} ")}
        value = len(passed) / len(tests) if self.share else float(len(passed) == len(tests))
        return Reply(value, note="" if result.ok else result.kind)


def program_in(answer: str) -> str:
    """The last fenced block of an answer, or all of it."""
    blocks = FENCE.findall(answer)
    return blocks[-1] if blocks else answer
