"""What W5 compares: three losses over a vocabulary head, each with its gradients, in jaxpo and in PyTorch.

A case is `build(shape) -> run`; `run() -> loss` evaluates the loss and its gradients in the hidden states and the
policy's output matrix.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.measure import forget_peak, resident_bytes

Run = Callable[[], float]
BETA, TOP = 0.1, 32
TRL_CHUNK = "_CHUNKED_LOGPROB_CHUNK_SIZE"


@dataclass(frozen=True)
class Shape:
    """Hidden states `[rows, length, width]` and a matrix `[vocab, width]`, float32; the first half is chosen."""

    rows: int = 8
    length: int = 2048
    width: int = 1024
    vocab: int = 65536

    @classmethod
    def of(cls, text: str) -> Shape:
        """From "rows,length,width,vocab"."""
        return cls(*map(int, text.split(",")))

    def __str__(self) -> str:
        return f"{self.rows},{self.length},{self.width},{self.vocab}"

    @property
    def tokens(self) -> int:
        return self.rows * self.length


def arrays(shape: Shape, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output matrix, hidden states and targets of one network; the targets are the same for all."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((shape.vocab, shape.width), np.float32) * np.float32(0.02)
    hidden = rng.standard_normal((shape.rows, shape.length, shape.width), np.float32)
    return weight, hidden, np.random.default_rng(9).integers(0, shape.vocab, (shape.rows, shape.length))


def jax_case(loss: str, shape: Shape, chunk: int | None) -> Run:
    """jaxpo's head; `chunk` None lets it choose, the length is dense."""
    import jax
    import jax.numpy as jnp

    weight, hidden, targets = (jnp.asarray(x) for x in arrays(shape, 0))
    more, value = JAX[loss](shape, chunk, targets)
    step = jax.jit(jax.value_and_grad(value, argnums=(0, 1))).lower(weight, hidden, *more).compile()

    def run() -> float:
        return float(jax.block_until_ready(step(weight, hidden, *more))[0])

    return run


def temporary_bytes(loss: str, shape: Shape, chunk: int | None) -> int:
    """What XLA plans for a case beyond its inputs and results, without running it."""
    import jax
    import jax.numpy as jnp

    weight = jax.ShapeDtypeStruct((shape.vocab, shape.width), jnp.float32)
    hidden = jax.ShapeDtypeStruct((shape.rows, shape.length, shape.width), jnp.float32)
    small = Shape(shape.rows, shape.length, 1, TOP)
    more, _ = JAX[loss](small, chunk, jnp.zeros((shape.rows, shape.length), jnp.int32))
    more = {"dpo": (weight, hidden)}.get(loss, more)
    _, value = JAX[loss](small, chunk, jnp.zeros((shape.rows, shape.length), jnp.int32))
    compiled = jax.jit(jax.value_and_grad(value, argnums=(0, 1))).lower(weight, hidden, *more).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)


def _jax_ce(shape: Shape, chunk: int | None, targets: Any) -> tuple[tuple[Any, ...], Callable[..., Any]]:
    from jaxpo.losses import vocab
    from jaxpo.ops.head import map_vocab

    def value(weight: Any, hidden: Any) -> Any:
        return -map_vocab(vocab.log_prob, ((weight, hidden),), targets, chunk=chunk).mean()

    return (), value


def _jax_dpo(shape: Shape, chunk: int | None, targets: Any) -> tuple[tuple[Any, ...], Callable[..., Any]]:
    import jax.numpy as jnp

    from jaxpo.losses import dpo, vocab
    from jaxpo.ops.head import map_vocab

    def value(weight: Any, hidden: Any, ref_weight: Any, ref_hidden: Any) -> Any:
        sides = []
        for w, h in ((weight, hidden), (ref_weight, ref_hidden)):
            logps = map_vocab(vocab.log_prob, ((w, h),), targets, chunk=chunk)
            sides += jnp.split(logps.sum(axis=1), 2)
        return dpo(*sides, beta=BETA).mean()

    ref_weight, ref_hidden, _ = arrays(shape, 1)
    return (jnp.asarray(ref_weight), jnp.asarray(ref_hidden)), value


def _jax_topk(shape: Shape, chunk: int | None, targets: Any) -> tuple[tuple[Any, ...], Callable[..., Any]]:
    import jax.numpy as jnp

    from jaxpo.losses.decoupled_topk_kd import decoupled_topk_kd
    from jaxpo.ops.head import map_vocab

    def term(logits: Any, record: Any) -> Any:
        ids, logps, odds = record
        return decoupled_topk_kd(logits, logps, jnp.zeros_like(odds), ids, log_odds=odds)

    def value(weight: Any, hidden: Any, *record: Any) -> Any:
        return map_vocab(term, ((weight, hidden),), record, chunk=chunk).mean()

    return tuple(jnp.asarray(x) for x in teacher(shape)), value


