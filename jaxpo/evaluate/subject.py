"""A model that is evaluated: its packed scorer and its engine behind the two things that tasks ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.config.precision import Dtype, compute_dtype
from jaxpo.errors import CheckpointError, JaxpoError
from jaxpo.evaluate.rewards.readings import VECTORS, mean_scores_of, readings_of
from jaxpo.evaluate.rewards.score import rewards_of
from jaxpo.evaluate.score import Kind, Progress, token_scores
from jaxpo.evaluate.tasks.base import Reader, Search
from jaxpo.objectives.encode import Scorer
from jaxpo.sampling.prompts import Prompt
from jaxpo.sampling.request import Generation, Request
from jaxpo.sampling.sampler import GREEDY

if TYPE_CHECKING:
    from jaxpo.data.tokens.examples import Segment
    from jaxpo.sampling.engine import Engine

Tree = Any
Say = Callable[[str], None]
SLOTS, POSITIONS = 64, 64 * 2048
"""Answers in flight at once, and the positions that their caches may have together."""


def unsaid(line: str) -> None:
    """Nothing is said."""


def silent(done: int, total: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class Subject:
    """A model and how it is run.

    Attributes:
      params: the model's own tree, perhaps quantised.
      reader: its tokenizer and context, which tasks see.
      stop_ids: what ends an answer.
      heads: what was trained beside the model, by name.
    """

    params: Tree
    scorer: Scorer
    reader: Reader
    stop_ids: tuple[int, ...]
    heads: Mapping[str, Tree] = field(default_factory=dict)

    def logps(self, segments: Sequence[np.ndarray], progress: Progress = silent) -> list[np.ndarray]:
        """log p of every token given the earlier ones of its segment, float32 `[len(segment)]`, 0 at the first."""
        return self.scores(segments, "logps", progress)

    def scores(self, segments: Sequence[np.ndarray], kind: Kind, progress: Progress = silent) -> list[np.ndarray]:
        """As `token_scores`."""
        return token_scores(self.scorer, self.params, segments, kind, progress)

    def rewards(
        self, segments: Sequence[Segment], progress: Progress = silent, sizes: Sequence[int] = ()
    ) -> np.ndarray:
        """The reward of each answer, as `Reader.reward` reads it, float64 `[n]`.

        Args:
          sizes: answers to each prompt; of a model that compares answers the reward is the mean score among them.
        """
        if not segments:
            return np.zeros(0)
        assert self.reader.reward is not None, "a task asks only reward models for rewards"
        method, params = self.reader.reward.method, {"model": self.params, **self.heads}
        if method.COMPARES_ANSWERS:
            values = readings_of(self.scorer, method, params, segments, VECTORS, progress)
            return mean_scores_of(values, sizes)
        return rewards_of(self.scorer, method, params, segments, progress)

    def searches(self, searches: Sequence[Search], progress: Progress = silent) -> list[dict[str, float]]:
        """The best documents of each query, id -> score, by exact search."""
        if not searches:
            return []
        from jaxpo.evaluate.retrieval.collection_scores import best_of_corpus
        from jaxpo.evaluate.retrieval.embedder import make_embedder

        assert self.reader.retriever is not None, "a task asks only retrievers for documents"
        params = {"model": self.params, **self.heads}
        embedder = make_embedder(self.scorer, params, self.reader.retriever, self.reader.tokenizer)
        corpora = {id(search.corpus): search.corpus for search in searches}
        members = {key: [i for i, s in enumerate(searches) if id(s.corpus) == key] for key in corpora}
        found: dict[int, dict[str, float]] = {}
        for key, corpus in corpora.items():
            queries = [searches[i].query for i in members[key]]
            found |= zip(members[key], best_of_corpus(corpus, queries, embedder, progress), strict=True)
        return [found[i] for i in range(len(searches))]

    def answers(self, requests: Sequence[Request], progress: Progress = silent) -> list[list[Generation]]:
        """Per request its continuations.

        Raises:
          JaxpoError: the model failed on a prompt (logits that are no numbers).
        """
        if not requests:
            return []
        engine = self._engine(requests)
        numbers = {engine.submit(request): place for place, request in enumerate(requests)}
        found: list[list[Generation]] = [[] for _ in requests]
        done, total = 0, sum(request.n for request in requests)
        while engine.busy:
            for one in engine.step():
                if one.reason == "error":
                    raise JaxpoError(f"the model gives no answer to prompt {numbers[one.request] + 1}: {one.error}.")
                found[numbers[one.request]].append(one)
                done += 1
                progress(done, total)
        return [sorted(answers, key=lambda one: one.sample) for answers in found]

    def greedy(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Generation]:
        """The most likely continuation of every prompt, token by token."""
        from jaxpo.sampling.text import requests_for

        template = Request((), sampler=GREEDY, max_new_tokens=max_new_tokens, stop_ids=self.stop_ids)
        requests = requests_for(self.reader.tokenizer, prompts, template)
        return [answers[0] for answers in self.answers(requests)]

    def _engine(self, requests: Sequence[Request]) -> Engine:
        from jaxpo.sampling.fitted import as_scored, fitted, window

        needed = window(max(len(request.prompt) + request.max_new_tokens for request in requests))
        slots = max(1, min(SLOTS, POSITIONS // needed))
        options = {"tokenizer": self.reader.tokenizer, "slots": slots, **as_scored(self.scorer)}
        return fitted(self.params, self.scorer.config, requests, **options)


def reader_of(path: Path) -> Reader:
    """What tasks may know of the model in a folder; no weights are read.

    Raises:
      CheckpointError: no model, or one without a tokenizer.
      ConfigError: the tokenizer has ids that the model has not.
    """
    from jaxpo.convert.model_io import near_tokenizer, read_config, read_reader, read_retriever_of
    from jaxpo.data.tokenizer.tokenizer import check_vocabulary
    from jaxpo.models.family import limits

    config, tokenizer = read_config(path), near_tokenizer(path)
    if tokenizer is None:
        raise CheckpointError(f"{path}: holds no tokenizer, so it cannot be evaluated; put tokenizer.json beside it.")
    check_vocabulary(tokenizer, config.vocab_size)
    return Reader(tokenizer, limits(config).context, read_reader(path), read_retriever_of(path))


def subject_of(
    path: Path, reader: Reader, *, dtype: Dtype | None = None, quantize: str | None = None, say: Say = unsaid
) -> Subject:
    """The model in a folder, its weights read.

    Args:
      dtype: of products; None = float32 on a CPU and bfloat16 elsewhere, as for generation.
      quantize: see `jaxpo.models.quantize.quantized`; heads beside the model stay as they are.
      say: told how far the quantised model is from its own.
    """
    import jax

    from jaxpo.convert.generation import end_ids
    from jaxpo.convert.model_io import load_model

    model = load_model(path)
    stop_ids = end_ids(model.generation, reader.tokenizer.eos_id)
    params, heads = model.params["model"], {name: tree for name, tree in model.params.items() if name != "model"}
    scorer = Scorer(model.config, dtype=compute_dtype(dtype, jax.default_backend()))
    if quantize is not None:
        from jaxpo.models.quantize import quantized
        from jaxpo.sampling.quantised import divergence

        say(divergence(params, model.config, reader.tokenizer, quantize, scorer.dtype))
        params = quantized(params, model.config, quantize)
    return Subject(params, scorer, reader, stop_ids, heads)
