"""A training step of jaxpo's and of PyTorch's on transformers' model, with the same weights, for W1 and W10."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from benchmarks.subject import in_transformers, params_of
from jaxpo.config import Compute, Optimizer, Pretrain
from jaxpo.data.packing.batch import Batch
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.sharding import make_mesh
from jaxpo.stages.assemble import assemble, make_scorer
from jaxpo.train.init import init_state
from jaxpo.train.jaxpr_flops import count_flops

JAXPO, EAGER, COMPILED = "jaxpo", "transformers, eager", "transformers, torch.compile"
OPTIMIZER = Optimizer(lr_scheduler_type="constant")


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
