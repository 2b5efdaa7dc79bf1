"""The layers of a packed forward pass, one after another or, where groups of them repeat, in loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxpo.models.language import RouterSums, Tap
from jaxpo.models.lfm2.blocks import layer
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.grouping import UNROLLED_UP_TO, Group, bodies, grouped
from jaxpo.models.lfm2.mixers import Packed
from jaxpo.models.lfm2.recompute import recomputed
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import Table, map_table

Tree = Any
Run = Callable[[Tree, Array], tuple[Array, tuple[dict[str, Any], RouterSums | None]]]
"""`(a layer's parameters, x) -> (y, (what the tap kept, the router's sums))`."""


@dataclass(frozen=True)
class Stack:
    """How the layers of a packed batch are run.

    Attributes:
      config: architecture.
      where: layer type -> where the columns stand, as layers of that type see it.
      tap, remat, scan: see `jaxpo.models.lfm2.forward.backbone`.
    """

    config: LFM2Config
    where: Mapping[str, Packed]
    tap: Tap | None = None
    remat: str = "none"
    scan: bool | None = None
    _functions: dict[tuple[str, bool], Run] = field(default_factory=dict)

    def layer(self, index: int, *, looped: bool = False) -> Run:
        """One layer as a function of its parameters and input; in a loop nothing is tapped.

        Layers of one type are one function where their names do not matter: `jax.checkpoint` traces it once.
        """
        kind, tap = self.config.layer_types[index], None if looped else self.tap
        known = (kind, looped)
        if tap is None and known in self._functions:
            return self._functions[known]

        def run(p: Tree, x: Array) -> tuple[Array, tuple[dict[str, Any], RouterSums | None]]:
            y, _, seen, sums = layer(
                p, x, self.where[kind], config=self.config, kind=kind, tap=tap, name=f"layers/{index}"
            )
            return y, (seen, sums)

        made: Run = recomputed(run, self.remat, looped=looped)
        if tap is None:
            self._functions[known] = made
        return made

    def __call__(
        self, params: Tree, x: Float[Array, "R S D"]
    ) -> tuple[Float[Array, "R S D"], dict[str, Any], list[RouterSums]]:
        """`(after the last layer, what the tap kept, sums of the routers with a leading axis of layers, in order)`."""
        taps: dict[str, Any] = {}
        routed: list[RouterSums] = []
        for group in self.groups(params, x):
            if group.repeats > 1:
                x, sums = self._loop(params, x, group)
            else:
                x, (seen, one) = self.layer(group.start)(params[str(group.start)], x)
                taps |= seen
                sums = [] if one is None else [jax.tree.map(lambda s: s[None], one)]
            routed += sums
        return x, taps, routed

    def groups(self, params: Tree, x: Float[Array, "R S D"]) -> tuple[Group, ...]:
        """Layers by themselves and in loops; those of which the tap keeps something stay by themselves."""
        layers = range(self.config.num_hidden_layers)
        if not in_loops(self.config, self.scan, self.remat):
            return tuple(map(Group, layers))
        alike = [self._signature(i, params[str(i)]) for i in layers]
        watched = set() if self.tap is None else self._watched(params, x, alike, self.tap)
        return grouped(tuple(i if i in watched else like for i, like in enumerate(alike)))

    def _signature(self, index: int, params: Tree) -> Any:
        """Equal for layers that one program computes: of the same type, with leaves of the same kind and shape."""
        leaves, structure = jax.tree.flatten(params)
        return self.config.layer_types[index], structure, tuple((w.shape, jnp.dtype(w.dtype)) for w in leaves)

    def _watched(self, params: Tree, x: Array, alike: Sequence[Any], tap: Tap) -> set[int]:
        """The layers of which the tap keeps something, from shapes alone."""
        seen: dict[Any, dict[str, Any]] = {}
        for i, like in enumerate(alike):
            if like not in seen:
                kind = self.config.layer_types[i]
                everything = {"config": self.config, "kind": kind, "tap": lambda name, x: x}
                run = lambda p, x, i=i, kind=kind, more=everything: layer(p, x, self.where[kind], **more)[2]  # noqa: E731
                seen[like] = jax.eval_shape(run, params[str(i)], x)
        return {
            i
            for i, like in enumerate(alike)
            if any(
                jax.eval_shape(lambda x, name=f"layers/{i}{part}": tap(name, x), shape) is not None
                for part, shape in seen[like].items()
            )
        }

    def _loop(self, params: Tree, x: Array, group: Group) -> tuple[Array, list[RouterSums]]:
        """A repeated group of layers in `lax.scan`, over copies in the compute type that are stacked here."""
        runs = [self.layer(i, looped=True) for i in range(group.start, group.start + group.period)]
        copies = [self._stacked(params, group.layers(place), x.dtype) for place in range(group.period)]

        def body(x: Array, copies: Sequence[Tree]) -> tuple[Array, list[RouterSums]]:
            routed = []
            for run, p in zip(runs, copies, strict=True):
                x, (_, sums) = run(p, x)
                routed += [] if sums is None else [sums]
            return x, routed

        x, routed = lax.scan(body, x, copies)
        return x, [in_order(routed)] if routed else []

    def _stacked(self, params: Tree, layers: range, dtype: Any) -> Tree:
        """`[*s]` of each layer to `[layers, *s]`, in the type in which a layer uses them.

        The gradient of a stack is its slices. Under a mesh XLA leaves both where their parts lie, the stack's own axis
        on no device: a constraint that said so changed nothing that moves, on fsdp with tensor, expert and sequence.
        """
        table = param_table(self.config)["layers"][str(layers[0])]
        copies = [compute_copy(table, params[str(i)], dtype) for i in layers]
        stacks: Tree = jax.tree.map(lambda *w: jnp.stack(w), *copies)
        return stacks


def in_loops(config: LFM2Config, scan: bool | None, remat: str) -> bool:
    """Whether repeated groups of layers run in loops: as `scan` says, and if it says nothing in deep models.

    On CPU depth does not matter, as its compiler takes as long for a loop that keeps activations as for the layers one
    by one; where something is recomputed they do run in loops, for only there does that save memory: of layers one by
    one XLA computes everything again as early as it can, and holds it until the backward pass.
    """
    if scan is not None:
        return scan
    return remat != "none" if jax.default_backend() == "cpu" else config.num_hidden_layers > UNROLLED_UP_TO


def layers_in_program(config: LFM2Config, scan: bool | None, remat: str) -> int:
    """Layers that a forward pass is made of, where all layers of a type have leaves of the same kind and shape."""
    if not in_loops(config, scan, remat):
        return config.num_hidden_layers
    return bodies(grouped(tuple((kind, config.is_mixture(i)) for i, kind in enumerate(config.layer_types))))


def compute_copy(table: Table, params: Tree, dtype: Any) -> Tree:
    """A layer's parameters with the matrices, of which Muon takes each for one, in the type of their products.

    What a layer reads in float32, such as taps and routers, stays as it is: it is small.
    """
    return map_table(
        lambda p, w: w if p.muon is None else jax.tree.map(lambda part: part.astype(dtype), w), table, params
    )


def in_order(routed: Sequence[RouterSums]) -> RouterSums:
    """Sums of the mixtures of a period, each `[repeats, ...]`, as `[layers, ...]` in the order of the layers."""
    return jax.tree.map(lambda *s: jnp.stack(s, axis=1).reshape(-1, *s[0].shape[1:]), *routed)
