"""RPS: one answer for each of k directions near the one that is asked for, and the best along that one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Tools, not_positive
from jaxpo.construct.rps.directions import angle_between, at_angle, cap, conditioned, grid, percent, unit
from jaxpo.construct.rps.dpa import DPA, as_completion
from jaxpo.construct.rps.selection import projections, select
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import canonical
from jaxpo.data.rows.texts import Text, text_of_column


@dataclass(frozen=True)
class RPS(DPA):
    """Answers of --model, which knows directions, for one direction; beside them the best of as many for it alone.

    Attributes:
      angle: of the direction that is asked for, degrees from the first attribute towards the second. A row's column
        `direction` (weights) takes its place, and does so where there are more than two attributes.
      n: directions, and answers: k of the paper.
      spread: degrees within which the neighbours lie.
      neighbours: "grid", evenly spaced (two attributes), or "cap", drawn.
      baseline: write the best of n answers for the direction itself, too.
      centre, cone: those that the model was trained with; a direction outside is said.
    """

    angle: float = 0.0
    n: int = 5
    spread: float = 30.0
    neighbours: Literal["grid", "cap"] = "grid"
    baseline: bool = True

    NAME = "rps"
    READS = "prompts, with a column `direction` where each has its own"
    WRITES = "prompt, completion, direction, score, written_for, scores, and of the baseline completion and score"

    def problems(self) -> list[str]:
        found = super().problems()
        if not 0 <= self.spread <= 180:
            found.append(f"--spread is {self.spread} but must be degrees in 0 .. 180.")
        if self.neighbours == "grid" and len(self.centre) != 2:
            found.append(f"--neighbours grid has two attributes and --centre {len(self.centre)}; take cap.")
        return found + not_positive(n=self.n)

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        rows = [canonical(row) for row in rows]
        prompts = [text_of_column(row, "prompt") for row in rows]
        wanted = np.stack([self.direction(row) for row in rows])
        self.check_names(self.names(tools), self.centre)
        self.say_outside(wanted, tools)
        near = np.stack([self.near(v, np.random.default_rng((tools.seed, i))) for i, v in enumerate(wanted)])
        answers, scores = self.best(rows, prompts, near, wanted, tools)
        plain = (
            self.best(rows, prompts, np.repeat(wanted[:, None], self.n, axis=1), wanted, tools)
            if self.baseline
            else None
        )
        for i, prompt in enumerate(prompts):
            chosen = self.picked(scores[i])
            if chosen < 0:
                tools.count("rows_without_an_answer")
                continue
            new: dict[str, Any] = {
                "prompt": prompt,
                "completion": as_completion(answers[i][chosen], prompt),
                "direction": wanted[i].tolist(),
                "score": float(scores[i, chosen]),
                "written_for": near[i, chosen].tolist(),
                "scores": [None if np.isnan(s) else float(s) for s in scores[i]],
            }
            if plain is not None:
                new |= self.beside(prompt, float(scores[i, chosen]), plain[0][i], plain[1][i], tools)
            yield new

    def beside(
        self, prompt: Text, score: float, answers: Sequence[str], scores: np.ndarray, tools: Tools
    ) -> dict[str, Any]:
        """The baseline's answer and score, None where all of its answers failed: nothing is compared then."""
        other = self.picked(scores)
        if other < 0:
            tools.count("rows_without_an_answer_of_the_baseline")
            return {"baseline_completion": None, "baseline_score": None}
        gain = score - float(scores[other])
        tools.count("rps_wins" if gain > 0 else "rps_ties" if gain == 0 else "rps_loses")
        return {
            "baseline_completion": as_completion(answers[other], prompt),
            "baseline_score": float(scores[other]),
        }

    def direction(self, row: Row) -> np.ndarray:
        """Which one a row asks for."""
        given = row.data.get("direction")
        if given is None:
            return at_angle(self.angle) if len(self.centre) == 2 else unit(self.centre)
        try:
            v = unit(given)
        except (TypeError, ValueError):
            v = np.zeros(0)
        if v.shape != (len(self.centre),):
            remedy = f"Give {len(self.centre)} weights, one of which is not 0."
            raise row.error(f"{given!r} is no direction.", field="direction", remedy=remedy)
        return v

    def near(self, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Its neighbours, `[n, m]`."""
        return grid(v, self.spread, self.n) if self.neighbours == "grid" else cap(v, self.spread, self.n, rng)

    def say_outside(self, wanted: np.ndarray, tools: Tools) -> None:
        """Say which directions lie beyond the trained cone, where neighbours should help, and which inside."""
        away = [angle_between(v, unit(self.centre)) - self.cone for v in wanted]
        outside = [excess for excess in away if excess > 1e-6]
        if outside:
            tools.count("directions_outside_the_trained_cone", len(outside))
            tools.say(
                f"{len(outside)} of {len(away)} directions lie outside the trained cone ({self.cone:g} degrees around "
                f"{percent(unit(self.centre))}), by up to {max(outside):.0f} degrees: the model was not taught them."
            )

    def best(
        self, rows: Sequence[Row], prompts: Sequence[Text], asked: np.ndarray, wanted: np.ndarray, tools: Tools
    ) -> tuple[list[list[str]], np.ndarray]:
        """One answer for each of the directions `[B, n, m]`, and their scores along what is wanted, `[B, n]`."""
        names, k = self.names(tools), self.n
        each = [i for i in range(len(prompts)) for _ in range(k)]
        flat = [
            conditioned(prompts[i], names, percent(v), self.text)
            for i, v in zip(each, asked.reshape(len(each), -1), strict=True)
        ]
        found = tools.generate(
            flat, 1, temperature=self.temperature, top_k=self.top_k, max_new_tokens=self.max_new_tokens
        )
        answers = [answer for (answer,) in found]
        _, values = self.measure([rows[i] for i in each], [prompts[i] for i in each], answers, tools)
        scores = projections(values.reshape(len(prompts), k, len(names)), wanted)
        return [answers[i * k : (i + 1) * k] for i in range(len(prompts))], scores

    def picked(self, scores: np.ndarray) -> int:
        """Of one prompt's candidates; -1 where all failed."""
        return int(select(scores[:, None], np.ones(1)))
