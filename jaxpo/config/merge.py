"""The stages that merge models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxpo.config.part import RecipePart
from jaxpo.config.places import ModelFolder, OtherFile


@dataclass(frozen=True)
class Search:
    """A grid of merges, each evaluated on held-out files; the best one is the result, others are forgotten.

    Attributes:
      select: held-out files by which the best is chosen: text, prompt-completion or preference rows.
      report: other files of the same kinds, on which the chosen one is measured afterwards: what was best on the first
        files is partly so by luck.
      metrics: (name, weight) pairs: bits_per_byte, sft_loss, ranking_accuracy, exact_match. The score is the weighted
        sum, bits and losses counted negative; empty = the one metric that the files are for.
      methods: dataclasses of `jaxpo.merge.methods`; empty = a grid of all that fit (`jaxpo.merge.grid`).
      weights: sets of weights to try with every method that has weights; empty = equal ones, and each model emphasised.
      max_length: of the scored sequences, in tokens.
      max_new_tokens: of the answers that exact_match grades.
      parallel: candidates made in one pass over the models' leaves, and so held in memory together.
    """

    select: tuple[OtherFile, ...] = ()
    report: tuple[OtherFile, ...] = ()
    metrics: tuple[tuple[str, float], ...] = ()
    methods: tuple[Any, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()
    max_length: int = 256
    max_new_tokens: int = 48
    parallel: int = 4


@dataclass(frozen=True)
class Merge(RecipePart):
    """One model from the models of earlier stages. A stage of zero steps.

    Attributes:
      models: earlier stages; empty = all trained ones but the base.
      weights: one per model; a soup's sum to 1. None = equal ones, 1 / n each.
      method: a dataclass of `jaxpo.merge.methods`; None = their weighted average (soup). On the command line
        `--merge.method NAME`.
      base: theta_0 of the methods on task vectors: an earlier stage, or a folder with a model.
      seed: of random masks; None = the run's.
      search: try a grid of methods and weights instead and keep the best.
    """

    name: str = "merge"
    models: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    method: Any = None
    base: ModelFolder | None = None
    search: Search | None = None
    seed: int | None = None
