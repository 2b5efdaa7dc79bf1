"""RRPO as an objective: its loss and metrics from phrase labels and token-wise KLs."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from jaxpo.objectives.methods import METHODS

MASKS = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool), np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
PHRASES = np.array([[0, 1, 2, 5], [1, 1, 1, 1]]), np.array([[3, 0, 0, 0], [1, 1, 1, 1]])


def pair():
    rng = np.random.default_rng(0)
    logps = [jnp.asarray(-rng.gamma(2.0, 1.0, (2, 4)), jnp.float32) for _ in range(4)]
    kls = [jnp.asarray(rng.gamma(1.0, 0.5, (2, 4)), jnp.float32) for _ in range(2)]
    sums = tuple(jnp.sum(jnp.where(m, k, 0.0), axis=-1) for k, m in zip(kls, MASKS, strict=True))
    return SimpleNamespace(
        token_logps=logps,
        token_kls=kls,
        token_masks=MASKS,
        token_columns=lambda name: {"phrase": PHRASES}[name],
        kls=sums,
        present=jnp.array([True, False]),
    )


def test_loss_reads_the_phrase_labels_and_the_chosen_kl():
    p = pair()
    pw, pl, rw, rl = (np.asarray(x, np.float64)[0] for x in p.token_logps)
    u = (pw - rw)[1:3].sum() - (pl - rl)[0]
    expected = np.logaddexp(0, -0.4 * u) + 0.3 * np.asarray(p.token_kls[0], np.float64)[0, :3].sum()
    got = METHODS["rrpo"](beta=0.4, alpha=0.3).loss(p)
    np.testing.assert_allclose(got, [expected, 0.0], rtol=1e-5)


def test_metrics_count_present_pairs():
    got = METHODS["rrpo"]().metrics(pair())
    assert set(got) == set(METHODS["rrpo"].METRICS)
    np.testing.assert_allclose(got["tkl"].value(), pair().kls[0][0], rtol=1e-6)
    np.testing.assert_allclose(got["phrase_share"].value(), 3 / 5)  # tokens 1, 2 of the chosen, 0 of the rejected


def test_needs_phrases_and_the_reference_network():
    needs = METHODS["rrpo"].NEEDS
    assert needs.per_token == ("phrase",)
    assert needs.kind("reference") == "vocab"
