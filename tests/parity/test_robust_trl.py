"""Robust DPO and RPO's token reduction against trl's `robust` and `loss_type=["sigmoid", "sft"]`, run on arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.test_preference_trl import TOLERANCE, B, dpo_trainer, responses, torch, trl_dpo  # noqa: F401

from jaxpo import losses

pytestmark = pytest.mark.parity


def check(value, grad, theirs, their_grad, mask):
    np.testing.assert_allclose(value, theirs, **TOLERANCE)
    np.testing.assert_allclose(np.where(mask, grad, 0), np.where(mask, their_grad, 0), **TOLERANCE)


def sides(policy, reference, mask):
    """`P_w, P_l, R_w, R_l` and the chosen lengths."""
    sums = [jnp.split(jnp.sum(jnp.where(mask, x, 0.0), axis=1), 2) for x in (policy, reference)]
    return (*sums[0], *sums[1]), mask[:B].sum(1).astype(np.float32)


@pytest.mark.parametrize("e", [0.0, 0.1, 0.4])
def test_robust(torch, dpo_trainer, e):  # noqa: F811
    policy, reference, mask = responses(4)
    theirs, their_grad, _ = trl_dpo(
        torch, dpo_trainer, policy, reference, mask, loss_types=["robust"], beta=0.3, label_smoothing=e
    )

    def mean(policy):
        logps, _ = sides(policy, reference, mask)
        return jnp.mean(losses.rdpo_robust(*logps, beta=0.3, label_smoothing=e))

    check(*jax.value_and_grad(mean)(policy), theirs, their_grad, mask)


def test_sigmoid_and_sft(torch, dpo_trainer):  # noqa: F811
    policy, reference, mask = responses(5)
    theirs, their_grad, _ = trl_dpo(
        torch,
        dpo_trainer,
        policy,
        reference,
        mask,
        loss_types=["sigmoid", "sft"],
        loss_weights=[1.0, 0.7],
        beta=0.3,
    )

    def step(policy):
        logps, lengths = sides(policy, reference, mask)
        prefer, nll = losses.rpo(*logps, lengths, beta=0.3, eta=0.7, variant="tokens")
        return jnp.mean(prefer) + jnp.sum(nll) / jnp.sum(lengths)

    check(*jax.value_and_grad(step)(policy), theirs, their_grad, mask)


def test_the_papers_reductions_are_others(torch, dpo_trainer):  # noqa: F811
    """The same eta means another weight in each: trl's recipe is neither variant of the paper on unequal lengths."""
    policy, reference, mask = responses(5)
    both = {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7], "beta": 0.3}
    theirs, _, _ = trl_dpo(torch, dpo_trainer, policy, reference, mask, **both)
    logps, lengths = sides(policy, reference, mask)
    for variant in ("sum", "average"):
        ours = sum(losses.rpo(*logps, lengths, beta=0.3, eta=0.7, variant=variant))
        assert abs(float(jnp.mean(ours)) - theirs) > 1e-3
