"""Themis' rows: both responses of a pair with the tool calls that were made about them, and where each part stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jaxpo.construct.base import Construction, Tools
from jaxpo.construct.lcpo import read_pairs
from jaxpo.construct.rationales import plain
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import Record
from jaxpo.data.rows.texts import Text, string
from jaxpo.errors import ConfigError
from jaxpo.tools.base import Toolbox
from jaxpo.tools.named import toolbox
from jaxpo.tools.trajectory import Call, Step, Trajectory
from jaxpo.tools.writing import Writing, write_trajectories

SIDES = ("chosen", "rejected")
READ = tuple(f"{side}{what}" for side in SIDES for what in ("", "_trajectory", "_rationale", "_parts"))
"""Columns that are read here or made anew; the others of a row stay."""
_FORM = 'Give [{"thought": ..., "action": TOOL, "input": ...}, ...], with "observation" where it is known.'


@dataclass(frozen=True)
class Themis(Writing, Construction):
    """Pairs whose responses go on with tool calls, observations and a rationale.

    A row's own trajectories are taken, and calls without an observation are made; --model writes the missing ones.
    Pairs are left out where a trajectory of either side is malformed, has too many calls or one that failed.

    Attributes:
      tools: calculator, calendar, python, table:FILE, module:function, file.py:function.
      keep_failed: keep pairs with calls that failed; the observation says why.
      unsandboxed: run programs where there is no fence, too.
      max_calls, max_new_tokens, temperature, top_k: of trajectories that --model writes; `max_calls` of all.
    """

    tools: tuple[str, ...] = ("calculator",)
    keep_failed: bool = False
    unsandboxed: bool = False

    NAME = "themis"
    READS = (
        "pairs, with `chosen_trajectory`, `rejected_trajectory`, `chosen_rationale`, `rejected_rationale` or --model"
    )
    WRITES = "prompt, chosen, rejected (answer, calls, observations, rationale), chosen_parts, rejected_parts"

    def problems(self) -> list[str]:
        found = Writing.problems(self)
        try:
            toolbox(self.tools, unsandboxed=self.unsandboxed).check()
        except ConfigError as error:
            found += error.problems
        return found

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        box = toolbox(self.tools, unsandboxed=self.unsandboxed)
        records = read_pairs(rows)
        found = {side: self.trajectories(records, side, box, tools) for side in SIDES}
        for i, record in enumerate(records):
            both = {side: found[side][i] for side in SIDES}
            if why := self.why_not(both.values()):
                tools.count(f"dropped_{why}")
                continue
            tools.count("tool_calls", sum(len(one.steps) for one in both.values()))
            yield self.row_of(record, both)

    def trajectories(self, records: Sequence[Record], side: str, box: Toolbox, tools: Tools) -> list[Trajectory]:
        """Of one side of every pair: the row's own, or what --model writes."""
        given = [own_trajectory(record.row, side, box) for record in records]
        missing = [i for i, one in enumerate(given) if one is None]
        if missing:
            sides = [record.sides[SIDES.index(side)] for record in records]
            how = Writing(**{f.name: getattr(self, f.name) for f in fields(Writing)})
            written = write_trajectories(
                tools.network("model"),
                [sides[i].prompt or "" for i in missing],
                [plain(sides[i].completion) for i in missing],
                box,
                how,
                seed=tools.seed,
                check=tools.check,
            )
            given = [one if one is not None else written.pop(0) for one in given]
        return [one for one in given if one is not None]

    def why_not(self, both: Any) -> str:
        """Why a pair is left out; nothing if it is kept."""
        for one in both:
            if one.malformed or (not one.steps and one.rationale is None):
                return "malformed"
            if one.cut or len(one.steps) > self.max_calls:
                return "too_many_calls"
            if not self.keep_failed and any(step.failed for step in one.steps):
                return "failed_call"
        return ""

    def row_of(self, record: Record, both: Mapping[str, Trajectory]) -> dict[str, Any]:
        """The pair with its trajectories, and its other columns."""
        rest = {k: v for k, v in record.row.data.items() if k not in READ}
        prompt = record.sides[0].prompt or ""
        if prompt != (record.sides[1].prompt or ""):
            raise record.row.error("the responses answer different prompts.", remedy="Give pairs under one prompt.")
        new: dict[str, Any] = {"prompt": prompt}
        for side, given in zip(SIDES, record.sides, strict=False):
            answer = plain(given.completion)
            new |= {
                side: in_form(both[side].text(answer), given.completion),
                f"{side}_parts": [list(span) for span in both[side].spans(answer)],
            }
        return rest | new


def own_trajectory(row: Row, side: str, box: Toolbox) -> Trajectory | None:
    """A row's trajectory of one side, whose calls without an observation are made; None where it has none."""
    calls, reason = row.data.get(f"{side}_trajectory"), row.data.get(f"{side}_rationale")
    if calls is None and reason is None:
        return None
    steps = [_step(row, f"{side}_trajectory", call, box) for call in calls or []]
    rationale = None if reason is None else string(row, f"{side}_rationale", reason)
    return Trajectory(tuple(steps), rationale)


def _step(row: Row, column: str, call: Any, box: Toolbox) -> Step:
    known = isinstance(call, dict) and {"action", "input"} <= set(call)
    if not known or not all(isinstance(x, str) for x in call.values()):
        raise row.error(f"{call!r} is no call.", field=column, remedy=_FORM)
    made = Call(call.get("thought", ""), call["action"], call["input"])
    if "observation" in call:
        return Step(made, call["observation"])
    seen = box.use(made.action, made.input)
    return Step(made, seen.text, seen.failed)


def in_form(text: str, like: Text) -> Text:
    """A text as the response was: a string, or one turn."""
    return text if isinstance(like, str) else [{**like[-1], "content": text}]
