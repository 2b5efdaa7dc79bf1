"""The weights as the engine holds them: in the compute type, perhaps quantised, on its devices; and their exchange."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxpo.config.axes import BATCH_AXES, Rules
from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig, family
from jaxpo.models.quantize import contracted_axes, quantized
from jaxpo.models.spec import leaves, map_table, param_shardings
from jaxpo.ops.eigen import Eigen
from jaxpo.ops.linear import Standing
from jaxpo.ops.quant import Quant
from jaxpo.sharding import axis_size, current_rules, to_host, use_mesh

Tree = Any


@dataclass(frozen=True)
class Where:
    """The devices of an engine.

    Attributes:
      mesh: None = one device.
      rules: logical axes to mesh axes, where they are not the usual ones.
    """

    mesh: Mesh | None
    rules: Rules | None

    @classmethod
    def of(cls, mesh: Mesh | None) -> Where:
        """A mesh with the usual rules; without one the enclosing `use_mesh`, with its own."""
        return cls(mesh, None) if mesh is not None else cls(*(current_rules() or (None, None)))

    @property
    def share(self) -> int:
        """Devices that rows are shared among."""
        return 1 if self.mesh is None else axis_size(self.mesh, BATCH_AXES)

    @property
    def one_cpu(self) -> bool:
        """Whether all is computed by one CPU."""
        return jax.default_backend() == "cpu" and (self.mesh is None or self.mesh.size == 1)

    def entered(self) -> AbstractContextManager[None]:
        """The context in which programs run."""
        return use_mesh(self.mesh, self.rules)


@dataclass(frozen=True)
class Form:
    """How an engine holds weights.

    Attributes:
      dtype: compute type.
      quantize: see `jaxpo.models.quantize`; None = as they are.
      where: their devices.
      alike: whether every row of a product is computed alike, so that no bit of it depends on its place. Eigen computes
        the last few rows otherwise than the others.
    """

    dtype: Any
    quantize: str | None
    where: Where
    alike: bool


def prepared(params: Tree, config: TextConfig, form: Form) -> Tree:
    """Parameters ready for use: cast once instead of at every step, quantised if asked, shared among the devices.

    What a layer reads in float32, such as norms and routers, stays as it is.
    """
    dtype, where = form.dtype, form.where
    table = family(config).table(config)
    if where.mesh is not None:
        params = jax.device_put(params, param_shardings(table, where.mesh, where.rules))
    with where.entered():
        cast = map_table(lambda p, w: _cast(w, dtype) if _is_matrix(p) else w, table, params)
        if form.quantize is not None:
            return quantized(cast, config, form.quantize)
        fast = where.one_cpu and dtype == jnp.float32 and not form.alike
        return _in_eigen(cast, config) if fast else cast


def _is_matrix(param: Any) -> bool:
    """The embedding among them."""
    return param.muon is not None or "vocab" in param.axes


def _cast(weight: Any, dtype: Any) -> Any:
    """An array, or what stands for one of floats: eight bits and their scales are what they are."""
    return weight if isinstance(weight, Quant) else jax.tree.map(lambda part: part.astype(dtype), weight)


def _in_eigen(params: Tree, config: TextConfig) -> Tree:
    """The arrays that layers are multiplied with."""
    table = family(config).table(config)
    axes = contracted_axes(table, config)
    return map_table(lambda p, w: Eigen(w) if axes[id(p)] == 0 and not isinstance(w, Standing) else w, table, params)


def swapped(now: Tree, params: Tree, config: TextConfig, form: Form) -> Tree:
    """Other weights in the place of `now`, which are not touched.

    Raises:
      ConfigError: they are of another form, or some are not finite.
    """
    table = family(config).table(config)
    expected = {path: p.shape for path, p in leaves(table)}
    try:
        found = {path: w.shape for (path, _), w in zip(leaves(table), _leaves(table, params), strict=True)}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"the new weights are of another form than the model's ({error}); the old ones stay"
        ) from error
    wrong = [f"{path} is {found[path]}, not {shape}" for path, shape in expected.items() if found[path] != shape]
    if wrong:
        raise ConfigError([f"the new weights do not fit, and the old ones stay: {what}" for what in wrong])
    new = prepared(params, config, form)
    if jax.tree.map(lambda x: (x.shape, x.dtype), now) != jax.tree.map(lambda x: (x.shape, x.dtype), new):
        raise ConfigError("the new weights are of other types than those in use; the old ones stay")
    with form.where.entered():
        bad = [path for path, fine in zip(expected, to_host(_finite(_leaves(table, params))), strict=True) if not fine]
    if bad:
        raise ConfigError(f"the new weights are not finite in {', '.join(bad[:3])}; the old ones stay")
    return new


def check_there(params: Tree) -> None:
    """ConfigError if somebody gave away the memory of an array that the engine uses."""
    if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(params)):
        raise ConfigError(
            "the engine's weights are gone: their arrays were donated to a program, as a training step does with its "
            "parameters; give the engine, or its update, copies"
        )


def _leaves(table: Any, params: Tree) -> list[Any]:
    found: list[Any] = []
    map_table(lambda p, w: found.append(w), table, params)
    return found


@jax.jit
def _finite(params: Any) -> Any:
    return [jnp.all(jnp.isfinite(w)) for w in params]
