"""Preference strength by an ensemble of reward models, and what is done with pairs by it (arXiv:2401.06080, sec. 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.columns import extra_columns
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import canonical, detect

Policy = Literal["measure", "flip", "soften", "margin", "flip_margin", "soft_margin"]


def strength(chosen: np.ndarray, rejected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """mu and sigma of d = r_chosen - r_rejected over M models: mean and population deviation, `[M, N] -> [N]`."""
    d = np.asarray(chosen, np.float64) - np.asarray(rejected, np.float64)
    return d.mean(axis=0), d.std(axis=0)


def lowest(values: np.ndarray, share: float) -> np.ndarray:
    """True for the lowest `share` of values, rounded down; equal ones in their order."""
    mask = np.zeros(len(values), bool)
    mask[np.argsort(values, kind="stable")[: int(share * len(values))]] = True
    return mask


@dataclass(frozen=True)
class SecretsRM(Construction):
    """Pairs with the strength that several reward models give them, and labels changed by it.

    Rows have a column of scores [chosen, rejected] of each model, as `jaxpo data score --column NAME` or the stage
    Ensemble writes them.

    Attributes:
      scores: names of these columns; () = all that begin with `scores_`.
      policy: "measure" adds strength alone; "flip" swaps suspect pairs; "soften" gives them soft labels; "margin" gives
        every pair its strength as margin, "flip_margin" swaps suspect ones and gives all their new direction's,
        "soft_margin" softens suspect pairs and gives all a margin. Soft labels are `votes`, read by
        `--stage.loss.soft-labels True`.
      suspect: lowest share of strengths that is taken for wrong (the paper: 0.2); None = those below 0.
      smoothing: a, of soft labels.
      soften_top: highest share of strengths that is softened too, where labels are: its patterns may be over-fitted.
    """

    scores: tuple[str, ...] = ()
    policy: Policy = "measure"
    suspect: float | None = None
    smoothing: float = 0.1
    soften_top: float = 0.0

    NAME = "secrets_rm"
    READS = "pairs with columns scores_NAME: [chosen, rejected] of several reward models"
    WRITES = (
        "the same pairs with strength, strength_std and, by the policy, margin or votes; flipped: true where swapped"
    )

    def problems(self) -> list[str]:
        shares = {"suspect": self.suspect, "soften-top": self.soften_top}
        found = [
            f"--{n} is {x} but must be from 0 to 1." for n, x in shares.items() if x is not None and not 0 <= x <= 1
        ]
        if not 0 <= self.smoothing <= 1:
            found.append(f"--smoothing is {self.smoothing} but must be from 0 to 1.")
        if self.soften_top and self.policy not in ("soften", "soft_margin"):
            found.append(f"--soften-top: the policy {self.policy} makes no soft labels.")
        return found

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        rows = [_pair(canonical(row)) for row in rows]
        names = self.scores or tuple(name for name in rows[0].data if name.startswith("scores_"))
        if len(names) < 2:
            raise rows[0].error(
                f"{len(names)} columns of scores; a strength is the mean of several models'.",
                field="scores_1",
                remedy="Add them: `jaxpo data score --reward RUN --column scores_1`, once for each reward model.",
            )
        table = np.asarray([[_scores(row, name) for row in rows] for name in names])
        mu, sigma = strength(table[..., 0], table[..., 1])
        suspect = mu < 0 if self.suspect is None else lowest(mu, self.suspect)
        top = lowest(-mu, self.soften_top)
        tools.count("suspect", int(suspect.sum()))
        for row, m, s, wrong, strong in zip(rows, mu.tolist(), sigma.tolist(), suspect, top, strict=True):
            kept = {name: value for name, value in row.data.items() if name not in names}
            yield self._changed(kept | {"strength": m, "strength_std": s}, m, bool(wrong), bool(strong))

    def _changed(self, row: dict[str, Any], mu: float, wrong: bool, strong: bool) -> dict[str, Any]:
        flip = wrong and self.policy in ("flip", "flip_margin")
        if flip:
            row = _swapped(row) | {"flipped": True}
        if "margin" in self.policy:
            # Of the direction that the pair now has.
            row["margin"] = -mu if flip else mu
        if self.policy in ("soften", "soft_margin"):
            a = self.smoothing if wrong or strong else 0.0
            row["votes"] = [1 - a, a]
        return row


def _pair(row: Row) -> Row:
    if (kind := detect(row)) != "preference":
        raise row.error(f"is of type {kind!r}.", remedy="Give prompt, chosen and rejected.")
    for name in ("strength", "margin", "votes"):
        if name in row.data:
            raise row.error(f"there is a column {name!r} already.", field=name, remedy="Remove it to have it computed.")
    if "rewards" in row.data:
        extra_columns(row, ("rewards",))
    return row


def _swapped(row: dict[str, Any]) -> dict[str, Any]:
    """The pair the other way round, with what its columns say of either side."""
    other = {"chosen": "rejected", "rejected": "chosen"}

    def of_other(name: str) -> str:
        side, mark, rest = name.partition("_")
        return other.get(side, side) + mark + rest

    swapped = {of_other(name): value for name, value in row.items()}
    if "rewards" in swapped:
        swapped["rewards"] = {name: both[::-1] for name, both in swapped["rewards"].items()}
    return swapped


def _scores(row: Row, name: str) -> tuple[float, float]:
    value: Any = row.data.get(name)
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_score, value)):
        raise row.error(
            f"must be [chosen, rejected], two finite numbers; found {value!r:.80}.",
            field=name,
            remedy="`jaxpo data score` writes such a column; leave a model that has gone wrong out with --scores.",
        )
    return float(value[0]), float(value[1])


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
