"""W1: a training step, beside transformers' model trained in PyTorch, eager and compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.ceilings import best_products, described, has
from benchmarks.measure import ChildFailed, alone, interleaved, say
from benchmarks.subject import about, config_of, in_transformers, params_of, size_of, tokens_of, training_products
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.config import Compute, Optimizer, Pretrain
from jaxpo.data.packing.batch import Batch
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.sharding import make_mesh
from jaxpo.stages.assemble import assemble, make_scorer
from jaxpo.train.flops import training_flops_per_token
from jaxpo.train.init import init_state
from jaxpo.train.jaxpr_flops import count_flops

Run = Callable[[], Any]
OPTIMIZER = Optimizer(lr_scheduler_type="constant")
TOLERANCE = 1e-4
COMPILE_LIMIT = 300.0
JAXPO, EAGER, COMPILED = "jaxpo", "transformers, eager", "transformers, torch.compile"


class Fixed:
    """A source of one batch, for the parts of a stage that ask for no more than its budget."""

    hash = "fixed"

    def total_steps(self, stage: Any) -> int:
        return stage.max_steps


def packed(tokens: np.ndarray) -> Batch:
    """Rows of one document each."""
    rows, length = tokens.shape
    supervised = np.ones(tokens.shape, bool)
    supervised[:, 0] = False
    return Batch(
        tokens=tokens,
        segment_ids=np.ones_like(tokens),
        positions=np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape).copy(),
        masks={"completion": supervised},
        per_token={},
        per_segment={},
        per_example={},
        roles={"text": np.zeros(rows, np.int32)},
        example_id=np.arange(rows, dtype=np.int32),
        block_rows=1,
        slots=1,
        max_segment=length,
    )


class Ours:
    """jaxpo's stage as `jaxpo run` assembles it; a call takes a step and returns its loss."""

    def __init__(self, config: LFM2Config, tokens: np.ndarray):
        rows = len(tokens)
        stage = Pretrain(rows_per_step=rows, max_steps=1_000_000, optimizer=OPTIMIZER)
        mesh = make_mesh({}, jax.devices()[:1])
        self.assembly = assemble(stage, Fixed(), make_scorer(config, Compute()), mesh, {})  # type: ignore[arg-type]
        a = self.assembly
        self.state = init_state(a.abstract, {"model": params_of(config)}, a.optimizer, a.objective, 0)
        self.batch = packed(tokens)

    def __call__(self) -> float:
        self.state, metrics = self.assembly.step(self.state, {}, self.assembly.put(self.batch))
        return float(metrics["loss"].value())

    def flops(self) -> float:
        """Of the products that a step computes, from its program."""
        return count_flops(self.assembly.step, self.state, {}, self.assembly.put(self.batch)).flops


class Theirs:
    """The loop that transformers' users write: forward with labels, backward, clipping, AdamW."""

    def __init__(self, config: LFM2Config, tokens: np.ndarray, threads: int, *, compiled: bool = False):
        import torch

        self.torch = torch
        self.model = in_transformers(params_of(config), config, threads).train()
        self.forward = torch.compile(self.model) if compiled else self.model
        self.ids = torch.from_numpy(tokens.astype(np.int64))
        self.optimizer = self._faster_optimizer()

    def __call__(self) -> float:
        out = self.forward(input_ids=self.ids, labels=self.ids, use_cache=False)
        out.loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(out.loss.detach())

    def _faster_optimizer(self) -> Any:
        """Fused or looped over lists, whichever takes less time here; tried without a learning rate."""
        for p in self.model.parameters():
            p.grad = self.torch.zeros_like(p)
        took = {name: self._seconds(self._optimizer(0.0, name)) for name in ("fused", "foreach")}
        self.model.zero_grad(set_to_none=True)
        return self._optimizer(OPTIMIZER.learning_rate, min(took, key=took.__getitem__))

    def _optimizer(self, rate: float, kind: str) -> Any:
        betas = (OPTIMIZER.adam_beta1, OPTIMIZER.adam_beta2)
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": OPTIMIZER.weight_decay},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        return self.torch.optim.AdamW(groups, lr=rate, betas=betas, eps=OPTIMIZER.adam_epsilon, **{kind: True})

    @staticmethod
    def _seconds(optimizer: Any) -> float:
        optimizer.step()
        start = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - start


def compile_alone(smoke: str, threads: str) -> float:
    """Fill PyTorch's cache of compiled code; seconds to the first step's end."""
    options = Options(smoke=smoke == "1", threads=int(threads))
    config = config_of(options)
    run = Theirs(config, tokens_of(config, *size_of(options)), options.threads, compiled=True)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def contestants(
    config: LFM2Config, tokens: np.ndarray, options: Options
) -> tuple[dict[str, Run], dict[str, str], list]:
    """Those that run here, why others do not, and notes."""
    found: dict[str, Run] = {JAXPO: Ours(config, tokens)}
    if not options.peers:
        return found, {}, []
    if not (has("torch") and has("transformers")):
        return found, dict.fromkeys((EAGER, COMPILED), "torch and transformers are not installed"), []
    found[EAGER] = Theirs(config, tokens, options.threads)
    if options.smoke:
        return found, {COMPILED: "a smoke run does not wait for the compiler"}, []
    say("  torch.compile, first in a process of its own")
    try:
        args = (str(int(options.smoke)), str(options.threads))
        took = alone("benchmarks.train_step", "compile_alone", *args, timeout=COMPILE_LIMIT, threads=options.threads)
    except ChildFailed as error:
        return found, {COMPILED: f"torch.compile: {error}"}, []
    found[COMPILED] = Theirs(config, tokens, options.threads, compiled=True)
    return found, {}, [f"The first compiled step of PyTorch took {took.result:.0f} s."]


def agree(runs: dict[str, Run]) -> dict[str, float]:
    """The first three losses of every contestant, which must be jaxpo's: the first to rounding, two after updates.

    Raises:
      ValueError: somebody trains something else.
    """
    losses = {name: [run() for _ in range(3)] for name, run in runs.items()}
    for name, found in losses.items():
        worst = max(abs(a - b) / abs(b) for a, b in zip(found, losses[JAXPO], strict=True))
        if not worst < TOLERANCE:
            raise ValueError(f"{name} trains something else: losses {found}, jaxpo's {losses[JAXPO]}")
    return {name: found[-1] for name, found in losses.items()}


def measure(options: Options) -> Result:
    """Tokens per second of a whole step, beside what the step's products alone would allow."""
    config, (rows, length) = config_of(options), size_of(options)
    tokens = tokens_of(config, rows, length)
    start = time.perf_counter()
    runs, missing, notes = contestants(config, tokens, options)
    agree(runs)
    say(f"  all train the same after {time.perf_counter() - start:.0f} s of preparation")
    products = best_products(training_products(config, rows * length), peers=options.peers)
    ceiling = max(products.values()) / training_flops_per_token(config, (length + 1) / 2)
    times = interleaved(runs, options)
    measured = [Row(name, rows * length, t.wall, t.cpu, ceiling=ceiling) for name, t in times.items()]
    absent = [Row(name, missing=why) for name, why in missing.items()]
    table = Table(f"training step, batch {rows} x {length}", "tokens", (*measured, *absent))
    notes = [
        f"Shape: {about(config)}; AdamW with clipping; the losses of three steps agree within {TOLERANCE:.0e}.",
        "The ceiling: the step's matrix products and attention at the speed of the faster library's plain products.",
        *notes,
    ]
    return Result((table,), described(products), tuple(notes))


WORK = Work("W1", "a training step", "at least as fast as transformers, in wall and in processor time", measure)
