"""Shows rendered examples with the tokens that are trained on, so that a wrong mask is seen before it costs a run."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxpo.data.media.marks import IMAGE

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

    from jaxpo.data.tokens.dataset import Dataset
    from jaxpo.data.tokens.examples import Example, Segment

LIMIT = 800
_VECTORS = re.compile(f"(?:{re.escape(IMAGE)}){{2,}}")
OPEN, CLOSE = "⟦", "⟧"


@dataclass(frozen=True)
class Preview:
    """The first n examples; a rich renderable. Trained text is coloured and stands in ⟦ ⟧, so it also reads without
    colour; `str()` gives plain text."""

    dataset: Dataset
    n: int = 3

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.panel import Panel

        yield self._summary()
        for i, example in enumerate(self._examples()):
            title = f"example {i} · row {example.row} of {self.dataset.files[example.file]}"
            yield Panel(self._body(example), title=title, title_align="left", border_style="dim")

    def __str__(self) -> str:
        parts = [self._summary()]
        for i, example in enumerate(self._examples()):
            parts += [f"--- example {i}, row {example.row} of {self.dataset.files[example.file]}"]
            parts += [self._body(example).plain]
        return "\n".join(parts)

    def _summary(self) -> str:
        from jaxpo.data.tokens.dataset import describe_counts

        data = self.dataset
        columns = f", columns {', '.join(data.columns)}" if data.columns else ""
        return (
            f"type {data.type}: {len(data)} examples, {data.tokens} tokens{columns}; {describe_counts(data.counts)}.\n"
            f"Trained tokens stand in {OPEN} {CLOSE}."
        )

    def _examples(self) -> list[Example]:
        return self.dataset.store.read(range(min(self.n, len(self.dataset))))

    def _body(self, example: Example) -> Text:
        from rich.text import Text

        body = Text()
        for name, index in _segments_by_role(example):
            segment = example.segments[index]
            trained = int(segment.supervised[1:].sum())
            body.append(f"{name}: {len(segment.tokens)} tokens, {trained} trained\n", style="bold")
            body.append_text(self._segment(segment)).append("\n")
        if example.columns:
            body.append(", ".join(f"{name} = {value}" for name, value in example.columns.items()), style="italic")
        body.rstrip()
        return body

    def _segment(self, segment: Segment) -> Text:
        from rich.text import Text

        text = Text()
        supervised = segment.supervised.copy()
        supervised[:1] = False
        start, left = 0, LIMIT
        for trained, group in itertools.groupby(supervised.tolist()):
            size = len(list(group))
            ids = segment.tokens[start : start + size].tolist()
            start += size
            piece = _counted(self.dataset.tokenizer.decode(ids, skip_special_tokens=False))
            cut = shorten(piece, left)
            text.append(f"{OPEN}{cut}{CLOSE}" if trained else cut, style="green" if trained else "dim")
            left -= len(piece)
            if left <= 0:
                break
        return text


def _counted(text: str) -> str:
    """The text with the vectors of an image counted, not spelt."""
    return _VECTORS.sub(lambda found: f"{IMAGE} x {len(found.group()) // len(IMAGE)}", text)


def shorten(text: str, limit: int) -> str:
    """The text, or its start and how much is not shown."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} more characters)"


def _segments_by_role(example: Example) -> Iterator[tuple[str, int]]:
    for role, index in example.roles.items():
        if isinstance(index, list):
            yield from ((f"{role} {k}", i) for k, i in enumerate(index) if i >= 0)
        elif index >= 0:
            yield role, index
