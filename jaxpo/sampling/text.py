"""From text or conversations to requests, and an answer piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from jaxpo.data.chat.chat import Span, encode_spans
from jaxpo.data.chat.reasoning import said_once
from jaxpo.data.chat.rendered import prompt_spans
from jaxpo.data.chat.template_choice import template_of
from jaxpo.data.rows.turns import Malformed
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import ConfigError
from jaxpo.sampling.engine import Engine
from jaxpo.sampling.prompts import Conversation, Prompt, as_conversation
from jaxpo.sampling.request import Request, said


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Ids to continue: BOS + text, or a rendered conversation that ends with an opened assistant turn.

    A string that was rendered before is continued as it is, its marks as control tokens, as in training.
    """
    if isinstance(prompt, str):
        try:
            return encode_spans(tokenizer, prompt_spans(prompt))[0].tolist()
        except Malformed as error:
            raise ConfigError(f"a prompt begins as one rendered with the chat template, but {error}") from error
    return encode_spans(tokenizer, prompt_spans_of(tokenizer, as_conversation(prompt)))[0].tolist()


def prompt_spans_of(tokenizer: Tokenizer, asked: Conversation) -> list[Span]:
    """A rendered conversation that ends with an opened assistant turn."""
    if not asked.messages:
        raise ConfigError('a conversation without messages; give at least one {"role": "user", "content": ...}')
    chat = template_of(tokenizer).render
    return list(chat(said_once(asked.messages), tools=asked.tools, add_generation_prompt=True, train_on="none"))


def requests_for(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], template: Request, numbers: Sequence[int] | None = None
) -> list[Request]:
    """The template's request for every prompt.

    Args:
      prompts: texts to continue, or conversations to answer.
      numbers: what identifies each prompt to the random generator; default 0, 1, ...
    """
    chosen = range(len(prompts)) if numbers is None else numbers
    return [
        replace(template, prompt=encode_prompt(tokenizer, prompt), number=number)
        for prompt, number in zip(prompts, chosen, strict=True)
    ]


def stream(engine: Engine, request: Request) -> Iterator[str]:
    """Answer one request piece by piece; joined, the pieces are `Generation.text`.

    A piece never ends inside a character, and text that may be the beginning of a stop string is held back. Whoever
    stops listening ends the answer.

    Raises:
      RunError: the answer ended in an error.
    """
    number, shown = engine.submit(replace(request, n=1)), ""
    ended = False
    try:
        while not ended:
            done = [found for found in engine.step() if found.request == number]
            (found,) = done or engine.so_far(number)
            ended = bool(done)
            if new := said(found)[len(shown) :]:
                shown += new
                yield new
    finally:
        if not ended:
            engine.cancel(number)
