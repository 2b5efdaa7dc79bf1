"""Merging whole trees and streamed leaves: equal numbers, and errors that name leaves and fields."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxpo.errors import ConfigError
from jaxpo.merge.methods import METHODS, Della, Karcher, Slerp, Soup, Ties, resolve
from jaxpo.merge.plan import plan_models
from jaxpo.merge.soup import soup
from jaxpo.merge.stream import merged_leaves, merged_together
from jaxpo.merge.trees import merge_trees


class Leaf:
    """A stored leaf that counts how often it is read."""

    def __init__(self, value):
        self.value, self.shape, self.reads = value, value.shape, 0

    def read(self):
        self.reads += 1
        return self.value


def flat(seed, names=("a/w", "b/w", "c"), shape=(4, 6)):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name in names}


def stored(tree):
    return {name: Leaf(value) for name, value in tree.items()}


def number_of_models(method):
    return method.LEAST if method.MOST is not None else max(3, method.LEAST)


@pytest.mark.parametrize("name", METHODS)
def test_streamed_and_in_memory_agree_for_every_method(name):
    method = METHODS[name]()
    count = number_of_models(method)
    trees = [flat(i) for i in range(count)]
    base = flat(9) if method.BASE == "required" else None
    expected = merge_trees(method, trees, base=base, seed=4)
    models = {f"m{i}": stored(tree) for i, tree in enumerate(trees)} | ({"base": stored(base)} if base else {})
    names = [f"m{i}" for i in range(count)]
    plan = plan_models(list(trees[0]), method, names, base="base" if base else None, seed=4)
    found = dict(merged_leaves(plan, models))
    assert found.keys() == expected.keys()
    for leaf, value in found.items():
        assert value.dtype == np.float32
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(value, expected[leaf])
    assert {leaf.reads for model in models.values() for leaf in model.values()} == {1}


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"passthrough", "slerp", "nuslerp", "update_selective"}))
def test_equal_models_come_back_whatever_the_method(name):
    """With density 1 every method is an average of some kind: of one model three times it is that model."""
    method = METHODS[name](**({"density": 1.0} if "density" in METHODS[name].__dataclass_fields__ else {}))
    (tree, base) = flat(0), flat(9)
    found = merge_trees(method, [tree] * 3, base=base if method.BASE == "required" else None)
    for leaf in tree:
        np.testing.assert_allclose(found[leaf], tree[leaf], rtol=1e-4, atol=1e-5)


def test_soup_is_the_tree_function():
    trees = [flat(0), flat(1)]
    for a, b in zip(
        jax.tree.leaves(merge_trees(Soup(), trees, (3, 1))), jax.tree.leaves(soup(trees, (3, 1))), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_several_merges_share_one_reading():
    models = {f"m{i}": stored(flat(i)) for i in range(2)}
    plans = [
        plan_models(list(flat(0)), method, ["m0", "m1"], weights)
        for method, weights in ((Soup(), (0.3, 0.7)), (Slerp(0.7), None), (Karcher(), None))
    ]
    together = {}
    for name, number, values in merged_together(plans, models):
        together.setdefault(number, {})[name] = values
    assert {leaf.reads for model in models.values() for leaf in model.values()} == {1}
    for number, plan in enumerate(plans):
        for name, values in merged_leaves(plan, models):
            np.testing.assert_array_equal(values, together[number][name])


def test_other_leaves_and_shapes_are_named_before_anything_is_read():
    first, second = stored(flat(0)), stored(flat(1))
    second["a/w"] = Leaf(np.zeros((6, 4), np.float32))
    second["d"] = second.pop("c")
    plan = plan_models(list(first), Soup(), ["one", "two"])
    with pytest.raises(ConfigError) as caught:
        next(merged_leaves(plan, {"one": first, "two": second}))
    assert caught.value.problems == [
        "a/w: shape (4, 6) in one, (6, 4) in two",
        "two lacks c",
        "two has an extra d",
    ]
    assert all(leaf.reads == 0 for leaf in (*first.values(), *second.values()))


@pytest.mark.parametrize(
    ("method", "models", "base", "weights", "problems"),
    [
        (
            Ties(density=1.5), 2, True, None,
            ["density: 1.5 must lie in (0, 1]; it is the share of a task vector's entries that is kept."],
        ),
        (
            Ties(density=(0.0, 0.5)), 2, True, None,
            ["density: 0 must lie in (0, 1]; it is the share of a task vector's entries that is kept."],
        ),
        (
            Ties(density=(0.5,)), 2, True, None,
            ["density: 1 values for 2 models; give one number, or one per model."],
        ),
        (Ties(density=float("nan")), 2, True, None, ["density: nan must be finite."]),
        (Ties(), 2, False, None, ["base: ties adds to a base what the models learned since; name that model."]),
        (Soup(), 2, True, None, ["base: soup has none; leave it out, or list that model among the others."]),
        (Slerp(t=2.0), 3, False, (1, 1, 1), [
            "models: slerp merges exactly 2, got 3.",
            "t: 2 must lie in [0, 1]; 0 is the first model, 1 the second.",
            "weights: slerp does not use any; leave them out.",
        ]),
        (Della(density=0.2, epsilon=0.4), 2, True, None, [
            "epsilon: 0.4 around density 0.2 leaves (0, 1): probabilities would run from 0 to 0.4; "
            "choose at most 0.4, exclusive."
        ]),
        (Soup(), 2, False, (1.0, -1.0), ["merge: the weights (1.0, -1.0) sum to 0 and cannot be normalised"]),
        (Soup(), 2, False, (1.0,), ["merge: 1 weights for 2 models; give one weight per model"]),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(method, models, base, weights, problems):
    names = [f"m{i}" for i in range(models)]
    with pytest.raises(ConfigError) as caught:
        plan_models(["w"], method, names, weights, base="base" if base else None)
    assert caught.value.problems == problems


def test_effective_weights_are_shown():
    assert plan_models(["w"], Soup(), ["a", "b"], (3, 1)).lines == ("  0.7500 x a", "  0.2500 x b")
    assert plan_models(["w"], Ties(), ["a", "b"], base="c").lines == ("    base   c", "  0.5000 x a", "  0.5000 x b")
    assert plan_models(["w"], Slerp(0.25), ["a", "b"]).lines == ("  0.7500 x a", "  0.2500 x b")


def test_names():
    assert resolve("linear") is Soup
    assert resolve("DARE-TIES") is METHODS["dare_ties"]
    with pytest.raises(ConfigError, match=r"no merge method 'dare_tie'. Did you mean dare_ties.*\? Known: soup, slerp"):
        resolve("dare_tie")


def test_methods_are_chosen_without_jax():
    """Configurations and the command line's help name methods; they must not wait for jax."""
    code = "import sys, jaxpo.merge.methods, jaxpo.merge.plan, jaxpo.merge.stream; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
