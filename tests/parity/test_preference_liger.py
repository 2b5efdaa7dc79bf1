"""Losses and gradients of the preference methods against Liger-Kernel's fused modules, run in eager mode on the CPU.

The modules are compared whole: hidden states, head, log-softmax, sums or means over tokens, and both denominators, so
that what they reduce over is compared too. Liger averages the likelihood over one batch, here it is over the step;
where Liger departs from the paper or leaves float32, the test says which is right and why.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo import losses

pytestmark = pytest.mark.parity

B, T, D, V = 4, 6, 3, 7
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def module(path, name, **settings):
    """A fused module that runs eagerly."""
    package = pytest.importorskip(f"liger_kernel.chunked_loss.{path}")
    return getattr(package, name)(compiled=False, **settings)


def batch(seed=0, scale=1.0):
    """Hidden states of policy and reference, the head, and targets with -100 off the response; chosen rows first."""
    rng = np.random.default_rng(seed)
    hidden, frozen = (scale * rng.normal(size=(2 * B, T, D)).astype(np.float32) for _ in range(2))
    head, frozen_head = (rng.normal(size=(V, D)).astype(np.float32) for _ in range(2))
    targets = rng.integers(0, V, (2 * B, T))
    for row in targets:
        start = rng.integers(0, 3)
        row[:start] = -100
        row[start + rng.integers(1, T - start + 1) :] = -100
    return hidden, head, targets, frozen, frozen_head


def sums(hidden, head, targets):
    """Summed log-probs of every row's response."""
    table = jax.nn.log_softmax(hidden @ head.T)
    picked = jnp.take_along_axis(table, jnp.maximum(targets, 0)[..., None], axis=2)[..., 0]
    return jnp.where(targets != -100, picked, 0.0).sum(axis=1)


def features(hidden, data):
    """`P_w, P_l, R_w, R_l, |y_w|, |y_l|`."""
    _, head, targets, frozen, frozen_head = data
    policy, reference = sums(hidden, head, targets), sums(frozen, frozen_head, targets)
    n = jnp.asarray((targets != -100).sum(1), jnp.float32)
    return policy[:B], policy[B:], reference[:B], reference[B:], n[:B], n[B:]


def check(torch, fused, step_loss, data, referenced=True):
    """The module's loss and gradient in the hidden states against ours."""
    hidden, head, targets, frozen, frozen_head = data
    given = torch.tensor(hidden, requires_grad=True)
    arguments = [torch.tensor(head), given, torch.tensor(targets)]
    if referenced:
        arguments += [None, torch.tensor(frozen), torch.tensor(frozen_head)]
    theirs, _ = fused(*arguments)
    theirs.backward()
    value, grad = jax.jit(jax.value_and_grad(lambda h: step_loss(*features(h, data))))(hidden)
    np.testing.assert_allclose(value, theirs.item(), **TOLERANCE)
    np.testing.assert_allclose(grad, given.grad.numpy(), **TOLERANCE)


REFERENCED = {
    "sigmoid": lambda *a: losses.dpo(*a, beta=0.3),
    "hinge": lambda *a: losses.hinge(*a, beta=0.3),
    "exo_pair": lambda *a: losses.exo_pair(*a, beta=0.3, label_smoothing=0.01),
    "nca_pair": lambda *a: losses.nca_pair(*a, beta=0.3),
    "robust": lambda *a: losses.rdpo_robust(*a, beta=0.3, label_smoothing=0.01),
    "bco_pair": lambda *a: losses.bco_pair(*a, beta=0.3),
    "sppo_hard": lambda *a: losses.sppo_hard(*a, beta=0.3),
    "apo_zero": lambda *a: losses.apo_zero(*a, beta=0.3),
    "apo_down": lambda *a: losses.apo_down(*a, beta=0.3),
    "discopop": lambda *a: losses.discopop(*a, beta=0.3, tau=0.05),
}


@pytest.mark.parametrize("loss_type", REFERENCED)
def test_referenced_losses(torch, loss_type):
    fused = module("dpo_loss", "LigerFusedLinearDPOLoss", beta=0.3, loss_type=loss_type, label_smoothing=0.01)
    check(torch, fused, lambda *a: jnp.mean(REFERENCED[loss_type](*a[:4])), batch())


