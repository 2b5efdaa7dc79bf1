"""The fields that completions and chats share: how the answer is drawn, how long it is, what form it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxpo.sampling.request import TOP_LOGPS, Constraint
from jaxpo.sampling.sampler import Sampler
from jaxpo.serve.errors import wrong
from jaxpo.serve.fields import FLAG, OBJECT, SOME_TEXT, TEXT, Fields, either, listed, number, one_of, shown, whole

MOST_STOPS, MOST_SAMPLES = 16, 128
LONGEST = 2**31 - 1
"""Of `max_tokens`: more than any window; what does not fit the window is refused later, with the numbers."""

ACCEPTED = {
    "user": TEXT,
    "safety_identifier": TEXT,
    "prompt_cache_key": TEXT,
    "prompt_cache_retention": TEXT,
    "metadata": OBJECT,
    "store": one_of(False),
    "service_tier": one_of("auto", "default"),
}
"""Fields of OpenAI's that change no answer here, and what they may hold."""


@dataclass(frozen=True)
class Settings:
    """How to answer.

    Attributes:
      model: the name that is asked for; None = whatever is served.
      n: answers to each prompt.
      seed: of the draws; None = another one each time.
      max_tokens: of each answer; None = the endpoint's default.
      min_tokens: before so many no answer ends by itself.
      stop: strings that end an answer.
      stop_ids: ids that do, beside the model's own.
      logit_bias: id -> what is added to its logit.
      constraint: the form that the answer must have.
      form: the field that gives it.
      stream: piece by piece, as server-sent events.
      usage: end a stream with the counts of tokens.
    """

    sampler: Sampler
    model: str | None = None
    n: int = 1
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    logit_bias: Mapping[int, float] | None = None
    constraint: Constraint | None = None
    form: str | None = None
    stream: bool = False
    usage: bool = False


def read_settings(fields: Fields, defaults: Sampler, *, least_tokens: int) -> Settings:
    """Take the shared fields.

    Args:
      defaults: the server's, where the request says nothing.
      least_tokens: the smallest `max_tokens`.
    """
    for name, kind in ACCEPTED.items():
        fields.take(name, kind, None)
    stream = fields.take("stream", FLAG, False)
    form, constraint = _constraint(fields)
    return Settings(
        sampler=_sampler(fields, defaults),
        model=fields.take("model", TEXT, None),
        n=fields.take("n", whole(1, MOST_SAMPLES), 1),
        seed=fields.take("seed", whole(-(2**63), 2**63 - 1), None),
        max_tokens=_max_tokens(fields, least_tokens),
        min_tokens=fields.take("min_tokens", whole(0, LONGEST), 0),
        stop=_stop(fields),
        stop_ids=tuple(fields.take("stop_token_ids", listed(whole(0)), [])),
        logit_bias=_bias(fields),
        constraint=constraint,
        form=form,
        stream=stream,
        usage=_usage(fields, stream),
    )


_SAMPLER = {
    "temperature": number(0),
    "top_p": number(0, 1, above=True),
    "min_p": number(0, 1),
    "repetition_penalty": number(0, above=True),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
}


def _sampler(fields: Fields, defaults: Sampler) -> Sampler:
    given: dict[str, Any] = {name: fields.take(name, kind, None) for name, kind in _SAMPLER.items()}
    top_k = fields.take("top_k", whole(-1, LONGEST), None)
    # 0 and -1 are off, as in vLLM.
    given["top_k"] = None if top_k is None else max(top_k, 0)
    return replace(defaults, **{name: value for name, value in given.items() if value is not None})


def _max_tokens(fields: Fields, least: int) -> int | None:
    kind = whole(least, LONGEST)
    older, newer = fields.take("max_tokens", kind, None), fields.take("max_completion_tokens", kind, None)
    if older is not None and newer is not None and older != newer:
        raise wrong(
            "max_tokens", f"`max_tokens` is {older} and `max_completion_tokens` {newer}: they mean the same, give one."
        )
    return newer if older is None else older


def _stop(fields: Fields) -> tuple[str, ...]:
    stop: str | list[str] = fields.take("stop", either(SOME_TEXT, listed(SOME_TEXT, 0, MOST_STOPS)), [])
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _bias(fields: Fields) -> dict[int, float]:
    found = {}
    value = number(-100, 100)
    for key, bias in fields.take("logit_bias", OBJECT, {}).items():
        if not key.isascii() or not key.isdigit():
            raise wrong("logit_bias", f"`logit_bias` has the key {shown(key)!r}; its keys are token ids.")
        if not value.fits(bias):
            raise wrong("logit_bias", f"`logit_bias` of {key} is {shown(bias)}; it must be {value.words}.")
        found[int(key)] = float(bias)
    return found


def _usage(fields: Fields, stream: bool) -> bool:
    given = fields.take("stream_options", OBJECT, None)
    if given is None:
        return False
    if not stream:
        raise wrong("stream_options", "`stream_options` needs `stream`: true.")
    options = Fields(given, "stream_options")
    usage = options.take("include_usage", FLAG, False)
    options.take("include_obfuscation", one_of(False), False)
    options.done()
    return usage


def _constraint(fields: Fields) -> tuple[str | None, Constraint | None]:
    """The form of the answer, and which of `response_format`, `regex` and `choice` gives it; one at most may."""
    kinds = {"response_format": OBJECT, "regex": SOME_TEXT, "choice": listed(SOME_TEXT, 1)}
    given = {name: value for name, kind in kinds.items() if (value := fields.take(name, kind, None)) is not None}
    if len(given) > 1:
        first, second, *_ = given
        raise wrong(second, f"`{first}` and `{second}` both give the answer's form; leave one out.")
    for name, value in given.items():
        return name, _FORMS[name](value)
    return None, None


def _regex(pattern: str) -> Constraint:
    from jaxpo.sampling.constraints import Regex

    return Regex(pattern)


def _choice(options: list[str]) -> Constraint:
    from jaxpo.sampling.constraints import Choice

    return Choice(tuple(options))


def _response_format(given: dict[str, Any]) -> Constraint | None:
    from jaxpo.sampling.constraints import JsonObject, JsonSchema

    form = Fields(given, "response_format")
    kind = form.need("type", one_of("text", "json_object", "json_schema"))
    if kind != "json_schema":
        form.done()
        return JsonObject() if kind == "json_object" else None
    described = Fields(form.need("json_schema", OBJECT), "response_format.json_schema")
    form.done()
    schema = described.need("schema", OBJECT)
    # The schema holds whether or not it is said to be strict; name and description are the client's own.
    for name, of in (("name", TEXT), ("description", TEXT), ("strict", FLAG)):
        described.take(name, of, None)
    described.done()
    return JsonSchema(schema)


_FORMS: Mapping[str, Callable[[Any], Constraint | None]] = {
    "response_format": _response_format,
    "regex": _regex,
    "choice": _choice,
}


def top_logprobs(fields: Fields, name: str) -> int | None:
    """How many of the most probable tokens are given; None = no log-probs."""
    return fields.take(name, whole(0, TOP_LOGPS), None)
