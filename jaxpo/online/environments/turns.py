"""Between tokens and messages: what a turn of the model says and calls, and the tokens that follow it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jaxpo.data.chat.calls import CALL_END, CALL_START
from jaxpo.data.chat.chat import encode_spans
from jaxpo.data.chat.reading_calls import read_calls
from jaxpo.data.chat.template_choice import template_of
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.online.environments.base import Message

TURN = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
UNREADABLE = {"name": "", "arguments": {}}
"""A call that is none: what stands between its marks is no list of calls."""


def message_of(tokenizer: Tokenizer, tokens: Sequence[int]) -> Message:
    """An assistant's message: the text outside the marks of calls, and `tool_calls` where there are any."""
    start, end = tokenizer.special_ids[CALL_START], tokenizer.special_ids[CALL_END]
    said: list[int] = []
    calls: list[dict[str, Any]] = []
    held: list[int] | None = None
    for token in tokens:
        if token == start and held is None:
            held = []
        elif held is None:
            said.append(token)
        elif token == end:
            calls += _calls(tokenizer.decode(held))
            held = None
        else:
            held.append(token)
    if held is not None:
        calls.append(UNREADABLE)  # it was never closed
    message: dict[str, Any] = {"role": "assistant", "content": tokenizer.decode(said)}
    return message | ({"tool_calls": calls} if calls else {})


def _calls(text: str) -> list[dict[str, Any]]:
    found = read_calls(text)
    if found is None:
        return [UNREADABLE]
    return [{"name": call.name, "arguments": json.loads(call.arguments)} for call in found]


def after_turn(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The tokens between the end of a turn of the model and its next turn, in which these messages stand.

    The template is asked: everything that it writes after the end of an assistant's turn.
    """
    chat = template_of(tokenizer).render

    def ids(conversation: Sequence[Message], *, opened: bool) -> list[int]:
        spans = chat(conversation, add_generation_prompt=opened, train_on="none")
        return encode_spans(tokenizer, spans)[0].tolist()

    ends = ids(TURN, opened=False).count(tokenizer.eos_id)
    whole = ids((*TURN, *messages), opened=True)
    for _ in range(ends):
        whole = whole[whole.index(tokenizer.eos_id) + 1 :]
    return whole
