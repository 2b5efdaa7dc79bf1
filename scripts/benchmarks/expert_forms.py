"""The same layer several times over: forward, and forward with every gradient, as functions of no argument."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.experts import experts_table, mixture
from jaxpo.models.lfm2.router import route
from jaxpo.models.spec import init_params

Tree = Any
Run = Callable[[], Any]


@dataclass(frozen=True)
class Shape:
    """One layer: `tokens` rows of `width` through `k` of `experts` experts of width `inner`, float32."""

    tokens: int = 1024
    width: int = 512
    inner: int = 448
    experts: int = 32
    k: int = 4

    def config(self) -> LFM2Config:
        return LFM2Config(
            hidden_size=self.width,
            num_experts=self.experts,
            num_experts_per_tok=self.k,
            moe_intermediate_size=self.inner,
            num_dense_layers=0,
        )

    def flops(self) -> float:
        """Multiply-adds counted as two, of the experts that a token is sent to, forward."""
        return 6.0 * self.tokens * self.k * self.width * self.inner


def inputs(shape: Shape) -> tuple[Tree, jax.Array]:
    """Random weights (a router with an uneven load) and tokens."""
    params = init_params(experts_table(shape.config(), "layer"), jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (1, shape.tokens, shape.width))
    return params, x


def _both(layer: Callable[[Tree, jax.Array], jax.Array], params: Tree, x: jax.Array) -> tuple[Run, Run]:
    forward = jax.jit(layer)
    backward = jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.square(layer(p, x))), argnums=(0, 1)))
    return functools.partial(forward, params, x), functools.partial(backward, params, x)


def grouped(shape: Shape) -> tuple[Run, Run]:
    """jaxpo's layer."""
    config, (params, x) = shape.config(), inputs(shape)
    real = jnp.ones(x.shape[:2], bool)
    return _both(lambda p, x: mixture(p, x, real, config)[0], params, x)


def every_expert(shape: Shape) -> tuple[Run, Run]:
    """Every token through every expert, weighted by zero where it was not sent: what needs no sorting."""
    config, (params, x) = shape.config(), inputs(shape)

    def layer(p: Tree, x: jax.Array) -> jax.Array:
        routing = route(p, x, config)
        weights = jnp.sum(jax.nn.one_hot(routing.experts, shape.experts) * routing.weights[..., None], axis=-2)
        w1, w2, w3 = (p["experts"][name]["weight"] for name in ("w1", "w2", "w3"))
        hidden = jax.nn.silu(jnp.einsum("rsd,edf->ersf", x, w1)) * jnp.einsum("rsd,edf->ersf", x, w3)
        return jnp.einsum("ersf,efd,rse->rsd", hidden, w2, weights)

    return _both(layer, params, x)


def one_dense(shape: Shape) -> tuple[Run, Run]:
    """A dense feed-forward of the same active width: what the experts cost if routing were free."""
    _, (params, x) = shape.config(), inputs(shape)
    e = params["experts"]
    w1, w3 = (jnp.concatenate(list(e[n]["weight"][: shape.k]), axis=1) for n in ("w1", "w3"))
    dense = {"w1": w1, "w3": w3, "w2": jnp.concatenate(list(e["w2"]["weight"][: shape.k]), axis=0)}
    return _both(lambda p, x: (jax.nn.silu(x @ p["w1"]) * (x @ p["w3"])) @ p["w2"], dense, x)


def transformers(shape: Shape, implementation: str, threads: int) -> tuple[Run, Run]:
    """transformers' Lfm2MoeSparseMoeBlock with the same weights."""
    import torch
    from transformers import Lfm2MoeConfig
    from transformers.models.lfm2_moe.modeling_lfm2_moe import Lfm2MoeSparseMoeBlock

    torch.set_num_threads(threads)
    config = Lfm2MoeConfig(
        hidden_size=shape.width,
        num_experts=shape.experts,
        num_experts_per_tok=shape.k,
        moe_intermediate_size=shape.inner,
    )
    config._experts_implementation = implementation
    block = Lfm2MoeSparseMoeBlock(config)
    params, x = jax.tree.map(np.asarray, inputs(shape))
    e = {name: params["experts"][name]["weight"].transpose(0, 2, 1) for name in ("w1", "w2", "w3")}
    with torch.no_grad():
        block.gate.weight.copy_(torch.from_numpy(params["gate"]["weight"].T.copy()))
        block.experts.gate_up_proj.copy_(torch.from_numpy(np.concatenate([e["w1"], e["w3"]], axis=1)))
        block.experts.down_proj.copy_(torch.from_numpy(e["w2"].copy()))
    tokens = torch.from_numpy(x.copy()).requires_grad_()

    def forward() -> Any:
        with torch.no_grad():
            return block(tokens)

    def backward() -> Any:
        block.zero_grad()
        tokens.grad = None
        block(tokens).square().sum().backward()
        return tokens.grad

    return forward, backward
