"""KTO, APO-zero on single rows, BCO and WPO's weights against trl 1.16 and Liger-Kernel, on arrays.

Where they differ on purpose:
- KTO's reference point: trl rotates the responses of one device's micro-batch against their prompts, so that z depends
  on the batch size; here the loader pairs them and z is taken over the step. Given the same responses, z is the same.
- BCO: trl 1.16 has no BCO trainer any more, only the pair loss `bco_pair`, which is BCO with shift 0. A shift is the
  same as a reference whose log-probs are higher by shift / beta; that is how the shift is compared.
- WPO: trl does not bound the weights. The paper's authors bound them by 1 (github.com/wzhouad/WPO), which is right for
  an importance weight of what the policy would write itself, and is the default here.
- Liger-Kernel's KTO has no weights of the two labels.
"""

from collections import defaultdict
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer, Runner, lay_out, segments, values_of

from jaxpo import losses
from jaxpo.losses.vocab import log_collision
from jaxpo.objectives.methods import METHODS

pytestmark = pytest.mark.parity

B = 6
LABEL = np.array([1, 0, 1, 1, 0, 1], bool)
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def stub(torch, **settings):
    """What the trainers' `_compute_loss` reads of its trainer."""
    same = lambda x: x  # noqa: E731
    model = torch.nn.Identity()
    model.is_gradient_checkpointing = False
    values = {
        "model": model,
        "accelerator": SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=same, gather=same),
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None),
        "aux_loss_enabled": False,
        "precompute_ref_logps": False,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    return SimpleNamespace(**(values | settings))


def outputs(torch, logps, **more):
    """A model whose per-token log-probs are these, `[N, T]`; position t scores token t + 1."""
    zero = torch.zeros(logps.shape[0], logps.shape[1] - 1)
    values = {"log_probs": logps[:, 1:], "entropy": zero, "mean_logits": zero, "is_top1": zero.bool()} | more
    return lambda **kwargs: SimpleNamespace(**values)


def token_rows(seed=0, n=B, width=8):
    """Policy and reference log-probs `[n, width]`, 0 off the response, and the response mask."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((n, width), bool)
    for row in mask:
        start = rng.integers(1, 4)
        row[start : start + rng.integers(1, width - start + 1)] = True
    policy, reference = (np.where(mask, -rng.gamma(2.0, 1.0, mask.shape), 0.0).astype(np.float32) for _ in range(2))
    return policy, reference, mask


def trl_kto(torch, policy, reference, mask, kl, **settings):
    """`(loss, gradient in the token log-probs, metrics)` of trl; `kl`: the mismatched responses' log-probs."""
    trainer = pytest.importorskip("trl.trainer.kto_trainer").KTOTrainer
    logps = torch.tensor(policy, requires_grad=True)
    model, ref_model = outputs(torch, logps), outputs(torch, torch.tensor(reference))
    kl_logps = {id(model): torch.tensor(kl[0]), id(ref_model): torch.tensor(kl[1])}
    self = stub(torch, ref_model=ref_model, _compute_kl_logps=lambda m, batch: kl_logps[id(m)], **settings)
    inputs = {
        "input_ids": torch.zeros(mask.shape, dtype=torch.long),
        "attention_mask": torch.ones(mask.shape, dtype=torch.long),
        "completion_mask": torch.tensor(mask.astype(np.int64)),
        "label": torch.tensor(LABEL),
    }
    loss = trainer._compute_loss(self, model, inputs, return_outputs=False)
    loss.backward()
    metrics = {name: float(np.mean(v)) for name, v in self._metrics["train"].items()}
    return loss.item(), logps.grad.numpy(), metrics


def total(x, mask):
    return jnp.sum(jnp.where(mask, x, 0.0), axis=1)


