"""Groups of answers, and how they lie in a ledger."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.data.rows.texts import Text
from jaxpo.online.talk import Talk

INT, FLOAT = "<i4", "<f4"


@dataclass(frozen=True)
class Prompt:
    """What is answered.

    Attributes:
      number: of the prompt in its dataset.
      ids: int32, BOS included.
      text: a string or messages.
      columns: of the row that it comes from, the prompt among them.
      file, row: where that is.
    """

    number: int
    ids: np.ndarray
    text: Text
    columns: Mapping[str, Any]
    file: Any = None
    row: int = 0


@dataclass(frozen=True)
class Answer:
    """One continuation of a prompt.

    Attributes:
      tokens: int32 `[n]`, the end included.
      logps: float32 `[n]` under the sampler's model at temperature 1, unfiltered.
      sampling_logps: float32 `[n]` under the distribution that the tokens were drawn from.
      finished: it ended by itself.
      text: without special tokens; of several turns the last.
      talk: what is kept of a conversation with an environment, whose tokens are among `tokens`; None without one.
    """

    tokens: np.ndarray
    logps: np.ndarray
    sampling_logps: np.ndarray
    finished: bool
    text: str
    talk: Talk | None = None

    def record(self) -> dict[str, Any]:
        """As JSON; arrays as the base64 of their little-endian bytes, so that they are read back bit for bit."""
        return {
            "tokens": packed(self.tokens, INT),
            "logps": packed(self.logps, FLOAT),
            "sampling_logps": packed(self.sampling_logps, FLOAT),
            "finished": self.finished,
            "text": self.text,
            **({} if self.talk is None else {"talk": self.talk.record()}),
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Answer:
        """From its record."""
        return cls(
            unpacked(record["tokens"], INT),
            unpacked(record["logps"], FLOAT),
            unpacked(record["sampling_logps"], FLOAT),
            record["finished"],
            record["text"],
            Talk.of(record["talk"]) if "talk" in record else None,
        )

    @property
    def own(self) -> np.ndarray:
        """bool `[n]` the tokens that the model wrote."""
        return np.ones(len(self.tokens), bool) if self.talk is None else self.talk.mask

    @property
    def written(self) -> int:
        """Tokens that the model wrote."""
        return int(self.own.sum())


@dataclass(frozen=True)
class Group:
    """All answers to one prompt.

    Attributes:
      place: of the group in its generation, from 0.
      position: in the endless order of prompts; identifies the draws.
    """

    place: int
    position: int
    prompt: Prompt
    answers: tuple[Answer, ...]


def packed(values: np.ndarray, dtype: str) -> str:
    """An array as text."""
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()


def unpacked(text: str, dtype: str) -> np.ndarray:
    """Its inverse."""
    return np.frombuffer(base64.b64decode(text), dtype)
