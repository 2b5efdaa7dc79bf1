"""What is kept of an answer that is a conversation of several turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Talk:
    """Of a conversation with an environment.

    Attributes:
      mask: bool `[n]`, the answer's tokens that the model wrote.
      messages: all after the prompt.
      reward: of the environment, summed.
      turns: of the model.
      cut_off: it was not over after as many turns as there may be.
      calls, failures: of tools.
      trouble: what the environment raised; "" = nothing.
    """

    mask: np.ndarray
    messages: Sequence[Mapping[str, Any]]
    reward: float
    turns: int
    cut_off: bool = False
    calls: int = 0
    failures: int = 0
    trouble: str = ""

    def record(self) -> dict[str, Any]:
        """As JSON: the mask as the lengths of its runs, that of the model's tokens first."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "mask": runs(self.mask), "messages": list(self.messages)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Talk:
        """From its record."""
        lengths = record["mask"]
        mask = np.repeat(np.arange(len(lengths)) % 2 == 0, lengths)
        return cls(**{**record, "mask": mask, "messages": tuple(record["messages"])})


def runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of equal values, True first."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8))) + 1
    found = np.diff([0, *edges.tolist(), len(mask)]).tolist()
    return found if len(mask) == 0 or mask[0] else [0, *found]


def talk_figures(talks: Sequence[Talk]) -> dict[str, float]:
    """What is logged of conversations: TRL's names of tools, turns, and the share that the limit of turns cut off."""
    calls = sum(talk.calls for talk in talks)
    return {
        "environment/turns_mean": float(np.mean([talk.turns for talk in talks])),
        "environment/turns_max": float(max(talk.turns for talk in talks)),
        "environment/cut_off": float(np.mean([talk.cut_off for talk in talks])),
        "environment/trouble": float(np.mean([bool(talk.trouble) for talk in talks])),
        "tools/call_frequency": calls / len(talks),
        "tools/failure_frequency": sum(talk.failures for talk in talks) / max(calls, 1),
    }
