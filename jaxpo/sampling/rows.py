"""Requests on the host: one `Asked` for each, one `Row` for each of its continuations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.sampling.prefixes import Node
from jaxpo.sampling.programs import Written
from jaxpo.sampling.request import Generation, Matcher, Reason, Request, TopLogps
from jaxpo.sampling.spoken import Spoken


@dataclass(eq=False)
class Asked:
    """A request on its way.

    Attributes:
      number: what `submit` gave.
      stop_ids: of the request, or the default.
      read: its prompt has been read once, so that the store knows it if it had room.
      scores: log p of the prompt's tokens and the most probable ids, a piece for each chunk; None unless asked for.
      vectors: `[V, D]`, what the weights in use make of its images; None until they are asked for.
    """

    number: int
    request: Request
    stop_ids: tuple[int, ...]
    rows: list[Row] = field(default_factory=list)
    read: bool = False
    scores: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    vectors: np.ndarray | None = None

    @property
    def prompt_logps(self) -> np.ndarray | None:
        """`[S]`, the first NaN."""
        if not self.request.prompt_logps:
            return None
        return np.concatenate([np.full(1, np.nan, np.float32), *(logps for logps, _, _ in self.scores)])

    @property
    def prompt_top(self) -> TopLogps | None:
        """Of every position of the prompt, the first -1 and NaN."""
        k = self.request.top_logps
        if not (self.request.prompt_logps and k):
            return None
        ids = [np.full((1, k), -1, np.int32), *(ids[:, :k] for _, ids, _ in self.scores)]
        logps = [np.full((1, k), np.nan, np.float32), *(best[:, :k] for _, _, best in self.scores)]
        return TopLogps(np.concatenate(ids), np.concatenate(logps))


class Columns:
    """Columns that grow: what was appended is never copied more than twice on average, nor changed.

    Args:
      kinds: of each column the shape of an entry and its type.
    """

    def __init__(self, *kinds: tuple[tuple[int, ...], Any]) -> None:
        self._held = [np.zeros((0, *shape), kind) for shape, kind in kinds]
        self._count = 0

    def append(self, *new: Any) -> None:
        """Some entries more, as many for every column."""
        until = self._count + len(new[0])
        if until > len(self._held[0]):
            self._held = [np.concatenate([x, np.zeros((until, *x.shape[1:]), x.dtype)]) for x in self._held]
        for column, part in zip(self._held, new, strict=True):
            column[self._count : until] = part
        self._count = until

    def columns(self) -> list[np.ndarray]:
        """What was appended so far, where it lies."""
        return [x[: self._count] for x in self._held]


@dataclass(eq=False)
class Row:
    """One continuation.

    Attributes:
      tokens: prompt and answer.
      slot: where it is; -1 while it waits and after its end.
      known: tokens in the cache; it is ready to write when that is all but the newest.
      node: the page of the store after which its next page comes; None = nothing more of it is kept.
      held, own, passed: with pages, those that the store knows, those that this row alone uses and will yet fill, in
        order, and those that it filled with what the store knew already.
      spoken: its text, with a tokenizer.
      matcher: of its constraint.
      reason, error: see `Generation`.
    """

    asked: Asked
    sample: int
    tokens: list[int]
    slot: int = -1
    known: int = 0
    node: Node | None = None
    held: list[Node] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    passed: list[int] = field(default_factory=list)
    spoken: Spoken | None = None
    matcher: Matcher | None = None
    reason: Reason | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        k = (self.request.top_logps,)
        self._said = Columns(((), np.float32), ((), np.float32), (k, np.int32), (k, np.float32), ((), np.int32))

    @property
    def request(self) -> Request:
        return self.asked.request

    def key(self, first: int, last: int) -> tuple[int, ...]:
        """What the store knows the tokens from `first` to before `last` by: they themselves, or what they show."""
        shown = self.request.shown
        if shown is None:
            return tuple(self.tokens[first:last])
        places = shown.places[first:last].tolist() + [-1] * (last - max(first, self.start))
        return tuple(
            token if at < 0 else shown.names[at] for token, at in zip(self.tokens[first:last], places, strict=False)
        )

    def places(self, count: int) -> np.ndarray | None:
        """Which of its vectors stand at the next `count` positions, -1 = none; None where none stands there."""
        shown = self.request.shown
        found = None if shown is None else shown.places[self.known : self.known + count]
        return found if found is not None and (found >= 0).any() else None

    @property
    def start(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt)

    @property
    def limit(self) -> int:
        """Tokens at which it ends."""
        return self.start + self.request.max_new_tokens

    @property
    def unread(self) -> int:
        """Tokens that are not in the cache, the newest left out."""
        return len(self.tokens) - 1 - self.known

    def take(self, written: Written, index: int, version: int) -> None:
        """What it wrote in one call; sets `reason` if it ended there."""
        tokens = written.tokens[index, : int(written.count[index])].tolist()
        used, self.reason = self._ended(tokens)
        cut, k = slice(0, used), self.request.top_logps
        self.tokens += tokens[:used]
        self.known += used
        new = (written.logps, written.sampling_logps, written.top_ids[..., :k], written.top_logps[..., :k])
        self._said.append(*(x[index, cut] for x in new), np.full(used, version, np.int32))
        if self.reason is None and written.failed[index]:
            self.fail("the model's logits are not finite, or nothing is left to draw")

    def _ended(self, tokens: list[int]) -> tuple[int, Reason | None]:
        """How many of new tokens belong to the answer, and what ended it."""
        for used, token in enumerate(tokens, start=1):
            if token in self.asked.stop_ids:
                return used, "stop_id"
            if self.matcher is not None and not self._follows(token):
                return used, "error"
            if self.spoken is not None and self.spoken.feed(token):
                return used, "stop_string"
        return len(tokens), "length" if len(self.tokens) + len(tokens) >= self.limit else None

    def _follows(self, token: int) -> bool:
        """Whether the constraint goes on with a token; one that cannot ends its own row, and no other."""
        assert self.matcher is not None
        try:
            self.matcher.take(token)
        except (ConfigError, ValueError) as error:
            self.error = str(error)
            return False
        return True

    def fail(self, error: str) -> None:
        """It ends with an error."""
        self.reason, self.error = "error", error

    def generation(self) -> Generation:
        """The continuation as far as it is."""
        logps, drawn, ids, best, versions = self._said.columns()
        ended = self.reason is not None
        return Generation(
            request=self.asked.number,
            sample=self.sample,
            tokens=self.tokens[self.start :],
            logps=logps,
            sampling_logps=drawn,
            versions=versions,
            reason=self.reason,
            text=None if self.spoken is None else self.spoken.whole() if ended else self.spoken.safe(),
            prompt_logps=self.asked.prompt_logps if self.asked.read else None,
            prompt_top=self.asked.prompt_top if self.asked.read else None,
            top=TopLogps(ids, best) if self.request.top_logps else None,
            error=self.error,
        )
