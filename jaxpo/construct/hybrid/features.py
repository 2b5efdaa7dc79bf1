"""Binary features of pairs: what kind of instance it is, told before anyone has labelled it.

A feature is written as `KEY[LOW,HIGH]`, a number in a bin; `KEY=VALUE`, a tag that a column has; `KEY?`, a column that
holds something. Bins are closed: an instance on an edge has both features. With `strict=True` it has neither, as where
the reference computes gains.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.construct.hybrid.instances import Instance
from jaxpo.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from jaxpo.construct.base import Tools

RANKED = ("prompt_len", "len_shorter", "len_longer", "len_diff")
"""Numbers of words, put into bins by their rank within the set."""
COMPUTED = ("rouge", "cosine_sim", "entity_sim")
GIVEN = ("bertscore", "bertscore_length")
"""From columns alone."""
LEXICAL = (*COMPUTED[:1], *RANKED)
"""What needs neither column nor network."""
NUMBERS = (*GIVEN, *COMPUTED, *RANKED)
FORM = re.compile(r"(?P<key>[^\[=?]+)(?:\[(?P<low>[\d.]+),(?P<high>[\d.]+)\]|=(?P<value>.+)|\?)")


@dataclass(frozen=True)
class Feature:
    """One kind of instance.

    Attributes:
      low, high: of a number's bin; None of a tag.
      value: of a tag; None = the column holds something.
    """

    key: str
    low: float | None = None
    high: float | None = None
    value: str | None = None

    def __str__(self) -> str:
        if self.low is not None:
            return f"{self.key}[{self.low:g},{self.high:g}]"
        return f"{self.key}?" if self.value is None else f"{self.key}={self.value}"


def bins(key: str, n: int = 3) -> list[Feature]:
    """A number's features; edges are rounded to two decimals."""
    edges = np.round(np.linspace(0, 1, n + 1), 2).tolist()
    return [Feature(key, low, high) for low, high in pairwise(edges)]


def parse(text: str) -> Feature:
    """A feature as it is written; ConfigError for what is none."""
    found = FORM.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no feature; write KEY[LOW,HIGH], KEY=VALUE or KEY?.")
    low, high = (None if edge is None else float(edge) for edge in (found["low"], found["high"]))
    return Feature(found["key"], low, high, found["value"])


def discovered(instances: Sequence[Instance], words: Sequence[str], n: int = 3) -> list[Feature]:
    """The features that words name: a number gives its bins, `COLUMN` every value that it has, `COLUMN?` its presence.

    Raises:
      ConfigError: a word that is neither a number nor a column.
    """
    found: list[Feature] = []
    for word in words:
        if word in NUMBERS:
            found += bins(word, n)
        elif word.endswith("?") or FORM.fullmatch(word):
            found.append(parse(word))
        else:
            values = sorted({value for one in instances for value in _tags(one, word)})
            if not values:
                hint = did_you_mean(word, NUMBERS)
                raise ConfigError(
                    f"--features {word}: no row has a column {word!r}, and it is none of {', '.join(NUMBERS)}.{hint}"
                )
            found += [Feature(word, value=value) for value in values]
    return found


def matrix(
    instances: Sequence[Instance], features: Sequence[Feature], tools: Tools, *, strict: bool = False
) -> np.ndarray:
    """B: which instance has which feature, bool `[N, F]`.

    Args:
      tools: its network "model" embeds answers for `cosine_sim`.

    Raises:
      ConfigError: a feature without a source.
      DataError: a column that some rows lack, or that holds no number.
    """
    numbers = {
        key: _numbers(instances, key, tools) for key in dict.fromkeys(f.key for f in features if f.low is not None)
    }
    columns = []
    for feature in features:
        if feature.low is None:
            has = [feature.value in _tags(one, feature.key) if feature.value else bool(_tags(one, feature.key))
                   for one in instances]  # fmt: skip
            columns.append(np.asarray(has, bool))
            continue
        x, low, high = numbers[feature.key], feature.low, feature.high
        columns.append((x > low) & (x < high) if strict else (x >= low) & (x <= high))
    return np.stack(columns, axis=1) if columns else np.zeros((len(instances), 0), bool)


def _numbers(instances: Sequence[Instance], key: str, tools: Tools) -> np.ndarray:
    """A number of every instance, `[N]`: of its column if any row has one, else computed."""
    from scipy.stats import rankdata

    if any(key in one.row.data for one in instances):
        found = np.asarray([_column(one, key) for one in instances])
    else:
        found = _computed(instances, key, tools)
    return rankdata(found) / len(found) if key in RANKED else found


def _computed(instances: Sequence[Instance], key: str, tools: Tools) -> np.ndarray:
    if key == "rouge":
        return np.asarray([_rouge(*one.responses) for one in instances])
    if key == "entity_sim":
        return np.asarray([_overlap(one) for one in instances])
    if key == "cosine_sim" and tools.has("model"):
        return _cosine(instances, tools)
    if key in RANKED:
        return np.asarray([_length(one, key) for one in instances], np.float64)
    sources = {
        "cosine_sim": "give --model RUN, whose states embed the answers, or a column",
        "bertscore": "give a column of that name, as bert-score computes it",
    }
    remedy = sources.get(key, "give a column of that name")
    raise ConfigError(f"the feature {key!r} has no source: {remedy}; or leave it out of --features.")


def _rouge(first: str, second: str) -> float:
    """F1 of ROUGE-L."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ConfigError(
            "the feature 'rouge' needs rouge-score, which is not installed: pip install 'jaxpo[route]'."
        ) from error
    return float(RougeScorer(["rougeL"]).score(first, second)["rougeL"].fmeasure)


def _cosine(instances: Sequence[Instance], tools: Tools) -> np.ndarray:
    states = [tools.embed([one.responses[side] for one in instances]) for side in (0, 1)]
    a, b = (np.asarray(x, np.float64) for x in states)
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-300)


def _overlap(one: Instance) -> float:
    """Shared entities of both answers over all of them; 0 where there are none."""
    value: Any = one.row.data.get("entities")
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(x, list) for x in value):
        raise one.row.error(
            "the feature 'entity_sim' has no source.",
            field="entities",
            remedy="Give `entities`, a list of each answer's, or `entity_sim`; or leave the feature out of --features.",
        )
    first, second = map(set, value)
    return len(first & second) / max(1, len(first | second))


def _length(one: Instance, key: str) -> int:
    if key == "prompt_len":
        prompt = one.prompt if isinstance(one.prompt, str) else " ".join(str(turn["content"]) for turn in one.prompt)
        return len(prompt.split())
    a, b = (len(text.split()) for text in one.responses)
    return {"len_shorter": min(a, b), "len_longer": max(a, b), "len_diff": abs(a - b)}[key]


def _column(one: Instance, key: str) -> float:
    value: Any = one.row.data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise one.row.error(f"must be a number, found {value!r}.", field=key, remedy="Give it in every row.")
    return float(value)


def _tags(one: Instance, key: str) -> list[str]:
    value: Any = one.row.data.get(key)
    if value is None:
        return []
    return [str(x) for x in value] if isinstance(value, list) else [str(value)]
