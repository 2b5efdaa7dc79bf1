"""Minimal revision of a chosen answer by something better than the model that wrote it.

Reference: D'Oosterlinck et al. 2024 (CLAIR, arXiv 2408.06266), section 3: a stronger model revises an answer as little
as it can, so that the pair differs in what matters.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Ask, Item, Reply
from jaxpo.judges.endpoint import Endpoint, question_text
from jaxpo.judges.function import call, load_function, source_hash

INSTRUCTION = """You improve an assistant's answer with as few changes as possible: correct what is wrong, complete \
what is missing, keep the wording of everything that is already good. Reply with the improved answer alone, without \
marks around it. If nothing needs to change, repeat the answer."""


@dataclass(frozen=True)
class Refiner(ABC):
    """Revises answers; an empty revision is a failure."""

    NAME: ClassVar[str]
    BATCH: ClassVar[int] = 8

    @abstractmethod
    def check(self) -> None:
        """Refuse what cannot work before anything expensive; ConfigError."""

    def problems(self) -> list[str]:
        """What is wrong with its settings, to be said before a run begins."""
        try:
            self.check()
        except ConfigError as error:
            return error.problems
        return []

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that revisions depend on besides the items."""

    @abstractmethod
    def open(self) -> Ask:
        """Items -> replies whose value is the revised answer."""


@dataclass(frozen=True)
class FunctionRefiner(Refiner):
    """`f(prompt, answer, row) -> revised answer`; an exception that it raises is a failure of that answer.

    Attributes:
      function: "module:function" or "file.py:function".
    """

    function: str = ""

    NAME: ClassVar[str] = "function"

    def check(self) -> None:
        load_function(self.function)

    def identity(self) -> dict[str, Any]:
        return {"refiner": self.NAME, "function": self.function, "source": source_hash(self.function)}

    def open(self) -> Ask:
        function = load_function(self.function)
        return lambda items: [call(function, item, text_reply) for item in items]


@dataclass(frozen=True)
class ChatRefiner(Refiner):
    """A chat endpoint that is told to change as little as possible.

    Attributes:
      endpoint: who is asked; its `max_tokens` must leave room for the longest answer.
      instruction: the system message.
    """

    endpoint: Endpoint = field(default_factory=lambda: Endpoint(max_tokens=2048))
    instruction: str = INSTRUCTION

    NAME: ClassVar[str] = "chat"

    def check(self) -> None:
        self.endpoint.check()

    def identity(self) -> dict[str, Any]:
        return {"refiner": self.NAME, **dataclasses.asdict(self), "endpoint": self.endpoint.identity()}

    def open(self) -> Ask:
        def one(item: Item) -> Reply:
            return text_reply(self.endpoint.complete(self.instruction, question_text(item)))

        return lambda items: self.endpoint.ask_each(items, one)


def text_reply(value: Any) -> Reply:
    """A revision as a reply: a text that is not blank, or a failure."""
    if not isinstance(value, str) or not value.strip():
        return Reply(failed=f"the revision is no text but {value!r:.80}")
    return Reply(value)
