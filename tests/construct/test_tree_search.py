"""The search over steps: counts and values against a plain reference, pairs of siblings, trees that are of no use."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.conftest import WORDS, make_model
from construct.work_context import context_of

from jaxpo.construct.tree_search.pairs import StepPair, chain, pairs_along, unusable
from jaxpo.construct.tree_search.search import Plan, search
from jaxpo.construct.tree_search.stage import TreeSearch
from jaxpo.construct.tree_search.tree import Node, Step, back_up, follow, grow, standing, visit_smoothing
from jaxpo.convert.model_io import load_model
from jaxpo.errors import DataError
from jaxpo.judges import VerifierJudge
from jaxpo.train.signals import Preempted


def run(plan: Plan, write: Any, seed: int = 0) -> tuple[Node, list[Node]]:
    """A search whose steps come from `write(prefix, count)`."""
    game = search(plan, seed)
    wanted = next(game)
    while True:
        try:
            wanted = game.send(write(wanted.prefix, wanted.count))
        except StopIteration as over:
            found: tuple[Node, list[Node]] = over.value
            return found


def leaves(values: list[float], logps: list[float] | None = None) -> Any:
    """Last steps with these outcomes, and priors."""
    logs = logps or [-1.0] * len(values)
    return lambda prefix, count: [
        Step(f"{i}\n", lp, 1, True, 0.0, v) for i, (v, lp) in enumerate(zip(values, logs, strict=True))
    ]


def test_a_tree_of_depth_one():
    root, path = run(Plan(simulations=5, depth=1, root_actions=3), leaves([0.2, 1.0, -1.0]))
    visits = [child.visits for child in root.children]
    assert sum(visits) == 20  # four times as many from the root
    assert root.visits == 40  # the authors' code counts the root twice
    assert [child.q for child in root.children] == [0.2, 1.0, -1.0]
    weights = np.maximum(visits, 1)
    assert root.v == pytest.approx(weights @ [0.2, 1.0, -1.0] / weights.sum())
    assert path[-1] is root.children[1]


def test_without_exploration_the_best_has_all_visits_and_with_much_of_it_all_have_as_many():
    greedy, _ = run(Plan(simulations=6, depth=1, c_puct=0.0), leaves([0.1, 0.9, 0.3]))
    assert [child.visits for child in greedy.children] == [0, 24, 0]
    even, _ = run(Plan(simulations=6, depth=1, c_puct=1e6), leaves([0.1, 0.9, 0.3]))
    visits = [child.visits for child in even.children]
    assert max(visits) - min(visits) <= 1


@pytest.mark.parametrize("confidences", [(0.2, 0.7), (0.9, 0.1)])
def test_along_a_chain_only_the_end_counts(confidences: tuple[float, float]) -> None:
    def write(prefix: str, count: int) -> list[Step]:
        depth = prefix.count("\n")
        return [Step(f"s{depth}\n", -1.0, 1, depth == 2, (*confidences, 0.0)[depth], float(depth == 2))]

    root, _ = run(Plan(simulations=2, depth=3), write)
    end = root.children[0].children[0].children[0]
    assert end.value == pytest.approx(confidences[1] + 1.0)  # without a confidence of its own it has its parent's
    assert root.children[0].q == pytest.approx(end.value - root.value)


class Reference:
    """The authors' N, Q and V over a fixed tree of numbers, written from the specification: one dictionary per node."""

    def __init__(self, children: dict[str, list[str]], value: dict[str, float], logp: dict[str, float], c: float):
        self.children, self.value, self.logp, self.c = children, value, logp, c
        self.n, self.v = dict.fromkeys(value, 0), dict.fromkeys(value, 0.0)
        self.up = {child: node for node, own in children.items() for child in own}
        self.q = {name: x - value[self.up[name]] if name in self.up else 0.0 for name, x in value.items()}

    def simulate(self) -> None:
        path = [""]
        while self.children.get(path[-1]):
            at = path[-1]
            prior = [math.exp(self.logp[x] / 2**1.25) for x in self.children[at]]
            best = [
                self.q[x] + self.c * p * math.sqrt(self.n[at]) / (1 + self.n[x])
                for x, p in zip(self.children[at], prior, strict=True)
            ]
            path.append(self.children[at][best.index(max(best))])
        for node in reversed(path):
            own = self.children.get(node, [])
            if own:
                w = [max(1, self.n[x]) for x in own]
                self.v[node] = sum(a * self.q[x] for a, x in zip(w, own, strict=True)) / sum(w)
            if node:
                self.q[node] = self.value[node] - self.value[self.up[node]] + self.v[node]
            self.n[node] += 1
        self.n[""] += 1


