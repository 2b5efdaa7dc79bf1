"""LFM2's chat template as spans, so that which tokens are trained on is known exactly, not guessed from ids."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.data.chat.calls import CALL_END, CALL_START, THINK_END, THINK_START, call_list, reasoning_of
from jaxpo.data.tokenizer.tokenizer import BOS, IM_END, IM_START, Tokenizer
from jaxpo.errors import DataError

Message = Mapping[str, Any]
TrainOn = Literal["assistant", "all", "none"]
# A call may be part of an assistant turn's content, so an assistant's own text may hold these two tokens.
OF_ASSISTANTS = (CALL_START, CALL_END)
_TOOL_CALL = re.compile(f"({'|'.join(map(re.escape, OF_ASSISTANTS))})")


@dataclass(frozen=True)
class Span:
    """A run of rendered text.

    Attributes:
      text: the characters; for a control span the special token's name.
      supervised: trained on.
      role: whose turn it belongs to ("system", "user", "assistant", "tool", or "" outside of turns).
      control: one special token. Text spans never yield special tokens, whatever they contain.
    """

    text: str
    supervised: bool = False
    role: str = ""
    control: bool = False


def render(
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Any] | None = None,
    train_on: TrainOn = "assistant",
    first_trained: int = 0,
) -> list[Span]:
    """Render a conversation with LFM2's template.

    Args:
      messages: `{"role", "content"}`, and of assistants `tool_calls` and `reasoning_content`; a leading system message
        and `tools` share one system turn. `train` decides on a message, whatever its role.
      add_generation_prompt: end with an opened assistant turn.
      tools: strings or JSON values.
      train_on: "assistant" supervises the content of assistant turns and the `<|im_end|>` and newline that close them.
      first_trained: messages before this index are never supervised (the prompt of a preference pair).

    Returns:
      Spans; joined, their text is what the Jinja template gives.
    """
    everything = train_on == "all"
    spans = [Span(BOS, everything, "", True)]
    rest = list(messages)
    flags = trained_messages(messages, train_on, first_trained)
    system: list[Span] = []
    shift = 0
    if rest and rest[0]["role"] == "system":
        text = content_of(rest.pop(0))
        system, shift = ([Span(text, everything, "system")] if text else []), 1
    system += _tool_list(tools, leading_newline=bool(system), supervised=everything)
    if system:
        spans += _turn("system", system, everything, everything)
    for message, trained in zip(rest, flags[shift:], strict=True):
        spans += _turn(message["role"], _body(message, trained), everything, trained)
    if add_generation_prompt:
        spans += [Span(IM_START, everything, "assistant", True), Span("assistant\n", everything, "assistant")]
    return spans


def trained_messages(messages: Sequence[Message], train_on: TrainOn, first_trained: int) -> list[bool]:
    """Which messages are trained on: those of the assistant, unless they say otherwise themselves (`train`)."""
    if train_on != "assistant":
        return [train_on == "all"] * len(messages)
    return [
        i >= first_trained and message.get("train", message["role"] == "assistant")
        for i, message in enumerate(messages)
    ]


def encode_spans(tokenizer: Tokenizer, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids `[n]` int32 and supervised mask `[n]` bool of rendered spans.

    The ids are those of the rendered text as a whole, with one exception: no token reaches from given text into
    supervised text. The two differ only where a supervised text starts with line breaks; there a token of the whole
    text would join the prompt's newline with the answer's, which the model can never produce after the prompt.
    """
    return encode_many(tokenizer, [spans])[0]


def encode_many(tokenizer: Tokenizer, rendered: Sequence[Sequence[Span]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """`encode_spans` of many conversations with one call of the tokenizer."""
    joined = [_runs(spans) for spans in rendered]
    # Candidates share their prompt, and every turn ends alike: each distinct text is encoded once.
    texts = list(dict.fromkeys(run.text for of_one in joined for run in of_one if not run.control))
    pieces = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))
    runs = [run for of_one in joined for run in of_one]
    marks = {run.text for run in runs if run.control}
    controls = {mark: np.full(1, tokenizer.special_ids[mark], np.int32) for mark in marks}
    parts = [controls[run.text] if run.control else pieces[run.text] for run in runs]
    sizes = np.asarray([len(part) for part in parts], int)
    ids = np.concatenate([np.zeros(0, np.int32), *parts])
    mask = np.repeat(np.asarray([run.supervised for run in runs], bool), sizes)
    ends = np.cumsum([0, *sizes])[np.cumsum([0, *map(len, joined)])].tolist()
    return [(ids[start:end], mask[start:end]) for start, end in itertools.pairwise(ends)]


def text_of(spans: Sequence[Span]) -> str:
    """The rendered text."""
    return "".join(span.text for span in spans)


def _runs(spans: Sequence[Span]) -> list[Span]:
    """Join neighbouring text spans of one role that are supervised alike."""
    runs: list[Span] = []
    for span in spans:
        last = runs[-1] if runs else None
        alike = last and (last.control, last.supervised, last.role) == (False, span.supervised, span.role)
        if last and alike and not span.control:
            runs[-1] = Span(last.text + span.text, span.supervised, last.role)
        elif span.text:
            runs.append(span)
    return runs


def _turn(role: str, body: list[Span], header: bool, trained: bool) -> list[Span]:
    return [
        Span(IM_START, header, role, True),
        Span(f"{role}\n", header, role),
        *body,
        Span(IM_END, trained, role, True),
        Span("\n", trained, role),
    ]


def _body(message: Message, trained: bool) -> list[Span]:
    role, text = message["role"], content_of(message)
    if role == "tool":
        start, end = (Span(f"<|tool_response_{x}|>", trained, role, True) for x in ("start", "end"))
        return [start, Span(text, trained, role), end]
    if role == "assistant":
        spans = (
            [Span(f"{THINK_START}{thought}{THINK_END}", trained, role)] if (thought := reasoning_of(message)) else []
        )
        if calls := message.get("tool_calls"):
            start, end = (Span(mark, trained, role, True) for mark in OF_ASSISTANTS)
            spans += [start, Span(call_list(calls), trained, role), end]
        return spans + [
            Span(part, trained, role, control=_TOOL_CALL.fullmatch(part) is not None)
            for part in _TOOL_CALL.split(text)
            if part
        ]
    return [Span(text, trained, role)]


def content_of(message: Message) -> str:
    """A message's text; other values as JSON.

    Raises:
      DataError: tool calls of somebody who is not the assistant.
    """
    if message.get("tool_calls") and message["role"] != "assistant":
        raise DataError(
            f"a message of {message['role']!r} has `tool_calls`; only an assistant calls tools.", field="tool_calls"
        )
    content = message["content"]
    return "" if content is None else content if isinstance(content, str) else _json(content)


def _tool_list(tools: Sequence[Any] | None, *, leading_newline: bool, supervised: bool) -> list[Span]:
    if not tools:
        return []
    listed = ", ".join(tool if isinstance(tool, str) else _json(tool) for tool in tools)
    return [
        Span("\n" * leading_newline + "List of tools: ", supervised, "system"),
        Span("<|tool_list_start|>", supervised, "system", True),
        Span(f"[{listed}]", supervised, "system"),
        Span("<|tool_list_end|>", supervised, "system", True),
    ]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
