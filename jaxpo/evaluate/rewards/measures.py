"""Calibration, and what rewards have to do with length: of all prompts together, resampled by prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpo.evaluate.intervals import Measurement, bootstrap
from jaxpo.evaluate.picture import Marks, Picture
from jaxpo.evaluate.rewards.judged import Judged, all_pairs
from jaxpo.evaluate.rewards.style import phi

BINS = 10
MOST_POINTS = 2000


def binned(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each pair its bin, its confidence sigmoid(|d|) in [1/2, 1], and whether it is right (1/2 at d = 0)."""
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)
    return place, confidence, (margins > 0) + 0.5 * (margins == 0)


def calibration_error(judged: Sequence[Judged]) -> Measurement:
    """Expected calibration error of sigmoid(d): sum over bins of n_b / n |right_b - confidence_b| (Guo et al. 2017)."""
    margins, unit = all_pairs(judged, "margins")
    place, confidence, right = binned(margins)
    gaps, sizes = np.zeros((len(judged), BINS)), np.zeros(len(judged))
    np.add.at(gaps, (unit, place), right - confidence)
    np.add.at(sizes, unit, 1.0)

    def statistic(counts: np.ndarray) -> np.ndarray:
        return (np.abs(counts @ gaps).sum(1) / np.maximum(counts @ sizes, 1e-300))[:, None]

    return bootstrap(statistic, len(judged))[0]


def length_correlation(judged: Sequence[Judged]) -> Measurement | None:
    """Pearson's of reward and length over all answers; None where one of them does not vary."""
    r = np.concatenate([one.rewards for one in judged])
    n = np.concatenate([one.lengths for one in judged]).astype(np.float64)
    if r.std() == 0 or n.std() == 0:
        return None
    unit = np.repeat(np.arange(len(judged)), [len(one.rewards) for one in judged])
    r, n = (r - r.mean()) / r.std(), (n - n.mean()) / n.std()
    sums = np.zeros((len(judged), 6))
    np.add.at(sums, unit, np.column_stack([np.ones_like(r), r, n, r * r, n * n, r * n]))

    def statistic(counts: np.ndarray) -> np.ndarray:
        total = counts @ sums
        _, a, b, aa, bb, ab = (total / total[:, :1]).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return ((ab - a * b) / np.sqrt((aa - a * a) * (bb - b * b)))[:, None]

    return bootstrap(statistic, len(judged))[0]


def measures(judged: Sequence[Judged]) -> dict[str, Measurement]:
    """Everything that only all prompts together have."""
    margins, unit = all_pairs(judged, "margins")
    longer, markdown = (all_pairs(judged, of)[0] for of in ("longer", "markdown"))
    rewards = np.concatenate([one.rewards for one in judged])
    found = {
        "ece": calibration_error(judged),
        "length_correlation": length_correlation(judged),
        "phi_longer": phi(margins, longer, unit, len(judged)),
        "phi_longer_gold": phi(np.ones_like(longer), longer, unit, len(judged)),
        "phi_markdown": phi(margins, markdown, unit, len(judged)),
        "phi_markdown_gold": phi(np.ones_like(longer), markdown, unit, len(judged)),
        "reward_min": Measurement(float(rewards.min()), len(rewards)),
        "reward_max": Measurement(float(rewards.max()), len(rewards)),
    }
    return {name: value for name, value in found.items() if value is not None}


def pictures(judged: Sequence[Judged]) -> tuple[Picture, ...]:
    """The calibration curve with Wilson's intervals, and rewards over lengths."""
    from jaxpo.evaluate.intervals import share

    place, confidence, right = binned(all_pairs(judged, "margins")[0])
    full = [b for b in range(BINS) if (place == b).any()]
    found = [share(float(right[place == b].sum()), int((place == b).sum())) for b in full]
    curve = Marks(
        "pairs",
        [float(confidence[place == b].mean()) for b in full],
        [one.value for one in found],
        spread=([float(one.low or 0) for one in found], [float(one.high or 0) for one in found]),
    )
    lengths = np.concatenate([one.lengths for one in judged])
    rewards = np.concatenate([one.rewards for one in judged])
    every = max(1, -(-len(rewards) // MOST_POINTS))
    points = Marks("answers", lengths[::every].tolist(), rewards[::every].tolist(), joined=False)
    which = "" if every == 1 else f", every {every}th answer"
    return (
        Picture("Calibration", "confidence, sigmoid of |margin|", "share of pairs that are right", (curve,), True),
        Picture(f"Reward over length{which}", "tokens of the answer", "reward", (points,)),
    )