@pytest.mark.parametrize("seed", range(3))
def test_visits_and_values_are_those_of_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [a + b + c for a in "ab" for b in ("", "a", "b", "c") for c in ("", *("ab" if b else ""))]
    names = sorted({"", *names}, key=len)
    children: dict[str, list[str]] = {}
    for name in names[1:]:
        children.setdefault(name[:-1], []).append(name)
    value = {name: float(rng.uniform(0, 1)) if name else 0.0 for name in names}
    logp = {name: float(-rng.uniform(0.1, 3)) for name in names}
    outcome = {name: float(rng.choice([-1.0, 1.0])) if len(name) == 3 else 0.0 for name in names}

    def write(prefix: str, count: int) -> list[Step]:
        return [Step(x[-1], logp[x], 2, len(x) == 3, value[x], outcome[x]) for x in children[prefix]]

    root = Node()
    reference = Reference(children, {name: value[name] + outcome[name] for name in names}, logp, 0.7)
    for _ in range(40):
        path = [root]
        while not path[-1].terminal:
            if not path[-1].children:
                grow(path[-1], write(path[-1].prefix, 0))
            path.append(follow(path[-1], 0.7))
        back_up(path, 1.0)
        reference.simulate()
    for node in root.every():
        assert node.visits == reference.n[node.prefix]
        assert node.v == pytest.approx(reference.v[node.prefix])
        if node.prefix:
            assert node.q == pytest.approx(reference.q[node.prefix])


def test_the_smoothing_by_visits():
    assert visit_smoothing(6, 2) == pytest.approx(2 / 8)
    assert visit_smoothing(4, 4) == 0.5
    assert visit_smoothing(3, 9) == 0.5
    assert visit_smoothing(5, 0) == 0.0
    assert visit_smoothing(0, 0) == 0.0


def node(text: str, q: float = 0.0, visits: int = 1, *children: Node, ended: bool = False, outcome: float = 0) -> Node:
    found = Node(Step(text, -1.0, 1, ended, 0.0, outcome), Node(), 1, q=q, visits=visits)
    found.children = list(children)
    for child in children:
        child.parent = found
    return found


def test_pairs_of_siblings_with_only_children_as_one_step():
    good = node("b\n", 0.9, 5, node("c\n", 0.9, 5, node("end", 1, 3, ended=True, outcome=1)))
    bad, middle = node("bx\n", -0.5, 2, ended=True, outcome=-1), node("by\n", 0.1, 1)
    first = node("a\n", 0.5, 9, middle, bad, good)
    root = Node(children=[first])
    first.parent = root
    path = [root, first, good]
    assert chain(good)[0] == "b\nc\nend"
    (pair,) = pairs_along(path, "worst", random.Random(0))
    assert pair == StepPair("a\n", "b\nc\nend", "bx\n", pytest.approx(2 / 7), pytest.approx(1.4))
    assert pair.span == len("a\nb")  # the first character at which they differ
    (second,) = pairs_along(path, "second", random.Random(0))
    assert second.rejected == "by\n"
    (drawn,) = pairs_along(path, "random", random.Random(0))
    assert drawn.rejected in ("bx\n", "by\n")
    assert StepPair("a", "xy", "xyz", 0.0, 1.0).span == 2  # one is the start of the other: its last character
    assert standing(good) > standing(middle)
    for child in (good, middle, bad):
        child.q = 0.3
    assert not list(pairs_along(path, "worst", random.Random(0)))


def test_trees_that_are_of_no_use_say_why():
    open_ended, right = Node(children=[node("a\n")]), Node(children=[node("a", ended=True, outcome=1)])
    both = Node(children=[node("a", ended=True, outcome=1), node("b", ended=True, outcome=-1)])
    assert unusable(open_ended, "terminal") == "trees_without_a_terminal"
    assert unusable(open_ended, "none") is None
    assert unusable(right, "terminal") is None
    assert unusable(right, "solved") == "trees_all_right_or_all_wrong"
    assert unusable(both, "solved") is None


