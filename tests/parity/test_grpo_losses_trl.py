"""Every `loss_type` of trl 1.16's GRPO trainer, and its RLOO trainer's loss, by trl's own `_compute_loss` on arrays.

trl's loss code runs on a stub of its trainer whose model hands out the same log-probs; the loss and its gradient in
them are compared. Where the two differ on purpose:
- Log-ratios are bounded by +-20 here and not in trl; the arrays stay within.
- cispo, dapo and vespo divide by the tokens of the whole step; bnpo by those of trl's micro-batch, which here is the
  step.
What trl cannot be asked for this way: the sampler's importance ratio is worked out in the middle of
`_generate_and_score_completions`, after generation, so that only its use is compared (the ratio itself is against
float64 numpy in `tests/losses/test_off_policy.py`); the pair loss of its OnlineDPO trainer stands inside
`training_step`, which generates, so that it is compared with trl's DPO in `test_preference_trl.py` only.
"""

from collections import defaultdict
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.rollout_arrays import MASK, NEW, OLD, PER_ANSWER, REF, RNG, SAME, N, T

from jaxpo import losses
from jaxpo.losses.importance import clipped_surrogate, log_ratios

pytestmark = pytest.mark.parity

ENTROPY = RNG.gamma(2.0, 1.0, (N, T)).astype(np.float32)
SAMPLER = (OLD + 0.4 * RNG.standard_normal((N, T))).astype(np.float32)
LONGEST = 16
PLAIN = {"epsilon_low": 0.1, "epsilon_high": 0.2, "level": "token", "beta": 0.0, "delta": None, "bias": True,
         "share": 1.0, "threshold": None, "correct": False}  # fmt: skip
CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
LOSS_TYPES = (*CLIPPED, "cispo", "sapo", "vespo")
VARIANTS = {
    "plain": {},
    "sequence": {"level": "sequence"},
    "delta": {"delta": 1.25},
    "kl": {"beta": 0.3},
    "kl, plain": {"beta": 0.3, "bias": False},
    "kl, sequence": {"beta": 0.3, "level": "sequence"},
    "entropy": {"share": 0.4},
    "off-policy mask": {"threshold": 0.02},
    "sampler": {"correct": True},
    "all": {"delta": 1.25, "beta": 0.3, "share": 0.6, "threshold": 0.02, "correct": True},
}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def sampler_weights():
    """What trl's `token_mask` mode makes."""
    return losses.off_policy_weights(jnp.float32(OLD), SAMPLER, MASK, level="token", mode="mask", low=0.5, high=1.5)


def stub(torch, trainer, loss_type, s):
    """What `_compute_loss` reads of its trainer, on one process and without accumulation."""
    same = lambda x, **_: x  # noqa: E731
    accelerator = SimpleNamespace(
        num_processes=1, gather=same, reduce=same, pad_across_processes=same, gather_for_metrics=same
    )
    values = {
        "model": SimpleNamespace(training=True),
        "accelerator": accelerator,
        "args": SimpleNamespace(
            use_bias_correction_kl=s["bias"], delta=s["delta"], steps_per_generation=1, sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05, vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0,
        ),
        "loss_type": loss_type,
        "epsilon_low": s["epsilon_low"],
        "epsilon_high": s["epsilon_high"],
        "importance_sampling_level": s["level"],
        "beta": s["beta"],
        "top_entropy_quantile": s["share"],
        "off_policy_mask_threshold": s["threshold"],
        "use_vllm": s["correct"],
        "vllm_importance_sampling_correction": s["correct"],
        "max_completion_length": LONGEST,
        "current_gradient_accumulation_steps": 1,
        "aux_loss_enabled": False,
        "_entropy_bonus_enabled": False,
        "_metrics": {"train": defaultdict(list)},
    }  # fmt: skip
    self = SimpleNamespace(**values)
    for name in ("get_off_policy_mask", "get_gamma_weights"):
        setattr(self, name, getattr(trainer, name, None))
    if hasattr(trainer, "get_high_entropy_mask"):
        self.get_high_entropy_mask = lambda *a: trainer.get_high_entropy_mask(self, *a)
    return self


