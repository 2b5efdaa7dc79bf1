"""Losses, gradients and metrics of the preference methods against trl's own trainers, run on arrays.

Where the two differ on purpose: trl's `sigmoid` ignores label_smoothing (here it is cDPO); its AOT sorts one device's
micro-batch (here the whole step); its CPO averages the likelihood over a micro-batch (here over the step); it logs
SimPO's `logps/*` as means (here sums, as everywhere).
"""

from collections import defaultdict
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer, Runner, lay_out, segments, values_of

from jaxpo import losses
from jaxpo.objectives.methods import METHODS

pytestmark = pytest.mark.parity

B, T = 6, 10
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def dpo_trainer():
    return pytest.importorskip("trl.trainer.dpo_trainer").DPOTrainer


def responses(seed=0):
    """Padded per-token log-probs `[2B, T]` of policy and reference, chosen rows first, and the response mask."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((2 * B, T), bool)
    for row in mask:
        start = rng.integers(1, 4)
        row[start : start + rng.integers(1, T - start + 1)] = True
    policy, reference = (np.where(mask, -rng.gamma(2.0, 1.0, mask.shape), 0.0).astype(np.float32) for _ in range(2))
    return policy, reference, mask


def stub(torch, **settings):
    """What `DPOTrainer._compute_loss` reads of its trainer."""
    same = lambda x: x  # noqa: E731
    model = torch.nn.Identity()
    model.is_gradient_checkpointing = False
    values = {
        "model": model,
        "accelerator": SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=same, gather=same),
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=0.05),
        "aux_loss_enabled": False,
        "ld_alpha": None,
        "precompute_ref_logps": False,
        "f_divergence_type": "reverse_kl",
        "loss_weights": [1.0],
        "label_smoothing": 0.0,
        "use_weighting": False,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    return SimpleNamespace(**(values | settings))


def trl_dpo(torch, trainer, policy, reference, mask, *, entropy=None, correct=None, **settings):
    """`(loss, gradient in the policy's token log-probs, metrics)` of trl on these arrays."""
    logps = torch.tensor(policy, requires_grad=True)
    zero = torch.zeros(logps.shape[0], logps.shape[1] - 1)

    def model(values):
        def forward(**kwargs):
            shifted = torch.as_tensor(values)[:, 1:]
            return SimpleNamespace(
                log_probs=shifted,
                entropy=zero if entropy is None else torch.tensor(entropy)[:, 1:],
                mean_logits=zero,
                is_top1=zero.bool() if correct is None else torch.tensor(correct)[:, 1:] > 0,
            )

        return forward

    self = stub(torch, ref_model=model(torch.tensor(reference)), **settings)
    inputs = {
        "input_ids": torch.zeros(mask.shape, dtype=torch.long),
        "attention_mask": torch.ones(mask.shape, dtype=torch.long),
        "completion_mask": torch.tensor(mask.astype(np.int64)),
    }
    loss = trainer._compute_loss(self, model(logps), inputs, return_outputs=False)
    loss.backward()
    metrics = {name: float(np.mean(v)) for name, v in self._metrics["train"].items()}
    return loss.item(), logps.grad.numpy(), metrics


def ours(method, policy, reference, mask):
    """The mean loss and its gradient in the policy's token log-probs."""

    def mean(policy):
        total = lambda x: jnp.sum(jnp.where(mask, x, 0.0), axis=1)  # noqa: E731
        (p_w, p_l), (r_w, r_l) = jnp.split(total(policy), 2), jnp.split(total(reference), 2)
        return jnp.mean(method(p_w, p_l, r_w, r_l, mask.sum(1).astype(np.float32)))

    value, grad = jax.jit(jax.value_and_grad(mean))(policy)
    return float(value), np.asarray(grad)


CASES = {
    "sigmoid": (lambda *a: losses.dpo(*a[:4], beta=0.3), {"beta": 0.3}),
    "sigmoid_norm": (lambda *a: losses.sigmoid_norm(*a[:4], a[4][:B], a[4][B:], beta=5.0), {"beta": 5.0}),
    "aot": (
        lambda *a: losses.aot(*a[:4], beta=0.3, label_smoothing=0.1),
        {"beta": 0.3, "label_smoothing": 0.1},
    ),
    "aot_unpaired": (lambda *a: losses.aot_unpaired(*a[:4], beta=0.3), {"beta": 0.3}),
    # Pairs without a running shift: the sum of both rows' binary cross-entropies.
    "bco_pair": (
        lambda p_w, p_l, r_w, r_l, n: (
            losses.bco(p_w, r_w, jnp.ones(B, bool), 0.0, beta=0.3)
            + losses.bco(p_l, r_l, jnp.zeros(B, bool), 0.0, beta=0.3)
        ),
        {"beta": 0.3},
    ),
}


