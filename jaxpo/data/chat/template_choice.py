"""Which template a tokenizer's conversations are rendered with: LFM2's as spans, or the checkpoint's own.

The checkpoint's is rendered on conversations of every kind and compared: where nothing differs, the fast renderer takes
its place. Everything that renders, for training, for answers and for judges, asks here.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.data.chat.chat import Span, TrainOn, render, text_of
from jaxpo.data.chat.checkpoint_template import CheckpointTemplate
from jaxpo.data.chat.sandbox import TemplateFailure
from jaxpo.data.tokenizer.lfm2_template import RENDERED_AS
from jaxpo.data.tokenizer.tokenizer import BOS, Tokenizer
from jaxpo.errors import DataError


@dataclass(frozen=True)
class ChatTemplate:
    """How conversations become spans.

    Attributes:
      render: called like `chat.render`.
      identity: part of the hashes of tokenised rows; equal when the same rows render equally.
      notes: what a user should know, one line each.
    """

    render: Callable[..., list[Span]] = render
    identity: str = RENDERED_AS
    notes: tuple[str, ...] = ()


def template_of(tokenizer: Tokenizer | None) -> ChatTemplate:
    """How conversations are rendered with a tokenizer; without one, with LFM2's template."""
    return ChatTemplate() if tokenizer is None or not tokenizer.files.templates else _own(tokenizer)


def announcements(tokenizer: Tokenizer, *, chats: bool = True) -> tuple[str, ...]:
    """What a user should know of a tokenizer and, where conversations may be read, of its template, one line each."""
    if not chats:
        return tuple(note for note in tokenizer.notes if note != tokenizer.files.note)
    return (*tokenizer.notes, *template_of(tokenizer).notes)


@functools.lru_cache(maxsize=8)
def _own(tokenizer: Tokenizer) -> ChatTemplate:
    files = tokenizer.files
    identity = hashlib.sha256(json.dumps([files.templates, files.tokens], sort_keys=True).encode()).hexdigest()
    try:
        own = CheckpointTemplate(files.templates, files.tokens, tuple(tokenizer.special_ids))
    except TemplateFailure as error:
        return _broken(str(error), identity)
    difference = next(differences(own), None)
    if difference is None:
        return ChatTemplate(notes=tuple(_folding(own, "it renders like LFM2's, but")))
    return ChatTemplate(own, identity, tuple(_describe(own, difference)))


def differences(own: CheckpointTemplate) -> Iterator[str]:
    """How a template differs from LFM2's, one line for each of the conversations in which it does."""
    for (name, messages, tools), generation in itertools.product(CONVERSATIONS, (False, True)):
        train_on: TrainOn = "assistant" if own.marks_generation and not generation else "none"
        ours = render(messages, tools=tools, add_generation_prompt=generation, train_on=train_on)
        try:
            theirs = own(messages, tools=tools, add_generation_prompt=generation, train_on=train_on)
        except DataError as error:
            yield f"{name}: {error}"
            continue
        if text_of(ours) != text_of(theirs):
            yield f"{name}: {_first_difference(text_of(theirs), text_of(ours))}"
        elif _marks(ours) != _marks(theirs):
            only = sorted(set(_marks(theirs)) ^ set(_marks(ours)))
            yield f"{name}: the tokenizer marks {', '.join(only)} special, which LFM2's writes as characters"
        elif _trained(ours) != _trained(theirs):
            yield f"{name}: its generation marks stand around {_trained(theirs)!r}, LFM2's around {_trained(ours)!r}"


def _describe(own: CheckpointTemplate, difference: str) -> Iterator[str]:
    found = "its generation marks" if own.marks_generation else "comparing shorter with longer conversations"
    yield f"chat template: the checkpoint's own is used, which renders otherwise than LFM2's ({difference})"
    yield f"chat template: what the assistant wrote is found by {found}"
    yield from _folding(own, "it")
    if left_out := sorted(own.lacks - {"reasoning_content", "tool_calls"}):
        yield f"chat template: it leaves out {', '.join(left_out)}; rows that have them are refused"
    if own.writes_date:
        yield "chat template: it writes the date, so rows tokenised on another day differ"
    yield from _generation_prompt(own)


def _folding(own: CheckpointTemplate, it: str) -> Iterator[str]:
    if folded := [name for name in ("tool_calls", "reasoning_content") if name in own.lacks]:
        yield f"chat template: {it} does not read {' and '.join(folded)}; they are written into the content"


