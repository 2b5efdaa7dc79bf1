"""What the endpoints are asked, typed: made of JSON with errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.config.json_text import parse
from jaxpo.data.chat.chat import Message
from jaxpo.sampling.sampler import Sampler
from jaxpo.serve.errors import wrong
from jaxpo.serve.fields import FLAG, OBJECT, TEXT, Fields, either, listed, one_of, whole
from jaxpo.serve.messages import read_messages, read_tools
from jaxpo.serve.settings import MOST_SAMPLES, Settings, read_settings, top_logprobs

MOST_PROMPTS = 2048
ID = whole(0, 2**31 - 1)

REFUSED = {
    "suffix": "there is no filling in between two texts; put everything into `prompt`",
    "functions": "use `tools`",
    "function_call": "use `tool_choice`",
    "audio": "this model reads and writes text",
    "prediction": "answers are not predicted; leave it out",
    "reasoning_effort": "the model's thinking cannot be measured out; leave it out",
    "verbosity": "say in a message how long the answer shall be",
    "web_search_options": "nothing is searched; give what was found as a message",
    "moderation": "texts are not judged; leave it out",
    "use_beam_search": "answers are drawn; use `n`",
    "prompt_logprobs": "use `echo` with `logprobs` in /v1/completions",
}
"""Fields that other servers have, and what to do instead."""


@dataclass(frozen=True)
class CompletionBody:
    """`POST /v1/completions`.

    Attributes:
      prompts: texts, or token ids that are taken as they are.
      echo: give the prompt, too, with its log-probs where `logprobs` asks for them.
      logprobs: how many of the most probable tokens to give beside each; None = no log-probs.
    """

    settings: Settings
    prompts: tuple[str | tuple[int, ...], ...]
    echo: bool
    logprobs: int | None


@dataclass(frozen=True)
class ChatBody:
    """`POST /v1/chat/completions`.

    Attributes:
      messages: in the form of `jaxpo.data.rows.messages`.
      tools: what the template lists; none where `tool_choice` is "none".
      logprobs: as in `CompletionBody`.
      pictures: images as they were given, in the order of the marks in the messages.
    """

    settings: Settings
    messages: Sequence[Message]
    tools: tuple[Any, ...]
    logprobs: int | None
    pictures: tuple[Any, ...] = ()


@dataclass(frozen=True)
class TokenizeBody:
    """`POST /tokenize`: a text whose special tokens are read as such, after BOS unless that is not wanted."""

    text: str
    bos: bool


def read_object(body: bytes) -> Mapping[str, Any]:
    """The JSON object of a request's body.

    Raises:
      ApiError: 400, anything else.
    """
    try:
        value = parse(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise wrong(None, "The body is not UTF-8.", "invalid_json") from error
    except ValueError as error:
        raise wrong(None, f"The body is not JSON: {error}.", "invalid_json") from error
    if not isinstance(value, dict):
        raise wrong(None, "The body must be a JSON object.", "invalid_json")
    return value


def read_completion(values: Mapping[str, Any], defaults: Sampler) -> CompletionBody:
    """The body of /v1/completions.

    Raises:
      ApiError: 400, names the field.
    """
    fields = Fields(values)
    echo = fields.take("echo", FLAG, False)
    body = CompletionBody(
        settings=read_settings(fields, defaults, least_tokens=0 if echo else 1),
        prompts=_prompts(fields),
        echo=echo,
        logprobs=top_logprobs(fields, "logprobs"),
    )
    best_of = fields.take("best_of", whole(1, MOST_SAMPLES), body.settings.n)
    if best_of != body.settings.n:
        raise wrong("best_of", f"`best_of` is {best_of} and `n` {body.settings.n}: all answers are given, ask for `n`.")
    fields.done(REFUSED)
    return body


def read_chat(values: Mapping[str, Any], defaults: Sampler) -> ChatBody:
    """The body of /v1/chat/completions.

    Raises:
      ApiError: 400, names the field.
    """
    fields = Fields(values)
    settings = read_settings(fields, defaults, least_tokens=1)
    messages, pictures = read_messages(fields.need("messages", listed(OBJECT, 1)))
    tools = read_tools(fields)
    if tools and settings.constraint is not None:
        raise wrong("tools", "`tools` cannot be called in an answer of a given form; leave out one of the two.")
    fields.take("modalities", listed(one_of("text"), 1), None)
    body = ChatBody(settings, messages, tools, _chat_logprobs(fields), pictures)
    fields.done(REFUSED)
    return body


def read_tokenize(values: Mapping[str, Any]) -> TokenizeBody:
    """The body of /tokenize."""
    fields = Fields(values)
    fields.take("model", TEXT, None)
    body = TokenizeBody(fields.need("prompt", TEXT), fields.take("add_special_tokens", FLAG, True))
    fields.done()
    return body


def read_detokenize(values: Mapping[str, Any]) -> list[int]:
    """The ids of the body of /detokenize."""
    fields = Fields(values)
    fields.take("model", TEXT, None)
    ids = fields.need("tokens", listed(ID))
    fields.done()
    return ids


def _prompts(fields: Fields) -> tuple[str | tuple[int, ...], ...]:
    ids = listed(ID, 1)
    found = fields.need("prompt", either(TEXT, ids, listed(TEXT, 1, MOST_PROMPTS), listed(ids, 1, MOST_PROMPTS)))
    several = found if isinstance(found, list) and not ID.fits(found[0]) else [found]
    return tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in several)


def _chat_logprobs(fields: Fields) -> int | None:
    asked, top = fields.take("logprobs", FLAG, False), top_logprobs(fields, "top_logprobs")
    if top is not None and not asked:
        raise wrong("top_logprobs", "`top_logprobs` needs `logprobs`: true.")
    return (top or 0) if asked else None
