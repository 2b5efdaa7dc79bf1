"""What an environment is: it opens a conversation, and answers each of the model's turns. Imports no jax.

reset(row) -> messages                       how the conversation begins; the same for the same row
step(messages) -> (messages, reward, done)   what follows the model's newest turn
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from jaxpo.errors import ConfigError

Message = Mapping[str, Any]
Step = tuple[list[Message], float, bool]
Tool = Callable[..., Any]


class Environment(Protocol):
    """One conversation.

    Attributes:
      calls, failures: of tools, so far.
    """

    calls: int
    failures: int

    def reset(self, row: Mapping[str, Any]) -> list[Message]:
        """The messages that the conversation begins with, from a row's columns; the last is the user's."""
        ...

    def step(self, messages: Sequence[Message]) -> Step:
        """What follows the model's newest turn, the last of the messages: further messages, a reward that is added to
        those before, and whether the conversation is over. A turn's `tool_calls` are those that it wrote."""
        ...


@dataclass(frozen=True)
class EnvironmentOf(ABC):
    """How the environments of a stage are made; `open` is what subclasses write.

    Attributes:
      turns: of the model, at most; a conversation that is not over then is cut off, and counted.
    """

    turns: int = 4

    NAME: ClassVar[str] = "environment"

    @abstractmethod
    def open(self) -> Environment:
        """An environment for one conversation."""

    def tools(self) -> tuple[Any, ...]:
        """Descriptions of the tools that the model may call, as rows have them."""
        return ()

    def check(self, row: Mapping[str, Any]) -> str | None:
        """Why a row cannot be played; None if it can."""
        return None

    def problems(self) -> list[str]:
        """What is wrong with its settings."""
        return [] if self.turns >= 1 else [f"turns is {self.turns}; it must be at least 1."]

    def identity(self) -> dict[str, Any]:
        """Everything that conversations depend on besides the model."""
        return {"environment": self.NAME, **dataclasses.asdict(self)}


@dataclass
class ToolConversation(ABC):
    """A conversation in which the model calls tools until it answers in words.

    What a tool raises is what the model is told, and counted; so are calls of tools that there are not, and turns in
    which what stands between the marks of a call cannot be read.
    """

    calls: int = 0
    failures: int = 0
    row: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def tool_functions(self) -> Mapping[str, Tool]:
        """Name -> function of named arguments."""

    @abstractmethod
    def score(self, answer: str) -> float:
        """The reward of the final answer."""

    def reset(self, row: Mapping[str, Any]) -> list[Message]:
        """The row's prompt."""
        self.row = row
        prompt = row["prompt"]
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)

    def step(self, messages: Sequence[Message]) -> Step:
        """See `Environment`."""
        said = messages[-1]
        if not said.get("tool_calls"):
            return [], self.score(said["content"]), True
        return [{"role": "tool", "content": self._called(call)} for call in said["tool_calls"]], 0.0, False

    def _called(self, call: Message) -> str:
        self.calls += 1
        name, functions = call.get("name"), self.tool_functions()
        try:
            if not name:
                raise ValueError("the call cannot be read; write [name(argument=value)]")
            if name not in functions:
                raise LookupError(f"there is no tool {name!r}; there are {', '.join(functions)}")
            found = functions[name](**call["arguments"])
        except Exception as error:  # the model's own doing: it is told
            self.failures += 1
            return f"error: {error}"
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def describe(name: str, description: str, **parameters: str) -> dict[str, Any]:
    """A tool's description in the form that templates list: parameters by name, each with its JSON type."""
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return {
        "name": name,
        "description": description,
        "parameters": {"type": "object", "properties": properties, "required": list(parameters)},
    }


def check_environment(value: Any) -> list[str]:
    """What is wrong with what a stage names as its environment."""
    if not isinstance(value, EnvironmentOf):
        return [f"{value!r:.60} is no environment; use an instance of a class of jaxpo.online.environments."]
    try:
        return value.problems()
    except ConfigError as error:
        return error.problems