@pytest.mark.parametrize("offset", [3.0, -3.0])
def test_kto(torch, offset):
    policy, reference, mask = token_rows()
    kl = (np.linspace(-9, -4, B).astype(np.float32) + np.float32(offset), np.full(B, -6.0, np.float32))
    settings = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7}
    theirs, their_grad, metrics = trl_kto(
        torch, policy, reference, mask, kl, calculate_KL=True, loss_type="kto", **settings
    )

    def mean(p):
        z = losses.kto_kl(*kl)
        return jnp.mean(losses.kto(total(p, mask), total(reference, mask), LABEL, z, **settings))

    value, grad = jax.jit(jax.value_and_grad(mean))(policy)
    np.testing.assert_allclose(value, theirs, **TOLERANCE)
    np.testing.assert_allclose(grad, np.where(mask, their_grad, 0), **TOLERANCE)
    np.testing.assert_allclose(losses.kto_kl(*kl), metrics["kl"], **TOLERANCE)
    assert (metrics["kl"] > 0) == (offset > 0)


def test_apo_zero_unpaired(torch):
    policy, reference, mask = token_rows(1)
    settings = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7}
    theirs, their_grad, _ = trl_kto(
        torch, policy, reference, mask, (0.0, 0.0), calculate_KL=False, loss_type="apo_zero_unpaired", **settings
    )

    def mean(p):
        return jnp.mean(losses.apo_zero_unpaired(total(p, mask), total(reference, mask), LABEL, **settings))

    value, grad = jax.jit(jax.value_and_grad(mean))(policy)
    np.testing.assert_allclose(value, theirs, **TOLERANCE)
    np.testing.assert_allclose(grad, np.where(mask, their_grad, 0), **TOLERANCE)


def test_kto_metrics_have_trls_names_and_values(torch):
    flat = segments(2 * B, seed=4)
    examples = tuple(tuple(flat[2 * i : 2 * i + 2]) for i in range(B))
    batch, params, frozen = lay_out(examples, {"completion": 0, "kl": 1}, {"label": LABEL.astype(np.float32)})
    settings = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7}
    out, _ = Runner(METHODS["kto"](**settings).build(ArrayScorer()))(batch, params, frozen)
    # One segment per row: each example's own response, then the mismatched one. trl's head gives 0 off the response.
    mask = np.asarray(batch.masks["completion"])
    policy, reference = (
        np.where(mask, np.asarray(x), 0) for x in (params["model"]["logps"], frozen["reference"]["logps"])
    )
    kl = (policy[1::2].sum(1), reference[1::2].sum(1))
    theirs, _, metrics = trl_kto(
        torch, policy[0::2], reference[0::2], mask[0::2], kl, calculate_KL=True, loss_type="kto", **settings
    )
    np.testing.assert_allclose(out.loss, theirs, rtol=1e-5)
    for absent in ("logits/chosen", "logits/rejected", "num_tokens", "entropy"):
        del metrics[absent]
    got = values_of(out)
    assert set(got) == set(metrics) | {"entropy", "mean_token_accuracy"}
    for name, value in metrics.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("z", [None, 1.5])
def test_kto_of_liger_kernel(torch, z):
    function = pytest.importorskip("liger_kernel.chunked_loss.kto_loss").LigerFusedLinearKTOFunction
    rng = np.random.default_rng(2)
    p, r = (rng.normal(-20, 3, B).astype(np.float32) for _ in range(2))
    logps = torch.tensor(p, requires_grad=True)
    theirs, chosen, _ = function.preference_loss_fn(
        logps, torch.tensor(LABEL), torch.zeros(B, 1), torch.tensor(r), beta=0.3, kl=z
    )
    theirs.backward()
    ours = losses.apo_zero_unpaired if z is None else lambda *a, beta: losses.kto(*a, z, beta=beta)
    value, grad = jax.value_and_grad(lambda p: jnp.mean(ours(p, r, LABEL, beta=0.3)))(p)
    np.testing.assert_allclose(value, theirs.item(), **TOLERANCE)
    np.testing.assert_allclose(grad, logps.grad.numpy(), **TOLERANCE)
    np.testing.assert_allclose(chosen.item(), 0.3 * (p - r)[LABEL].sum(), rtol=1e-5)


