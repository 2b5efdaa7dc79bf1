"""One number by which models are compared: metrics on held-out files, combined by explicit weights. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.rows import detect
from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.exact_match import ExactMatch
from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.perplexity import answer_loss, encode_records, read_records
from jaxpo.evaluate.probes import BitsPerByte, Measured, RankingAccuracy

if TYPE_CHECKING:
    from jaxpo.evaluate.context import ProbeContext

KINDS = {
    "bits_per_byte": "text",
    "sft_loss": "prompt_completion",
    "exact_match": "prompt_completion",
    "ranking_accuracy": "preference",
}
"""Metric -> the type of rows that it is measured on."""
LOWER_IS_BETTER = ("bits_per_byte", "sft_loss")
# What files are for when no metric is named; exact_match must be asked for.
OF_KIND = {"text": "bits_per_byte", "prompt_completion": "sft_loss", "preference": "ranking_accuracy"}


@dataclass(frozen=True)
class Yardstick:
    """Metrics with their weights, and the files of each row type.

    Attributes:
      metrics: (name, weight) pairs.
      files: row type -> files.
      max_length: of scored sequences.
      max_new_tokens: of answers that are generated.
    """

    metrics: tuple[tuple[str, float], ...]
    files: dict[str, tuple[str, ...]]
    max_length: int = 256
    max_new_tokens: int = 48

    def measure(self, context: ProbeContext) -> Measured:
        """Every metric of the context's model."""
        return {name: self._one(name, context) for name, _ in self.metrics}

    def score(self, measured: Measured) -> float:
        """sum_k w_k s_k m_k with s_k = -1 for bits and losses, so that more is better."""
        return sum(w * sign(name) * measured[name].value for name, w in self.metrics)

    def _one(self, name: str, context: ProbeContext) -> Measurement:
        files = self.files[KINDS[name]]
        if name == "bits_per_byte":
            return BitsPerByte(files, self.max_length).measure(context)[name]
        if name == "ranking_accuracy":
            return RankingAccuracy(files, "ranking", self.max_length, controls=False).measure(context)[name]
        if name == "exact_match":
            probe = ExactMatch(files, max_new_tokens=self.max_new_tokens, by_level=False)
            return probe.measure(context)[name]
        records = read_records(context.files(files), "prompt_completion")
        return answer_loss(context.logps, encode_records(records, context.tokenizer, self.max_length))


def sign(metric: str) -> int:
    """1 where more is better, -1 where less is."""
    return -1 if metric in LOWER_IS_BETTER else 1


def yardstick(
    metrics: Sequence[tuple[str, float]], files: Sequence[Path | str], max_length: int, max_new_tokens: int
) -> Yardstick:
    """Sort files by the type of their rows, and find the metric where only one can be meant.

    Raises:
      ConfigError: several metrics without weights, a metric without files, files that no metric reads.
      DataError: a file that cannot be read, or of a type that no metric is measured on.
    """
    sorted_files: dict[str, list[str]] = {}
    for file in files:
        sorted_files.setdefault(kind_of(Path(file)), []).append(str(file))
    chosen = tuple(metrics)
    if not chosen:
        if len(sorted_files) != 1:
            names = ", ".join(f"{OF_KIND[kind]} ({kind})" for kind in sorted_files)
            raise ConfigError(
                f"metrics: the files are for several metrics, {names}; say what each one counts, for instance "
                f"{OF_KIND[next(iter(sorted_files))]}=1."
            )
        chosen = ((OF_KIND[next(iter(sorted_files))], 1.0),)
    problems = list(metric_problems(chosen))
    for name in (n for n, _ in chosen if n in KINDS):
        if KINDS[name] not in sorted_files:
            problems.append(f"metrics: {name} is measured on {KINDS[name]} rows, and no file has such.")
    for kind, there in sorted_files.items():
        if not any(KINDS.get(name) == kind for name, _ in chosen):
            problems.append(f"metrics: none is measured on {kind} rows, as {there[0]} holds; leave it out.")
    if problems:
        raise ConfigError(problems)
    by_kind = {kind: tuple(names) for kind, names in sorted_files.items()}
    return Yardstick(chosen, by_kind, max_length, max_new_tokens)


def metric_problems(metrics: Sequence[tuple[str, float]]) -> Iterator[str]:
    """Unknown names, and weights that say nothing."""
    for name, weight in metrics:
        if name not in KINDS:
            yield f"metrics: there is no metric {name!r}. Known: {', '.join(KINDS)}."
        elif not 0 < weight < float("inf"):
            yield f"metrics: {name} has the weight {weight:g}; it must be above 0 (what is better is known)."
    names = [name for name, _ in metrics]
    yield from (f"metrics: {name} is named twice." for name in dict.fromkeys(names) if names.count(name) > 1)


def kind_of(file: Path) -> str:
    """The type of a file's rows, which must be one that a metric is measured on."""
    first = next(iter(read_rows([file], part="eval")), None)
    if first is None:
        raise DataError("holds no rows, so nothing can be measured on it.", file=file)
    kind = detect(first)
    if kind not in OF_KIND:
        raise first.error(
            f"is of type {kind!r}; models are compared on rows of type {', '.join(OF_KIND)}.",
            remedy="Convert the file, or leave it out.",
        )
    return kind