def theirs(torch, loss_type, s):
    """`(loss, gradient in the log-probs, metrics)` of trl."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
    self = stub(torch, trainer, loss_type, s)
    logps = torch.tensor(NEW, dtype=torch.float32, requires_grad=True)
    self._get_per_token_logps_and_entropies = lambda *_, **__: (logps, torch.tensor(ENTROPY), None)
    inputs = answers(torch) | {
        "advantages": torch.tensor(PER_ANSWER, dtype=torch.float32),
        "old_per_token_logps": torch.tensor(OLD, dtype=torch.float32),
        "ref_per_token_logps": torch.tensor(REF, dtype=torch.float32),
        "num_items_in_batch": torch.tensor(float(MASK.sum())),
    }
    if s["correct"]:
        weights = np.where(MASK, sampler_weights(), 1.0)  # trl's is 1 outside the mask
        inputs |= {"importance_sampling_ratio": torch.tensor(weights.astype(np.float32)),
                   "sampling_per_token_logps": torch.tensor(SAMPLER)}  # fmt: skip
    loss = trainer._compute_loss(self, self.model, inputs)
    loss.backward()
    return loss.item(), logps.grad.numpy(), {name: float(v[0]) for name, v in self._metrics["train"].items()}


def answers(torch):
    ids = torch.zeros(MASK.shape, dtype=torch.long)
    return {"prompt_ids": ids[:, :2], "prompt_mask": torch.ones_like(ids[:, :2]), "completion_ids": ids,
            "completion_mask": torch.tensor(MASK.astype(np.int64))}  # fmt: skip


def terms(logps, loss_type, s):
    """The terms of the house, by token."""
    old, a = jnp.float32(OLD), jnp.float32(SAME)
    level = {"importance_sampling_level": s["level"]}
    if loss_type == "cispo":
        return losses.cispo(logps, old, a, MASK, epsilon_high=s["epsilon_high"], **level)
    if loss_type == "sapo":
        return losses.sapo(logps, old, a, MASK, **level)
    if loss_type == "vespo":
        given = sampler_weights() if s["correct"] else None
        return losses.vespo(logps, old, a, MASK, sampler_weights=given)
    clips = {"epsilon": s["epsilon_low"], "epsilon_high": s["epsilon_high"]}
    if s["level"] == "token" and (s["delta"] or 9) > 1 + s["epsilon_high"]:
        return losses.ppo(logps, old, a, MASK, dual_clip=s["delta"], **clips)
    ratio = jnp.exp(log_ratios(logps, old, MASK, level=s["level"]))
    return jnp.where(MASK, clipped_surrogate(ratio, a, delta=s["delta"], **clips), 0.0)


def ours(logps, loss_type, s):
    """The whole loss, put together as a method does."""
    old = jnp.float32(OLD)
    found = terms(logps, loss_type, s)
    if s["threshold"] is not None:
        drawn = SAMPLER if s["correct"] else old
        found = found * losses.off_policy_mask(logps, drawn, jnp.float32(SAME), MASK, threshold=s["threshold"])
    if s["share"] < 1:
        threshold = losses.entropy_threshold(ENTROPY, MASK, top_entropy_quantile=s["share"])
        found = found * losses.top_entropy_mask(ENTROPY, MASK, threshold)
    if s["correct"] and loss_type != "vespo":
        found = found * sampler_weights()
    if s["beta"]:
        kl = losses.kl_k3(logps, jnp.float32(REF), where=MASK)
        ratio = jnp.exp(log_ratios(logps, old, MASK, level=s["level"]))
        found = found + s["beta"] * (jnp.where(MASK, kl * ratio, 0.0) if s["bias"] else kl)
    return reduced(found, loss_type)


def reduced(found, loss_type):
    """By tokens of the step, by the longest answer, or by answers: their mean, or their sum."""
    sums, tokens = jnp.sum(found, axis=1), MASK.sum(1)
    if loss_type in ("bnpo", "dapo", "cispo", "vespo"):
        return jnp.sum(sums) / tokens.sum()
    if loss_type == "dr_grpo":
        return jnp.mean(sums / LONGEST)
    return jnp.mean(sums if loss_type == "luspo" else sums / np.maximum(tokens, 1))


def allowed(loss_type, variant):
    """trl refuses vespo on sequences; delta is one of the clipped losses."""
    s = VARIANTS[variant]
    return not (loss_type == "vespo" and s.get("level")) and not (loss_type not in CLIPPED and variant == "delta")


@pytest.mark.parametrize(
    ("loss_type", "variant"), [(name, v) for name in LOSS_TYPES for v in VARIANTS if allowed(name, v)]
)
def test_loss_and_gradient_are_trls(torch, loss_type, variant):
    s = PLAIN | VARIANTS[variant]
    s |= {"epsilon_high": 1.2} if loss_type == "cispo" else {}
    expected, slope, _ = theirs(torch, loss_type, s)
    value, grad = jax.jit(jax.value_and_grad(lambda x: ours(x, loss_type, s)))(jnp.float32(NEW))
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(grad, slope, rtol=5e-5, atol=2e-6)
    assert np.any(slope != 0)


def test_every_loss_type_of_trl_is_here():
    """trl's own help names them; a new one must be looked at."""
    config = pytest.importorskip("trl").GRPOConfig
    words = config.__dataclass_fields__["loss_type"].metadata["help"]
    assert {name for name in words.split("'") if name.isidentifier()} == set(LOSS_TYPES)


