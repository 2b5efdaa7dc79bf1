"""From the log-probs of held-out responses to accuracies with intervals, margins, shifts and length correlations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from comparison.experiment import Bench


@dataclass(frozen=True)
class HeldOut:
    """The held-out pairs as arrays.

    Attributes:
      chosen, rejected: `[P]` index into the responses.
      prompt: `[P]` group of each pair, 0-based.
      matched: `[P]` length-matched.
      tokens: `[Q]` scored tokens of each response.
      owner: `[Q]` prompt number of each response.
      sft: `[Q]` summed log-prob under the SFT model.
    """

    chosen: np.ndarray
    rejected: np.ndarray
    prompt: np.ndarray
    matched: np.ndarray
    tokens: np.ndarray
    owner: np.ndarray
    sft: np.ndarray

    @classmethod
    def of(cls, bench: Bench) -> HeldOut:
        """Lay out a bench's pairs."""
        responses = bench.responses()
        index = {key: i for i, key in enumerate(responses)}
        chosen, rejected = (
            np.asarray([index[p.prompt, getattr(p, side)] for p in bench.pairs]) for side in ("chosen", "rejected")
        )
        _, prompt = np.unique([p.prompt for p in bench.pairs], return_inverse=True)
        tokens = np.asarray([bench.prompts[n].lengths[k] + 1 for n, k in responses], np.float64)
        matched = np.asarray([p.matched for p in bench.pairs])
        owner = np.asarray([n for n, _ in responses])
        return cls(chosen, rejected, prompt, matched, tokens, owner, bench.score(bench.sft))

    def correct(self, value: np.ndarray) -> np.ndarray:
        """`[P]` 1 where the chosen response has the larger value, 1/2 on a tie."""
        a, b = value[self.chosen], value[self.rejected]
        return (a > b) + 0.5 * (a == b)


@dataclass(frozen=True)
class Row:
    """One line of the table; accuracies are `[P]` per pair, averaged over the seeds.

    Attributes:
      likelihood: the policy's log-prob per token ranks the pair.
      reward: its log-ratio to the SFT model, summed, ranks the pair; None where there is none.
      margin: mean difference of the log-ratio per token, nats.
      shift_chosen, shift_rejected: mean log-ratio per token, nats.
      length_correlation: mean over prompts of the correlation between summed log-ratio and length.
      step_cpu_seconds: processor time, median.
    """

    name: str
    family: str
    likelihood: np.ndarray
    reward: np.ndarray | None = None
    margin: float | None = None
    shift_chosen: float | None = None
    shift_rejected: float | None = None
    length_correlation: float | None = None
    step_cpu_seconds: float | None = None
    seeds: int = 0


def row_of(held: HeldOut, name: str, family: str, runs: list[dict[str, object]]) -> Row:
    """Average a method's seeds."""
    scores = [np.asarray(run["scores"], np.float64) for run in runs]
    ratios = [(s - held.sft) / held.tokens for s in scores]
    sides = [(r[held.chosen].mean(), r[held.rejected].mean()) for r in ratios]
    chosen, rejected = np.mean(sides, axis=0)
    return Row(
        name,
        family,
        np.mean([held.correct(s / held.tokens) for s in scores], axis=0),
        np.mean([held.correct(s - held.sft) for s in scores], axis=0),
        float(chosen - rejected),
        float(chosen),
        float(rejected),
        float(np.mean([length_correlation(held, s - held.sft) for s in scores])),
        float(np.median([run["step_cpu_seconds"] for run in runs if "step_cpu_seconds" in run])),  # type: ignore[misc]
        len(runs),
    )


def length_correlation(held: HeldOut, reward: np.ndarray) -> float:
    """Pearson correlation of reward and length within each prompt with three responses or more, averaged."""
    found = []
    for n in np.unique(held.owner):
        here = held.owner == n
        if here.sum() >= 3 and np.std(held.tokens[here]) > 0 and np.std(reward[here]) > 0:
            found.append(np.corrcoef(held.tokens[here], reward[here])[0, 1])
    return float(np.mean(found)) if found else float("nan")


class Bootstrap:
    """Resampled prompts, the same for every method: paired intervals."""

    def __init__(self, held: HeldOut, draws: int, seed: int = 0):
        self.held = held
        prompts = int(held.prompt.max()) + 1
        rng = np.random.default_rng(seed)
        # How often each prompt is drawn, [draws, prompts].
        self.weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=draws).astype(np.float64)

    def interval(self, correct: np.ndarray, where: np.ndarray) -> tuple[float, float, float]:
        """Mean over the selected pairs, and its 95% interval."""
        size = self.weights.shape[1]
        total = np.bincount(self.held.prompt[where], correct[where], size)
        count = np.bincount(self.held.prompt[where], minlength=size)
        means = self.weights @ total / np.maximum(self.weights @ count, 1)
        return (float(correct[where].mean()), *(float(q) for q in np.quantile(means, (0.025, 0.975))))


def rules(held: HeldOut) -> list[Row]:
    """The rows without training."""
    return [
        Row("longer wins", "rule", held.correct(held.tokens)),
        Row("SFT model", "start", held.correct(held.sft / held.tokens)),
    ]
