"""The generalised Jensen-Shannon divergence against trl 1.16's GKD trainer, values and gradients, the ends included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo import losses

pytestmark = pytest.mark.parity

B, T, V = 2, 4, 9


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_generalized_jsd(beta):
    torch = pytest.importorskip("torch")
    from trl.experimental.gkd import GKDTrainer

    rng = np.random.default_rng(0)
    student, teacher = (2 * rng.normal(size=(B, T, V)).astype(np.float32) for _ in range(2))
    z = torch.tensor(student, requires_grad=True)
    theirs = GKDTrainer.generalized_jsd_loss(z, torch.tensor(teacher), beta=beta, temperature=0.9, reduction="sum")
    theirs.backward()
    ours, grad = jax.jit(jax.value_and_grad(lambda z: jnp.sum(losses.generalized_jsd(z, teacher, beta=beta, tau=0.9))))(
        student
    )
    np.testing.assert_allclose(float(ours), float(theirs.detach()), rtol=2e-5)
    np.testing.assert_allclose(grad, z.grad.numpy(), rtol=1e-4, atol=2e-6)
