"""f-SFT keeps the fine-tuned model nearer to its start; what a later DPO makes of both."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._checked_answers import (
    ANSWER,
    PROMPT,
    VOCAB,
    answer_logps,
    candidates,
    demonstrations,
    init,
    logits,
    quality,
    sample,
    sft_loss,
    trainer,
)
from evidence.harness import Claim, NotReproduced

from jaxpo.losses import dpo, implicit_reward

SFT_STEPS, RATE, DPO_STEPS, BATCH = 400, 3e-3, 200, 64

CLAIM = Claim(
    method="implicit_reward",
    paper="arXiv:2507.00018",
    claim="SFT with the chi-squared divergence, which keeps the KL term, leads to a better model after DPO.",
    baseline="plain SFT (total variation) at the same learning rate, then the same DPO",
    measure="mean score of sampled answers after DPO, chi-squared minus plain",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    threshold=0.005,
    min_share=0.75,
    not_reproduced=NotReproduced(
        reason="Here moving away from the start is what helps: the demonstrations are better than the start everywhere "
        "and DPO unlearns nothing. The KL term does what it should (2.1 nats against 2.4, see implicit_reward_kl), and "
        "so a little less is learnt in the same steps: 0.59 against 0.60 after SFT, 0.675 against 0.680 after DPO.",
        observed=(-0.015, 0.004),
    ),
)


def _f_sft(params, data, divergence="chi2"):
    tokens, ref = data
    n = jnp.full(tokens.shape[0], ANSWER, jnp.float32)
    return jnp.mean(implicit_reward(answer_logps(params, tokens), ref, n, divergence=divergence))


def _dpo(params, data):
    (chosen, rejected), ref = data
    return jnp.mean(dpo(answer_logps(params, chosen), answer_logps(params, rejected), *ref, beta=0.1))


_pretrain = trainer(sft_loss, steps=600, rate=3e-3, batch=128)
_sft = {
    "chi2": trainer(_f_sft, steps=SFT_STEPS, rate=RATE, batch=BATCH),
    "plain": trainer(functools.partial(_f_sft, divergence="tv"), steps=SFT_STEPS, rate=RATE, batch=BATCH),
    "slow": trainer(functools.partial(_f_sft, divergence="tv"), steps=SFT_STEPS, rate=RATE / 5, batch=BATCH),
}
_logps = jax.jit(answer_logps)
_prefer = trainer(_dpo, steps=DPO_STEPS, rate=1e-3, batch=BATCH)


def kl_per_answer(p, q, seed: int) -> float:
    """KL(p || q) of whole answers, on samples of p."""
    prompts = jnp.asarray(np.random.default_rng(seed).integers(0, VOCAB, (2000, PROMPT)), jnp.int32)
    tokens = sample(p, prompts, jax.random.key(seed))
    a, b = (jax.nn.log_softmax(logits(m, tokens))[:, PROMPT:] for m in (p, q))
    return float(jnp.mean(jnp.sum(jnp.exp(a) * (a - b), axis=(1, 2))))


@functools.cache
def recipe(seed: int, names: tuple[str, ...] = ("chi2", "plain", "slow")) -> dict[str, dict[str, float]]:
    """Per way of fine-tuning: score after SFT, after DPO, and KL from the start."""
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    base = _pretrain(init(key), jnp.asarray(demonstrations(rng, 4000, 0.35)), jax.random.fold_in(key, 1))
    shown = jnp.asarray(demonstrations(rng, 200, 0.7))
    drawn, scores = candidates(base, rng, 1500, 2)
    better = np.argsort(-scores, axis=1, kind="stable")
    apart = scores[:, 0] != scores[:, 1]
    pairs = jnp.asarray(np.take_along_axis(drawn, better[..., None], axis=1)[apart])
    pairs = pairs[:, 0], pairs[:, 1]
    found = {}
    for name in names:
        tuned = _sft[name](base, (shown, _logps(base, shown)), jax.random.fold_in(key, 2))
        reference = tuple(_logps(tuned, side) for side in pairs)
        preferred = _prefer(tuned, (pairs, reference), jax.random.fold_in(key, 3))
        found[name] = {
            "sft": quality(tuned, seed),
            "dpo": quality(preferred, seed),
            "kl": kl_per_answer(tuned, base, seed),
        }
    return found


def measure(seed: int) -> dict[str, float]:
    found = recipe(seed)
    return {
        "method": found["chi2"]["dpo"],
        "baseline": found["plain"]["dpo"],
        "effect": found["chi2"]["dpo"] - found["plain"]["dpo"],
        "KL(SFT || start), chi2": found["chi2"]["kl"],
        "KL(SFT || start), plain": found["plain"]["kl"],
        "after SFT, chi2": found["chi2"]["sft"],
        "after SFT, plain": found["plain"]["sft"],
    }
