"""How tool calls stand in a text: marks, the parser of what a model wrote, and the parts that are learnt."""

from __future__ import annotations

import re
from dataclasses import dataclass

CALL_MARK, OBSERVATION_MARK, RATIONALE_MARK = "\n[tool]", "\n[observation]", "\n[rationale]"
MAX_CALLS = 3
_CALL = re.compile(
    r"(?:Thought:(?P<thought>.*?)\n)?\s*Action:(?P<action>[^\n]*)\nAction Input:(?P<input>.*)", re.DOTALL
)
_FINISHED = re.compile(r"\bfinished\b", re.IGNORECASE)

Part = tuple[int, int, str]
"""Characters from, to (exclusive), and the kind: "answer", "tool", "observation" or "rationale"."""


@dataclass(frozen=True)
class Call:
    """One call of a tool, as it was written."""

    thought: str
    action: str
    input: str


@dataclass(frozen=True)
class Rationale:
    """The reason that ends a trajectory."""

    text: str


@dataclass(frozen=True)
class Finished:
    """An end without a reason."""


@dataclass(frozen=True)
class Invalid:
    """Neither a call nor an end."""

    text: str


Written = Call | Rationale | Finished | Invalid


@dataclass(frozen=True)
class Step:
    """A call and what the tool said.

    Attributes:
      failed: the tool had no result, and the observation says why.
    """

    call: Call
    observation: str
    failed: bool = False


@dataclass(frozen=True)
class Trajectory:
    """Tool calls about an answer, and the reason that they lead to.

    Attributes:
      rationale: None where it ended without one.
      malformed: what was written last is neither a call nor an end, or did not fit.
      cut: one more call was written than there may be.
    """

    steps: tuple[Step, ...] = ()
    rationale: str | None = None
    malformed: bool = False
    cut: bool = False

    def parts(self, answer: str) -> list[tuple[str, str]]:
        """(kind, text) in order: joined, the texts are `text(answer)`."""
        found = [("answer", answer)]
        for step in self.steps:
            found += [("tool", tool_text(step.call)), ("observation", f" {step.observation}")]
        return found if self.rationale is None else [*found, ("rationale", f"{RATIONALE_MARK} {self.rationale}")]

    def text(self, answer: str) -> str:
        """The answer, with the trajectory behind it."""
        return "".join(text for _, text in self.parts(answer))

    def spans(self, answer: str) -> list[Part]:
        """Where each part stands in the text; empty parts have no place."""
        spans, start = [], 0
        for kind, text in self.parts(answer):
            if text:
                spans.append((start, start + len(text), kind))
            start += len(text)
        return spans


def tool_text(call: Call) -> str:
    """A call up to the mark after which the observation stands."""
    return f"{CALL_MARK} Thought: {call.thought}\nAction: {call.action}\nAction Input: {call.input}{OBSERVATION_MARK}"


def parse(text: str) -> Written:
    """What a model wrote since the last observation: a call before a rationale, before an end, before nothing usable.

    What stands behind an observation's mark is the model's guess at it, and is not read.
    """
    text = text.partition(OBSERVATION_MARK)[0]
    before, rationale_mark, reason = text.partition(RATIONALE_MARK.strip())
    found = _CALL.search(text)
    if found is not None:
        # The input of a call ends where the rationale begins that was written in the same breath.
        argument = found["input"].partition(RATIONALE_MARK.strip())[0].strip()
        if found["action"].strip() and argument:
            return Call((found["thought"] or "").strip(), found["action"].strip(), argument)
    if rationale_mark and reason.strip():
        return Rationale(reason.strip())
    return Finished() if _FINISHED.search(before) else Invalid(text.strip())
