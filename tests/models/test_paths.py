"""Globs over parameter paths: which leaves they choose, and that cutting a tree loses and doubles nothing."""

import re

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models.tiny import CONFIG

from jaxpo.models.family import param_table
from jaxpo.models.paths import cut, factors_of, joined, matching, near_paths, split_table
from jaxpo.models.spec import leaves, map_table

TABLES = {"model": param_table(CONFIG), "value": {"weight": param_table(CONFIG)["embedding_norm"]["weight"]}}
PATHS = [path for path, _ in leaves(TABLES)]
NUMBERS = iter(range(len(PATHS)))
TREE = map_table(lambda p: np.asarray(next(NUMBERS)), TABLES)


# A path with some of its parts starred, its head, its tail, or nothing at all of ours.
PATTERNS = st.sampled_from(PATHS).flatmap(
    lambda path: st.one_of(
        st.just(path),
        st.lists(st.booleans(), min_size=len(path.split("/")), max_size=len(path.split("/"))).map(
            lambda stars: "/".join("*" if star else part for star, part in zip(stars, path.split("/"), strict=True))
        ),
        st.integers(0, len(path)).map(lambda n: path[:n] + "*"),
        st.integers(0, len(path)).map(lambda n: "*" + path[n:]),
        st.sampled_from(["*", "nothing/*", "model/layers/?/*"]),
    )
)


def by_regex(path, pattern):
    """An independent reading of a glob: `*` any text, `?` any one letter."""
    form = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch(form, path) is not None


@settings(max_examples=150, deadline=None)
@given(st.lists(PATTERNS, min_size=1, max_size=3))
def test_every_leaf_is_on_one_side_and_joining_gives_the_tree_back(patterns):
    trained, fixed = split_table(TABLES, tuple(patterns))
    mine = {path for path, _ in leaves(trained)}
    assert mine == {path for path in PATHS if any(by_regex(path, p) for p in patterns)}
    assert {path for path, _ in leaves(fixed)} == set(PATHS) - mine
    parts = cut(trained, TREE), cut(fixed, TREE)
    assert all(node for part in parts for node in nodes(part))  # no group is left empty
    assert sum(len(jax.tree.leaves(part)) for part in parts) == len(PATHS)
    for whole in (joined(*parts), joined(*reversed(parts)), joined(TREE, parts[1])):
        assert jax.tree.structure(whole) == jax.tree.structure(TREE)
        assert jax.tree.leaves(whole) == jax.tree.leaves(TREE)


def nodes(tree):
    for below in tree.values():
        if isinstance(below, dict):
            yield below
            yield from nodes(below)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(PATTERNS, st.floats(0.01, 100.0)), max_size=4))
def test_the_first_match_gives_the_factor(factors):
    tree = factors_of(TABLES, tuple(factors))
    assert jax.tree.structure(tree) == jax.tree.structure(TREE)
    for path, found in zip(PATHS, jax.tree.leaves(tree), strict=True):
        assert found == next((factor for pattern, factor in factors if by_regex(path, pattern)), 1.0)


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("layers/*", " Did you mean 'model/layers/*'"),
        ("model/layer/0/*", " Did you mean 'model/layers/0/*'"),
        ("values/*", " Did you mean 'value/*'"),
        ("*/w4/weight", " Did you mean '*/w"),
        ("zzz", " There are 'model/*', 'model/embed_tokens/*'"),
    ],
)
def test_near_paths(pattern, meant):
    assert matching(PATHS, pattern) == []
    found = near_paths(pattern, PATHS)
    assert meant in found or found.startswith(meant), found
    for form in re.findall("'(.*?)'", found):
        assert matching(PATHS, form), form
