"""What is served: the model as far as requests need it, and the requests of the engine that theirs become."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.shown import Shown
from jaxpo.sampling.viewing import Viewer
from jaxpo.serve.errors import ApiError, too_long, wrong
from jaxpo.serve.settings import Settings


@dataclass(frozen=True)
class Served:
    """A model by its name.

    Attributes:
      context: tokens of a prompt and its answer together.
      stop_ids: what ends an answer.
      sampler: settings where a request gives none.
      created: when it was loaded, in seconds since 1970.
      viewer: how it sees; None of one that reads text alone.
    """

    name: str
    tokenizer: Tokenizer
    vocabulary: int
    context: int
    stop_ids: tuple[int, ...]
    sampler: Sampler
    created: int
    viewer: Viewer | None = None

    def check_name(self, asked: str | None) -> None:
        """ApiError 404 for another model than the one that is served."""
        if asked is not None and asked != self.name:
            raise ApiError(
                404, f"There is no model {asked!r} here; it is {self.name!r}.", param="model", code="model_not_found"
            )

    def room(self, prompt: Sequence[int], param: str, *, least: int) -> int:
        """Tokens that an answer may have at most.

        Raises:
          ApiError: 400, fewer than `least`, or ids that the model does not have.
        """
        unknown = next((i for i in prompt if i >= self.vocabulary), None)
        if unknown is not None:
            raise wrong(param, f"`{param}` holds the id {unknown}; the model has {self.vocabulary}.")
        room = self.context - len(prompt)
        if room < least:
            more = " and no room is left for an answer" if room == 0 else ""
            raise too_long(param, f"`{param}` has {len(prompt)} tokens; the window has {self.context}{more}.")
        return room

    def request(
        self,
        prompt: Sequence[int],
        settings: Settings,
        *,
        param: str,
        default: int | None,
        seed: int,
        number: int = 0,
        prompt_logps: bool = False,
        top_logps: int = 0,
        shown: Shown | None = None,
    ) -> Request:
        """The engine's request for one prompt.

        Args:
          param: the field that the prompt is of.
          default: tokens of an answer where the request does not say; None = what the window holds.
          number: of the prompt among the request's.
        """
        asked = settings.max_tokens
        room = self.room(prompt, param, least=0 if asked == 0 else 1)
        if asked is not None and asked > room:
            raise too_long(
                "max_tokens",
                f"`{param}` has {len(prompt)} tokens and `max_tokens` is {asked}: together more than the window of "
                f"{self.context}; ask for at most {room}.",
            )
        longest = min(room, default or room) if asked is None else asked
        if settings.min_tokens > longest:
            raise wrong("min_tokens", f"`min_tokens` is {settings.min_tokens}; an answer has at most {longest} tokens.")
        self._check_ids("logit_bias", tuple(settings.logit_bias or ()))
        self._check_ids("stop_token_ids", settings.stop_ids)
        return Request(
            prompt=tuple(prompt),
            n=settings.n,
            sampler=settings.sampler,
            max_new_tokens=longest,
            min_new_tokens=settings.min_tokens,
            stop=settings.stop,
            stop_ids=tuple(dict.fromkeys((*self.stop_ids, *settings.stop_ids))),
            seed=seed,
            number=number,
            logit_bias=settings.logit_bias or {},
            prompt_logps=prompt_logps,
            top_logps=top_logps,
            constraint=settings.constraint,
            shown=shown,
        )

    def _check_ids(self, name: str, ids: Sequence[int]) -> None:
        beyond = next((i for i in ids if i >= self.tokenizer.vocab_size), None)
        if beyond is not None:
            raise wrong(name, f"`{name}` names the id {beyond}; the tokenizer has {self.tokenizer.vocab_size}.")


def seed_of(settings: Settings) -> int:
    """The request's seed, or one that no other request has."""
    return secrets.randbits(31) if settings.seed is None else settings.seed
