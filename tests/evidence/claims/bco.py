"""BCO: the reward shift carries a binary classifier beyond plain cross-entropy, towards DPO, on the same rows.

The scale of the rewards and the number of steps were set before the registered seeds were run, after trials on seeds 98
and 99: with noisier judges (scale 1 or 2) or 2000 steps, where all policies fit the noise, the effect there lay between
-0.1 and 0.33. What is measured holds for clear preferences and training that stops at DPO's KL of about 20.
"""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evidence.harness import Claim

from jaxpo.losses import bco, bco_shift, bco_stats, dpo, init_bco_state, kto, kto_kl, update_bco_shift

CONTEXTS, ACTIONS, PAIRS, REWARD_SCALE = 30, 12, 600, 3.0
BETA, STEPS, RATE = 0.1, 300, 0.1

CLAIM = Claim(
    method="bco",
    paper="arXiv:2404.04656",
    claim="On pairs taken apart, BCO's shift gives a better policy than binary cross-entropy without it.",
    baseline="binary cross-entropy (shift 0)",
    measure="true expected reward of the trained policy, BCO minus cross-entropy",
    seeds=tuple(range(10)),
    threshold=0.1,
    min_share=0.8,
)


def problem(seed, pairs=PAIRS):
    """True rewards `[30, 12]`, and rows of noisy pairs: context, better and worse action, `[n]` each.

    Two actions of a random context are drawn from a uniform reference and ordered by a Bradley-Terry judge.
    """
    rng = np.random.default_rng(seed)
    reward = REWARD_SCALE * rng.standard_normal((CONTEXTS, ACTIONS))
    context = rng.integers(0, CONTEXTS, pairs)
    a, b = rng.permuted(np.tile(np.arange(ACTIONS), (pairs, 1)), axis=1)[:, :2].T
    first = rng.random(pairs) < 1 / (1 + np.exp(reward[context, b] - reward[context, a]))
    return reward, (context, np.where(first, a, b), np.where(first, b, a))


def sides(logits, rows):
    """`P_w, P_l` and the uniform reference's log-prob, `[n]` each."""
    context, better, worse = rows
    logps = jax.nn.log_softmax(logits)
    return logps[context, better], logps[context, worse], jnp.full(context.shape, -jnp.log(ACTIONS))


def unpaired(logits, rows):
    """All rows with their label: `logps, ref_logps, label`, `[2 n]` each."""
    p_w, p_l, ref = sides(logits, rows)
    label = jnp.arange(2 * p_w.size) < p_w.size
    return jnp.concatenate([p_w, p_l]), jnp.concatenate([ref, ref]), label


def dpo_loss(logits, rows, state):
    p_w, p_l, ref = sides(logits, rows)
    return jnp.mean(dpo(p_w, p_l, ref, ref, beta=BETA)), state


def bce_loss(logits, rows, state):
    return jnp.mean(bco(*unpaired(logits, rows), 0.0, beta=BETA)), state


def bco_loss(logits, rows, state):
    """The shift moves first, with this step's rewards."""
    data = unpaired(logits, rows)
    state = update_bco_shift(state, bco_stats(*data, beta=BETA))
    return jnp.mean(bco(*data, bco_shift(state), beta=BETA)), state


def kto_loss(logits, rows, state):
    """Each row's action is scored in the next row's context for the reference point."""
    context, better, worse = rows
    p, ref, label = unpaired(logits, rows)
    mismatched = unpaired(logits, (jnp.roll(context, 1), better, worse))[0]
    return jnp.mean(kto(p, ref, label, kto_kl(mismatched, ref), beta=BETA)), state


@cache
def trainer(loss):
    """Full-batch Adam from the reference, compiled once; gives the final log-probs `[30, 12]`."""
    optimizer = optax.adam(RATE)

    @jax.jit
    def train(rows):
        def step(_, carry):
            logits, moments, state = carry
            slope, state = jax.grad(loss, has_aux=True)(logits, rows, state)
            update, moments = optimizer.update(slope, moments)
            return logits + update, moments, state

        logits = jnp.zeros((CONTEXTS, ACTIONS))
        start = (logits, optimizer.init(logits), init_bco_state())
        return jax.nn.log_softmax(jax.lax.fori_loop(0, STEPS, step, start)[0])

    return train


def measure(seed: int) -> dict[str, float]:
    """True expected reward under uniform contexts, and KL(reference || policy)."""
    reward, rows = problem(seed)
    found = {}
    for name, loss in {"BCO": bco_loss, "BCE": bce_loss, "DPO": dpo_loss, "KTO": kto_loss}.items():
        logps = np.asarray(trainer(loss)(tuple(jnp.asarray(x) for x in rows)), np.float64)
        found[name] = float(np.mean(np.sum(np.exp(logps) * reward, axis=1)))
        found[f"KL, {name}"] = float(np.mean(-np.log(ACTIONS) - logps))
    method, baseline = found.pop("BCO"), found.pop("BCE")
    return {"method": method, "baseline": baseline, "effect": method - baseline, **found}
