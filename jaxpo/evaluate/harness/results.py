"""lm-eval's results as ours: its numbers unchanged, with the intervals that its samples allow. Imports no lm-eval."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.results import TaskResult, prompt_hash
from jaxpo.evaluate.tasks.base import Scored
from jaxpo.evaluate.tasks.reading import Score

# What of a task's file its prompts are made of.
_WORDING = (
    "description",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "fewshot_delimiter",
    "target_delimiter",
    "gen_prefix",
    "num_fewshot",
)
_SAME = 1e-9


def task_results(
    found: Mapping[str, Any], settings: Mapping[str, Any], template: str, seconds: float
) -> list[TaskResult]:
    """Per task of lm-eval's results (those of a group, then the group) one of ours.

    Args:
      found: what `simple_evaluate` gave.
      template: the chat template's text where prompts are put into it.
    """
    results = []
    for name, numbers in found["results"].items():
        samples = found["samples"].get(name, [])
        config = found["configs"].get(name, {})
        higher = found["higher_is_better"].get(name, {})
        scored, scores, further = _read(numbers, samples, higher)
        wording = json.dumps({key: str(config.get(key)) for key in _WORDING})
        identity = prompt_hash(name, wording, template)
        # A group's tasks are named after it: another group, or the command itself, may have one of them too.
        source = str(settings["source"])
        label = f"lm_eval:{source}" if name == source else f"lm_eval:{source}/{name}"
        results.append(TaskResult(label, settings, identity, scored, scores, seconds, further))
    return results


def _read(
    numbers: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], higher: Mapping[str, Any]
) -> tuple[list[Scored], dict[str, Score], dict[str, Measurement]]:
    """Examples, how their values are read, and the numbers that no reading of single examples gives."""
    by_document: dict[int, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_document.setdefault(sample["doc_id"], []).append(sample)
    values: list[dict[str, float]] = [{} for _ in by_document]
    weights: list[dict[str, float]] = [{} for _ in by_document]
    scores, further = {}, {}
    for key, value in numbers.items():
        metric, comma, how = key.partition(",")
        if not comma or metric.endswith("_stderr") or type(value) not in (int, float, np.float64):
            continue
        name = metric if how == "none" else f"{metric}_{how}"
        single = [_of(entries, metric, how) for entries in by_document.values()]
        reading = (
            None if not single or None in single else _reading(single, float(value), bool(higher.get(metric, True)))
        )
        if reading is None:
            further[name] = Measurement(float(value), int(numbers.get("sample_len", len(by_document))))
            continue
        scores[name], tops, bottoms = reading
        for i, (top, bottom) in enumerate(zip(tops, bottoms, strict=True)):
            values[i][name] = top
            weights[i] |= {} if bottom == 1 else {name: bottom}
    scored = [_scored(entries, values[i], weights[i]) for i, entries in enumerate(by_document.values())]
    return scored, scores, further


def _of(entries: Sequence[Mapping[str, Any]], metric: str, how: str) -> Any:
    return next((entry.get(metric) for entry in entries if entry["filter"] == how), None)


def _reading(single: Sequence[Any], value: float, higher: bool) -> tuple[Score, list[float], list[float]] | None:
    """The score whose result over these single values is lm-eval's number, with tops and bottoms."""
    for score, tops, bottoms in _candidates(single, higher):
        if math.isclose(
            score.measure(np.asarray(tops), np.asarray(bottoms)).value, value, rel_tol=_SAME, abs_tol=_SAME
        ):
            return score, tops, bottoms
    return None


def _candidates(single: Sequence[Any], higher: bool) -> Iterator[tuple[Score, list[float], list[float]]]:
    """A mean of numbers; of pairs (log-likelihood, weight) a perplexity, or bits per weight."""
    try:
        numbers = np.asarray(single, np.float64)
    except (TypeError, ValueError):
        return
    if numbers.ndim == 1:
        binary = set(numbers.tolist()) <= {0.0, 1.0}
        yield Score("of lm-eval", binary=binary, higher=higher), numbers.tolist(), [1.0] * len(numbers)
    elif numbers.ndim == 2 and numbers.shape[1] == 2:
        costs, weights = -numbers[:, 0], numbers[:, 1]
        yield Score("of lm-eval", higher=higher, exp=True), costs.tolist(), weights.tolist()
        yield Score("of lm-eval", higher=higher), (costs / math.log(2)).tolist(), weights.tolist()


def _scored(entries: Sequence[Mapping[str, Any]], values: Mapping[str, float], weights: Mapping[str, float]) -> Scored:
    first = entries[0]
    return Scored(
        values,
        weights,
        prompt=str(first["arguments"][0][0]),
        answer=str(first["filtered_resps"][0] if len(first["filtered_resps"]) == 1 else first["filtered_resps"]),
        expected=str(first["target"]),
    )
