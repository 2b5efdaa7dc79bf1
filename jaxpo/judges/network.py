"""A language model as the constructions use it: scores, embeddings, rewards and samples of texts."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.convert.model_io import Model
from jaxpo.convert.reader import Reader, why_no_reward
from jaxpo.data.packing.batch import Batch
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import read_record
from jaxpo.data.rows.tagged import Word
from jaxpo.data.rows.texts import Text
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.building import Builder
from jaxpo.data.tokens.examples import Segment
from jaxpo.data.tokens.rendering import Cut, Truncation
from jaxpo.errors import ConfigError
from jaxpo.evaluate.rewards.readings import VECTORS, mean_scores_of, readings_of, table_of
from jaxpo.evaluate.rewards.score import answer_segments, rewards_in_rows
from jaxpo.evaluate.rewards.words import tokens_and_places, word_classes
from jaxpo.evaluate.score import each_segment, token_logps
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.methods.embeddings import EmbeddingMethod
from jaxpo.objectives.methods.mixtures import MixtureMethod
from jaxpo.objectives.methods.rewards import RewardMethod
from jaxpo.objectives.methods.token_classification import TokenClassification
from jaxpo.sampling.engine import Engine
from jaxpo.sampling.fitted import as_scored, fitted, sized
from jaxpo.sampling.prompts import Conversation, Prompt
from jaxpo.sampling.request import Generation, Request, said
from jaxpo.sampling.sampler import Sampler
from jaxpo.sampling.text import encode_prompt, requests_for
from jaxpo.sampling.viewing import READS_TEXT, viewer_of

Tree = Any
ROWS = 16
TOGETHER = 64
"""Prompts whose images are held in memory at once."""
USUAL_LENGTH = 1024
"""Rows are longer, and fewer at once, only where a text needs them to be."""


@dataclass(frozen=True)
class Network(Model):
    """A model with its tokenizer, and how it is run.

    Attributes:
      max_length: of prompt and completion, in tokens; longer ones are cut as `truncation` says.
      truncation: as of a stage's data: "response_right" takes the end of the completion, "prompt_left" the start of the
        prompt. A prompt that is embedded always loses its start.
      dtype: compute dtype of scores and of samples ("float32" or "bfloat16").
      attention, experts: names of implementations; None = the best here.
    """

    tokenizer: Tokenizer
    max_length: int = USUAL_LENGTH
    truncation: Truncation = "response_right"
    dtype: str = "float32"
    attention: str | None = None
    experts: str | None = None

    @classmethod
    def of(cls, model: Model, **settings: Any) -> Network:
        """A model as it was loaded, with settings of its own."""
        return cls(**{f.name: getattr(model, f.name) for f in dataclasses.fields(Model)} | settings)

    @property
    def scorer(self) -> Scorer:
        """How it is run."""
        return Scorer(self.config, self.dtype, attention=self.attention, experts=self.experts)

    def segments(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[Segment]:
        """Token segments as a preference stage would make them."""
        rows = (
            Row(Path("(construction)"), i, {"prompt": p, "completion": c})
            for i, (p, c) in _numbered(prompts, completions)
        )
        records = [read_record(row, "prompt_completion") for row in rows]
        examples = Builder(self.tokenizer, self.cut, Counter()).examples_of(records)
        return [example.segments[0] for example in examples]

    def logps(self, prompts: Sequence[Text], completions: Sequence[Text]) -> np.ndarray:
        """Summed log-probs, float64 `[n]`."""
        segments = self.segments(prompts, completions)
        tokens = [s.tokens for s in segments]
        scored = token_logps(self.scorer, self.params["model"], tokens, **self._shape(tokens))
        # The first token of a segment has no predecessor: its log-prob is 0.
        return np.asarray([x[s.supervised].sum(dtype=np.float64) for x, s in zip(scored, segments, strict=True)])

    def token_counts(self, prompts: Sequence[Text], completions: Sequence[Text]) -> np.ndarray:
        """Scored tokens, int64 `[n]`."""
        return np.asarray([int(s.supervised[1:].sum()) for s in self.segments(prompts, completions)], np.int64)

    def embed(self, prompts: Sequence[Text]) -> np.ndarray:
        """Mean final hidden state, float32 `[n, D]`."""
        tokens = [np.asarray(encode_prompt(self.tokenizer, p)[-self.max_length :], np.int32) for p in prompts]
        return self._per_segment(_means, tokens)

    def rewards(
        self, prompts: Sequence[Text], completions: Sequence[Text], *, masks: int | None = None, seed: int = 0
    ) -> np.ndarray:
        """The reward of each answer, as the model's method reads it, float64 `[n]`.

        Whose taste is meant, where the method knows several, its `mixture` says; `rewards_under` asks about others.

        Args:
          masks: T; under T draws of the dropout that it was trained with instead, `[n, T]`: what two of them differ by
            tells how sure the model is.
          seed: of the draws, which belong to the answer's number and the mask's, whatever else is scored with it.

        Raises:
          ConfigError: it is no reward model; or was trained without dropout, so that all masks would be alike.
        """
        reader = self.asked_reader()
        segments = self.answers(prompts, completions, reader.method)
        if masks is None:
            return self._rewards(segments, reader.method, self.scorer, None)
        rates = {name: getattr(reader, name) for name in ("embedding_dropout", "pooled_dropout")}
        if not any(rates.values()):
            raise ConfigError(
                "the reward model was trained without dropout, so all masks would be alike; train it with "
                "--stage.pooled-dropout 0.1."
            )
        scorer, key = dataclasses.replace(self.scorer, **rates), jax.random.key(seed)
        drawn = [self._rewards(segments, reader.method, scorer, jax.random.fold_in(key, t)) for t in range(masks)]
        return np.stack(drawn, axis=1)

    def read(self, prompts: Sequence[Text], completions: Sequence[Text], names: Sequence[str]) -> dict[str, np.ndarray]:
        """What the heads read of each answer, by name, float32 `[n, ...]`; one forward per answer.

        Raises:
          ConfigError: it is no reward model.
        """
        method = self.asked_reader().method
        segments = self.answers(prompts, completions, method)
        return readings_of(self.scorer, method, self.params, segments, names)

    def rewards_under(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        *,
        users: Sequence[str] | None = None,
        mixtures: np.ndarray | None = None,
    ) -> np.ndarray:
        """The reward of each answer for somebody, float64 `[n]`.

        Args:
          users: who is asked about each answer.
          mixtures: `[K]` or `[n, K]`, weights of the method's parts, in the place of users.

        Raises:
          ConfigError: a model of one taste alone, or a user that it does not know; names who.
        """
        method = self.mixture_method()
        if (users is None) == (mixtures is None):
            raise ConfigError("rewards_under: give users or mixtures, one of them.")
        weights = method.mixtures(self.params, users) if users is not None else jnp.asarray(mixtures, jnp.float32)
        values = self.read(prompts, completions, method.READ_PER_ANSWER)
        everyone = jnp.broadcast_to(weights, (len(prompts), method.parts))
        found = method.under(self.params, {name: jnp.asarray(x) for name, x in values.items()}, everyone)
        return np.asarray(found, np.float64)

    def mixture_method(self) -> MixtureMethod:
        """Its method, which knows several tastes; ConfigError where it does not."""
        method = self.asked_reader().method
        if not isinstance(method, MixtureMethod):
            raise ConfigError(f"the model was trained by {method.INFO.name}, which knows one taste alone.")
        return method

    def mean_scores(
        self, prompts: Sequence[Text], completions: Sequence[Text], sizes: Sequence[int]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Of a model that compares answers: each one's mean score among those to its prompt, and the tables.

        Args:
          prompts, completions: those of one prompt next to one another.
          sizes: answers to each prompt.

        Returns:
          Float64 `[n]`; and for each prompt the log-odds `[K, K]` of every two answers, one forward per answer.

        Raises:
          ConfigError: it gives every answer a reward by itself.
        """
        method = self.asked_reader().method
        if not method.COMPARES_ANSWERS:
            raise ConfigError(
                f"the model was trained by {method.INFO.name}, which compares no answers; ask for rewards."
            )
        values = self.read(prompts, completions, VECTORS)
        borders = np.cumsum([0, *sizes])
        each = [{k: x[a:b] for k, x in values.items()} for a, b in itertools.pairwise(borders)]
        return mean_scores_of(values, sizes), [table_of(own) for own in each]

    def embeddings(self, prompts: Sequence[Text], completions: Sequence[Text]) -> np.ndarray:
        """The vector of each answer that the method reads, float64 `[n, E]`.

        Raises:
          ConfigError: it is no reward model, or one that gives no vectors.
        """
        method = self.asked_reader().method
        if not isinstance(method, EmbeddingMethod):
            raise ConfigError(f"the model was trained by {method.INFO.name}, which gives answers no vectors.")
        return self.read(prompts, completions, ("embedding",))["embedding"].astype(np.float64)

    def heads(self, prompts: Sequence[Text], completions: Sequence[Text] | None) -> tuple[tuple[str, ...], np.ndarray]:
        """Names and values of all that a reward model's heads say: of each answer, or of prompts; float64 `[n, C]`.

        Raises:
          ConfigError: it is no reward model.
        """
        method = self.asked_reader().method
        segments = self.answers(prompts, completions, method)
        how = self._shape([s.tokens for s in segments])
        return method.head_names(), rewards_in_rows(self.scorer, method, self.params, segments, every_head=True, **how)

    def word_classes(
        self, texts: Sequence[tuple[Row, str, Sequence[Word]]]
    ) -> tuple[tuple[str, ...], list[list[np.ndarray | None]]]:
        """Names of the classes, and for each word of each text their probabilities, None where it has no token.

        Raises:
          ConfigError: it was trained by another method.
        """
        method = self.asked_reader().method
        if not isinstance(method, TokenClassification):
            raise ConfigError(f"the model was trained by {method.INFO.name}, which tells no classes of words.")
        read = tokens_and_places(texts, self.tokenizer, self.max_length)
        how = self._shape([tokens for tokens, _ in read])
        return method.classes, word_classes(self.scorer, method, self.params, read, **how)

    def asked_reader(self) -> Reader:
        """How its rewards are read; ConfigError where it is no reward model."""
        if self.reader is None:
            raise ConfigError(f"the model {why_no_reward(self.params, self.about)}; give that of a reward stage.")
        return self.reader

    def answers(
        self, prompts: Sequence[Text], completions: Sequence[Text] | None, method: RewardMethod
    ) -> list[Segment]:
        """Token segments as the method's stage would make them: with the ends of their steps, where it reads those."""
        places = [Row(Path("(construction)"), i, {}) for i in range(1, len(prompts) + 1)]
        return answer_segments(places, prompts, completions, method, self.tokenizer, self.cut, Counter())

    @property
    def cut(self) -> Cut:
        """What longer texts lose."""
        return Cut(self.max_length, self.truncation)

    def _rewards(self, segments: Sequence[Segment], method: RewardMethod, scorer: Scorer, key: Any) -> np.ndarray:
        how = self._shape([s.tokens for s in segments])
        return rewards_in_rows(scorer, method, self.params, segments, key=key, **how)

    def generate(
        self,
        prompts: Sequence[Text | Conversation],
        n: int,
        *,
        temperature: float,
        top_k: int,
        max_new_tokens: int,
        seed: int,
        begun: Sequence[str] | None = None,
        stop: tuple[str, ...] = (),
        frames: int | None = None,
        image_tokens: int | None = None,
    ) -> list[list[str]]:
        """`n` samples per prompt.

        Args:
          begun: what each prompt's answers begin with; it is no part of what is returned.
          stop: strings that end an answer, and are cut from it.
          frames: of a clip that are shown; None = as of a stage's data.
          image_tokens: vectors of an image at most, which is not cut into tiles then; None = as the model's files say.

        Raises:
          ConfigError: a prompt shows images, and the model reads text alone.
          BadImage: an image that cannot be used.
        """
        sampler = Sampler(temperature=temperature, top_k=top_k)
        template = Request((), n=n, sampler=sampler, max_new_tokens=max_new_tokens, seed=seed, stop=stop)
        if any(isinstance(prompt, Conversation) and prompt.pictures for prompt in prompts):
            return self._generate_seeing(prompts, template, frames, image_tokens)
        requests = requests_for(self.tokenizer, prompts, template)
        if begun is not None:
            requests = [
                dataclasses.replace(request, prompt=[*request.prompt, *self.tokenizer.encode(text)])
                for request, text in zip(requests, begun, strict=True)
            ]
        answers = self.engine(requests).generate(requests)
        return [[said(answers[i * n + k]) for k in range(n)] for i in range(len(prompts))]

    def _generate_seeing(
        self, prompts: Sequence[Prompt], template: Request, frames: int | None, image_tokens: int | None
    ) -> list[list[str]]:
        """The same of prompts that show images, a few of which are decoded at a time."""
        tiles = None if image_tokens is None else 1
        viewer = viewer_of(self.config, self.tokenizer, max_image_tokens=image_tokens, max_tiles=tiles)
        if viewer is None:
            raise ConfigError(f"{READS_TEXT}; give one that sees.")
        viewer = viewer if frames is None else dataclasses.replace(viewer, frames=frames)
        needed = max(map(len, map(viewer.planned, prompts))) + template.max_new_tokens
        how = {"needed": needed, "answers": template.n * min(len(prompts), TOGETHER), "patches": viewer.longest}
        engine = sized(self.params["model"], self.config, tokenizer=self.tokenizer, **how, **as_scored(self.scorer))
        found: list[list[str]] = []
        for start in range(0, len(prompts), TOGETHER):
            few = [viewer.encode(prompt) for prompt in prompts[start : start + TOGETHER]]
            requests = [
                dataclasses.replace(template, prompt=ids, shown=shown, number=number)
                for number, (ids, shown) in enumerate(few, start=start)
            ]
            answers = engine.generate(requests)
            found += [[said(answers[i * template.n + k]) for k in range(template.n)] for i in range(len(few))]
        return found

    def draw(
        self,
        prompts: Sequence[Text],
        n: int,
        *,
        numbers: Sequence[int],
        sampler: Sampler,
        max_new_tokens: int,
        seed: int,
        max_rows: int = 64,
    ) -> Iterator[list[Generation]]:
        """`n` samples per prompt as they are finished; a function of the prompt's number, the sample's and the seed.

        `Generation.request` is the place among the prompts.
        """
        template = Request((), n=n, sampler=sampler, max_new_tokens=max_new_tokens, seed=seed)
        requests = requests_for(self.tokenizer, prompts, template, numbers)
        engine = self.engine(requests, slots=max_rows)
        for request in requests:
            engine.submit(request)
        while engine.busy:
            if done := engine.step():
                yield done

    def engine(self, requests: Sequence[Request], slots: int = 64) -> Engine:
        """An engine that writes as the model computes scores, as large as these requests need it."""
        computed = as_scored(self.scorer)
        return fitted(self.params["model"], self.config, requests, tokenizer=self.tokenizer, slots=slots, **computed)

    def prompt_lengths(self, prompts: Sequence[Text]) -> np.ndarray:
        """Tokens of each prompt with the opened answer, int64 `[n]`."""
        return np.asarray([len(encode_prompt(self.tokenizer, prompt)) for prompt in prompts], np.int64)

    def lengths(self, prompts: Sequence[Text], completions: Sequence[Text]) -> np.ndarray:
        """Tokens of prompt and completion together, uncut, as the model's method reads them, int64 `[n]`."""
        uncut = dataclasses.replace(self, max_length=sys.maxsize)
        read = uncut.segments if self.reader is None else functools.partial(uncut.answers, method=self.reader.method)
        return np.asarray([len(s.tokens) for s in read(prompts, completions)], np.int64)

    def fingerprint(self) -> str:
        """Hash of the parameters."""
        return fingerprint(self.params)

    def _shape(self, tokens: Sequence[np.ndarray]) -> dict[str, Any]:
        """Of the batches that these texts are read in: few shapes, so that programs are shared."""
        longest = max((len(own) for own in tokens), default=1)
        row_length = min(self.max_length, max(USUAL_LENGTH, 1 << (longest - 1).bit_length()))
        return {"rows": max(1, ROWS * USUAL_LENGTH // max(row_length, USUAL_LENGTH)), "row_length": row_length}

    def _per_segment(self, term: Callable[..., jax.Array], tokens: Sequence[np.ndarray]) -> np.ndarray:
        """`term(scorer, params, batch) -> [R, M, d]`, gathered into `[n, d]`."""
        run = functools.partial(term, self.scorer, self.params)
        found = {place.segment: row[place.slot] for place, row in each_segment(run, tokens, **self._shape(tokens))}
        return np.stack([found[i] for i in range(len(tokens))])


def _numbered(prompts: Sequence[Text], completions: Sequence[Text]) -> Any:
    return enumerate(zip(prompts, completions, strict=True), start=1)


@functools.partial(jax.jit, static_argnums=0)
def _means(scorer: Scorer, params: Tree, batch: Batch) -> jax.Array:
    hidden = scorer.hidden(params["model"], batch).astype(jnp.float32)
    inside = (batch.segment_ids[:, None, :] == jnp.arange(1, batch.slots + 1)[None, :, None]).astype(jnp.float32)
    count = jnp.maximum(jnp.sum(inside, axis=-1, keepdims=True), 1.0)
    return jnp.einsum("rms,rsd->rmd", inside, hidden) / count
