"""At every guard and tie a gradient is the slope of its loss, or a choice at a documented kink.

The tables beside this file are compared with one-sided slopes in float64: where those of the two sides agree, the
gradient must be equal to them; where they differ, the case must be a listed kink and the gradient lie between them.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.guard_arrays import LISTWISE, PER_TOKEN, VOCAB
from losses.guard_rollouts import ROLLOUTS
from losses.guard_scalars import PAIRWISE, SCALARS

from jaxpo import losses

TABLE = PAIRWISE | PER_TOKEN | LISTWISE | VOCAB | SCALARS | ROLLOUTS
NO_GRADIENT = {
    **dict.fromkeys(("bco_shift", "bco_stats", "init_bco_state", "update_bco_shift", "kto_kl", "lcpo_em", "lcpo_stats",
                     "update_reliability"), "state of a step, which no loss differentiates"),
    **dict.fromkeys(("idealised_ranking_accuracy", "label_pairs", "ndcg", "ranking_accuracy", "ranking_accuracy_list",
                     "ranking_accuracy_norm", "themis_tokens"), "counts"),
    **dict.fromkeys(("keep_masks", "shortest", "target_positions"), "masks and integers"),
    **dict.fromkeys(("mapo_map", "mapo_mask", "orchestrator_targets", "part_weights", "sinkhorn", "user_weights",
                     "wpo_weight"), "weights that are constants by definition"),
    **dict.fromkeys(("TopKRecord", "topk_record"), "a frozen teacher's record"),
    **dict.fromkeys(("cispo", "gspo_token", "kl_straight_through", "nash_md", "swav", "vespo"),
                    "a gradient that is not the slope of the value, by definition: the file of each"),
    **dict.fromkeys(("Moments", "adaptive_kl", "dler_limits", "dler_rewards", "dler_truncated", "entropy_threshold",
                     "fixed_kl", "gae", "hapo_history", "hapo_rewards", "kl_shaped_rewards", "orion_rewards",
                     "repeated_tokens", "masked_moments", "merged_moments", "minillm_advantages", "reinforce_plus_plus",
                     "reinforce_plus_plus_baseline", "returns_to_go", "token_rewards", "whiten"),
                    "constants of an update, made before it"),
    **dict.fromkeys(("geometric_mask", "off_policy_mask", "off_policy_weights", "top_entropy_mask", "vespo_weights"),
                    "weights and masks without gradient"),
    **dict.fromkeys(("asymmetry", "exploitability", "noiseless_preference", "self_play", "win_rates"),
                    "preferences and the game that they are, made before an update"),
    **dict.fromkeys(("constrained_advantages", "constrained_dual", "even_rewards", "update_multipliers"),
                    "constants and state of an update"),
    **dict.fromkeys(("maxmin_dual", "maxmin_responsibilities", "maxmin_rewards", "maxmin_weights"),
                    "weights and rewards of an update, made before it"),
    **dict.fromkeys(("duality_gap", "mirror_step"), "a game's figures, which no loss differentiates"),
    **dict.fromkeys(("hypo_weights", "upo_information_gain", "upo_sampling_weights", "upo_smoothing"),
                    "constants of a pair or a sample, by definition"),
    "common_direction": "a constant of the step",
    "min_snr_weights": "weights of times",
    "smpo_weights": "weights of pairs",
    "smpo_rewards": "constants of a data set",
    "diffusion_kto_kl": "state of a step",
    "pal_token_weights": "weights of positions",
    "tr_dpo_reference": "the frozen reference's parameters",
}  # fmt: skip
# Three points of either side and not the case itself, so that a jump there is seen as one.
OFFSETS = np.array([1.0, 2.0, 3.0, -1.0, -2.0, -3.0])
SLOPE, LIMIT = np.array([-2.5, 4.0, -1.5]), np.array([3.0, -3.0, 1.0])
STEP, EPS = 1e-4, np.finfo(np.float64).eps


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """The losses compute in what they call float32: here that is float64."""
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    with jax.enable_x64(True):
        yield


class Around(NamedTuple):
    """A case's value and gradient, and its values `[elements, 6]` at the offsets of each element of the free arrays."""

    value: float
    gradient: np.ndarray
    values: np.ndarray


