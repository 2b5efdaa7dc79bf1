"""An OpenAI-compatible chat endpoint, at an address that the user gives, as a judge."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import Text
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Ask, Item, Reply
from jaxpo.judges.base import Judge, Networks
from jaxpo.judges.http import EndpointFailure, post_with_retries

RUBRIC = """You grade an assistant's answer. Judge whether it is correct, complete, helpful, clear and no longer than \
it needs to be. Write one or two sentences of reasoning, then a last line of exactly this form, with a number from \
{low} (useless) to {high} (excellent):
Score: NUMBER"""
_SCORE = re.compile(r"\bscore[\s*]*[:=][\s*]*([-+]?\d+(?:\.\d+)?|[-+]?nan\b|[-+]?inf)", re.IGNORECASE)


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how long to wait.

    Attributes:
      url: up to `/v1`, as in "http://host:8000/v1"; `/chat/completions` is added.
      model: the name that the endpoint knows.
      key_variable: environment variable with the API key; empty = none is sent. The key itself is never stored.
      timeout: seconds per attempt.
      retries: further attempts after 408, 409, 425, 429, 5xx, a broken connection or an unreadable reply.
      backoff: seconds before the first of them; doubled each time, up to 60; a Retry-After header is obeyed up to it.
      concurrency: questions in flight at once.
      max_tokens: of a reply.
      temperature: of the reply's sampling.
    """

    url: str = ""
    model: str = ""
    key_variable: str = ""
    timeout: float = 60.0
    retries: int = 4
    backoff: float = 1.0
    concurrency: int = 8
    max_tokens: int = 512
    temperature: float = 0.0

    def check(self) -> None:
        """ConfigError that lists what is wrong."""
        problems = []
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).netloc:
            problems.append(f"the endpoint {self.url!r} is no address such as http://host:8000/v1.")
        if not self.model:
            problems.append(f"the endpoint {self.url} needs the name of a model (--judge-model, --refine-model).")
        if self.key_variable and not os.environ.get(self.key_variable):
            problems.append(f"the environment variable {self.key_variable} with the endpoint's key is not set.")
        for name in ("timeout", "concurrency", "max_tokens"):
            if not getattr(self, name) > 0:
                problems.append(f"the endpoint's {name} is {getattr(self, name)} but must be greater than 0.")
        if problems:
            raise ConfigError(problems)

    def identity(self) -> dict[str, Any]:
        """What replies depend on."""
        return {"url": self.url, "model": self.model, "max_tokens": self.max_tokens, "temperature": self.temperature}

    def complete(self, system: str, user: str) -> str:
        """The text of one reply.

        Raises:
          EndpointFailure: no usable reply after all attempts.
          ConfigError: the endpoint refuses the key or does not exist (401, 403, 404).
        """
        body = {
            "model": self.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        key = os.environ.get(self.key_variable, "") if self.key_variable else ""
        address = self.url.rstrip("/") + "/chat/completions"
        return post_with_retries(
            address, body, key, timeout=self.timeout, retries=self.retries, backoff=self.backoff, read=reply_text
        )

    def ask_each(self, items: Sequence[Item], one: Any) -> list[Reply]:
        """`one(item) -> Reply` for all items, several at a time; an endpoint's failure is that item's."""

        def safely(item: Item) -> Reply:
            try:
                return one(item)
            except EndpointFailure as failure:
                return Reply(failed=str(failure))

        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(safely, items))


@dataclass(frozen=True)
class ChatJudge(Judge):
    """A language model that reads a rubric, the prompt and one answer, and ends its reply with `Score: NUMBER`.

    Attributes:
      endpoint: who is asked.
      rubric: instructions; `{low}` and `{high}` are replaced. It must ask for a line `Score: NUMBER`.
      low, high: scores outside are failures.
    """

    endpoint: Endpoint = field(default_factory=Endpoint)
    rubric: str = RUBRIC
    low: float = 1.0
    high: float = 10.0

    NAME: ClassVar[str] = "chat"
    BATCH: ClassVar[int] = 16

    def check(self, rows: Sequence[Row]) -> None:
        self.endpoint.check()
        if not self.low < self.high:
            raise ConfigError(f"the judge's scores run from {self.low} to {self.high}; the first must be smaller.")

    def identity(self, networks: Networks) -> dict[str, Any]:
        return {"judge": self.NAME, **dataclasses.asdict(self), "endpoint": self.endpoint.identity()}

    def message(self, item: Item) -> str:
        """What is asked about an answer."""
        return question_text(item)

    def open(self, networks: Networks) -> Ask:
        system = self.rubric.replace("{low}", f"{self.low:g}").replace("{high}", f"{self.high:g}")

        def one(item: Item) -> Reply:
            reply = self.endpoint.complete(system, self.message(item))
            return parse_score(reply, self.low, self.high)

        return lambda items: self.endpoint.ask_each(items, one)


def question_text(item: Item) -> str:
    """Prompt and answer as one message, each between its own marks."""
    return f"<prompt>\n{plain(item.prompt)}\n</prompt>\n\n<answer>\n{item.answer}\n</answer>"


def plain(prompt: Text) -> str:
    """A prompt as text; a conversation with its roles."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in prompt)


def parse_score(reply: str, low: float, high: float) -> Reply:
    """The number after the last "Score:" of a reply, if it lies in [low, high]; else a failure that shows the reply."""
    found = _SCORE.findall(reply)
    shown = repr(reply[-120:])
    if not found:
        return Reply(failed=f"no line `Score: NUMBER` in the reply, which ends with {shown}")
    score = float(found[-1])
    if not math.isfinite(score) or not low <= score <= high:
        return Reply(failed=f"the score {score} lies outside [{low:g}, {high:g}]; the reply ends with {shown}")
    return Reply(score)


def reply_text(answer: Any) -> str:
    """The message of a chat completion; ValueError for anything else."""
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise ValueError("the reply holds no choices[0].message.content") from None
    if not isinstance(content, str) or not content.strip():
        raise ValueError("the reply's message is empty")
    return content
