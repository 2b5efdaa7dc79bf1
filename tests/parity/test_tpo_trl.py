"""Triple preference optimisation against trl's experimental TPOTrainer, on logits: loss, gradient and metrics.

trl averages the gold likelihood over a micro-batch, ours over the whole step; on one micro-batch they agree.
"""

from collections import defaultdict
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo import losses

pytestmark = pytest.mark.parity

B, T, V = 4, 9, 11
VARIANTS = {"sigmoid": "tpo", "hinge": "hinge", "ipo": "ipo", "tpo-l": "tpo_l"}


def data(seed=0):
    """Logits, tokens and response masks of chosen, rejected and gold rows, in this order."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((3 * B, T), bool)
    for row in mask:
        start = rng.integers(1, 4)
        row[start : start + rng.integers(1, T - start + 1)] = True
    return rng.normal(size=(3 * B, T, V)).astype(np.float32), rng.integers(0, V, (3 * B, T)), mask


def theirs(torch, logits, tokens, mask, **settings):
    trainer = pytest.importorskip("trl.experimental.tpo.tpo_trainer").TPOTrainer
    given = torch.tensor(logits, requires_grad=True)
    same = lambda x: x  # noqa: E731
    self = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(gather_for_metrics=same, gather=same),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )
    inputs = {
        "input_ids": torch.tensor(tokens),
        "completion_mask": torch.tensor(mask.astype(np.int64)),
        "attention_mask": torch.ones(tokens.shape, dtype=torch.int64),
    }
    keep = 3 if settings["tpo_alpha"] else 2
    inputs = {k: v[: keep * B] for k, v in inputs.items()}
    loss = trainer._compute_loss(self, lambda **_: SimpleNamespace(logits=given[: keep * B]), inputs, False)
    loss.backward()
    return float(loss.detach()), given.grad.numpy(), {k: float(np.mean(v)) for k, v in self._metrics["train"].items()}


def sums(logits, tokens, mask):
    logp = jax.nn.log_softmax(logits[:, :-1])
    picked = jnp.take_along_axis(logp, jnp.asarray(tokens)[:, 1:, None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(mask[:, 1:], picked, 0.0), axis=-1)


@pytest.mark.parametrize("alpha", [0.7, 0.0])
@pytest.mark.parametrize("loss_type", VARIANTS)
def test_loss_gradient_and_rewards(loss_type, alpha):
    torch = pytest.importorskip("torch")
    logits, tokens, mask = data()
    n = mask[:, 1:].sum(1).astype(np.float32)
    smoothing = 0.1 if loss_type in ("sigmoid", "tpo-l") else 0.0
    expected, their_grad, metrics = theirs(
        torch, logits, tokens, mask, loss_type=loss_type, beta=0.3, label_smoothing=smoothing, tpo_alpha=alpha,
        tpo_l_gamma=0.4,
    )  # fmt: skip

    def loss(x):
        p = sums(x, tokens, mask)
        prefer, nll = losses.tpo_triple(
            p[:B], p[B : 2 * B], p[2 * B :], n[:B], n[B : 2 * B], variant=VARIANTS[loss_type], beta=0.3, alpha=alpha,
            gamma=0.4, label_smoothing=smoothing,
        )  # fmt: skip
        return jnp.mean(prefer) + jnp.sum(nll) / n[2 * B :].sum()

    value, grad = jax.jit(jax.value_and_grad(loss))(logits)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(grad, their_grad, rtol=2e-4, atol=2e-6)
    p = np.asarray(sums(logits, tokens, mask)) / (n if loss_type in ("ipo", "tpo-l") else 1)
    np.testing.assert_allclose(metrics["rewards/margins"], 0.3 * np.mean(p[:B] - p[B : 2 * B]), rtol=1e-4, atol=1e-6)
