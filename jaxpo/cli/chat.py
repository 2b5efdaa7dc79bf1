"""`jaxpo chat MODEL`: a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.engine_options import add_engine_options, engine_of, window_of
from jaxpo.cli.image_options import add_image_options, room_for, viewer_for
from jaxpo.cli.sampling_options import add_options, as_text, load_with_tokenizer, no_text, sampler_of, stop_ids
from jaxpo.errors import ConfigError, DataError

SMALL = 100_000_000
STREAM_EVERY = 4
"""Tokens between two pieces of an answer."""
COMMANDS = "/reset forgets the conversation, /exit ends it."
SHOWING = "/image FILE shows an image with the next message."


def main(argv: Sequence[str]) -> int:
    # LFM2's own recommendation for sampling.
    parser = Parser("chat", f"Talk to a model. {COMMANDS}")
    add_options(parser, own=True, temperature=0.3, min_p=0.15, repetition_penalty=1.05)
    parser.add_argument("--system", help="system message")
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="shown with the first message; may be repeated"
    )
    add_image_options(parser)
    add_engine_options(parser, slots=1)
    args = parser.parse(argv)
    sampler_of(args)  # a mistake in an option is told before the model is read
    model = load_with_tokenizer(args.model)
    sampler = sampler_of(args, model.generation)
    viewer = viewer_for(model, args, known={})
    if viewer is None and args.image:
        raise ConfigError("--image: the model reads text alone; leave it out.")
    print(introduction(model), COMMANDS if viewer is None else f"{COMMANDS} {SHOWING}", sep="\n")
    return converse(model, sampler, args, read_line, viewer)


def introduction(model: Any) -> str:
    """One line: what the model was trained on and what it cannot do."""
    import jax

    count = sum(leaf.size for leaf in jax.tree.leaves(model.params["model"]))
    size = f"{count / 1e6:,.1f} million parameters" if count >= 1e6 else f"{count:,} parameters"
    trained = f"{size}, trained on {model.about.get('trained_on', 'unknown data')}"
    if count >= SMALL:
        return f"{trained}; its statements may be wrong."
    return f"{trained}: it imitates the wording of those texts, and cannot reason, calculate or know anything else."


def read_line() -> str | None:
    """What the user types; None at the end of the input.

    Raises:
      DataError: bytes that are no characters.
    """
    try:
        # What is piped in is not asked for, and nothing but answers stands among answers.
        return as_text(input("> " if sys.stdin.isatty() else ""), "the input")
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise no_text("the input") from error


def converse(model: Any, sampler: Any, args: Any, read: Callable[[], str | None], viewer: Any = None) -> int:
    """Read a turn, stream the answer, remember both; the oldest turns go when the context is full."""
    from jaxpo.sampling.request import Request
    from jaxpo.sampling.text import stream
    from jaxpo.sampling.viewing import question

    speaker, number = Speaker(model, args, viewer), 0
    speaker.start = [{"role": "system", "content": args.system}] if args.system else []
    turns: list[dict[str, Any]] = []
    images = list(args.image)
    if images:  # one that cannot be used is told before anything is asked about it
        speaker.encode([question("", images)])
    while (line := read()) is not None and line.strip() not in ("/exit", "/quit"):
        if line.strip() == "/reset":
            turns, images = [], []
            continue
        if line.startswith("/image ") and viewer is not None:
            images += speaker.usable(line.removeprefix("/image ").strip())
            continue
        if not line.strip():
            continue
        turns = fitting(speaker, [*turns, question(line, images)], args.max_new_tokens)
        images = []
        ids, shown = speaker.encode(turns)
        request = Request(
            ids,
            shown=shown,
            sampler=sampler,
            max_new_tokens=args.max_new_tokens,
            stop_ids=stop_ids(model),
            seed=args.seed + number,
        )
        pieces = []
        for piece in stream(speaker.engine(request), request):
            pieces.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()
        turns.append({"role": "assistant", "content": "".join(pieces)})
        number += 1
    return 0


class Speaker:
    """The engine of a conversation, which grows with it: it remembers what was read before.

    Attributes:
      window: tokens of the longest conversation.
      start: messages before all others.
    """

    FIRST, GROWTH = 1024, 4

    def __init__(self, model: Any, args: Any, viewer: Any = None):
        self._model, self._args, self.window, self._viewer = model, args, window_of(model, args), viewer
        self.start: list[dict[str, Any]] = []
        self._engine: Any = None

    def engine(self, request: Any) -> Any:
        """One with room for the request."""
        needed = len(request.prompt) + request.max_new_tokens
        if self._engine is None or needed > self._engine.context:
            room = self.FIRST
            while room < min(needed, self.window):
                room *= self.GROWTH
            self._engine = engine_of(
                self._model, self._args, needed=room, answers=1, rounds=STREAM_EVERY, **room_for(self._viewer)
            )
        return self._engine

    def encode(self, turns: list[dict[str, Any]]) -> Any:
        """Ids to continue, and what they show."""
        from jaxpo.sampling.viewing import conversation_of, seen

        return seen(self._viewer, self._model.tokenizer, conversation_of([*self.start, *turns]))

    def usable(self, image: str) -> list[str]:
        """The image, unless it cannot be used, which is said."""
        from jaxpo.sampling.viewing import question

        try:
            self.encode([question("", [image])])
        except DataError as error:
            print(f"({error})")
            return []
        return [image]


def fitting(speaker: Speaker, turns: list[dict[str, Any]], reply: int) -> list[dict[str, Any]]:
    """The newest turns that leave room for a reply; says so when older ones are dropped."""
    kept = turns
    while len(kept) > 1 and len(speaker.encode(kept)[0]) > speaker.window - reply:
        kept = kept[2:]
    if len(kept) < len(turns):
        print(f"(the context of {speaker.window} tokens is full: the oldest turns were dropped)")
    return kept
