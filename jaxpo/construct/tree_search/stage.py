"""Pairs of steps out of search trees, as a stage of a recipe."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.construct.on_policy.own_pairs import OwnPairs
from jaxpo.construct.tree_search.pairs import Filter, Loser, StepPair, pairs_along, unusable
from jaxpo.construct.tree_search.search import Plan, search
from jaxpo.judges.ledger import Ledger, digest
from jaxpo.judges.questions import Question
from jaxpo.judges.verifier import VerifierJudge

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext
    from jaxpo.construct.tree_search.steps import StepWriter

TREES = "trees"


@dataclass(frozen=True)
class TreeSearch(OwnPairs):
    """A search over the steps of answers by an earlier stage's model, and pairs of sibling steps out of its trees.

    A simulation goes down by PUCT and grows leaves to the end of an answer. A step is worth the model's own confidence
    in it, asked with the right answer in sight, and an answer that is over 1 where it is right (1.25 by another way
    than the row's completion), -1 where it is wrong. The search moves along the best standing child; every node of the
    path with two children makes a pair. Its rows have prompt,
    chosen, rejected, `chosen_spans` and `rejected_spans` of the steps, `smoothing` by their visits, `margin` of Q.
    Trees are kept in a ledger as they are finished, so that a stage that was stopped goes on behind them.

    Attributes:
      verifier: says whether an answer is right; `VerifierJudge(column)`.
      simulations: from each node of the path; four times as many from the root.
      actions: steps that are tried after a beginning.
      root_actions: after the question; None = `actions`.
      depth: steps of an answer at most.
      step_tokens: tokens of a step at most.
      stop: what ends a step.
      c_puct: weight of the prior.
      gamma: of later rewards.
      temperature: of the sampling.
      move_temperature: 0 = the best standing child is followed; else one is drawn by exp(Q / temperature).
      similar: of two steps whose words overlap more than this (F1) the later is dropped.
      evaluate: the model is asked how sure it is of each step.
      loser: "worst" of the siblings, "second" best, or a "random" one.
      kept: trees with an answer that ends ("terminal"), with a right one and a wrong one ("solved"), or all ("none").
      together: questions that are searched side by side.
      max_rows: steps that are written at once.
    """

    LEAST: ClassVar[Mapping[str, float]] = {
        "simulations": 1,
        "actions": 2,
        "depth": 1,
        "step_tokens": 2,
        "c_puct": 0,
        "gamma": 0,
        "move_temperature": 0,
        "together": 1,
        "max_rows": 1,
    }

    name: str = "tree_search"
    verifier: VerifierJudge = field(default_factory=VerifierJudge)
    simulations: int = 64
    actions: int = 2
    root_actions: int | None = None
    depth: int = 3
    step_tokens: int = 128
    stop: str = "\n"
    c_puct: float = 1.0
    gamma: float = 1.0
    temperature: float = 1.0
    move_temperature: float = 0.0
    similar: float = 0.99
    evaluate: bool = True
    loser: Loser = "worst"
    kept: Filter = "terminal"
    together: int = 32
    max_rows: int = 64

    def problems(self) -> list[str]:
        found = super().problems()
        if self.root_actions is not None and self.root_actions < 2:
            found.append(f"root_actions is {self.root_actions} but must be at least 2: there is nothing to compare.")
        if not self.temperature > 0:
            found.append(f"temperature is {self.temperature} but must be greater than 0: all steps would be alike.")
        if not self.stop:
            found.append("stop is empty, so that no step would end; give a line break.")
        return found

    @property
    def plan(self) -> Plan:
        """How far and how long is searched."""
        root = self.actions if self.root_actions is None else self.root_actions
        how = (self.simulations, self.actions, root, self.depth, self.c_puct, self.gamma, self.move_temperature)
        return Plan(*how)

    def check_inputs(self, files: Sequence[Path]) -> None:
        self.verifier.check([question.row for question in self.questions(files)])

    def run(self, context: WorkContext) -> dict[str, Any]:
        questions, counts = self.questions(context.files(self.prompts)), Counter[str]()
        found = self._trees(questions, context, counts)
        rows = []
        for name, question in self._named(questions).items():
            record = found[name]
            if record["unusable"]:
                counts[record["unusable"]] += 1
                continue
            counts["trees_without_a_pair"] += not record["pairs"]
            rows += [_row(question, StepPair(**pair)) for pair in record["pairs"]]
        if n := counts["trees_without_a_terminal"]:
            context.say(
                f"{self.name}: {n} of {len(questions)} search trees hold no answer that ends within {self.depth} steps "
                f"of {self.step_tokens} tokens; they are left out. Raise depth or step_tokens if they are many"
            )
        counts["prompts_repeated"] = len(questions) - len(self._named(questions))
        return self.write(rows, context.folder, {"prompts": len(questions)}, counts)

    def _name(self, question: Question) -> str:
        """Of everything that its tree depends on: the prompt, the right answer, and the solution that is known."""
        return digest(question.prompt, self.verifier.reference(question.row), question.given.get("completion"))

    def _named(self, questions: Sequence[Question]) -> dict[str, Question]:
        """Each question once."""
        return {self._name(question): question for question in questions}

    def _trees(
        self, questions: Sequence[Question], context: WorkContext, counts: Counter[str]
    ) -> dict[str, dict[str, Any]]:
        """What became of every question's tree, by its name; those in the ledger are not searched again."""
        network = context.network(self.model, "whole")
        settings = asdict(self) | {"model": network.fingerprint(), "seed": context.seed}
        for name in ("name", "prompts", "skip_prompts", "max_prompts", "heldout_one_in", "together", "max_rows"):
            settings.pop(name)
        ledger = Ledger(context.folder, TREES, settings)
        found = {record["question"]: record for record in ledger.read()}
        named = self._named(questions)
        left = [question for name, question in named.items() if name not in found]
        if len(left) < len(named):
            context.say(f"{self.name}: {len(named) - len(left)} of {len(named)} trees are in {ledger.path}")
        writer = self._writer(network, left, context, counts) if left else None
        for first in range(0, len(left), self.together):
            assert writer is not None
            records = list(self._searched(left[first : first + self.together], writer, context.seed))
            ledger.append(records)
            found |= {record["question"]: record for record in records}
            context.check()
        counts["trees_searched"] = len(left)
        if writer is not None:
            load = writer.engine.load
            counts["tokens_written"], counts["tokens_shared"] = load.written, load.shared
        return found

    def _writer(
        self, network: Any, questions: Sequence[Question], context: WorkContext, counts: Counter[str]
    ) -> StepWriter:
        from jaxpo.construct.tree_search.steps import StepWriter, Writing

        how = (self.temperature, self.step_tokens, self.stop, self.similar, self.evaluate, self.max_rows, context.seed)
        longest = int(max(network.prompt_lengths([q.prompt for q in questions])))
        sizes = {"longest": longest, "depth": self.depth}
        return StepWriter(network, Writing(*how), self.verifier, counts, check=context.check, **sizes)

    def _searched(self, questions: Sequence[Question], writer: StepWriter, seed: int) -> Iterator[dict[str, Any]]:
        """The searches of these questions, side by side."""
        games = {i: search(self.plan, int(self._name(q), 16) + seed) for i, q in enumerate(questions)}
        wanted = {i: next(game) for i, game in games.items()}
        ended: dict[int, Any] = {}
        while wanted:
            written = writer.write([(questions[i], want) for i, want in wanted.items()])
            following = {}
            for i, steps in zip(list(wanted), written, strict=True):
                try:
                    following[i] = games[i].send(steps)
                except StopIteration as over:
                    ended[i] = over.value
            wanted = following
        for i, question in enumerate(questions):
            root, path = ended[i]
            name = self._name(question)
            draws = random.Random(int(name, 16) + seed)
            yield {
                "question": name,
                "unusable": unusable(root, self.kept),
                "pairs": [asdict(pair) for pair in pairs_along(path, self.loser, draws)],
            }


def _row(question: Question, pair: StepPair) -> dict[str, Any]:
    texts = [pair.prefix + step for step in (pair.chosen, pair.rejected)]
    return {
        "prompt": question.prompt,
        "chosen": question.as_written(texts[0]),
        "rejected": question.as_written(texts[1]),
        "chosen_spans": [[pair.span, len(texts[0])]],
        "rejected_spans": [[pair.span, len(texts[1])]],
        "smoothing": pair.smoothing,
        "margin": pair.margin,
    }
