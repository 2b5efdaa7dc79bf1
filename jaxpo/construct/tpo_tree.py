"""Branches of a reasoning tree: a correct solution, a wrong one, and continuations of the correct one's prefixes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import string, text_of_column

BEST, CAP = 100.0, 95.0
"""Grade of the correct solution, and the highest that any other branch can get."""
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def split_steps(text: str, marker: str) -> list[str]:
    """Cut a text before every match of the marker (a regular expression) that follows some text; the pieces join up."""
    cuts = [m.start() for m in re.finditer(marker, text) if text[: m.start()].strip()]
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    return [piece for piece in pieces if piece]


def merge_steps(branches: Sequence[Sequence[str]]) -> list[list[str]]:
    """Join all steps beyond the shortest branch's number of steps into that one, so that all have as many."""
    fewest = min(len(steps) for steps in branches)
    return [[*steps[: fewest - 1], "".join(steps[fewest - 1 :])] for steps in branches]


def rescaled(grade: float) -> float:
    """A grade in [-100, 100] as a label in [0, 1]."""
    return (grade + 100.0) / 200.0


def answer_of(steps: Sequence[str]) -> str | None:
    """The last number of a solution, without thousands separators and trailing zeros; None without one."""
    numbers = _NUMBER.findall("".join(steps))
    return f"{float(numbers[-1].replace(',', '')):g}" if numbers else None


def rule_grade(steps: Sequence[str], solution: Sequence[str], *, wrong: bool = False) -> float:
    """95 for the solution's answer (unless known to be wrong); else -100, plus 100 times the share of steps kept."""
    if not wrong and answer_of(steps) is not None and answer_of(steps) == answer_of(solution):
        return CAP
    shared = 0
    while shared < min(len(steps), len(solution)) and steps[shared] == solution[shared]:
        shared += 1
    return -100.0 + 100.0 * shared / len(solution)


@dataclass
class Tree:
    """One problem: branches with their grades so far (None = still to be graded), the correct solution first."""

    row: Row
    prompt: Any
    wrong: list[str]
    branches: list[list[str]] = field(default_factory=list)
    grades: list[float | None] = field(default_factory=list)

    def add(self, steps: list[str], grade: float | None) -> bool:
        """Append a branch unless its text is there already."""
        if "".join(steps) in {"".join(other) for other in self.branches}:
            return False
        self.branches.append(steps)
        self.grades.append(grade)
        return True


