"""Scored candidates of each prompt: those that a row brings, or samples from a network that a reward model scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.construct.base import Tools
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import canonical
from jaxpo.data.rows.texts import Text, text_of_column, text_or_messages
from jaxpo.judges.asking import Item
from jaxpo.judges.named import JudgeOptions

READS = "prompt, responses, scores (without scores: --reward or another --judge; without responses: --model as well)"


@dataclass(frozen=True)
class Sampling:
    """How missing responses are drawn."""

    n: int
    temperature: float
    top_k: int
    max_new_tokens: int


@dataclass(frozen=True)
class Candidates:
    """One prompt's responses as the row gives them, none of them empty, and their scores, float64 `[n]`."""

    row: Row
    prompt: Text
    responses: list[Text]
    scores: np.ndarray


def scored_candidates(
    rows: Sequence[Row], tools: Tools, sampling: Sampling, judges: JudgeOptions
) -> Iterator[Candidates]:
    """Every row's candidates, in order; empty responses, and those that a judge failed on, are left out and counted.

    Raises:
      DataError: responses and scores that do not belong together; names file, row and field.
      ConfigError: responses or scores are missing and the network that could make them was not given.
    """
    rows = [canonical(row) for row in rows]
    prompts = [text_of_column(row, "prompt") for row in rows]
    responses = _responses(rows, prompts, tools, sampling)
    scores = _scores(rows, prompts, responses, tools, judges)
    for row, prompt, texts, values in zip(rows, prompts, responses, scores, strict=True):
        kept = [k for k, text in enumerate(texts) if text]
        if len(kept) < len(texts):
            tools.count("dropped_empty_responses", len(texts) - len(kept))
        judged = [k for k in kept if not np.isnan(values[k])]
        if len(judged) < len(kept):
            tools.count("dropped_judge_failed", len(kept) - len(judged))
        kept = judged
        yield Candidates(row, prompt, [texts[k] for k in kept], values[kept])


def _responses(rows: list[Row], prompts: list[Text], tools: Tools, sampling: Sampling) -> list[list[Text]]:
    found: list[list[Text]] = [_given(row) if "responses" in row.data else [] for row in rows]
    missing = [i for i, row in enumerate(rows) if "responses" not in row.data]
    for i, row in enumerate(rows):
        if "scores" in row.data and i in missing:
            raise row.error("there are scores but no responses.", field="responses")
    if missing:
        drawn = tools.generate(
            [prompts[i] for i in missing],
            sampling.n,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            max_new_tokens=sampling.max_new_tokens,
        )
        for i, texts in zip(missing, drawn, strict=True):
            found[i] = list(texts)
    return found


def _given(row: Row) -> list[Text]:
    value = row.data["responses"]
    if not isinstance(value, list):
        raise row.error("`responses` must be a list.", field="responses")
    return [text_or_messages(row, "responses", text, empty_ok=True) for text in value]


def _scores(
    rows: list[Row], prompts: list[Text], responses: list[list[Text]], tools: Tools, judges: JudgeOptions
) -> list[np.ndarray]:
    """Those that rows give, else the judges'; NaN where these failed."""
    found = [
        _given_scores(row, len(texts)) if "scores" in row.data else np.zeros(len(texts))
        for row, texts in zip(rows, responses, strict=True)
    ]
    where = [
        (i, k) for i, row in enumerate(rows) if "scores" not in row.data for k, text in enumerate(responses[i]) if text
    ]
    if where:
        asked = [Item(prompts[i], answer_text(rows[i], responses[i][k]), rows[i]) for i, k in where]
        values = tools.judged(judges.judges(), asked)
        for (i, k), item in zip(where, asked, strict=True):
            found[i][k] = values.get(item.key(None), np.nan)
    return found


def answer_text(row: Row, text: Text) -> str:
    """A response as judges read it: one turn of text."""
    if isinstance(text, str):
        return text
    if len(text) != 1:
        raise row.error(
            f"a response has {len(text)} turns; judges read one.", field="responses", remedy="Give its last turn alone."
        )
    return str(text[0]["content"])


def _given_scores(row: Row, count: int) -> np.ndarray:
    value = row.data["scores"]
    numbers = isinstance(value, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value)
    if not numbers or len(value) != count:
        raise row.error(f"expected {count} numbers, one per response.", field="scores", remedy="Correct the row.")
    scores = np.asarray(value, np.float64)
    if not np.all(np.isfinite(scores)):
        raise row.error("a score is not finite.", field="scores", remedy="Use finite numbers or remove the row.")
    return scores


def listed(given: Candidates, index: Sequence[int], scores: Sequence[float]) -> dict[str, Any]:
    """A row of type `list` from the candidates of the index."""
    return {
        "prompt": given.prompt,
        "responses": [given.responses[k] for k in index],
        "scores": [float(s) for s in scores],
    }