@pytest.mark.parametrize("loss_type", CASES)
def test_referenced_losses(torch, dpo_trainer, loss_type):
    method, settings = CASES[loss_type]
    data = responses()
    theirs, their_grad, _ = trl_dpo(torch, dpo_trainer, *data, loss_types=[loss_type], **settings)
    value, grad = ours(method, *data)
    np.testing.assert_allclose(value, theirs, **TOLERANCE)
    np.testing.assert_allclose(np.where(data[2], grad, 0), np.where(data[2], their_grad, 0), **TOLERANCE)


def test_ld_alpha(torch, dpo_trainer):
    policy, reference, mask = responses(1)
    theirs, their_grad, _ = trl_dpo(
        torch, dpo_trainer, policy, reference, mask, loss_types=["sigmoid"], beta=0.3, ld_alpha=0.4
    )

    def mean(policy):
        (p_w, p_l), (r_w, r_l) = jnp.split(policy, 2), jnp.split(reference, 2)
        return jnp.mean(losses.lddpo(p_w, p_l, r_w, r_l, mask[:B], mask[B:], beta=0.3, alpha=0.4))

    value, grad = jax.value_and_grad(mean)(policy)
    np.testing.assert_allclose(value, theirs, **TOLERANCE)
    np.testing.assert_allclose(grad, np.where(mask, their_grad, 0), **TOLERANCE)


@pytest.mark.parametrize("loss_type", ["sigmoid", "simpo"])
def test_cpo_and_simpo(torch, loss_type):
    trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer").CPOTrainer
    policy, _, mask = responses(2)
    lengths = mask.sum(1).astype(np.float32)
    sums = np.where(mask, policy, 0).sum(1).astype(np.float32)
    given = torch.tensor(sums / lengths if loss_type == "simpo" else sums, requires_grad=True)
    self = SimpleNamespace(
        alpha=0.0,
        beta=2.0,
        simpo_gamma=0.5,
        label_smoothing=0.1,
        loss_type=loss_type,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )
    theirs, *_ = trainer.cpo_loss(self, given[:B], given[B:])
    theirs.sum().backward()

    def loss(sums):
        if loss_type == "simpo":
            n = (lengths[:B], lengths[B:])
            return losses.simpo(sums[:B], sums[B:], *n, beta=2.0, gamma=0.5, label_smoothing=0.1)
        return losses.cpo(sums[:B], sums[B:], beta=2.0, label_smoothing=0.1)[0]

    value, pull = jax.vjp(loss, sums)
    np.testing.assert_allclose(value, theirs.detach().numpy(), **TOLERANCE)
    scale = lengths if loss_type == "simpo" else 1.0
    np.testing.assert_allclose(pull(jnp.ones(B))[0] * scale, given.grad.numpy(), **TOLERANCE)


def test_bradley_terry(torch):
    rng = np.random.default_rng(0)
    r_w, r_l, margin = (rng.normal(size=B).astype(np.float32) for _ in range(3))
    w, r = (torch.tensor(x, requires_grad=True) for x in (r_w, r_l))
    # The two lines of trl's reward trainer.
    theirs = -torch.nn.functional.logsigmoid(w - r - torch.tensor(margin)).mean() + 0.01 * torch.mean((w + r) ** 2)
    theirs.backward()
    mean = lambda a, b: jnp.mean(losses.bradley_terry(a, b, margin, center_rewards_coefficient=0.01))  # noqa: E731
    value, grads = jax.value_and_grad(mean, argnums=(0, 1))(r_w, r_l)
    np.testing.assert_allclose(value, theirs.item(), **TOLERANCE)
    for ours, tensor in zip(grads, (w, r), strict=True):
        np.testing.assert_allclose(ours, tensor.grad.numpy(), **TOLERANCE)


def test_metrics_have_trls_names_and_values(torch, dpo_trainer):
    pairs = tuple(tuple(pair) for pair in zip(segments(6)[:3], segments(6)[3:], strict=True))
    batch, params, frozen = lay_out(pairs, {"chosen": 0, "rejected": 1}, {})
    objective = METHODS["dpo"](beta=0.3).build(ArrayScorer(), cached_reference=False)
    got = values_of(Runner(objective)(batch, params, frozen)[0])
    order = [0, 2, 4, 1, 3, 5]  # one segment per row, chosen and rejected in turn
    rows = {k: np.nan_to_num(np.asarray(v))[order] for k, v in params["model"].items()}
    mask = np.asarray(batch.masks["completion"])[order]
    reference = np.nan_to_num(np.asarray(frozen["reference"]["logps"]))[order]
    # trl's head returns 0 off the response.
    policy, reference = np.where(mask, rows["logps"], 0), np.where(mask, reference, 0)
    extra = {"entropy": rows["entropy"], "correct": rows["correct"]}
    _, _, theirs = trl_dpo(torch, dpo_trainer, policy, reference, mask, loss_types=["sigmoid"], beta=0.3, **extra)
    for absent in ("logits/chosen", "logits/rejected", "num_tokens"):
        del theirs[absent]
    assert set(got) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)
