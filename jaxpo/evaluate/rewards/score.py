"""Rewards of many answers by a reward model, packed into batches of few shapes."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxpo.data.packing.batch import Batch
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import read_record
from jaxpo.data.rows.texts import Text
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.building import Builder
from jaxpo.data.tokens.examples import Segment
from jaxpo.data.tokens.rendering import Cut
from jaxpo.evaluate.score import POSITIONS, ROW_LENGTH, Progress, each_segment
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.rewards import reading
from jaxpo.objectives.methods.rewards import RewardMethod

Tree = Any


def answer_segments(
    places: Sequence[Row],
    prompts: Sequence[Text],
    answers: Sequence[Text] | None,
    method: RewardMethod,
    tokenizer: Tokenizer,
    cut: Cut,
    counts: Counter[str],
) -> list[Segment]:
    """Prompts with answers as the method's stage would make them: with the ends of their steps, where it reads those.

    Args:
      places: rows whose file and number errors name.
      answers: None = there are none: the prompts themselves are what something is said about.
      counts: as of `Builder`.

    Raises:
      DataError: an answer without a token that is left, or one that is too long; names file and row.
    """
    builder = Builder(tokenizer, cut, counts)
    if answers is None:
        asked = [
            Row(place.file, place.number, {"prompt": p, "ratings": {"-": 0}})
            for place, p in zip(places, prompts, strict=True)
        ]
        whole = [read_record(row, "rated") for row in asked]
        return [example.segments[0] for example in builder.examples_of(whole)]
    steps = "step_end" in method.NEEDS.per_token
    kind, marks = ("steps", ("step_end",)) if steps else ("prompt_completion", ())
    separator = getattr(method, "separator", "")
    records = []
    for place, prompt, answer in zip(places, prompts, answers, strict=True):
        data = in_steps(prompt, answer, separator) if steps else {"prompt": prompt, "completion": answer}
        records.append(read_record(Row(place.file, place.number, data), kind, marks=marks))
    return [example.segments[0] for example in builder.examples_of(records)]


def in_steps(prompt: Text, answer: Text, separator: str) -> dict[str, Any]:
    """A row of type "steps" whose steps nobody has judged yet; white space alone is a step."""
    text = answer if isinstance(answer, str) else answer[-1]["content"]
    steps = [step for step in text.split(separator) if step.strip()] or [text]
    return {"prompt": prompt, "completions": steps, "labels": [None] * len(steps), "separator": separator}


def rewards_in_rows(
    scorer: Scorer,
    method: RewardMethod,
    params: Mapping[str, Tree],
    segments: Sequence[Segment],
    *,
    rows: int,
    row_length: int,
    key: Any = None,
    every_head: bool = False,
) -> np.ndarray:
    """The reward of each answer in batches of one shape, float64 `[n]`.

    Args:
      params: the model's tree and the heads'.
      every_head: all numbers that the method reads of an answer instead, `[n, C]`, see `RewardMethod.head_names`.
      key: of the dropout's draws, a row for each answer; None = without dropout.
    """
    run = functools.partial(_rewards, scorer, method, every_head, params, key)
    beside = [{"completion": scored_mask(s), **s.per_token} for s in segments]
    tokens, alone = [s.tokens for s in segments], key is not None
    placed = each_segment(run, tokens, rows, row_length, beside=beside, alone=alone)
    found = {place.segment: row[place.slot] for place, row in placed}
    return np.asarray([found[i] for i in range(len(tokens))], np.float64)


def rewards_of(
    scorer: Scorer, method: RewardMethod, params: Mapping[str, Tree], segments: Sequence[Segment], progress: Progress
) -> np.ndarray:
    """The same for answers of any length: batches of about `POSITIONS`, rows of 256, 512, ... as they need."""
    by_length: dict[int, list[int]] = {}
    for i, segment in enumerate(segments):
        by_length.setdefault(max(ROW_LENGTH, 1 << (len(segment.tokens) - 1).bit_length()), []).append(i)
    found, done = np.zeros(len(segments)), 0
    for row_length, members in sorted(by_length.items()):
        rows = max(1, POSITIONS // row_length)
        chosen = [segments[i] for i in members]
        found[members] = rewards_in_rows(scorer, method, params, chosen, rows=rows, row_length=row_length)
        done += len(members)
        progress(done, len(segments))
    return found


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _rewards(scorer: Scorer, method: RewardMethod, every_head: bool, params: Tree, key: Any, batch: Batch) -> jax.Array:
    """`[R, M]`, or `[R, M, C]`."""
    hidden, _ = scorer.run(params["model"], batch, key)
    found = method.read_states(scorer, params, scorer.pooled(hidden, batch, key), batch)
    # Marks of what is learnt have no place where nothing is.
    needs = replace(method.NEEDS, per_token=tuple(name for name in method.NEEDS.per_token if name in batch.per_token))
    one = reading(found, batch, "answer", needs, method.PER_TOKEN)
    if every_head:
        return method.head_values(one).reshape(batch.rows, batch.slots, -1)
    return method.reward(one).reshape(batch.rows, batch.slots)


def scored_mask(segment: Segment) -> np.ndarray:
    """The mask of a segment's answer in a batch: its first token has no predecessor."""
    mask = segment.supervised.copy()
    mask[:1] = False
    return mask
