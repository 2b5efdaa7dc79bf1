"""Low-rank adapters: which leaves of a parameter table get one, their own table, and how they join the model.

An adapter is a second parameter table beside the model's: the same nesting, cut down to the adapted leaves, with `a`
and `b` in the place of each. Sharding, optimiser masks, the abstract tree for a restore and the names in a PEFT file
are derived from it as from any other table.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxpo.config import LoRA
from jaxpo.errors import ConfigError, near_misses
from jaxpo.models.spec import TRANSPOSE, Layout, Param, Table, leaves, normal, param_count, zeros
from jaxpo.ops.linear import LowRank

Tree = Any
ALL_LINEAR = "all-linear"
_MATRIX = ((0,), (1,))
PEFT_PREFIX = "base_model.model."

# PyTorch's lora_B is [out, r] whatever axes the outputs have here.
_OUTPUTS = Layout(
    to_disk=lambda x: x.reshape(x.shape[0], -1).T,
    from_disk=lambda x, shape: x.T.reshape(shape),
)


def scale_of(lora: LoRA) -> float:
    """`alpha / r`, or `alpha / sqrt(r)` with rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732)."""
    return lora.alpha / (lora.rank**0.5 if lora.use_rslora else lora.rank)


def adapter_table(table: Table, lora: LoRA) -> Table:
    """The adapter's own table: `{"a": [i, r], "b": [r, *o]}` in the place of every adapted leaf `[i, *o]`.

    The rank axis is replicated; the others are sharded as those of the base. Initially b = 0, so that the adapted model
    is the base; a is uniform in +-1/sqrt(i) ("kaiming", as PEFT) or Gaussian of standard deviation 1/r.

    Raises:
      ConfigError: every pattern that matches nothing (with near paths) or a leaf that is no matrix of a product.
    """
    adapted = set(matched(table, lora.target_modules))

    def build(node: Table, prefix: str) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for name, child in node.items():
            path = f"{prefix}{name}"
            if isinstance(child, Param):
                if path in adapted:
                    built[name] = _pair(child, lora)
            elif below := build(child, f"{path}/"):
                built[name] = below
        return built

    return build(table, "")


def _pair(base: Param, lora: LoRA) -> Table:
    module = base.module
    name = {side: None if module is None else f"{PEFT_PREFIX}{module}.lora_{side}.weight" for side in "AB"}
    init = _kaiming if lora.init == "kaiming" else normal(1 / lora.rank)
    a_shape, b_shape = (base.shape[0], lora.rank), (lora.rank, *base.shape[1:])
    return {
        "a": Param(a_shape, (base.axes[0], None), init, name["A"], TRANSPOSE, base.decay, _MATRIX),
        "b": Param(b_shape, (None, *base.axes[1:]), zeros, name["B"], _OUTPUTS, base.decay, base.muon),
    }


def _kaiming(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Uniform in +-1/sqrt(fan_in): He et al.'s with a = sqrt(5), as PEFT and torch.nn.Linear draw it."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound).astype(dtype)


def is_projection(param: Param) -> bool:
    """Whether a leaf is used as `x W` over its first axis, which the table says by its Muon axes.

    Norms and convolution taps are multiplied elementwise, and the embedding is a lookup and the tied output matrix. The
    router of a mixture is left alone, as its selection is not smooth. So are its experts, by choice: adapters of
    stacked matrices (PEFT's `target_parameters`) are implemented neither here nor in the export.
    """
    return param.muon is not None and param.muon[0] == (0,)


def matched(table: Table, patterns: tuple[str, ...]) -> list[str]:
    """Paths of the leaves that the glob patterns choose, in table order; "all-linear" chooses every projection.

    Raises:
      ConfigError: see `adapter_table`.
    """
    params = dict(leaves(table))
    chosen: set[str] = set()
    problems: list[str] = []
    for pattern in patterns:
        if pattern == ALL_LINEAR:
            chosen |= {path for path, p in params.items() if is_projection(p)}
            continue
        found = fnmatch.filter(params, pattern)
        wrong = [path for path in found if not is_projection(params[path])]
        if not found:
            problems.append(f"lora.target_modules: {pattern!r} matches no parameter.{_near(pattern, params)}")
        elif wrong:
            problems.append(
                f"lora.target_modules: {pattern!r} matches {_listed(wrong)}, which is no projection "
                "(norms, convolution taps and the embedding have no low-rank form, and the router and the experts of a "
                "mixture get none); narrow the pattern."
            )
        chosen |= set(found)
    if problems:
        raise ConfigError(problems)
    return [path for path in params if path in chosen]


def _near(pattern: str, params: Mapping[str, Param]) -> str:
    """Suggestions: every kind of projection as a pattern, the nearest first by the letters that are no wildcards."""
    kinds = dict.fromkeys(f"*/{'/'.join(p.split('/')[-2:])}" for p, param in params.items() if is_projection(param))
    words = {kind: kind.removeprefix("*/") for kind in kinds}
    bare = pattern.strip("*/.").replace(".", "/")
    near = near_misses(bare, [*words.values(), *(w.removesuffix("/weight") for w in words.values())], n=3)
    meant = list(dict.fromkeys(f"*/{w.removesuffix('/weight')}/weight" for w in near))
    if meant:
        return f" Did you mean {' or '.join(repr(m) for m in meant)}?"
    return f" Projections are {', '.join(repr(k) for k in kinds)}; {ALL_LINEAR!r} means all of them."


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def attach(base: Tree, adapter: Tree, scale: float) -> Tree:
    """The model with its adapter: `LowRank` leaves where there is one, the base's own arrays everywhere else."""
    if not isinstance(base, Mapping):
        return LowRank(base, adapter["a"], adapter["b"], scale)
    return {name: attach(x, adapter[name], scale) if name in adapter else x for name, x in base.items()}


def merge(base: Tree, adapter: Tree, scale: float) -> Tree:
    """The plain model that the adapted one computes: `base + scale * a b` at every adapted leaf."""
    is_low_rank = lambda x: isinstance(x, LowRank)  # noqa: E731
    tree = attach(base, adapter, scale)
    return jax.tree.map(lambda w: w.merged() if is_low_rank(w) else w, tree, is_leaf=is_low_rank)


def adapter_leaves(table: Table) -> Iterator[tuple[str, Param, Param]]:
    """`(path of the base leaf, a, b)` of an adapter's table."""
    named = dict(leaves(table))
    for path, a in named.items():
        if path.endswith("/a"):
            yield path.removesuffix("/a"), a, named[f"{path.removesuffix('/a')}/b"]


def describe_adapter(table: Table, adapter: Table, lora: LoRA, trained: int | None = None) -> list[str]:
    """Lines of a table of what is adapted; like layers share a row, and shares are of the model's parameters.

    Args:
      trained: number of the adapter's parameters that are trained; None = all.
    """
    base_total = param_count(table)
    total = param_count(adapter) if trained is None else trained
    base = dict(leaves(table))
    rows: dict[tuple[str, tuple[int, ...]], list[tuple[str, int]]] = {}
    for path, a, b in adapter_leaves(adapter):
        layer = re.search(r"((?<=layers/)|(?<=_blocks/))\d+", path)
        kind = path if layer is None else f"{path[: layer.start()]}*{path[layer.end() :]}"
        rows.setdefault((kind, base[path].shape), []).append((layer[0] if layer else "", a.size + b.size))
    cells = [["path", "layers", "shape", "rank", "parameters", "share"]]
    for (kind, shape), found in rows.items():
        size = sum(n for _, n in found)
        numbers = _ranges([int(n) for n, _ in found if n])
        cells.append([kind, numbers, str(list(shape)), str(lora.rank), f"{size:,}", f"{size / base_total:.2%}"])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    experts = sum(p.size for p in base.values() if isinstance(p.hf, tuple))
    kind = "alpha/sqrt(rank)" if lora.use_rslora else "alpha/rank"
    return [
        *lines,
        f"LoRA: {total:,} trainable parameters, {total / base_total:.2%} of the model's {base_total:,}; "
        f"scale {scale_of(lora):g} = {kind}; dropout none",
        *(
            [f"not adapted: experts, {experts / base_total:.2%} of the parameters, and their routers"]
            if experts
            else []
        ),
    ]


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
