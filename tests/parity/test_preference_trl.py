"""Losses, gradients and metrics of the preference methods against trl's own trainers, run on arrays.

Where the two differ on purpose: trl's `sigmoid` ignores label_smoothing (here it is cDPO); its AOT sorts one device's
micro-batch (here the whole step); its CPO averages the likelihood over a micro-batch (here over the step); it logs
SimPO's `logps/*` as means (here sums, as everywhere). Where it departs from the paper or overflows, the test below says
which is right and why.
"""

import inspect
import re
from collections import defaultdict
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer, Runner, lay_out, segments, values_of
from objectives.pair_arrays import metrics_of_scores

from jaxpo import losses
from jaxpo.objectives.methods import METHODS, resolve

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
    "hinge": (lambda *a: losses.hinge(*a[:4], beta=0.3), {"beta": 0.3}),
    "ipo": (lambda *a: losses.ipo(*a[:4], a[4][:B], a[4][B:], beta=0.3), {"beta": 0.3}),
    "exo_pair": (
        lambda *a: losses.exo_pair(*a[:4], beta=0.3, label_smoothing=0.01),
        {"beta": 0.3, "label_smoothing": 0.01},
    ),
    "nca_pair": (lambda *a: losses.nca_pair(*a[:4], beta=0.3), {"beta": 0.3}),
    "bco_pair": (lambda *a: losses.bco_pair(*a[:4], beta=0.3), {"beta": 0.3}),
    "sppo_hard": (lambda *a: losses.sppo_hard(*a[:4], beta=0.3), {"beta": 0.3}),
    "apo_zero": (lambda *a: losses.apo_zero(*a[:4], beta=0.3), {"beta": 0.3}),
    "apo_down": (lambda *a: losses.apo_down(*a[:4], beta=0.3), {"beta": 0.3}),
    "discopop": (lambda *a: losses.discopop(*a[:4], beta=0.3, tau=0.05), {"beta": 0.3}),
    # trl takes the mean over the micro-batch's chosen tokens; its mean over pairs of ours, times B / tokens.
    "sft": (lambda *a: losses.sft(a[0]) * B / a[4][:B].sum(), {"beta": 0.3}),
}


@pytest.mark.parametrize("loss_type", CASES)
def test_referenced_losses(torch, dpo_trainer, loss_type):
    method, settings = CASES[loss_type]
    data = responses()
    theirs, their_grad, _ = trl_dpo(torch, dpo_trainer, *data, loss_types=[loss_type], **settings)
    value, grad = ours(method, *data)
    np.testing.assert_allclose(value, theirs, **TOLERANCE)
    np.testing.assert_allclose(np.where(data[2], grad, 0), np.where(data[2], their_grad, 0), **TOLERANCE)


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"])
def test_f_divergences(torch, dpo_trainer, divergence):
    """trl's coefficient of the alpha-divergence is one minus the paper's alpha."""
    data = responses(4)
    theirs, their_grad, _ = trl_dpo(
        torch,
        dpo_trainer,
        *data,
        loss_types=["sigmoid"],
        beta=0.3,
        f_divergence_type=divergence,
        f_alpha_divergence_coef=0.7,
    )
    value, grad = ours(lambda *a: losses.fdpo(*a[:4], beta=0.3, divergence=divergence, alpha=0.3), *data)
    np.testing.assert_allclose(value, theirs, rtol=1e-4)
    np.testing.assert_allclose(np.where(data[2], grad, 0), np.where(data[2], their_grad, 0), rtol=1e-4, atol=1e-5)


def far_apart(log_ratio):
    """One response token per row, and chosen log-ratios of `log_ratio` nats."""
    policy, reference, mask = (np.zeros((2 * B, T), dtype) for dtype in (np.float32, np.float32, bool))
    mask[:, 2] = True
    policy[:B, 2] = log_ratio
    return policy, reference, mask