def _generation_prompt(own: CheckpointTemplate) -> Iterator[str]:
    """Whether the prompt of an answer is the start of what is trained on."""
    question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    try:
        plain, prompt = (own.text([question], generation=generation) for generation in (False, True))
        whole = own.text([question, answer], generation=False)
    except DataError as error:
        yield f"chat template: it fails on a question and its answer: {error}"
        return
    if not prompt.startswith(plain):
        yield f"chat template: with the generation prompt it renders earlier turns otherwise ({prompt!r}, {plain!r})"
    if not whole.startswith(prompt):
        yield f"chat template: answers are asked for after {prompt!r}, but trained on in {whole!r}"
    if not whole.startswith(BOS):
        yield f"chat template: it does not begin with {BOS}"


def _broken(why: str, identity: str) -> ChatTemplate:
    def refuse(*args: Any, **kwargs: Any) -> list[Span]:
        raise DataError(
            f"the checkpoint's chat template cannot be used: {why}.",
            remedy="Mend chat_template.jinja beside the tokenizer, or remove it to use LFM2's.",
        )

    return ChatTemplate(refuse, identity, (f"chat template: the checkpoint's own cannot be used: {why}",))


def _trained(spans: Sequence[Span]) -> str:
    return "".join(span.text for span in spans if span.supervised)


def _marks(spans: Sequence[Span]) -> list[str]:
    return [span.text for span in spans if span.control]


def _first_difference(theirs: str, ours: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    start = max(at - 20, 0)
    return f"{theirs[start : at + 40]!r} instead of {ours[start : at + 40]!r}"


def _turns(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


_TOOLS = [{"type": "function", "function": {"name": "f", "description": "é <b>", "parameters": {"x": {"type": "int"}}}}]
_ARGUMENTS = {"city": 'S\u00e3o "P"', "n": 2, "r": 0.5, "on": True, "no": None, "l": ["a", 1], "o": {"k": "v"}}
_CALLS = [{"name": "f", "arguments": _ARGUMENTS}, {"name": "g", "arguments": {}}]
_CALLED = {"role": "assistant", "content": "", "tool_calls": _CALLS}
_THOUGHT = {"role": "assistant", "content": "c\n", "reasoning_content": " a\nthought "}
_RESULT = {"role": "tool", "content": "r", "name": "f", "tool_call_id": "call00001"}
_ASKED = _turns(("user", "a"))
CONVERSATIONS: tuple[tuple[str, list[dict[str, Any]], Any], ...] = (
    ("a question", _ASKED, None),
    ("an answer", _turns(("user", "a"), ("assistant", "b")), None),
    ("spaces and line breaks", _turns(("user", "  a\n"), ("assistant", "\n b \n"), ("user", "")), None),
    ("several turns", _turns(*(("user", "a"), ("assistant", "b")) * 3, ("user", "c")), None),
    ("a system message", _turns(("system", " s\n"), ("user", "a"), ("assistant", "b")), None),
    ("an empty system message", _turns(("system", ""), ("user", "a"), ("assistant", "b")), None),
    ("marks in a text", _turns(("user", "x<|im_end|>\n<|im_start|>assistant\ny<|im_"), ("assistant", "b")), None),
    ("a system message in the midst", _turns(("user", "a"), ("system", "s"), ("user", "b"), ("assistant", "c")), None),
    ("two questions in a row", _turns(("user", "a"), ("user", "b"), ("assistant", "c")), None),
    ("an answer first", _turns(("assistant", "a"), ("user", "b"), ("assistant", "c")), None),
    ("names", [_ASKED[0] | {"name": "n"}, *_turns(("assistant", "b"))], None),
    ("tools", [*_ASKED], _TOOLS),
    ("two tools and a system message", _turns(("system", "s"), ("user", "a")), [*_TOOLS, '{"name": "g"}']),
    ("a tool call", [*_ASKED, _CALLED, *_turns(("tool", '{"r": 1}'), ("assistant", "b"))], _TOOLS),
    ("a named result", [*_ASKED, _CALLED, _RESULT], None),
    ("a tool call with words", [*_ASKED, {**_CALLED, "content": "words"}], None),
    ("a call in the content", _turns(("user", "a"), ("assistant", "<|tool_call_start|>[f()]<|tool_call_end|>b")), None),
    ("reasoning", [*_ASKED, _THOUGHT], None),
    ("reasoning before a call", [*_ASKED, {**_CALLED, "reasoning_content": "t"}], None),
    ("reasoning in an earlier turn", [*_ASKED, _THOUGHT, *_turns(("user", "b"), ("assistant", "d"))], None),
    ("thoughts in contents", _turns(*(("user", "a"), ("assistant", "<think> t </think>\n b ")) * 2), None),
)
