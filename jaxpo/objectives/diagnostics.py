"""What a run on pairs or lists can measure beside its loss; `Preference.diagnostics` names it. Loads no jax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.lists import Ranked
    from jaxpo.objectives.families.pairs import Pair

Measure = Callable[..., "dict[str, Metric]"]


@dataclass(frozen=True)
class Diagnostic:
    """Further metrics of a run on pairs; of a run on lists, whose best and worst responses are its pairs.

    Attributes:
      measure: `(pair, beta, *, reference=True) -> metrics`; leaves out what a missing reference or column is for.
      always: names of the metrics that need neither.
      with_reference: names of those that compare with the reference.
      with_column: column -> names of those that need it, and the reference too.
      on_lists: names of those that only lists have.
    """

    measure: Measure
    always: tuple[str, ...]
    with_reference: tuple[str, ...]
    with_column: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    on_lists: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every metric that it may give on pairs."""
        return (*self.always, *self.with_reference, *(n for names in self.with_column.values() for n in names))


def measure_ranking(pair: Pair, beta: float, *, reference: bool = True) -> dict[str, Metric]:
    """Does the policy rank the chosen response first, and what did training change about it (arXiv:2405.19534).

    `ranking_accuracy` is R on summed and `_norm` R~ on mean log-probs; `/reference` the reference's own R, so that the
    difference is what training gained. `flipped` is the share of the pairs that the reference ranks wrongly which the
    policy ranks rightly, `lost` the opposite. `difficulty` is c = R_l - R_w in nats: its mean over all pairs, over
    those flipped, and over those still wrong, which the paper finds to be the large ones. `threshold` is the mean DPO
    loss at which a pair's ranking turns, softplus(-beta c). With votes, `idealised` is R*, which the exact optimum of
    DPO would reach on pairs without a tie, and `alignment_gap` R* minus the policy's R there.
    """
    from jaxpo.losses import difficulty, dpo_threshold, ranking_accuracy, ranking_accuracy_norm
    from jaxpo.objectives.base import masked_mean

    here = pair.present
    p_w, p_l, r_w, r_l = pair.logps
    right = ranking_accuracy(p_w, p_l, where=here) > 0
    found: dict[str, Metric] = {
        "ranking_accuracy": masked_mean(_one(right), here),
        "ranking_accuracy_norm": masked_mean(ranking_accuracy_norm(p_w, p_l, *pair.lengths, where=here), here),
    }
    if not reference:
        return found
    before = ranking_accuracy(r_w, r_l, where=here) > 0
    c = difficulty(r_w, r_l, where=here)
    wrong_before = here & ~before
    found |= {
        "ranking_accuracy/reference": masked_mean(_one(before), here),
        "ranking_accuracy_norm/reference": masked_mean(
            ranking_accuracy_norm(r_w, r_l, *pair.lengths, where=here), here
        ),
        "ranking_accuracy/flipped": masked_mean(_one(right), wrong_before),
        "ranking_accuracy/lost": masked_mean(_one(~right), here & before),
        "difficulty/mean": masked_mean(c, here),
        "difficulty/flipped": masked_mean(c, wrong_before & right),
        "difficulty/still_wrong": masked_mean(c, wrong_before & ~right),
        "difficulty/threshold": masked_mean(dpo_threshold(c, beta=beta), here),
    }
    return found | _with_votes(pair, beta) if "votes" in pair.columns else found


def _with_votes(pair: Pair, beta: float) -> dict[str, Metric]:
    """R*, and its distance from R, over pairs whose votes are not tied."""
    import jax.numpy as jnp

    from jaxpo.losses import idealised_ranking_accuracy, ranking_accuracy
    from jaxpo.objectives.base import masked_mean

    votes = jnp.where(pair.present[:, None], pair.columns["votes"], 0.0)
    decided = pair.present & (votes[:, 0] != votes[:, 1])
    share = votes[:, 0] / jnp.maximum(votes[:, 0] + votes[:, 1], 1e-30)
    p_w, p_l, r_w, r_l = pair.logps
    best = idealised_ranking_accuracy(r_w, r_l, share, beta=beta, where=decided)
    now = ranking_accuracy(p_w, p_l, share, where=decided)
    return {
        "ranking_accuracy/idealised": masked_mean(best, decided),
        "ranking_accuracy/alignment_gap": masked_mean(best - now, decided),
    }


