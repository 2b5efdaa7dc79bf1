"""Small trainable heads beside a model, each with a parameter table of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.models.family import TextConfig, param_table
from jaxpo.models.spec import Init, Param, Table, normal, ones, zeros
from jaxpo.ops.linear import linear


def linear_table(config: TextConfig, outputs: int, *, std: float = 0.0) -> Table:
    """K numbers per position (aspects of a reward, an embedding): weight `[D, K]`, zero by default, else Gaussian."""
    init = normal(std) if std else zeros
    return {"weight": Param((config.hidden_size, outputs), ("embed", None), init, decay=False)}


def linear_head(params: Any, hidden: Float[Array, "... D"]) -> Float[Array, "... K"]:
    """`W^T h` in float32: rewards and values are differences of small numbers."""
    return linear(hidden.astype(jnp.float32), params["weight"])


def biased_table(config: TextConfig, outputs: int, *, std: float = 0.0) -> Table:
    """As `linear_table`, with a bias for each output: of numbers on a scale that somebody has chosen."""
    return {**linear_table(config, outputs, std=std), "bias": Param((outputs,), (None,), zeros, decay=False)}


def biased_head(params: Any, hidden: Float[Array, "... D"]) -> Float[Array, "... K"]:
    """`W^T h + b` in float32."""
    return linear_head(params, hidden) + params["bias"]


def embedding_table(config: TextConfig, size: int) -> Table:
    """A vector per position: `[D, E]`, Gaussian of standard deviation 1/(D + 1), as preference embeddings begin."""
    return linear_table(config, size, std=1.0 / (config.hidden_size + 1))


def embedding(params: Any, hidden: Float[Array, "... D"], *, unit_length: bool = True) -> Float[Array, "... E"]:
    """`e = W^T h`, or `e / |e|`, in float32; where e is 0 it stays 0, with a finite gradient."""
    e = linear_head(params, hidden)
    return unit(e) if unit_length else e


def unit(e: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """`e / |e|`; where e is 0 it stays 0, with a finite gradient."""
    square = jnp.sum(e * e, axis=-1, keepdims=True)
    return e * jax.lax.rsqrt(jnp.maximum(square, SMALLEST_SQUARE))


SMALLEST_SQUARE = 1e-12
"""Vectors shorter than its root keep their direction, and are not stretched to length 1."""


def adapter_head_table(config: TextConfig, width: int, outputs: int) -> Table:
    """Two layers from a state to K logits, and the K offsets and scales of what they were learnt from.

    The first layer is drawn, the second starts at zero: all outputs are alike until something is learnt.
    """
    return {
        "hidden": _linear(config.hidden_size, width),
        "output": {
            "weight": Param((width, outputs), (None, None), zeros, decay=False),
            "bias": Param((outputs,), (None,), zeros, decay=False),
        },
        "offset": Param((outputs,), (None,), zeros, decay=False),
        "scale": Param((outputs,), (None,), ones, decay=False),
    }


def adapter_head(params: Any, hidden: Float[Array, "... D"]) -> Float[Array, "... K"]:
    """`W_2 gelu(W_1 h + b_1) + b_2` in float32."""
    inner = jax.nn.gelu(linear_head(params["hidden"], hidden) + params["hidden"]["bias"])
    return linear_head(params["output"], inner) + params["output"]["bias"]


def value_table(config: TextConfig, *, std: float = 0.0) -> Table:
    """A scalar per position, stored under `params["value"]`, which is always one: judges and exports read it."""
    return linear_table(config, 1, std=std)


def value(params: Any, hidden: Float[Array, "... D"]) -> Float[Array, "..."]:
    """`v = w^T h` in float32."""
    return linear_head(params, hidden)[..., 0]


def critic_table(config: TextConfig, *, network: bool = True, outputs: int = 1) -> dict[str, Table]:
    """PPO's critic, stored under `params["critic"]`: a network of its own with a value head, or that head alone.

    A head has an output for every stream of rewards. It is not `params["value"]`, so that nobody takes the policy for a
    reward model.
    """
    own = {"model": param_table(config)} if network else {}
    return {**own, "value": linear_table(config, outputs)}


def log_odds(output: Float[Array, "V D"], hidden: Float[Array, "... D"], yes: int, no: int) -> Float[Array, "..."]:
    """`log p(yes) - log p(no)` of the next token, in float32: a reward that needs no head of its own."""
    return hidden.astype(jnp.float32) @ (output[yes].astype(jnp.float32) - output[no].astype(jnp.float32))


def lacks_value(params: Mapping[str, Any]) -> str:
    """Why judges, constructions and exports cannot take a model for a reward model; nothing if they can."""
    if "value" in params:
        return ""
    others = further_heads(params)
    return f"has no value head{f' (no single reward comes from {others})' if others else ''}"


def further_heads(params: Mapping[str, Any]) -> str:
    """Names of the heads that only their method can read."""
    return ", ".join(sorted(params.keys() - {"model", "value"}))


MASK_UNITS = 200
"""Width of SparsePO's two-layer mask heads."""


def mask_table(
    config: TextConfig,
    *,
    heads: Literal["all_layers", "last_layer", "two_layer"] = "all_layers",
    independent: bool = False,
) -> Table:
    """SparsePO's mask networks, stored under `params["mask"]`: "reward", and "kl" too when the masks are independent.

    "all_layers" has a linear head per layer (the embedding's output excluded) on one shared layer normalisation, and a
    mixer; "two_layer" puts a linear map to 200 units in front of each head; "last_layer" is one head on the final,
    already normalised state. Heads start uniform in +-1/sqrt(fan-in), as in the released code. The mixer starts at
    1/L, not at random: if its weights come out negative the mask is 0 everywhere and never moves.
    """
    names = ("reward", "kl") if independent else ("reward",)
    return {name: _mask_network(config, heads) for name in names}


def _mask_network(config: TextConfig, heads: str) -> Table:
    d, layers = config.hidden_size, config.num_hidden_layers
    if heads == "last_layer":
        return {"layers": {"0": _linear(d, 1)}}
    head = {**_linear(MASK_UNITS, 1), "hidden": _linear(d, MASK_UNITS)} if heads == "two_layer" else _linear(d, 1)
    return {
        "norm": {"weight": Param((d,), (None,), ones), "bias": Param((d,), (None,), zeros)},
        "layers": {str(i): dict(head) for i in range(layers)},
        "mixer": {"weight": Param((layers,), (None,), _constant(1.0 / layers))},
    }


def _linear(fan_in: int, out: int) -> dict[str, Any]:
    init = _uniform(fan_in**-0.5)
    return {"weight": Param((fan_in, out), (None, None), init), "bias": Param((out,), (None,), init)}


def _uniform(bound: float) -> Init:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, jnp.float32, -bound, bound).astype(dtype)


def _constant(value: float) -> Init:
    return lambda key, shape, dtype: jnp.full(shape, value, dtype)


def degree_table(config: TextConfig, *, levels: int = 4) -> Table:
    """SPO's preference-degree head D -> K, stored under `params["degree"]`: zero, so that its loss starts at log K."""
    return {
        "weight": Param((config.hidden_size, levels), ("embed", None), zeros, decay=False),
        "bias": Param((levels,), (None,), zeros, decay=False),
    }


EXTRA_TABLES: dict[str, Callable[[TextConfig], Table]] = {
    "value": value_table,
    "mask": mask_table,
    "degree": degree_table,
    "critic": critic_table,
}
"""Name of a parameter group beside the model -> builder of its table in its default form."""