def test_discopop_overflows_there_and_not_here(torch, dpo_trainer):
    """Ours is right: m e^-h tends to 0 for h -> -infinity, and the loss to DPO's; theirs is infinity times 0."""
    data = far_apart(-400.0)
    theirs, _, _ = trl_dpo(torch, dpo_trainer, *data, loss_types=["discopop"], beta=0.3)
    assert np.isnan(theirs)
    value, grad = ours(lambda *a: losses.discopop(*a[:4], beta=0.3), *data)
    np.testing.assert_allclose(value, 120.0, rtol=1e-6)
    assert np.all(np.isfinite(grad))


def test_the_forward_kl_overflows_there_and_not_here(torch, dpo_trainer):
    """The formula itself leaves float32 at rho = -89; here the score stops at e^80, as trl's alpha-divergence does."""
    data = far_apart(-100.0)
    theirs, _, _ = trl_dpo(torch, dpo_trainer, *data, loss_types=["sigmoid"], beta=0.3, f_divergence_type="forward_kl")
    assert np.isinf(theirs)
    value, grad = ours(lambda *a: losses.fdpo(*a[:4], beta=0.3, divergence="forward_kl"), *data)
    assert np.isfinite(value)
    assert np.all(np.isfinite(grad))


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


def cpo_stub(torch, loss_type, **settings):
    device = SimpleNamespace(device=torch.device("cpu"))
    defaults = {"alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.5, "label_smoothing": 0.0, "accelerator": device}
    return SimpleNamespace(**(defaults | settings), loss_type=loss_type)


@pytest.mark.parametrize("loss_type", ["sigmoid", "simpo"])
def test_cpo_and_simpo(torch, loss_type):
    trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer").CPOTrainer
    policy, _, mask = responses(2)
    lengths = mask.sum(1).astype(np.float32)
    sums = np.where(mask, policy, 0).sum(1).astype(np.float32)
    given = torch.tensor(sums / lengths if loss_type == "simpo" else sums, requires_grad=True)
    self = cpo_stub(torch, loss_type, label_smoothing=0.1)
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


@pytest.mark.parametrize("loss_type", ["hinge", "ipo"])
def test_cpos_hinge_and_ipo_are_ours_at_a_reference_of_zero(torch, loss_type):
    """And the variants of `tpo_triple` that the catalogue names for them; ipo reads means per token there and here."""
    trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer").CPOTrainer
    policy, _, mask = responses(5)
    lengths = mask.sum(1).astype(np.float32)
    sums = np.where(mask, policy, 0).sum(1).astype(np.float32)
    assert 'average_log_prob=self.loss_type in ["ipo", "simpo"]' in inspect.getsource(trainer.concatenated_forward)
    scale = lengths if loss_type == "ipo" else np.ones_like(lengths)
    given = torch.tensor(sums / scale, requires_grad=True)
    theirs, *_ = trainer.cpo_loss(cpo_stub(torch, loss_type, beta=0.3), given[:B], given[B:])
    theirs.sum().backward()
    assert (theirs > 0).any()
    assert (theirs == 0).any() == (loss_type == "hinge"), "both sides of the hinge"
    zero, n = np.zeros(B, np.float32), (lengths[:B], lengths[B:])

    def referenced(x):
        own = losses.hinge if loss_type == "hinge" else losses.ipo
        return own(x[:B], x[B:], zero, zero, *(n if loss_type == "ipo" else ()), beta=0.3)

    def variant(x):
        return losses.tpo_triple(x[:B], x[B:], x[:B], *n, variant=loss_type, beta=0.3, alpha=0.0)[0]

    for loss in (referenced, variant):
        value, pull = jax.vjp(loss, sums)
        np.testing.assert_allclose(value, theirs.detach().numpy(), **TOLERANCE)
        np.testing.assert_allclose(pull(jnp.ones(B))[0] * scale, given.grad.numpy(), **TOLERANCE)


def test_alphapo(torch):
    """Equal where p^-alpha exists; trl goes through the probability, which is 0 in float32 below e^-104."""
    trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer").CPOTrainer
    policy, _, mask = responses(2)
    lengths = mask.sum(1).astype(np.float32)
    sums = np.where(mask, policy, 0).sum(1).astype(np.float32)
    self = cpo_stub(torch, "simpo", alpha=0.25, beta=2.5, simpo_gamma=0.1, label_smoothing=0.1)
    given = torch.tensor(sums / lengths, requires_grad=True)
    theirs, their_reward, _ = trainer.cpo_loss(self, given[:B], given[B:])
    theirs.sum().backward()

    def loss(sums):
        return losses.alphapo(sums[:B], sums[B:], lengths[:B], lengths[B:], label_smoothing=0.1)

    value, pull = jax.vjp(loss, sums)
    np.testing.assert_allclose(value, theirs.detach().numpy(), **TOLERANCE)
    np.testing.assert_allclose(pull(jnp.ones(B))[0] * lengths, given.grad.numpy(), **TOLERANCE)
    side = SimpleNamespace(logps=jnp.asarray(sums[:B]), length=jnp.asarray(lengths[:B]))
    np.testing.assert_allclose(METHODS["alphapo"]().reward(side), their_reward.numpy(), **TOLERANCE)

    unlikely = torch.full((1,), -110.0)
    theirs, *_ = trainer.cpo_loss(self, unlikely, unlikely)
    assert torch.isnan(theirs).all()
    one, far = np.ones(1, np.float32), np.full(1, -110.0, np.float32)
    same = losses.simpo(far, far, one, one, beta=2.5, gamma=0.1)
    np.testing.assert_allclose(losses.alphapo(far, far, one, one), same, rtol=1e-6)


def test_orpo(torch):
    """The odds ratio agrees. trl's likelihood runs over prompt and response; the paper's L_SFT is that of y given x,
    over the response alone, as here."""
    trainer = pytest.importorskip("trl.experimental.orpo.orpo_trainer").ORPOTrainer
    rng = np.random.default_rng(3)
    ids = torch.tensor(rng.integers(0, 7, (2 * B, T)))
    logits = rng.normal(size=(2 * B, T, 7)).astype(np.float32)
    _, _, mask = responses(3)
    labels = torch.where(torch.tensor(mask), ids, -100)
    ones = torch.ones(B, T, dtype=torch.long)
    batch = {
        f"{side}_{what}": x[part]
        for side, part in (("chosen", slice(0, B)), ("rejected", slice(B, None)))
        for what, x in (("input_ids", ids), ("labels", labels))
    } | {"chosen_attention_mask": ones, "rejected_attention_mask": ones}
    self = SimpleNamespace(
        beta=0.3,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
        is_encoder_decoder=False,
        padding_value=0,
        aux_loss_enabled=False,
        concatenated_inputs=trainer.concatenated_inputs,
        get_batch_logps=trainer.get_batch_logps,
    )
    given = torch.tensor(logits, requires_grad=True)
    forward = trainer.concatenated_forward(self, lambda *a, **k: SimpleNamespace(logits=given), batch)
    means, their_nll = torch.cat(forward[:2]), forward[-1]
    their_odds, their_reward, _, log_ratio, log_odds = trainer.odds_ratio_loss(self, means[:B], means[B:])

    def token_logps(logits):
        table = jax.nn.log_softmax(logits[:, :-1])
        return jnp.take_along_axis(table, jnp.asarray(ids.numpy())[:, 1:, None], axis=2)[..., 0]

    def parts(logits):
        logps = jnp.where(mask[:, 1:], token_logps(logits), 0.0).sum(axis=1)
        n = jnp.asarray(mask.sum(1), jnp.float32)
        return losses.orpo(logps[:B], logps[B:], n[:B], n[B:], beta=0.3), (logps, n)

    (odds, nll), (logps, n) = parts(logits)
    np.testing.assert_allclose(odds, -their_odds.detach().numpy(), **TOLERANCE)
    our_grad = jax.grad(lambda x: jnp.sum(parts(x)[0][0]))(logits)
    (their_grad,) = torch.autograd.grad(-their_odds.sum(), given, retain_graph=True)
    np.testing.assert_allclose(our_grad, their_grad.numpy(), **TOLERANCE)

    response = nll.sum() / n[:B].sum()
    everything = -token_logps(logits)[:B].mean()
    np.testing.assert_allclose(their_nll.item(), everything, rtol=1e-5)
    assert abs(float(response) - their_nll.item()) > 1e-3

    side = lambda part: SimpleNamespace(logps=logps[part], length=n[part], log_ratio=logps[part])  # noqa: E731
    pair = SimpleNamespace(chosen=side(slice(0, B)), rejected=side(slice(B, None)), present=jnp.ones(B, bool))
    method = METHODS["orpo"](beta=0.3)
    np.testing.assert_allclose(method.reward(pair.chosen), their_reward.numpy(), **TOLERANCE)
    metrics = {k: float(m.value()) for k, m in method.metrics(pair).items()}
    np.testing.assert_allclose(metrics["log_odds_ratio"], log_ratio.item(), rtol=1e-5)
    np.testing.assert_allclose(metrics["log_odds_chosen"], log_odds.item(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["nll_loss"], response, rtol=1e-6)


def test_every_loss_type_of_trl_resolves(dpo_trainer):
    found = re.findall(r'loss_type == "(\w+)"', inspect.getsource(dpo_trainer._compute_loss))
    assert {"sigmoid", "hinge", "ipo", "sigmoid_norm"} <= set(found)
    assert all(name in CASES or name == "robust" for name in found), "a loss type of trl is not compared here"
    for name in found:
        assert resolve(name).INFO.family in ("pairs", "pairs, coupled")
    for name in ("simpo", "alphapo", "orpo", "cpo", "kto", "bco"):
        assert resolve(name).INFO.name == name


def test_bradley_terry(torch):
    """trl's `RewardTrainer.compute_loss` on the rewards of a model that returns them; its metrics are ours by name."""
    trainer = pytest.importorskip("trl").RewardTrainer
    rng = np.random.default_rng(0)
    r_w, r_l, margin = (rng.normal(size=B).astype(np.float32) for _ in range(3))
    w, r = (torch.tensor(x, requires_grad=True) for x in (r_w, r_l))
    self = stub(torch, args=SimpleNamespace(center_rewards_coefficient=0.01))
    inputs = {"attention_mask": torch.ones(2 * B, 1, dtype=torch.long), "margin": torch.tensor(margin)}
    model = lambda **_: SimpleNamespace(logits=torch.cat([w, r])[:, None])  # noqa: E731
    theirs = trainer.compute_loss(self, model, inputs)
    theirs.backward()
    logged = {name: float(np.mean(v)) for name, v in self._metrics["train"].items() if name != "num_tokens"}
    found = metrics_of_scores(r_w, r_l)
    assert set(found) == set(logged)
    for name, value in logged.items():
        np.testing.assert_allclose(found[name].value(), value, rtol=1e-5, atol=1e-6, err_msg=name)
    mean = lambda a, b: jnp.mean(losses.bradley_terry(a, b, margin, center_rewards_coefficient=0.01))  # noqa: E731
    value, grads = jax.value_and_grad(mean, argnums=(0, 1))(r_w, r_l)
    np.testing.assert_allclose(value, theirs.item(), **TOLERANCE)
    for ours, tensor in zip(grads, (w, r), strict=True):
        np.testing.assert_allclose(ours, tensor.grad.numpy(), **TOLERANCE)


def test_metrics_have_trls_names_and_values(torch, dpo_trainer):
    pairs = tuple(tuple(pair) for pair in zip(segments(6)[:3], segments(6)[3:], strict=True))
    batch, params, frozen = lay_out(pairs, {"chosen": 0, "rejected": 1}, {})
    objective = METHODS["dpo"](beta=0.3).build(ArrayScorer())
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
