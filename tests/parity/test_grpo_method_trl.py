"""The method GRPO, whole, against the loss of trl 1.16: every `loss_type` with every option that both have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.rollout_arrays import MASK, NEW, OLD, PER_ANSWER, REF, N
from parity.test_grpo_losses_trl import CLIPPED, ENTROPY, LONGEST, LOSS_TYPES, PLAIN, VARIANTS, theirs

from jaxpo.objectives.families.features import Side, Tokens
from jaxpo.objectives.families.rollouts import Rollouts
from jaxpo.objectives.methods.grpo import GRPO

pytestmark = pytest.mark.parity
# trl's weights of the sampler have bounds on both sides in that file; the method has one.
SHARED = tuple(name for name in VARIANTS if name not in ("sampler", "all"))
CASES = [(loss, name) for loss in LOSS_TYPES for name in SHARED if loss in CLIPPED or name != "delta"]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def features(logps):
    """The answers of that file."""
    zero = jnp.zeros(N)
    advantages = jnp.where(MASK, jnp.float32(PER_ANSWER)[:, None], 0.0)
    columns = {"advantages": advantages, "sampling_logps": jnp.float32(OLD)}
    rows = Tokens(logps, jnp.float32(REF), jnp.asarray(MASK), jnp.zeros_like(jnp.asarray(MASK)), columns)
    side = Side(zero, zero, zero, zero, zero, {}, rows)
    return Rollouts(side, jnp.float32(OLD), jnp.float32(ENTROPY), jnp.ones(N, bool), {})


@pytest.mark.parametrize(("loss_type", "variant"), CASES)
def test_loss_and_gradient_are_trls(torch, loss_type, variant):
    s = PLAIN | VARIANTS[variant]
    level = "sequence" if s["level"] == "sequence" else "token"
    method = GRPO(
        loss_type=loss_type,
        epsilon=s["epsilon_low"],
        epsilon_high=s["epsilon_high"],
        delta=s["delta"],
        beta=s["beta"],
        use_bias_correction_kl=s["bias"],
        importance_sampling_level=level,
        top_entropy_quantile=s["share"],
        off_policy_mask_threshold=s["threshold"],
        importance_sampling_correction="none",
    )
    counts = {"answers": jnp.float32(N), "tokens": jnp.float32(MASK.sum())}

    def loss(logps):
        x = features(logps)
        return method.reduce(x, method.terms(x, LONGEST), counts)

    value, gradient = jax.value_and_grad(loss)(jnp.float32(NEW))
    expected, slope, _ = theirs(torch, loss_type, s)
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(np.where(MASK, gradient, 0.0), np.where(MASK, slope, 0.0), rtol=2e-4, atol=2e-6)
