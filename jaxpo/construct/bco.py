"""BCO's underlying-distribution matching: weights that make the bad rows' prompts look like the good rows'."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import Record, canonical, detect, read_record
from jaxpo.data.rows.texts import text_of_column

MAX_ITERATIONS = 100


@dataclass(frozen=True)
class BCO(Construction):
    """Weights of the bad rows by how likely their prompt is one that gets good answers.

    A classifier tells prompts of good rows from prompts of bad rows by a frozen model's embeddings; a bad row then
    weighs p / (1 - p), where p is its prompt's probability of being a good row's. The rows it is fitted to are weighed
    by the same fit: with few rows for the width of the embeddings raise the penalty, or it knows the bad ones by heart.

    Attributes:
      prompts_per_class: at most so many rows of each label are used to fit the classifier.
      penalty: of the squared norm of the classifier's weights, over 2.
      least: smallest weight.
      most: largest weight.
    """

    prompts_per_class: int = 1024
    penalty: float = 1.0
    least: float = 0.5
    most: float = 10.0

    NAME = "bco"
    READS = "unpaired rows (prompt, completion, label)"
    WRITES = "the same rows with a column `weight`: of bad rows by their prompts, 1 on good rows"

    def needed_networks(self) -> tuple[str, ...]:
        return ("model",)

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        records = [_read(row) for row in rows]
        good = np.asarray([bool(record.columns["label"]) for record in records])
        if not good.any() or good.all():
            have, lack = ("bad", "true") if not good.any() else ("good", "false")
            raise rows[0].error(
                f"all {len(rows)} rows are labelled {have}.", field="label", remedy=f"Add rows with label {lack}."
            )
        weights = self.weights(_embeddings(records, tools), good, tools)
        for record, weight in zip(records, weights.tolist(), strict=True):
            yield {**record.row.data, "weight": weight}

    def weights(self, embeddings: np.ndarray, good: np.ndarray, tools: Tools) -> np.ndarray:
        """The column, `[n]`; says how well the classifier tells the prompts apart."""
        chosen = sample_of_each_class(good, self.prompts_per_class, tools.seed)
        fit = fit_logistic(embeddings[chosen], good[chosen], penalty=self.penalty)
        odds = prompt_odds(embeddings[~good], fit)
        tools.count("weights_at_least", int(np.sum(odds < self.least)))
        tools.count("weights_at_most", int(np.sum(odds > self.most)))
        weights = np.ones(good.shape)
        weights[~good] = np.clip(odds, self.least, self.most)
        tools.say(
            f"prompts of {len(chosen)} rows told apart with balanced accuracy "
            f"{balanced_accuracy(embeddings[chosen], good[chosen], fit):.3f}; "
            f"mean weight of the {np.sum(~good)} bad rows {weights[~good].mean():.3f}"
        )
        return weights

    def problems(self) -> list[str]:
        problems = []
        if self.prompts_per_class < 1:
            problems.append(f"--prompts-per-class is {self.prompts_per_class} but must be at least 1.")
        if not (np.isfinite(self.penalty) and self.penalty > 0):
            problems.append(f"--penalty is {self.penalty} but must be greater than 0: separable prompts have no fit.")
        if not 0 < self.least <= 1 <= self.most < np.inf:
            problems.append(f"--least {self.least} and --most {self.most} must enclose 1 and be above 0.")
        return problems


def fit_logistic(
    x: np.ndarray, positive: np.ndarray, *, penalty: float = 1.0, tolerance: float = 1e-10
) -> tuple[np.ndarray, float]:
    """Weights `[D]` and bias of a logistic regression in which both classes count alike, by damped Newton steps.

        minimise penalty |w|^2 / 2 + sum_i c_i softplus(-y_i (w x_i + b)),    c_i = n / (2 n of its class),    y = +-1

    Args:
      x: `[n, D]` features.
      positive: `[n]` bool; both values must occur.
      penalty: makes the minimum unique and finite; the bias is free.
      tolerance: on half the squared Newton decrement, relative to the number of rows.

    Raises:
      ValueError: one class only, or no convergence.
    """
    design = np.hstack([np.asarray(x, np.float64), np.ones((len(x), 1))])
    sign, n = np.where(positive, 1.0, -1.0), len(positive)
    ups = int(np.sum(positive))
    if ups in (0, n):
        raise ValueError("both classes must occur")
    count = np.where(positive, n / (2.0 * ups), n / (2.0 * (n - ups)))
    ridge = np.append(np.full(design.shape[1] - 1, float(penalty)), 0.0)

    def cost(theta: np.ndarray) -> float:
        return float(0.5 * ridge @ theta**2 + count @ np.logaddexp(0.0, -sign * (design @ theta)))

    theta = np.zeros(design.shape[1])
    for _ in range(MAX_ITERATIONS):
        wrong = sigmoid(-sign * (design @ theta))
        slope = ridge * theta - design.T @ (count * sign * wrong)
        curvature = (design.T * (count * wrong * (1.0 - wrong))) @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, slope)
        decrement = float(slope @ step)
        if decrement / 2 <= tolerance * n:
            return theta[:-1], float(theta[-1])
        size, now = 1.0, cost(theta)
        while cost(theta - size * step) > now - 1e-4 * size * decrement and size > 1e-8:
            size /= 2
        theta = theta - size * step
    raise ValueError(f"no convergence in {MAX_ITERATIONS} Newton steps")


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Logistic function without overflow."""
    return np.exp(-np.logaddexp(0.0, -z))


def prompt_odds(x: np.ndarray, fit: tuple[np.ndarray, float]) -> np.ndarray:
    """`p / (1 - p) = exp(w x + b)`, `[n]`; bounded, so that it stays finite."""
    weights, bias = fit
    return np.exp(np.clip(np.asarray(x, np.float64) @ weights + bias, -700.0, 700.0))


def balanced_accuracy(x: np.ndarray, positive: np.ndarray, fit: tuple[np.ndarray, float]) -> float:
    """Mean over the classes of the share on the right side."""
    right = (prompt_odds(x, fit) > 1) == positive
    return float((right[positive].mean() + right[~positive].mean()) / 2)


def sample_of_each_class(positive: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Sorted indices of at most `most` rows of each class, drawn without replacement."""
    rng = np.random.default_rng(seed)
    parts = [rng.permutation(np.flatnonzero(positive == side))[:most] for side in (False, True)]
    return np.sort(np.concatenate(parts))


def _read(row: Row) -> Record:
    kind = detect(row)
    if kind != "unpaired":
        raise row.error(
            f"rows of type {kind!r} have no label each.",
            remedy="Give prompt, completion and label; pairs need no weights, their two sides have the same prompt.",
        )
    if "weight" in row.data:
        raise row.error("there is a column `weight` already.", field="weight", remedy="Remove it to have it computed.")
    return read_record(canonical(row), kind, extras=("label",))


def _embeddings(records: Sequence[Record], tools: Tools) -> np.ndarray:
    """Of each row's prompt, `[n, D]`; equal prompts are embedded once."""
    prompts = [text_of_column(record.row, "prompt") for record in records]
    keys = [json.dumps(prompt, sort_keys=True) for prompt in prompts]
    unique = dict(zip(keys, prompts, strict=True))
    place = {key: i for i, key in enumerate(unique)}
    found = tools.embed(list(unique.values()))
    return np.asarray(found, np.float64)[[place[key] for key in keys]]
