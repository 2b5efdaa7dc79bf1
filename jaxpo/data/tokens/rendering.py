"""What each text of a row renders to: spans, and which of them are trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from jaxpo.config import Fim, Images, Texts
from jaxpo.data.chat.chat import Span, render
from jaxpo.data.chat.reasoning import (
    KEPT,
    LOST,
    STRIPPED,
    Reasoning,
    has_reasoning,
    is_lost,
    said_once,
    without_reasoning,
)
from jaxpo.data.chat.rendered import (
    AS_TEXT,
    FOREIGN,
    READ,
    Edges,
    Rendered,
    conversation,
    foreign,
    last_answer,
    plain,
    unwrapped,
)
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.messages import Message
from jaxpo.data.rows.rows import Record, Side
from jaxpo.data.rows.turns import Malformed, is_rendered, mentions
from jaxpo.data.tokenizer.tokenizer import SPECIAL_TOKENS
from jaxpo.data.tokens.pictures import with_images
from jaxpo.data.tokens.specials import with_specials
from jaxpo.errors import DataError

TrainOn = Literal["auto", "assistant", "completion", "all"]
Truncation = Literal["response_right", "prompt_left", "drop", "error"]
ENDS: tuple[Truncation, ...] = ("response_right", "prompt_left")
LISTED = ("candidate",)


@dataclass(frozen=True)
class Cut:
    """How texts become segments; the fields of `config.Data` that matter here.

    Attributes:
      special_tokens: those that answers may hold as ids, by name.
      texts: how queries and documents become tokens.
      images: what becomes of images; None = the model reads text alone.
      classes: of words, in the order of their numbers.
      words: tokens are numbered by the words that they belong to.
    """

    max_length: int
    truncation: Truncation = "response_right"
    train_on: TrainOn = "auto"
    fim: Fim | None = None
    rendered: Rendered = "auto"
    special_tokens: tuple[str, ...] = ()
    reasoning: Reasoning = "keep"
    texts: Texts = field(default_factory=Texts)
    images: Images | None = None
    classes: tuple[str, ...] = ()
    words: bool = False

    def shortens(self, row: Row, length: int, counts: Counter[str], *, ends: tuple[str, ...] = ENDS) -> bool:
        """Whether a row whose longest text has too many tokens is cut; one that is left out is counted.

        Args:
          length: of that text.
          ends: which ones such texts can lose, for the remedy.

        Raises:
          DataError: it is refused, under truncation="error"; names file and row.
        """
        if self.truncation == "error":
            raise row.error(
                f"{length} tokens, but max_length is {self.max_length}.",
                remedy=f"Raise data.max_length, or set data.truncation to {', '.join(ends)} or drop.",
            )
        if self.truncation == "drop":
            counts["dropped_longer_than_max_length"] += 1
            return False
        return True


@dataclass(frozen=True)
class Rendering:
    """Renders records as a cut says.

    Attributes:
      specials: names of the tokenizer's special tokens.
      counts: updated: rows whose own marks were read, rows in which marks or special tokens stay plain text, and rows
        with reasoning.
      chat: renders conversations, as `chat.render` does.
    """

    cut: Cut
    specials: tuple[str, ...] = SPECIAL_TOKENS
    counts: Counter[str] = field(default_factory=Counter)
    chat: Callable[..., list[Span]] = render

    def as_read(self, record: Record) -> Record:
        """A text of fine-tuning that is a rendered conversation, as one: cut at its end and not into pieces."""
        own = record.kind == "text" and self.cut.rendered == "auto" and self.cut.train_on != "all"
        return replace(record, kind="messages") if own and is_rendered(str(record.sides[0].completion)) else record

    def sides(self, record: Record) -> list[list[Span]]:
        """The spans of each side; none for an absent candidate."""
        noted: set[str] = set()
        marks = self.cut.rendered != "text"
        if has_reasoning(record, marks=marks):
            strip = self.cut.reasoning == "strip"
            noted.add(STRIPPED if strip else KEPT)
            record = without_reasoning(record, marks=marks) if strip else record
        spans = [self._side(record, side, noted) if side.tokens is None else [] for side in record.sides]
        for name in sorted(noted):
            self.counts[name] += 1
        return spans

    def _side(self, record: Record, side: Side, noted: set[str]) -> list[Span]:
        if side.role in LISTED and not side.completion:
            return []
        as_written = self._string if isinstance(side.completion, str) else self._messages
        written = as_written(record, side, noted)
        if side.whole:
            written = [replace(span, supervised=True) for span in written]
        spans, special = with_specials(written, self.specials, self.cut.special_tokens)
        noted |= special | ({FOREIGN} if any(foreign(text) for text in _texts(side)) else set())
        frames = (self.cut.images or Images()).frames
        return with_images(record, side.role, spans, frames) if record.pictures else spans

    def _string(self, record: Record, side: Side, noted: set[str]) -> list[Span]:
        prompt, completion = str(side.prompt or ""), str(side.completion)
        supervised = _has_answer(record, side)
        first = prompt or completion
        reads = self.cut.rendered != "text"
        if reads and is_rendered(first):
            self._note_read(record, side, noted)
            return _checked(record, side, lambda: self._conversation(record, prompt, completion))
        if reads and is_rendered(completion):
            raise record.row.error(
                "the answer is rendered with the chat template, but the prompt is not.",
                field=side.role,
                remedy="Give both as messages, or both rendered.",
            )
        if record.kind == "text" and self.cut.train_on in ("assistant", "completion"):
            raise record.row.error(
                f"data.train_on={self.cut.train_on!r} needs messages, completions or rendered conversations.",
                field="text",
                remedy="Set data.train_on='auto', or leave out rows of plain text.",
            )
        edges = reads and Edges.of(prompt, completion).found
        if edges:
            self._note_read(record, side, noted)
        spans = plain(
            prompt if side.prompt is not None else None,
            completion,
            supervised=supervised,
            edges=edges,
            document=record.kind == "text",
        )
        noted |= {AS_TEXT} if any(mentions(span.text) for span in spans if not span.control) else set()
        return spans

    def _conversation(self, record: Record, prompt: str, completion: str) -> list[Span]:
        text = prompt + completion
        if record.kind == "text":
            return conversation(text, 0, everything=True)
        learnt = 0 if self.cut.train_on == "assistant" or not prompt else len(prompt)
        if self.cut.train_on == "completion" and not prompt:
            learnt = last_answer(text)
        answered = _has_answer(record, record.sides[0])
        return conversation(text, learnt if answered else len(text), close=answered)

    def _messages(self, record: Record, side: Side, noted: set[str]) -> list[Span]:
        prompt = self._unwrapped(record, side, side.prompt if isinstance(side.prompt, list) else [], noted)
        if not _has_answer(record, side):
            opened = partial(self.chat, add_generation_prompt=True, train_on="none")
            return _checked(record, side, lambda: opened(said_once(prompt), tools=record.tools))
        messages = [*prompt, *self._unwrapped(record, side, list(side.completion), noted)]  # type: ignore[arg-type]
        if self.cut.train_on == "all" and any(message.get("train") is False for message in messages):
            raise record.row.error(
                "a turn says that it is not trained on, and data.train_on='all' that everything is.",
                field=side.role,
                remedy="Set data.train_on='auto', or remove the turn's weight.",
            )
        first = self._first(messages, len(prompt))
        if first == len(prompt) and any(message.get("train") for message in messages[:first]):
            raise record.row.error(
                "a turn of the prompt says that it is trained on, and prompts are given.",
                field="prompt",
                remedy="Give `messages` instead, or set data.train_on='assistant'.",
            )
        rendered = partial(self.chat, tools=record.tools, first_trained=first)
        spans = _checked(record, side, lambda: rendered(said_once(messages)))
        noted |= {LOST} if is_lost(messages, spans) else set()
        return spans

    def _first(self, messages: list[Message], given: int) -> int:
        if self.cut.train_on == "assistant":
            return 0
        if self.cut.train_on == "completion" and not given:
            return max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=0)
        return given

    def _unwrapped(self, record: Record, side: Side, messages: list[Message], noted: set[str]) -> list[Message]:
        if self.cut.rendered == "text":
            return messages
        bare, found = unwrapped(messages)
        if READ in found:
            self._note_read(record, side, noted)
        if any(m["role"] == "assistant" and not m["content"] and not m.get("tool_calls") for m in bare):
            raise record.row.error("an answer holds nothing but marks.", field=side.role, remedy="Remove the row.")
        noted |= found
        return bare

    def _note_read(self, record: Record, side: Side, noted: set[str]) -> None:
        if self.cut.rendered == "refuse":
            raise record.row.error(
                "the text is already rendered with the chat template (data.rendered='refuse').",
                field=side.role,
                remedy="Give messages, or set data.rendered='auto' to read the marks.",
            )
        noted.add(READ)


def untrained(record: Record, train_on: TrainOn) -> DataError:
    """A row none of whose tokens is trained on."""
    return record.row.error(
        f"no token of this row is trained on (train_on={train_on!r}): there is no assistant turn to be learnt.",
        field=record.sides[0].role,
        remedy="Remove the row, or set data.train_on='all'.",
    )


def _has_answer(record: Record, side: Side) -> bool:
    """Whether the row says more than a prompt."""
    return record.kind != "prompt" and not side.whole


def _texts(side: Side) -> list[str]:
    """The strings of a side: a text's beginning and end, or each message."""
    given, learnt = side.prompt or "", side.completion
    if isinstance(learnt, str):
        return [text for text in (given, learnt) if isinstance(text, str)]
    return [message["content"] for message in learnt]


def _checked(record: Record, side: Side, make: Callable[[], list[Span]]) -> list[Span]:
    """The spans; errors say which row they are about."""
    try:
        return make()
    except DataError as error:
        raise record.row.placed(error, field=side.role) from error
    except Malformed as error:
        raise record.row.error(
            f"the text begins as one that is rendered with the chat template, but {error}.",
            field=side.role,
            remedy="Mend it, give messages, or set data.rendered='text' to take the marks as plain characters.",
        ) from error
