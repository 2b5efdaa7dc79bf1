"""Texts that were rendered before they came here, as spans: their marks are control tokens, never spelt, never doubled.

A string row is such a text when it is one from its first character on (`rows.turns`), or when only its edges are: a
`<|startoftext|>` at the start, an `<|im_end|>` behind the answer. Marks in the midst of other text stay text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxpo.data.chat.chat import Span
from jaxpo.data.rows.messages import Message
from jaxpo.data.rows.turns import BOS, IM_END, IM_START, Malformed, Turn, is_rendered, mentions, turns_of

Rendered = Literal["auto", "text", "refuse"]
READ, AS_TEXT = "rendered_rows", "rows_with_template_marks_as_text"
FOREIGN = "rows_with_marks_of_another_template"
"""What is noted of a row: its marks were read; marks of the template, or of another model's, stand in it as text."""
_OTHERS_BEGIN = re.compile(
    r"(?:<s>)?\s*\[INST\]|<\|begin_of_text\|>|<\|start_header_id\|>|(?:<bos>)?<start_of_turn>"
    r"|<\|(?:user|assistant|system)\|>"
)
_OTHERS_END = ("</s>", "<|eot_id|>", "<end_of_turn>", "<eos>")
_ENDING = re.compile(rf"{re.escape(IM_END)}\s*\Z")
_OPENING = re.compile(rf"\A(?:{re.escape(BOS)})?{re.escape(IM_START)}assistant\n")
# The marks that a body may hold, by whose turn it is; a user's holds none, whatever it says.
_INSIDE = {
    "assistant": re.compile(r"(<\|tool_call_start\|>|<\|tool_call_end\|>)"),
    "system": re.compile(r"List of tools: (<\|tool_list_start\|>)\[.*\](<\|tool_list_end\|>)\Z", re.DOTALL),
    "tool": re.compile(r"\A(<\|tool_response_start\|>).*(<\|tool_response_end\|>)\Z", re.DOTALL),
}


@dataclass(frozen=True)
class Edges:
    """A plain text without the marks at its two ends; marks in its midst leave all of them characters.

    Attributes:
      behind: what follows the end's mark; None where there is none.
    """

    given: str
    learnt: str
    behind: str | None
    found: bool

    @classmethod
    def of(cls, prompt: str, completion: str) -> Edges:
        """Of what is given and what is learnt; of a document the former is empty."""
        given, text = prompt.removeprefix(BOS), completion if prompt else completion.removeprefix(BOS)
        ending = _ENDING.search(text)
        bare = text[: ending.start()] if ending else text
        if mentions(bare):
            return cls(given, completion, None, given != prompt)
        behind = text[ending.start() + len(IM_END) :] if ending else None
        return cls(given, bare, behind, (given, bare) != (prompt, completion))


def foreign(text: str) -> bool:
    """Whether a text begins or ends as other models' templates render it."""
    return _OTHERS_BEGIN.match(text) is not None or text.rstrip().endswith(_OTHERS_END)


def conversation(text: str, learnt: int, *, everything: bool = False, close: bool = True) -> list[Span]:
    """The spans of a rendered conversation.

    Args:
      learnt: assistant turns are trained on from this character on.
      everything: all is trained on, given turns and headers too.
      close: end an answer that the text leaves open.

    Raises:
      Malformed: it is none after all.
    """
    turns = turns_of(text)
    spans = [Span(BOS, everything, control=True)]
    spans += _text(text[len(BOS) if text.startswith(BOS) else 0 : turns[0].start], everything, "")
    for turn in turns:
        header, trained = text[turn.start + len(IM_START) : turn.body], turn.role == "assistant" and turn.end >= learnt
        spans += [Span(IM_START, everything, turn.role, True), Span(header, everything, turn.role)]
        spans += _body(text, turn, len(text) if turn.role != "assistant" else learnt, everything)
        if turn.closed:
            spans.append(Span(IM_END, everything or trained, turn.role, True))
            spans += _text(text[turn.end + len(IM_END) : turn.after], everything or trained, turn.role)
    last = turns[-1]
    if close and not last.closed and last.body < last.end and (everything or last.role == "assistant"):
        spans.append(Span(IM_END, True, last.role, True))
    return spans


def last_answer(text: str) -> int:
    """Where the body of the last assistant turn starts; Malformed as in `conversation`."""
    return max((turn.body for turn in turns_of(text) if turn.role == "assistant"), default=len(text))


def plain(prompt: str | None, completion: str, *, supervised: bool, edges: bool, document: bool) -> list[Span]:
    """The spans of a text outside of any conversation: a beginning, what is given, what is learnt, an end.

    Args:
      supervised: `completion` is learnt, and ends.
      edges: marks at the two ends are read as such; else they are characters.
      document: a text of its own rather than an answer.
    """
    found = Edges.of(prompt or "", completion) if edges else Edges(prompt or "", completion, None, False)
    end = [Span(IM_END, True, control=True), *_text(found.behind or "", True, "")] if supervised else []
    learnt = Span(found.learnt, supervised, "text" if document else "assistant")
    return [Span(BOS, control=True), *_text(found.given, False, ""), learnt, *end]


def unwrapped(messages: Sequence[Message]) -> tuple[list[Message], set[str]]:
    """Messages whose answers have no marks of their own turn around them, and what is to be noted of them."""
    result, noted = [], set()
    for message in messages:
        content = message["content"]
        if mentions(content):
            if message["role"] == "assistant":
                bare = _ENDING.sub("", _OPENING.sub("", content))
                noted |= {READ} if bare != content else set()
                content, message = bare, {**message, "content": bare}
            noted |= {AS_TEXT} if mentions(content) else set()
        result.append(message)
    return result, noted


def prompt_spans(text: str) -> list[Span]:
    """A string to continue: rendered (Malformed as in `conversation`), or BOS and text."""
    if is_rendered(text):
        return conversation(text, len(text), close=False)
    return plain(text, "", supervised=False, edges=True, document=False)


def document(text: str) -> list[Span]:
    """A document that is trained on, or measured, from end to end; one that is malformed is plain text."""
    try:
        return conversation(text, 0, everything=True) if is_rendered(text) else _plain_document(text)
    except Malformed:
        return _plain_document(text)


def _plain_document(text: str) -> list[Span]:
    return plain(None, text, supervised=True, edges=True, document=True)


def _body(text: str, turn: Turn, learnt: int, everything: bool) -> Iterator[Span]:
    """A turn's body, cut at its marks and where what is learnt begins."""
    for start, end, control in _pieces(text[turn.body : turn.end], turn):
        border = start if control else min(max(start, learnt), end)
        for a, b in ((start, border), (border, end)):
            if a < b:
                yield Span(text[a:b], everything or a >= learnt, turn.role, control)


def _pieces(body: str, turn: Turn) -> Iterator[tuple[int, int, bool]]:
    pattern = _INSIDE.get(turn.role)
    done = 0
    for found in pattern.finditer(body) if pattern else ():
        for start, end in found.regs[1:]:
            yield turn.body + done, turn.body + start, False
            yield turn.body + start, turn.body + end, True
            done = end
    yield turn.body + done, turn.end, False


def _text(text: str, supervised: bool, role: str) -> list[Span]:
    return [Span(text, supervised, role)] if text else []
