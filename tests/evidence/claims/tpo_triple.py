"""Triple preference optimisation from a model that had no SFT, against the two-sided methods from the same model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._checked_answers import (
    ANSWER,
    answer_logps,
    candidates,
    demonstrations,
    init,
    quality,
    sft_loss,
    trainer,
)
from evidence.harness import Claim, NotReproduced

from jaxpo.construct.tpo_triple import triple
from jaxpo.losses import cpo, dpo, tpo_triple

PROMPTS, K, STEPS, RATE, BATCH, BETA, ALPHA = 1000, 4, 300, 1e-3, 64, 0.1, 1.0

CLAIM = Claim(
    method="tpo_triple",
    paper="arXiv:2405.16681",
    claim="Without an SFT stage and at equal steps, TPO on (gold, chosen, rejected) answers better than DPO.",
    baseline="DPO from the pre-trained model, on (gold, rejected)",
    measure="mean score of sampled answers, TPO minus DPO",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.02,
    min_share=0.8,
    not_reproduced=NotReproduced(
        reason="On answers of four tokens, DPO on the widest pair, gold against rejected, learns more in equal steps "
        "(0.61 against 0.53), although log p(gold) falls by 1.7 nats; TPO's pair is the narrower one of chosen and "
        "rejected. tpo_triple_sft, registered while this was measured, compares with SFT.",
        observed=(-0.12, -0.05),
    ),
)


def _tpo(params, data):
    rows, _ = data
    gold, chosen, rejected = (answer_logps(params, rows[:, k]) for k in range(3))
    n = jnp.full_like(gold, ANSWER)
    prefer, nll = tpo_triple(chosen, rejected, gold, n, n, beta=BETA, alpha=ALPHA)
    return jnp.mean(prefer) + jnp.sum(nll) / jnp.sum(n)


def _cpo(params, data):
    rows, _ = data
    chosen, rejected = (answer_logps(params, rows[:, k]) for k in (0, 2))
    prefer, nll = cpo(chosen, rejected, beta=BETA, alpha=ALPHA)
    return jnp.mean(prefer) + jnp.sum(nll) / (ANSWER * len(nll))


def _dpo(params, data):
    rows, ref = data
    policy = [answer_logps(params, rows[:, k]) for k in (0, 2)]
    return jnp.mean(dpo(*policy, ref[:, 0], ref[:, 2], beta=BETA))


_pretrain = trainer(sft_loss, steps=600, rate=3e-3, batch=128)
_losses = {"TPO": _tpo, "DPO": _dpo, "CPO": _cpo, "SFT": lambda params, data: sft_loss(params, data[0][:, 0])}
_train = {name: trainer(loss, steps=STEPS, rate=RATE, batch=BATCH) for name, loss in _losses.items()}


@jax.jit
def _reference(params, rows):
    """Log-probs of gold, chosen and rejected, `[n, 3]`."""
    return jnp.stack([answer_logps(params, rows[:, k]) for k in range(3)], axis=1)


def recipe(seed: int, names: tuple[str, ...]) -> dict[str, float]:
    """Mean score of sampled answers after each named method, all from one pre-trained model and its own triples."""
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    base = _pretrain(init(key), jnp.asarray(demonstrations(rng, 4000, 0.4)), jax.random.fold_in(key, 1))
    drawn, scores = candidates(base, rng, PROMPTS, K)
    picked = [(row, triple(list(s))) for row, s in zip(drawn, scores, strict=True) if len(set(s)) > 1]
    rows = jnp.asarray(np.stack([row[list(t)] for row, t in picked]))
    ref = _reference(base, rows)
    models = {name: _train[name](base, (rows, ref), jax.random.fold_in(key, 2)) for name in names}
    found = {name: quality(model, seed) for name, model in models.items()} | {"pre-trained": quality(base, seed)}
    if "DPO" in models:
        found["change of log p(gold) under DPO"] = float(jnp.mean(_reference(models["DPO"], rows)[:, 0] - ref[:, 0]))
    return found


def measure(seed: int) -> dict[str, float]:
    found = recipe(seed, tuple(_train))
    method, baseline = found.pop("TPO"), found.pop("DPO")
    return {"method": method, "baseline": baseline, "effect": method - baseline} | found