def arrays(row, case):
    """Float64 where it is differentiated."""
    return [np.asarray(x, np.float64 if i in row.free else None) for i, x in enumerate(case)]


def moved(row, case, step):
    """The case and then, element by element of its free arrays, its neighbours at the offsets."""
    out = [case]
    for i in row.free:
        for index in np.ndindex(*case[i].shape):
            for offset in OFFSETS:
                near = list(case)
                near[i] = case[i].copy()
                near[i][index] += offset * step
                out.append(near)
    return out


def per_row(terms):
    """The sum of all terms of each row."""
    return sum(jnp.sum(x.reshape(len(x), -1), axis=1) for x in jax.tree.leaves(terms))


def measure(row):
    """Every case of a row, `Around` it, from one compiled program."""
    cases = {name: arrays(row, case) for name, case in row.cases.items()}
    near = [moved(row, case, row.steps.get(name, STEP)) for name, case in cases.items()]

    def summed(*a):
        value = per_row(row.loss(*a))
        return jnp.sum(value), value if row.whole is None else per_row(row.whole(*a))

    run = jax.jit(jax.grad(summed, argnums=row.free, has_aux=True))
    gradients, values = jax.device_get(run(*(np.stack(x) for x in zip(*itertools.chain(*near), strict=True))))
    values = values.reshape(len(cases), -1)
    flat = np.concatenate([g.reshape(*values.shape, -1)[:, 0] for g in gradients], axis=1)
    return {
        name: Around(v[0], g, v[1:].reshape(-1, len(OFFSETS))) for name, v, g in zip(cases, values, flat, strict=True)
    }


def judge(around, step):
    """`(kinked, wrong)` per element: the slopes or the values of the two sides differ; the gradient is not between."""
    sides = around.values.reshape(-1, 2, 3)
    with np.errstate(invalid="ignore"):
        slopes = sides @ SLOPE / step * np.array([1.0, -1.0])
        limits = sides @ LIMIT
    size = np.max(np.abs(sides), axis=(1, 2), where=np.isfinite(sides), initial=abs(around.value))
    tolerance = 1e-6 + 1e-4 * np.nanmax(np.abs(slopes), axis=1) + 64 * EPS * size / step
    jump = ~np.all(np.abs(limits - around.value) <= 1e-6 * size[:, None] + 1e-9, axis=1)
    kinked = jump | (np.ptp(slopes, axis=1) > tolerance)
    low, high = np.nanmin(slopes, axis=1) - tolerance, np.nanmax(slopes, axis=1) + tolerance
    return kinked, ~((low <= around.gradient) & (around.gradient <= high))


@pytest.mark.parametrize("name", TABLE)
def test_the_gradient_at_every_guard(name):
    row, faults = TABLE[name], []
    for case, around in measure(row).items():
        kinked, wrong = judge(around, row.steps.get(case, STEP))
        if np.any(wrong):
            faults.append(f"{case}: gradient {around.gradient[wrong]} of elements {np.flatnonzero(wrong)}")
        if np.any(kinked) != (case in row.kinks):
            faults.append(f"{case}: {'an unlisted kink' if np.any(kinked) else 'no kink'}, {np.flatnonzero(kinked)}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.kinks])
def test_a_kink_is_documented(name):
    assert "kink" in TABLE[name].function.__doc__.lower()


def test_every_exported_function_has_a_line():
    lines = {name.split()[0] for name in TABLE if "." not in name}
    assert not lines & set(NO_GRADIENT)
    assert lines | set(NO_GRADIENT) == set(losses.__all__)