@dataclass(frozen=True)
class TPOTree(Construction):
    """Graded branches of each problem: its solution, new continuations of the solution's prefixes, and a wrong one.

    Attributes:
      branches: of a tree; those beyond the row's own are continuations by --model of random prefixes.
      grading: of branches without a grade. "rule": the right final number gets 95, a wrong one -100 plus 100 times the
        share of the solution's steps it begins with; "reward": 200 sigmoid(r) - 100 by --reward, at most 95.
      marker: regular expression before which a generated text is cut into steps.
      merge: write steps beyond the shortest branch's merged into its last; training does the same by itself.
      temperature, top_k, max_new_tokens: of the continuations.
    """

    branches: int = 5
    grading: Literal["rule", "reward"] = "rule"
    marker: str = r"(?<=\n)(?=\S)"
    merge: bool = False
    temperature: float = 0.8
    top_k: int = 0
    max_new_tokens: int = 256

    NAME = "tpo_tree"
    READS = (
        "prompt, solution: [step], wrong: [step] [, prefix: how many of the solution's steps `wrong` continues] "
        "[, others: [[step]]] [, grades: in [-100, 100], of solution, others and wrong]"
    )
    WRITES = "prompt, steps, scores in [0, 1]"

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        trees = [read_tree(row) for row in rows]
        self.grow(trees, tools)
        self.grade(trees, tools)
        for tree in trees:
            if len(tree.branches) < 2:
                tools.count("dropped_fewer_than_2_branches")
                continue
            if len(tree.branches) < self.branches:
                tools.count("trees_with_fewer_branches")
            steps = merge_steps(tree.branches) if self.merge else tree.branches
            scores = [rescaled(grade) for grade in tree.grades if grade is not None]
            yield {"prompt": tree.prompt, "steps": steps, "scores": scores}

    def grow(self, trees: Sequence[Tree], tools: Tools) -> None:
        """Add what is missing to each tree: continuations of random proper prefixes of its solution."""
        requests: list[tuple[Tree, list[str]]] = []
        for number, tree in enumerate(trees):
            rng = np.random.default_rng((tools.seed, number))
            solution, missing = tree.branches[0], max(self.branches - len(tree.branches), 0)
            if missing and tools.has("model") and not isinstance(tree.prompt, str):
                raise tree.row.error(
                    "a solution can only be continued after a prompt that is a string.", field="prompt"
                )
            # Different prefixes as long as there are some.
            rounds = [rng.permutation(len(solution)) for _ in range(-(-missing // len(solution)))]
            cuts = [int(cut) for permutation in rounds for cut in permutation][:missing]
            requests += [(tree, solution[:cut]) for cut in cuts]
        if not requests or not tools.has("model"):
            return
        drawn = tools.generate(
            [tree.prompt + "".join(prefix) for tree, prefix in requests],
            1,
            temperature=self.temperature,
            top_k=self.top_k,
            max_new_tokens=self.max_new_tokens,
        )
        for (tree, prefix), (text,) in zip(requests, drawn, strict=True):
            added = bool(text) and tree.add([*prefix, *split_steps(text, self.marker)], None)
            tools.count("generated_branches" if added else "dropped_repeated_branches")

    def grade(self, trees: Sequence[Tree], tools: Tools) -> None:
        """Grade what has no grade."""
        open_ = [(tree, k) for tree in trees for k, grade in enumerate(tree.grades) if grade is None]
        if self.grading == "rule":
            grades = [rule_grade(t.branches[k], t.branches[0], wrong=t.branches[k] == t.wrong) for t, k in open_]
        elif open_:
            rewards = tools.rewards([t.prompt for t, _ in open_], ["".join(t.branches[k]) for t, k in open_])
            grades = [min(CAP, 200.0 * float(np.exp(-np.logaddexp(0.0, -r))) - 100.0) for r in rewards]
        else:
            grades = []
        for (tree, k), grade in zip(open_, grades, strict=True):
            tree.grades[k] = grade

    def problems(self) -> list[str]:
        problems = []
        if self.branches < 2:
            problems.append(f"--branches is {self.branches} but a tree needs 2.")
        if not self.temperature > 0:
            problems.append(f"--temperature is {self.temperature} but must be greater than 0.")
        try:
            re.compile(self.marker)
        except re.error as error:
            problems.append(f"--marker {self.marker!r} is no regular expression: {error}.")
        return problems


def read_tree(row: Row) -> Tree:
    """The branches that a row brings: its solution (100), its others, its wrong one; equal texts once."""
    solution, wrong = steps_of(row, "solution"), steps_of(row, "wrong")
    prefix = row.data.get("prefix", 0)
    if not isinstance(prefix, int) or isinstance(prefix, bool) or not 0 <= prefix <= len(solution):
        raise row.error(f"{prefix!r} is no number of steps of the solution.", field="prefix", remedy="Leave it out.")
    others = row.data.get("others", [])
    if not isinstance(others, list):
        raise row.error("expected a list of lists of steps.", field="others")
    given = [solution, *(steps_of(row, "others", steps) for steps in others), [*solution[:prefix], *wrong]]
    grades = grades_of(row, len(given))
    tree = Tree(row, text_of_column(row, "prompt"), given[-1])
    for steps, grade in zip(given, grades, strict=True):
        tree.add(steps, grade)
    return tree


def steps_of(row: Row, column: str, value: Any = None) -> list[str]:
    """A list of non-empty strings, at least one."""
    value = row.data.get(column) if value is None else value
    if not isinstance(value, list) or not value:
        raise row.error(f"expected a list of steps in {column!r}.", field=column, remedy='Give ["...", "..."].')
    return [string(row, column, step, empty_ok=False) for step in value]


def grades_of(row: Row, count: int) -> list[float | None]:
    """The row's grades; without any, 100 for the solution and None for the rest."""
    if "grades" not in row.data:
        return [BEST, *[None] * (count - 1)]
    value = row.data["grades"]
    numbers = isinstance(value, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value)
    if not numbers or len(value) != count or not all(-100 <= x <= 100 for x in value):
        raise row.error(
            f"expected {count} numbers in [-100, 100]: of the solution, the others, and the wrong one.", field="grades"
        )
    return [float(x) for x in value]
