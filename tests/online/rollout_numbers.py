"""A generation of answers with everything that the trainer records of them, and features made of it."""

import jax.numpy as jnp
import numpy as np

from jaxpo.objectives.families.features import Side, Tokens
from jaxpo.objectives.families.rollouts import Rollouts
from jaxpo.online.answers import Answer, Group, Prompt
from jaxpo.online.generation import Generation
from jaxpo.online.recording import Recorded

LENGTHS = np.asarray([[4, 1, 6], [2, 5, 3]])
REWARDS = np.asarray([[1.0, 0.25, -0.5], [2.0, np.nan, 0.0]])
COUNT, LONGEST = LENGTHS.size, 6
MASK = np.arange(LONGEST)[None, :] < LENGTHS.reshape(-1, 1)
KNOWN = MASK & ~np.isnan(REWARDS.reshape(-1, 1))
_RNG = np.random.default_rng(11)
OLD = np.float32(-_RNG.gamma(2.0, 0.5, MASK.shape)).astype(np.float64)
REF = np.float32(OLD + 0.4 * _RNG.standard_normal(MASK.shape)).astype(np.float64)
VALUES = np.float32(0.5 * _RNG.standard_normal(MASK.shape)).astype(np.float64)
NEW = OLD + 0.35 * _RNG.standard_normal(MASK.shape)
NEW_VALUES = VALUES + 0.3 * _RNG.standard_normal(MASK.shape)
COEF = 0.3


def generation():
    """Two groups of three."""
    prompt = Prompt(0, np.int32([1, 2]), "two?", {})
    groups = []
    for g in range(2):
        answers = [
            Answer(np.full(n, 5, np.int32), np.float32(OLD[i, :n]), np.float32(OLD[i, :n]), n != 6, "x")
            for i, n in enumerate(LENGTHS[g], start=3 * g)
        ]
        groups.append(Group(g, g, prompt, tuple(answers)))
    return Generation(0, "w", groups, REWARDS[..., None], np.zeros(REWARDS.shape), 2)


def rows(x):
    """Float32 tokens, answer by answer."""
    return [np.float32(x[i, :n]) for i, n in enumerate(LENGTHS.reshape(-1))]


def recorded():
    """By the trainer."""
    return Recorded({"old_logps": rows(OLD), "ref_logps": rows(REF), "old_values": rows(VALUES)}, COEF)


def on_grid(parts):
    """`[N, T]`, NaN where there is no token."""
    found = np.full(MASK.shape, np.nan)
    for i, x in enumerate(parts):
        found[i, : len(x)] = x
    return found


def features(columns, logps, values=None):
    """What a method reads in a step."""
    zero = jnp.zeros(COUNT)
    grids = {name: jnp.nan_to_num(jnp.float32(on_grid(parts))) for name, parts in columns.items()}
    grids["sampling_logps"] = jnp.float32(OLD)
    on = jnp.asarray(KNOWN)
    tokens = Tokens(logps, grids.get("ref_logps", jnp.zeros_like(logps)), on, jnp.zeros_like(on), grids)
    about = {
        "reward": jnp.nan_to_num(jnp.float32(REWARDS.reshape(-1))),
        "rewarded": jnp.float32(~np.isnan(REWARDS.reshape(-1))),
        "finished": jnp.float32(LENGTHS.reshape(-1) != 6),
        "kl_coef": jnp.full(COUNT, COEF),
    }
    extra = {} if values is None else {"values": values}
    return Rollouts(
        Side(zero, zero, zero, zero, zero, {}, tokens),
        grids.get("old_logps", jnp.float32(OLD)),
        jnp.ones(MASK.shape),
        jnp.ones(COUNT, bool),
        about,
        extra,
    )
