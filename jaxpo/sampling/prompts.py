"""What can be answered: a text to go on from, or a conversation and the tools that may be called for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxpo.data.chat.chat import Message
from jaxpo.data.rows.rows import Record


@dataclass(frozen=True)
class Conversation:
    """Messages to answer.

    Attributes:
      tools: strings or JSON values, as rows have them.
      pictures: images as they were given, in the order of the marks in the messages (`jaxpo.data.rows.pictures.MARK`).
    """

    messages: Sequence[Message]
    tools: Sequence[Any] = ()
    pictures: Sequence[Any] = ()


Prompt = str | Sequence[Message] | Conversation


def as_conversation(prompt: Prompt) -> Conversation:
    """A prompt as a conversation; a string is what a user says."""
    if isinstance(prompt, Conversation):
        return prompt
    return Conversation([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)


def with_system(prompt: Prompt, system: str | None) -> Conversation:
    """A prompt as a conversation that a system message begins, where one is given."""
    given = as_conversation(prompt)
    first = [{"role": "system", "content": system}] if system else []
    return replace(given, messages=[*first, *given.messages])


def prompt_of(record: Record) -> Prompt:
    """What a row asks."""
    prompt = record.sides[0].prompt or ""
    if record.pictures:
        return replace(as_conversation(prompt), tools=record.tools, pictures=record.pictures)
    return prompt if isinstance(prompt, str) or not record.tools else Conversation(prompt, record.tools)
