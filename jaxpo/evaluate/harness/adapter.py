"""The model `jaxpo` of lm-eval: an `LM` on the packed scorer and the engine, without torch.

Source: lm-evaluation-harness 0.4.13, `lm_eval.api.model.LM`. Importing this module registers the model, so that
`lm_eval.simple_evaluate(model="jaxpo", model_args="model=FOLDER")` finds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from jaxpo.data.chat.chat import text_of
from jaxpo.data.chat.reasoning import said_once
from jaxpo.data.chat.template_choice import template_of
from jaxpo.data.tokenizer.tokenizer import IM_END
from jaxpo.data.tokens.examples import split_text
from jaxpo.errors import ConfigError, DataError, did_you_mean
from jaxpo.evaluate.likelihood import log_likelihood
from jaxpo.evaluate.perplexity import nats
from jaxpo.evaluate.score import Progress
from jaxpo.evaluate.subject import Subject, reader_of, silent, subject_of
from jaxpo.evaluate.tasks.asking import pair
from jaxpo.sampling.request import Request, said
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.text import encode_prompt

MAX_NEW_TOKENS = 256
"""Where a task says nothing, as in lm-eval's own models."""


@register_model("jaxpo")
class JaxpoLM(LM):
    """A jaxpo model as lm-eval calls it.

    Args:
      subject: the model.
      progress: told how much of a batch of requests is done.
      seed: of the draws of tasks that sample.
    """

    def __init__(self, subject: Subject, progress: Progress = silent, seed: int = 0) -> None:
        super().__init__()
        self.subject, self._progress, self._seed = subject, progress, seed

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> JaxpoLM:
        """From lm-eval's `model_args`: `model` is the folder; `dtype` float32 or bfloat16."""
        known = ("model", "dtype")
        wrong = [name for name in arg_dict if name not in known]
        if wrong or "model" not in arg_dict:
            hint = "".join(did_you_mean(name, known) for name in wrong)
            raise ConfigError(
                f"model_args of jaxpo: model=FOLDER[,dtype=float32|bfloat16]; got {dict(arg_dict)}.{hint}"
            )
        path = Path(str(arg_dict["model"]))
        return cls(subject_of(path, reader_of(path), dtype=arg_dict.get("dtype")))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> JaxpoLM:
        """The same from `model=FOLDER,dtype=float32`."""
        return cls.create_from_arg_obj(dict(part.split("=", 1) for part in arg_string.split(",") if part))

    @property
    def tokenizer_name(self) -> str:
        """Identifies the tokenizer and its template in lm-eval's caches."""
        return self.subject.reader.tokenizer.hash

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The Jinja text of the template."""
        return self.subject.reader.tokenizer.template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The rendered conversation; without a generation prompt its last message stays open, to be gone on with."""
        chat = template_of(self.subject.reader.tokenizer).render
        text = text_of(chat(said_once(chat_history), add_generation_prompt=add_generation_prompt, train_on="none"))
        return text if add_generation_prompt else text.rstrip("\n").removesuffix(IM_END)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Of each `(context, continuation)`: sum log p, and whether greedy decoding would write it."""
        tokenizer = self.subject.reader.tokenizer
        segments = [pair(tokenizer, *request.args) for request in requests]
        self._check_room([len(segment.tokens) for segment in segments])
        scored = self.subject.scores([segment.tokens for segment in segments], "greedy", self._progress)
        found = []
        for both, segment in zip(scored, segments, strict=True):
            logps, greedy = both[:, 0], both[:, 1]
            found.append((log_likelihood(logps, segment), bool(greedy[segment.supervised].all())))
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Of each text: sum log p of its tokens after the start token; longer ones in pieces, as `split_text` cuts."""
        reader = self.subject.reader
        pieces = []
        for request in requests:
            whole = np.asarray(encode_prompt(reader.tokenizer, request.args[0]), np.int32)
            pieces.append(split_text(whole, reader.context))
        logps = iter(self.subject.logps([piece for whole in pieces for piece in whole], self._progress))
        return [-nats([next(logps) for _ in whole]) for whole in pieces]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Of each `(context, settings)` the answer, cut before the first stop string."""
        settings = [Settings.of(request.args[1]) for request in requests]
        prompts = [encode_prompt(self.subject.reader.tokenizer, request.args[0]) for request in requests]
        self._check_room([len(p) + s.max_new_tokens for p, s in zip(prompts, settings, strict=True)])
        asked = [
            Request(
                prompt=prompt,
                sampler=how.sampler,
                max_new_tokens=how.max_new_tokens,
                stop=how.stop,
                stop_ids=self.subject.stop_ids,
                seed=self._seed,
                number=number,
            )
            for number, (prompt, how) in enumerate(zip(prompts, settings, strict=True))
        ]
        return [said(answers[0]) for answers in self.subject.answers(asked, self._progress)]

    def _check_room(self, lengths: Sequence[int]) -> None:
        context = self.subject.reader.context
        longest = max(lengths, default=0)
        if longest > context:
            raise DataError(
                f"{longest} tokens, but the model has {context} positions.",
                file=f"request {lengths.index(longest) + 1} of lm-eval",
                remedy="Ask for fewer shots, lower max_gen_toks in the task file, or leave the task out.",
            )


@dataclass(frozen=True)
class Settings:
    """lm-eval's `generation_kwargs`, read.

    Attributes:
      sampler: greedy unless the task samples.
    """

    sampler: Sampler
    max_new_tokens: int
    stop: tuple[str, ...]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """ConfigError for a setting that is not known: it would change what is generated."""
        rest = {name: value for name, value in given.items() if value is not None}
        until = rest.pop("until", ())
        stop = (until,) if isinstance(until, str) else tuple(until)
        lengths = [rest.pop(name) for name in ("max_gen_toks", "max_new_tokens", "max_tokens") if name in rest]
        sample = rest.pop("do_sample", rest.get("temperature", 0.0) > 0)
        rest["temperature"] = rest.get("temperature", 1.0) if sample else 0.0
        known = {field.name for field in fields(Sampler)}
        problems = list(_unknown(rest, known))
        if problems:
            raise ConfigError(problems)
        return cls(
            Sampler(**rest), int(lengths[0]) if lengths else MAX_NEW_TOKENS, tuple(text for text in stop if text)
        )


def _unknown(rest: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    for name in rest:
        if name not in known:
            accepted = ", ".join(sorted({*known, "until", "max_gen_toks", "do_sample"}))
            yield f"generation_kwargs.{name}: not known, and it would change the answers; known are {accepted}."
