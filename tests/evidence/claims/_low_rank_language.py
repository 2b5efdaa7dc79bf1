"""A language of 256 tokens whose next token depends on the last two, a teacher that has seen much of it, and students.

p(x_t | x_t-1, x_t-2) = softmax(W (a[x_t-1] + b[x_t-2])) with factors of rank 12: the likeliest eight tokens hold about
half of the mass, so a top-K record has a tail worth the name. The truth is known, and with it the entropy.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evidence.claims._token_lm import text_batch

from jaxpo.data.packing.batch import Batch
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.tokens import next_token
from jaxpo.objectives.methods import METHODS
from jaxpo.train.init import build_state
from jaxpo.train.step import make_step

VOCAB, LENGTH, ROWS, RANK, K = 256, 33, 32, 12, 8
TEACHER_STEPS, TEACHER_RATE = 960, 4e-3
STEPS, RATE = 240, 4e-3
Tree = Any


def _config(width: int) -> LFM2Config:
    return LFM2Config(
        vocab_size=VOCAB,
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=width // 2,
        layer_types=("conv", "full_attention"),
        initializer_range=0.1,
    )


TEACHER, STUDENT = Scorer(_config(64)), Scorer(_config(32))


@functools.cache
def language() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W, a and b."""
    rng = np.random.default_rng(1234)
    return tuple(scale * rng.standard_normal((VOCAB, RANK)) for scale in (1.0, 0.5, 0.3))  # type: ignore[return-value]


def texts(rng: np.random.Generator, n: int) -> np.ndarray:
    """`[n, LENGTH]` tokens, by inverting the cumulated probabilities."""
    w, a, b = language()
    tokens = np.zeros((n, LENGTH), np.int32)
    tokens[:, :2] = rng.integers(VOCAB, size=(n, 2))
    for t in range(2, LENGTH):
        z = (a[tokens[:, t - 1]] + b[tokens[:, t - 2]]) @ w.T
        p = np.exp(z - z.max(1, keepdims=True))
        mass = np.cumsum(p / p.sum(1, keepdims=True), axis=1)
        tokens[:, t] = np.minimum((rng.random((n, 1)) > mass).sum(1), VOCAB - 1)
    return tokens


def batches(seed: int, steps: int) -> list[Batch]:
    """Fresh texts for every step."""
    rng = np.random.default_rng(seed)
    return [text_batch(texts(rng, ROWS)) for _ in range(steps)]


@functools.cache
def held_out() -> Batch:
    """Texts that no network is trained on."""
    return text_batch(texts(np.random.default_rng(987), 256))


@functools.cache
def trainer(name: str | None, tau: float, rate: float, teacher: bool) -> tuple[Any, Any, Any]:
    """Objective, optimiser and compiled step: plain next-token prediction, or a method beside the teacher."""
    scorer, optimizer = TEACHER if teacher else STUDENT, optax.adam(rate)
    if name is None:
        objective = next_token(scorer)
    else:
        method = METHODS[name](top_k=K, tau=tau)
        objective = method.build(scorer, scorers={"teacher": TEACHER})
    return objective, optimizer, jax.jit(make_step(objective, optimizer, optax.constant_schedule(rate)))


def fit(name: str | None, seed: int, steps: int, rate: float, frozen: Tree, *, tau: float = 1.0) -> Tree:
    """A model after `steps` steps; without frozen networks and without a method it is the teacher."""
    teacher = name is None and not frozen
    objective, optimizer, step = trainer(name, tau, rate, teacher)
    params = {"model": init_params(param_table(_config(64 if teacher else 32)), jax.random.key(seed))}
    state = build_state(params, optimizer, objective, jax.random.key(seed))
    for batch in batches(seed, steps):
        state, _ = step(state, frozen, batch)
    return state.params["model"]


@functools.cache
def teacher() -> Tree:
    """One teacher for all students, from four times as many texts as any of them sees."""
    return fit(None, 77, TEACHER_STEPS, TEACHER_RATE, {})


@functools.partial(jax.jit, static_argnums=0)
def _loss(scorer: Scorer, model: Tree, batch: Batch) -> jax.Array:
    mask = batch.masks["completion"]
    return -jnp.sum(jnp.where(mask, scorer.logps(model, batch), 0.0)) / jnp.sum(mask)


@functools.cache
def student_loss(name: str | None, seed: int, tau: float = 1.0) -> float:
    """Held-out nats per token of a student: cross-entropy alone, or with a method's loss beside it at equal weight."""
    return float(_loss(STUDENT, fit(name, seed, STEPS, RATE, {"teacher": teacher()}, tau=tau), held_out()))


def teacher_loss() -> float:
    """Held-out nats per token of the teacher."""
    return float(_loss(TEACHER, teacher(), held_out()))
