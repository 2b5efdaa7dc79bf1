"""Globs over parameter paths: which leaves a stage trains, and how fast. Trees and tables are cut and joined alike.

A path is "group/name/.../weight" ("model/layers/0/conv/in_proj/weight", "value/weight", "adapter/.../a"); `*` matches
any text, slashes too, as in LoRA's `target_modules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from jaxpo.errors import near_misses
from jaxpo.models.spec import Param, Table, is_param, leaves, map_table

Tree = Any
EVERYTHING = ("*",)
Factors = tuple[tuple[str, float], ...]


def matching(paths: Iterable[str], pattern: str) -> list[str]:
    """The paths that a pattern chooses, in order."""
    return [path for path in paths if fnmatchcase(path, pattern)]


def first_match(path: str, patterns: Iterable[str]) -> int | None:
    """Number of the first pattern that matches."""
    return next((i for i, pattern in enumerate(patterns) if fnmatchcase(path, pattern)), None)


def split_table(table: Table, patterns: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`(trained, fixed)`: the leaves that some pattern matches and all others, without empty nodes."""
    chosen = {path for path, _ in leaves(table) if first_match(path, patterns) is not None}
    return _kept(table, chosen, True), _kept(table, chosen, False)


def _kept(node: Table, chosen: set[str], inside: bool, prefix: str = "") -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, child in node.items():
        path = f"{prefix}{name}"
        if isinstance(child, Param):
            if (path in chosen) == inside:
                kept[name] = child
        elif below := _kept(child, chosen, inside, f"{path}/"):
            kept[name] = below
    return kept


def cut(table: Table, tree: Tree) -> Tree:
    """The leaves of a tree that a smaller table names."""
    return tree if is_param(table) else {name: cut(below, tree[name]) for name, below in table.items()}


def joined(part: Tree, rest: Tree) -> Tree:
    """One tree of both; where both have a leaf it is the first's, so that a tree which is whole stays as it is."""
    if not isinstance(part, Mapping):
        return part
    return {**part, **{name: joined(part[name], x) if name in part else x for name, x in rest.items()}}


def factors_of(table: Table, factors: Factors) -> Tree:
    """The factor of every leaf: that of the first pattern which matches its path, 1 where none does."""
    patterns = [pattern for pattern, _ in factors]
    found = {path: first_match(path, patterns) for path, _ in leaves(table)}
    names = iter(found.values())
    return map_table(lambda _: 1.0 if (i := next(names)) is None else factors[i][1], table)


def near_paths(pattern: str, paths: Iterable[str]) -> str:
    """' Did you mean X?' of the paths and the patterns of their parts; else the groups and parts that there are."""
    known = dict.fromkeys(form for path in paths for form in _forms(path))
    near = near_misses(pattern, known)
    if near:
        return f" Did you mean {' or '.join(map(repr, near))}?"
    return f" There are {', '.join(repr(form) for form in known if form.endswith('/*') and form.count('/') <= 2)}."


def _forms(path: str) -> Iterator[str]:
    parts = path.split("/")
    for n in range(1, len(parts)):
        yield "/".join(parts[:n]) + "/*"
    yield path
    yield "*/" + "/".join(parts[-2:])
