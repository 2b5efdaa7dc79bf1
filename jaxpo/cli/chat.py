"""`jaxpo chat MODEL`: a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.engine_options import add_engine_options, engine_of, window_of
from jaxpo.cli.sampling_options import add_options, as_text, load_with_tokenizer, no_text, sampler_of, stop_ids

SMALL = 100_000_000
STREAM_EVERY = 4
"""Tokens between two pieces of an answer."""
COMMANDS = "/reset forgets the conversation, /exit ends it."


def main(argv: Sequence[str]) -> int:
    # LFM2's own recommendation for sampling.
    parser = Parser("chat", f"Talk to a model. {COMMANDS}")
    add_options(parser, own=True, temperature=0.3, min_p=0.15, repetition_penalty=1.05)
    parser.add_argument("--system", help="system message")
    add_engine_options(parser, slots=1)
    args = parser.parse(argv)
    sampler_of(args)  # a mistake in an option is told before the model is read
    model = load_with_tokenizer(args.model)
    sampler = sampler_of(args, model.generation)
    print(introduction(model), COMMANDS, sep="\n")
    return converse(model, sampler, args, read_line)


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


def converse(model: Any, sampler: Any, args: Any, read: Callable[[], str | None]) -> int:
    """Read a turn, stream the answer, remember both; the oldest turns go when the context is full."""
    from jaxpo.sampling.request import Request
    from jaxpo.sampling.text import encode_prompt, stream

    start = [{"role": "system", "content": args.system}] if args.system else []
    turns: list[dict[str, str]] = []
    speaker, number = Speaker(model, args), 0
    while (line := read()) is not None and line.strip() not in ("/exit", "/quit"):
        if line.strip() == "/reset":
            turns = []
            continue
        if not line.strip():
            continue
        turns = fitting(model, start, [*turns, {"role": "user", "content": line}], args.max_new_tokens, speaker.window)
        request = Request(
            encode_prompt(model.tokenizer, start + turns),
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
    """

    FIRST, GROWTH = 1024, 4

    def __init__(self, model: Any, args: Any):
        self._model, self._args, self.window = model, args, window_of(model, args)
        self._engine: Any = None

    def engine(self, request: Any) -> Any:
        """One with room for the request."""
        needed = len(request.prompt) + request.max_new_tokens
        if self._engine is None or needed > self._engine.context:
            room = self.FIRST
            while room < min(needed, self.window):
                room *= self.GROWTH
            self._engine = engine_of(self._model, self._args, needed=room, answers=1, rounds=STREAM_EVERY)
        return self._engine


def fitting(
    model: Any, start: list[dict[str, str]], turns: list[dict[str, str]], reply: int, window: int
) -> list[dict[str, str]]:
    """The newest turns that leave room for a reply; says so when older ones are dropped."""
    from jaxpo.sampling.text import encode_prompt

    kept = turns
    while len(kept) > 1 and len(encode_prompt(model.tokenizer, start + kept)) > window - reply:
        kept = kept[2:]
    if len(kept) < len(turns):
        print(f"(the context of {window} tokens is full: the oldest turns were dropped)")
    return kept