def test_a_beginning_after_which_nothing_can_be_written_ends_the_search_there():
    root, path = run(Plan(simulations=3, depth=3), lambda prefix, count: [])
    assert path == [root]
    assert not list(pairs_along(path, "worst", random.Random(0)))

    def one_level(prefix: str, count: int) -> list[Step]:
        return [] if prefix else [Step("a\n", -1.0, 1, False, 0.9), Step("b\n", -1.0, 1, False, 0.2)]

    root, path = run(Plan(simulations=3, depth=3), one_level)
    assert [child.step.text for child in path[1:] if child.step] == ["a\n"]


def test_a_move_is_drawn_at_a_temperature():
    ends = {run(Plan(1, depth=1, temperature=5.0), leaves([0.0, 0.1]), seed)[1][-1].prefix for seed in range(12)}
    assert ends == {"0\n", "1\n"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(make_model(tmp_path_factory.mktemp("run") / "stages" / "sft", 0))


@pytest.fixture
def bench(model: Any, tmp_path: Path) -> Any:
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"{w} is", "completion": f"{w} 3", "answer": str(i)} for i, w in enumerate(WORDS[:5])]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = TreeSearch(
        prompts=(str(file),), verifier=VerifierJudge(), simulations=1, actions=3, depth=2, step_tokens=6, stop="e",
        heldout_one_in=3, together=2, max_rows=8, kept="none",
    )  # fmt: skip
    return stage, context_of(model, tmp_path / "work")


def rows_of(folder: Path, stage: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for name in stage.outputs() for line in (folder / name).read_text().splitlines()]


def test_the_stage_shares_beginnings_on_the_engine_and_goes_on_after_a_stop(bench: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    stage, context = bench
    report = stage.run(context)
    rows = rows_of(context.folder, stage)
    assert report["pairs"] + report["heldout_pairs"] == len(rows) > 0
    assert report["trees_searched"] == 5
    assert report["tokens_shared"] > 0  # a beginning is read once for all steps after it
    for row in rows:
        spans = [row[f"{side}_spans"][0] for side in ("chosen", "rejected")]
        assert all(end == len(row[side]) for (_, end), side in zip(spans, ("chosen", "rejected"), strict=True))
        assert spans[0][0] == spans[1][0]
        assert row["chosen"][: spans[0][0]] == row["rejected"][: spans[0][0]]
        assert 0 <= row["smoothing"] <= 0.5
        assert row["margin"] > 0
    files = {name: (context.folder / name).read_text() for name in stage.outputs()}
    (tmp_path / "again").mkdir()
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 12:
            raise Preempted("stopped", 15)

    again = replace(context, folder=tmp_path / "again", check=stop)
    with pytest.raises(Preempted):
        stage.run(again)
    resumed = stage.run(replace(again, check=lambda: None))
    assert 0 < resumed["trees_searched"] < 5
    assert {name: (again.folder / name).read_text() for name in stage.outputs()} == files


def test_a_tree_belongs_to_prompt_answer_and_solution(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    row = {"prompt": "p", "completion": "s 3", "answer": "3"}
    rows = [row, row | {"answer": "4"}, row | {"completion": "t 3"}, row]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = TreeSearch(prompts=(str(file),))
    named = stage._named(stage.questions([file]))
    assert [q.row.data for q in named.values()] == rows[:1] + rows[1:3]


def test_trees_without_a_terminal_are_said(bench: Any) -> None:
    from dataclasses import replace

    stage, context = bench
    said: list[str] = []
    strict = replace(stage, kept="terminal", depth=1, evaluate=False)
    with pytest.raises(DataError, match="pairs of two prompts at least are needed"):
        strict.run(replace(context, say=said.append))
    assert any("search trees hold no answer that ends within 1 steps of 6 tokens" in line for line in said)


def test_settings_that_cannot_work_are_refused() -> None:
    assert TreeSearch(prompts=("f",)).problems() == []
    found = TreeSearch(actions=1, root_actions=1, stop="", temperature=0.0, depth=0).problems()
    assert len(found) == 6
    assert "actions is 1 but must be at least 2." in found
