"""`jaxpo chat MODEL`: a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from jaxpo.cli.args import Parser
from jaxpo.cli.sampling_options import add_options, as_text, load_with_tokenizer, no_text, sampler_of, stop_ids

SMALL = 100_000_000
COMMANDS = "/reset forgets the conversation, /exit ends it."


def main(argv: Sequence[str]) -> int:
    # LFM2's own recommendation for sampling.
    parser = Parser("chat", f"Talk to a model. {COMMANDS}")
    add_options(parser, own=True, temperature=0.3, min_p=0.15, repetition_penalty=1.05)
    parser.add_argument("--system", help="system message")
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
        return as_text(input("> "), "the input")
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise no_text("the input") from error


def converse(model: Any, sampler: Any, args: Any, read: Callable[[], str | None]) -> int:
    """Read a turn, stream the answer, remember both; the oldest turns go when the context is full."""
    from jaxpo.sampling.text import stream_text

    start = [{"role": "system", "content": args.system}] if args.system else []
    turns: list[dict[str, str]] = []
    number = 0
    while (line := read()) is not None and line.strip() not in ("/exit", "/quit"):
        if line.strip() == "/reset":
            turns = []
            continue
        if not line.strip():
            continue
        turns = fitting(model, start, [*turns, {"role": "user", "content": line}], args.max_new_tokens)
        pieces = []
        for piece in stream_text(
            model.params["model"],
            model.config,
            model.tokenizer,
            start + turns,
            max_new_tokens=args.max_new_tokens,
            sampler=sampler,
            stop_ids=stop_ids(model),
            seed=args.seed + number,
        ):
            pieces.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()
        turns.append({"role": "assistant", "content": "".join(pieces)})
        number += 1
    return 0


def fitting(model: Any, start: list[dict[str, str]], turns: list[dict[str, str]], reply: int) -> list[dict[str, str]]:
    """The newest turns that leave room for a reply; says so when older ones are dropped."""
    from jaxpo.models.family import limits
    from jaxpo.sampling.text import encode_prompt

    kept = turns
    room = limits(model.config).context - reply
    while len(kept) > 1 and len(encode_prompt(model.tokenizer, start + kept)) > room:
        kept = kept[2:]
    if len(kept) < len(turns):
        print(f"(the context of {limits(model.config).context} tokens is full: the oldest turns were dropped)")
    return kept