def test_luspos_terms_summed_are_its_loss(torch):
    s = PLAIN | {"level": "sequence"}
    expected, slope, _ = theirs(torch, "luspo", s)

    def mean(x):
        return jnp.mean(losses.luspo(x, jnp.float32(OLD), jnp.float32(SAME), MASK, epsilon=0.1, epsilon_high=0.2))

    value, grad = jax.value_and_grad(mean)(jnp.float32(NEW))
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(grad, slope, rtol=5e-5, atol=2e-6)


def test_gspo_token_has_the_value_and_gradient_of_trls_grpo_on_sequences(torch):
    expected, slope, _ = theirs(torch, "grpo", PLAIN | {"level": "sequence"})

    def mean(x):
        found = losses.gspo_token(x, jnp.float32(OLD), jnp.float32(SAME), MASK, epsilon=0.1, epsilon_high=0.2)
        return reduced(found, "grpo")

    value, grad = jax.value_and_grad(mean)(jnp.float32(NEW))
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(grad, slope, rtol=5e-5, atol=2e-6)


def test_vespos_mean_weight_is_trls_metric(torch):
    _, _, metrics = theirs(torch, "vespo", PLAIN)
    phi = losses.vespo_weights(
        jnp.float32(NEW), jnp.float32(OLD), jnp.ones((N, T)) * SAME, np.ones((N, T), bool) & MASK
    )
    rows = MASK.any(1)
    mean = (np.asarray(phi).sum(1)[rows] / MASK.sum(1)[rows]).sum() + 1.0  # an answer without tokens counts with 1
    np.testing.assert_allclose(mean / N, metrics["vespo/phi_seq_mean"], rtol=2e-5)


def test_rloo_is_trls(torch):
    trainer = pytest.importorskip("trl.trainer.rloo_trainer").RLOOTrainer
    self = stub(torch, trainer, "rloo", PLAIN)
    logps = torch.tensor(NEW, dtype=torch.float32, requires_grad=True)
    self._get_per_token_logps_and_entropies = lambda *_, **__: (logps, torch.tensor(ENTROPY), None)
    old = torch.tensor(np.where(MASK, OLD, 0.0).sum(1), dtype=torch.float32)
    loss = trainer._compute_loss(
        self, self.model, answers(torch) | {"old_logps": old, "advantages": torch.tensor(PER_ANSWER).float()}
    )
    loss.backward()
    # trl gives an answer without tokens the loss -A; here it has none.
    expected = loss.item() + PER_ANSWER[~MASK.any(1)].sum() / N

    def mean(x):
        return jnp.mean(losses.rloo(x, jnp.float32(OLD), jnp.float32(PER_ANSWER), MASK, epsilon=0.1, epsilon_high=0.2))

    value, grad = jax.value_and_grad(mean)(jnp.float32(NEW))
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(grad, logps.grad.numpy(), rtol=5e-5, atol=2e-6)