def teacher(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A recorded teacher: ids, log-probs and log-odds of its likeliest tokens, as `TopKRecord` holds them."""
    rng = np.random.default_rng(2)
    # Distinct ids: a start at random and equal strides.
    stride = max(1, shape.vocab // TOP)
    starts = rng.integers(0, shape.vocab, (shape.rows, shape.length, 1))
    ids = ((starts + stride * np.arange(TOP)) % shape.vocab).astype(np.int32)
    logits = rng.standard_normal(ids.shape, np.float32)
    inside = np.float32(0.9)
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True)) + np.log(inside)
    return ids, logps.astype(np.float32), np.full(ids.shape[:-1], np.log(inside / (1 - inside)), np.float32)


JAX: dict[str, Callable[..., Any]] = {"cross-entropy": _jax_ce, "dpo": _jax_dpo, "top-32": _jax_topk}


def torch_case(loss: str, shape: Shape, kind: str, threads: int) -> Run:
    """The same in PyTorch; `kind` "dense", "trl" or "liger"."""
    import torch

    torch.set_num_threads(threads)
    weight, hidden, targets = (torch.from_numpy(x) for x in arrays(shape, 0))
    leaves = [weight.requires_grad_(), hidden.requires_grad_()]
    value = TORCH[loss, kind](torch, shape, weight, hidden, targets)

    def run() -> float:
        for leaf in leaves:
            leaf.grad = None
        out = value()
        out.backward()
        return float(out.detach())

    return run


def _torch_logps(torch: Any, kind: str) -> Callable[[Any, Any, Any], Any]:
    """`(weight, hidden [R, S, D], targets) -> [R, S]` log-probs."""
    if kind == "dense":
        gather = torch.nn.functional.cross_entropy

        def dense(weight: Any, hidden: Any, targets: Any) -> Any:
            logits = hidden @ weight.T
            return -gather(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)

        return dense
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer import utils

    chunk = getattr(utils, TRL_CHUNK)

    def chunked(weight: Any, hidden: Any, targets: Any) -> Any:
        apply = ChunkedLogProbFunction.apply
        flat = apply(hidden.flatten(0, 1), weight, None, targets.flatten(), 1.0, chunk, None, 1.0, ())
        return flat[0].view(targets.shape)

    return chunked


def _torch_ce(kind: str) -> Callable[..., Any]:
    def build(torch: Any, shape: Shape, weight: Any, hidden: Any, targets: Any) -> Callable[[], Any]:
        logps = _torch_logps(torch, kind)
        return lambda: -logps(weight, hidden, targets).mean()

    return build


def _torch_dpo(kind: str) -> Callable[..., Any]:
    def build(torch: Any, shape: Shape, weight: Any, hidden: Any, targets: Any) -> Callable[[], Any]:
        logps = _torch_logps(torch, kind)
        ref_weight, ref_hidden, _ = (torch.from_numpy(x) for x in arrays(shape, 1))

        def value() -> Any:
            with torch.no_grad():
                ref_chosen, ref_rejected = logps(ref_weight, ref_hidden, targets).sum(1).chunk(2)
            chosen, rejected = logps(weight, hidden, targets).sum(1).chunk(2)
            margin = BETA * ((chosen - ref_chosen) - (rejected - ref_rejected))
            return -torch.nn.functional.logsigmoid(margin).mean()

        return value

    return build


def _liger_dpo(torch: Any, shape: Shape, weight: Any, hidden: Any, targets: Any) -> Callable[[], Any]:
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

    ref_weight, ref_hidden, _ = (torch.from_numpy(x) for x in arrays(shape, 1))
    loss = LigerFusedLinearDPOLoss(beta=BETA, compiled=False, use_ref_model=True, chunk_size=1)
    return lambda: loss(weight, hidden, targets, ref_input=ref_hidden, ref_weight=ref_weight)[0]


TORCH: dict[tuple[str, str], Callable[..., Any]] = {
    ("cross-entropy", "dense"): _torch_ce("dense"),
    ("cross-entropy", "trl"): _torch_ce("trl"),
    ("dpo", "dense"): _torch_dpo("dense"),
    ("dpo", "trl"): _torch_dpo("trl"),
    ("dpo", "liger"): _liger_dpo,
}


def one(loss: str, kind: str, shape: str, threads: str) -> dict[str, Any]:
    """Time, memory beyond what the inputs take, and the loss of one case; for a process of its own.

    The time is that of the second run: the first takes its memory from the system.
    """
    size = Shape.of(shape)
    chunks = {"jaxpo": None, "jaxpo, dense": size.length}
    if kind in chunks:
        run = jax_case(loss, size, chunks[kind])
    else:
        torch_case(loss, Shape(2, 8, 16, 64), kind, int(threads))()  # loads and warms what PyTorch needs
        run = torch_case(loss, size, kind, int(threads))
    before, known = resident_bytes("VmRSS"), forget_peak()
    run()
    start, spent = time.perf_counter(), time.process_time()
    value = run()
    wall, cpu = time.perf_counter() - start, time.process_time() - spent
    return {"wall": wall, "cpu": cpu, "peak": resident_bytes() - before if known else None, "loss": value}