def test_every_loss_type_of_liger_is_compared(torch):
    kind = type(module("dpo_loss", "LigerFusedLinearDPOLoss"))
    assert set(REFERENCED) == kind._SUPPORTED_LOSS_TYPES


def test_smoothed_labels_are_ignored_by_sigmoid_there(torch):
    """Liger's `sigmoid` takes label_smoothing and drops it; here it is cDPO, as the note that proposes it says."""
    fused = module("dpo_loss", "LigerFusedLinearDPOLoss", beta=0.3, label_smoothing=0.2)
    data = batch()
    check(torch, fused, lambda *a: jnp.mean(losses.dpo(*a[:4], beta=0.3)), data)
    p = features(data[0], data)[:4]
    assert np.abs(np.asarray(losses.dpo(*p, beta=0.3) - losses.dpo(*p, beta=0.3, label_smoothing=0.2))).max() > 1e-3


def test_dpo_with_likelihood(torch):
    fused = module("dpo_loss", "LigerFusedLinearDPOLoss", beta=0.3, compute_nll_loss=True, alpha=0.5)

    def ours(p_w, p_l, r_w, r_l, n_w, n_l):
        return jnp.mean(losses.dpo(p_w, p_l, r_w, r_l, beta=0.3)) + 0.5 * jnp.sum(losses.sft(p_w)) / jnp.sum(n_w)

    check(torch, fused, ours, batch(1))


def test_cpo(torch):
    fused = module("cpo_loss", "LigerFusedLinearCPOLoss", beta=0.3, alpha=0.5, label_smoothing=0.1)

    def ours(p_w, p_l, r_w, r_l, n_w, n_l):
        prefer, nll = losses.cpo(p_w, p_l, beta=0.3, alpha=0.5, label_smoothing=0.1)
        return jnp.mean(prefer) + jnp.sum(nll) / jnp.sum(n_w)

    check(torch, fused, ours, batch(2), referenced=False)


def test_simpo(torch):
    fused = module("simpo_loss", "LigerFusedLinearSimPOLoss", beta=2.0, gamma=0.5, compute_nll_loss=False)

    def ours(p_w, p_l, r_w, r_l, n_w, n_l):
        return jnp.mean(losses.simpo(p_w, p_l, n_w, n_l, beta=2.0, gamma=0.5))

    check(torch, fused, ours, batch(3), referenced=False)


def test_orpo(torch):
    """Without `nll_target` Liger's likelihood is the response's, as the paper's and ours."""
    fused = module("orpo_loss", "LigerFusedLinearORPOLoss", beta=0.3)

    def ours(p_w, p_l, r_w, r_l, n_w, n_l):
        odds, nll = losses.orpo(p_w, p_l, n_w, n_l, beta=0.3)
        return jnp.mean(odds) + jnp.sum(nll) / jnp.sum(n_w)

    check(torch, fused, ours, batch(4), referenced=False)


def test_orpo_of_a_certain_response_leaves_float32_there_and_not_here(torch):
    """At p = 1 the odds are infinite: Liger's log1p(-exp(0)) is too, and two such responses give infinity - infinity.
    Ours stops at p = e^-1e-7; equally certain responses have equal odds and cost log 2."""
    function = pytest.importorskip("liger_kernel.chunked_loss.orpo_loss").LigerFusedLinearORPOFunction
    certain = torch.zeros(1)
    theirs, *_ = function.preference_loss_fn(certain, certain, torch.zeros(2, 1))
    assert torch.isnan(theirs)
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    odds, _ = losses.orpo(zero, zero, one, one, beta=1.0)
    np.testing.assert_allclose(odds, np.log(2), rtol=1e-6)


def test_discopop_overflows_there_and_not_here(torch):
    """Ours is right: m e^-h tends to 0 for h -> -infinity, and the loss to DPO's; theirs is infinity times 0."""
    function = pytest.importorskip("liger_kernel.chunked_loss.dpo_loss").LigerFusedLinearDPOFunction
    far, zero = torch.full((1,), -400.0), torch.zeros(1)
    theirs, *_ = function.preference_loss_fn(far, zero, torch.zeros(2, 1), zero, zero, beta=0.3, loss_type="discopop")
    assert torch.isnan(theirs)
    far, zero = np.full(1, -400.0, np.float32), np.zeros(1, np.float32)
    np.testing.assert_allclose(losses.discopop(far, zero, zero, zero, beta=0.3), 120.0, rtol=1e-6)