def trl_dpo(torch, policy, reference, mask, *, collision=None, **settings):
    """`(loss, gradient in the token log-probs)` of trl's pair trainer, chosen rows first."""
    trainer = pytest.importorskip("trl.trainer.dpo_trainer").DPOTrainer
    logps = torch.tensor(policy, requires_grad=True)
    more = {} if collision is None else {"log_sum_sq_probs": torch.tensor(collision)[:, 1:]}
    defaults = {
        "ref_model": outputs(torch, torch.tensor(reference)),
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "loss_weights": [1.0],
        "label_smoothing": 0.0,
        "use_weighting": False,
    }
    inputs = {
        "input_ids": torch.zeros(mask.shape, dtype=torch.long),
        "attention_mask": torch.ones(mask.shape, dtype=torch.long),
        "completion_mask": torch.tensor(mask.astype(np.int64)),
    }
    loss = trainer._compute_loss(stub(torch, **(defaults | settings)), outputs(torch, logps, **more), inputs, False)
    loss.backward()
    return loss.item(), logps.grad.numpy()


@pytest.mark.parametrize("shift", [0.0, -0.8])
def test_bco_on_pairs_with_a_shift(torch, shift):
    policy, reference, mask = token_rows(3, 2 * B)
    moved = reference.copy()
    moved[np.arange(2 * B), mask.argmax(1)] += np.float32(shift / 0.3)
    theirs, their_grad = trl_dpo(torch, policy, moved, mask, loss_types=["bco_pair"], beta=0.3)
    label = np.arange(2 * B) < B

    def mean(p):
        return 2 * jnp.mean(losses.bco(total(p, mask), total(reference, mask), label, shift, beta=0.3))

    value, grad = jax.jit(jax.value_and_grad(mean))(policy)
    np.testing.assert_allclose(value, theirs, **TOLERANCE)
    np.testing.assert_allclose(grad, np.where(mask, their_grad, 0), **TOLERANCE)


def wpo_rows():
    """Pairs of token log-probs from real distributions, and log sum p^2 at each token; every other pair is greedy."""
    _, reference, mask = token_rows(5, 2 * B)
    rng = np.random.default_rng(6)
    logits = (1.5 * rng.normal(size=(*mask.shape, 9))).astype(np.float32)
    every = np.asarray(jax.nn.log_softmax(logits))
    greedy = np.arange(len(mask)) % 2 == 0
    logps = np.where(greedy[:, None], every.max(-1), every[..., 0])
    return np.where(mask, logps, 0), reference, mask, np.where(mask, log_collision(logits), 0)


def test_wpo_weights(torch):
    policy, reference, mask, collision = wpo_rows()
    theirs, their_grad = trl_dpo(
        torch, policy, reference, mask, collision=collision, use_weighting=True, loss_types=["sigmoid"], beta=0.3
    )
    length, bound = mask.sum(1).astype(np.float32), total(collision, mask)

    def mean(p, maximum):
        (p_w, p_l), (r_w, r_l) = jnp.split(total(p, mask), 2), jnp.split(total(reference, mask), 2)
        weight = losses.wpo_weight(p_w, p_l, *jnp.split(bound, 2), *jnp.split(length, 2), maximum=maximum)
        return jnp.mean(weight * losses.dpo(p_w, p_l, r_w, r_l, beta=0.3))

    value, grad = jax.value_and_grad(mean)(policy, None)
    np.testing.assert_allclose(value, theirs, **TOLERANCE)
    np.testing.assert_allclose(grad, np.where(mask, their_grad, 0), **TOLERANCE)
    assert mean(policy, 1.0) < theirs - 1e-3  # some weights lie above 1: the authors' bound is at work


def test_collision_probability(torch):
    kernel = pytest.importorskip("trl.kernels.chunked_logprob")
    rng = np.random.default_rng(7)
    hidden, head = rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(11, 4)).astype(np.float32)
    targets = torch.zeros(5, dtype=torch.long)
    theirs = kernel.ChunkedLogProbFunction.apply(torch.tensor(hidden), torch.tensor(head), None, targets, 1.0, 4)[2]
    np.testing.assert_allclose(log_collision(hidden @ head.T), theirs.numpy(), **TOLERANCE)