def measure_list_ranking(x: Ranked) -> dict[str, Metric]:
    """Share of the lists that the policy's likelihoods order wholly as the labels do."""
    from jaxpo.losses import ranking_accuracy_list
    from jaxpo.objectives.base import masked_mean
    from jaxpo.objectives.families.lists import ends

    right = ranking_accuracy_list(x.candidates.logps, x.labels, x.present)
    return {"ranking_accuracy/list": masked_mean(right, ends(x).present)}


def measure_likelihood(pair: Pair, beta: float, *, reference: bool = True) -> dict[str, Metric]:
    """Where DPO's gradient pushes and what became of the two likelihoods (3D-Properties, arXiv:2406.07327).

    `log_gradient_ratio` is log |dL/dpi_l| - log |dL/dpi_w| = P_w - P_l: how much harder the rejected probability is
    pushed down than the chosen one up; `log_gradient/*` are the two magnitudes. `shift/*` is P - R in nats, `fell/*`
    the share of responses that are less likely than under the reference, and `fell/both` of pairs where both are, whose
    mass went to responses that are in no pair. `unseen_mass` is the probability of all responses but the two: of long
    ones it is 1 in float32, of short ones it shows the dispersion.
    """
    import jax.numpy as jnp

    from jaxpo.losses import log_probability_gradients, unseen_mass
    from jaxpo.objectives.base import masked_mean

    here = pair.present
    found: dict[str, Metric] = {
        "likelihood/log_gradient_ratio": masked_mean(pair.chosen.logps - pair.rejected.logps, here),
        "likelihood/unseen_mass": masked_mean(unseen_mass(jnp.stack(pair.policy_logps, axis=-1)), here),
    }
    if not reference:
        return found
    up, down = log_probability_gradients(*pair.logps, beta_plus=beta, beta_minus=beta, where=here)
    fell = [side.log_ratio < 0 for side in (pair.chosen, pair.rejected)]
    return found | {
        "likelihood/log_gradient/chosen": masked_mean(up, here),
        "likelihood/log_gradient/rejected": masked_mean(down, here),
        "likelihood/shift/chosen": masked_mean(pair.chosen.log_ratio, here),
        "likelihood/shift/rejected": masked_mean(pair.rejected.log_ratio, here),
        "likelihood/fell/chosen": masked_mean(_one(fell[0]), here),
        "likelihood/fell/rejected": masked_mean(_one(fell[1]), here),
        "likelihood/fell/both": masked_mean(_one(fell[0] & fell[1]), here),
    }


def _one(condition: Array) -> Array:
    return condition.astype("float32")


DIAGNOSTICS: dict[str, Diagnostic] = {
    "ranking_accuracy": Diagnostic(
        measure_ranking,
        always=("ranking_accuracy", "ranking_accuracy_norm"),
        with_reference=(
            "ranking_accuracy/reference",
            "ranking_accuracy_norm/reference",
            "ranking_accuracy/flipped",
            "ranking_accuracy/lost",
            "difficulty/mean",
            "difficulty/flipped",
            "difficulty/still_wrong",
            "difficulty/threshold",
        ),
        with_column={"votes": ("ranking_accuracy/idealised", "ranking_accuracy/alignment_gap")},
        on_lists=("ranking_accuracy/list",),
    ),
    "likelihood": Diagnostic(
        measure_likelihood,
        always=("likelihood/log_gradient_ratio", "likelihood/unseen_mass"),
        with_reference=(
            "likelihood/log_gradient/chosen",
            "likelihood/log_gradient/rejected",
            "likelihood/shift/chosen",
            "likelihood/shift/rejected",
            "likelihood/fell/chosen",
            "likelihood/fell/rejected",
            "likelihood/fell/both",
        ),
    ),
}
"""Name -> what it measures."""

NAMES: dict[str, tuple[str, ...]] = {name: diagnostic.names for name, diagnostic in DIAGNOSTICS.items()}
"""Name of a diagnostic -> the metrics it may add."""
