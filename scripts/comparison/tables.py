"""The comparison as a document and a plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from comparison.measure import Bootstrap, HeldOut, Row
from comparison.settings import Settings

HEAD = """\
# Preference losses on real data

Written by `scripts/compare_losses`. Every method trains the same nano LFM2 from the same SFT model on the same prompts
of AlpacaEval (responses of seven models, scored by a judge), with one learning rate, one budget and its own default
hyper-parameters, but for two: modpo has weights 0.8 and 0.2 instead of equal ones, and pro_ranking has ties=order, as
it refuses equal scores otherwise. It compares defaults at toy scale: a model of half a million parameters learns style,
not quality, and nothing was tuned per method.
"""
COLUMNS = (
    "method", "data", "accuracy, all", "accuracy, matched", "against SFT, all", "against SFT, matched",
    "reward accuracy, all", "reward accuracy, matched", "margin", "shift chosen", "shift rejected", "length corr.",
    "CPU ms/step", "seeds",
)  # fmt: skip
NOTES = """\
- **accuracy**: the policy's log-prob per token is larger for the chosen response; mean over seeds [95% interval,
  bootstrap over prompts]. **all** are the pairs of both halves, **matched** those whose lengths differ by at most 20%.
- **against SFT**: difference in that accuracy to the SFT model, paired over prompts.
- **reward accuracy**: the summed log-ratio to the SFT model is larger for the chosen response.
- **margin**, **shift**: log-ratio per token in nats, mean over pairs; margin = shift chosen - shift rejected.
- **length corr.**: correlation of summed log-ratio and length in tokens among a prompt's responses, mean over prompts.
- **CPU ms/step**: processor time over all threads, median, on the machine that made the table; batches of equal size.
  Methods with an online reference, a vocabulary term or more segments per example pay for them.
- **seeds**: trained so far; the command goes on where it stopped.
"""


def document(held: HeldOut, rows: list[Row], settings: Settings, facts: dict[str, object]) -> str:
    """The whole page."""
    boot = Bootstrap(held, settings.bootstrap)
    lines = [HEAD, ", ".join(f"{k} {v}" for k, v in facts.items()) + ".\n", "![Accuracies](compare_losses.png)\n"]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(boot, held, row, rows)) + " |" for row in rows]
    return "\n".join([*lines, "", NOTES])


def cells(boot: Bootstrap, held: HeldOut, row: Row, rows: list[Row]) -> list[str]:
    """One line of the table."""
    sft = next(r for r in rows if r.name == "SFT model")
    subsets = (np.ones_like(held.matched), held.matched)
    found = [row.name, row.family]
    found += [interval(boot.interval(row.likelihood, where)) for where in subsets]
    if row.reward is None:
        return found + ["", ""] + [""] * (len(COLUMNS) - 6)
    found += [interval(boot.interval(row.likelihood - sft.likelihood, where), sign=True) for where in subsets]
    found += [f"{row.reward[where].mean():.3f}" for where in subsets]
    found += [f"{x:+.3f}" for x in (row.margin, row.shift_chosen, row.shift_rejected)]
    return [*found, f"{row.length_correlation:+.2f}", f"{1000 * (row.step_cpu_seconds or 0):.0f}", str(row.seeds)]


def interval(values: tuple[float, float, float], *, sign: bool = False) -> str:
    """`0.61 [0.58, 0.64]`."""
    form = "{:+.3f}" if sign else "{:.3f}"
    mean, low, high = (form.format(v) for v in values)
    return f"{mean} [{low}, {high}]"


def plot(file: Path, held: HeldOut, rows: list[Row], settings: Settings) -> None:
    """Accuracy on all and on matched pairs, and where the likelihood of both sides went."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    boot = Bootstrap(held, settings.bootstrap)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 1.5 + 0.24 * len(rows)), sharey=True)
    places = np.arange(len(rows))[::-1]
    for offset, colour, where, label in (
        (0.14, "tab:blue", np.ones_like(held.matched), "all pairs"),
        (-0.14, "tab:orange", held.matched, "length-matched"),
    ):
        found = np.asarray([boot.interval(row.likelihood, where) for row in rows])
        bars = np.abs(found[:, 1:].T - found[:, 0])
        left.errorbar(found[:, 0], places + offset, xerr=bars, fmt="o", ms=3.5, lw=1, color=colour, label=label)
    left.axvline(0.5, color="0.7", lw=1)
    left.set_yticks(places, [row.name for row in rows], fontsize=8)
    left.set_xlabel("held-out accuracy of the log-prob per token, 95% over prompts")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    trained = [(place, row) for place, row in zip(places, rows, strict=True) if row.shift_chosen is not None]
    for colour, name in (("tab:green", "chosen"), ("tab:red", "rejected")):
        x = [getattr(row, f"shift_{name}") for _, row in trained]
        right.plot(x, [place for place, _ in trained], "o", ms=4, color=colour, label=name)
    right.set_xscale("symlog", linthresh=0.1)
    right.axvline(0, color="0.7", lw=1)
    right.set_xlabel("shift of the log-prob per token from the SFT model, nats")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    for axis in (left, right):
        axis.grid(axis="y", color="0.93")
        axis.set_ylim(-1, len(rows))
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
