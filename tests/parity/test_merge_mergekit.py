"""Every deterministic merge method leaf by leaf against mergekit 0.1.5, and where its code departs from the papers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from merge.merge_leaves import drop, generators, leaves

from jaxpo.merge.base import Inputs
from jaxpo.merge.breadcrumbs import breadcrumbs
from jaxpo.merge.della import keep_probability, magprune
from jaxpo.merge.methods import METHODS
from jaxpo.merge.model_stock import model_stock
from jaxpo.merge.sce import sce

pytestmark = pytest.mark.parity

WEIGHTS = (0.5, 0.9, 0.3)


@pytest.fixture(scope="module")
def registry():
    """mergekit's table of methods; its imports take seconds, so they wait until a test asks for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("mergekit.merge_methods.registry")


@pytest.fixture(scope="module")
def sparsify(registry):
    return pytest.importorskip("mergekit.sparsify")


@pytest.fixture(scope="module")
def torch(registry):
    return pytest.importorskip("torch")


def theirs(registry, name, base, models, **parameters):
    """mergekit's result for one leaf; the base is its first input."""
    import torch
    from mergekit.merge_methods.base import TensorGroup

    tensors = [torch.from_numpy(np.array(x)) for x in ([base] if base is not None else []) + list(models)]
    group = TensorGroup.from_tensors(tensors, base_index=None if base is None else 0, name="w")
    return registry.get(name)([group], parameters=parameters)[0].numpy()


def ours(method, base, models, weights=WEIGHTS):
    return method.merge(Inputs(models, method.effective(weights, len(models)), base, generators()))


def agree(ours, theirs, rtol=1e-6):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * np.abs(theirs).max())


CASES = [
    ("soup", "linear", {}, {}),
    ("soup", "linear", {"normalize": False}, {"normalize": False}),
    ("task_arithmetic", "task_arithmetic", {"scale": 0.7}, {"lambda": 0.7}),
    ("task_arithmetic", "task_arithmetic", {"normalize": True}, {"normalize": True}),
    ("ties", "ties", {"density": 0.3}, {"density": 0.3}),
    ("ties", "ties", {"density": (0.3, 0.6, 1.0), "scale": 0.5}, {"density": [0.3, 0.6, 1.0], "lambda": 0.5}),
    ("ties", "ties", {"density": 0.3, "normalize": False}, {"density": 0.3, "normalize": False}),
    ("ties", "ties", {"density": 0.3, "rescale": "l1"}, {"density": 0.3, "rescale": True, "int8_mask": True}),
    ("breadcrumbs", "breadcrumbs", {"density": 0.4, "gamma": 0.05}, {"density": 0.4, "gamma": 0.05}),
    ("breadcrumbs", "breadcrumbs", {"density": 0.9, "gamma": 0.3}, {"density": 0.9, "gamma": 0.3}),
    ("breadcrumbs_ties", "breadcrumbs_ties", {"density": 0.4, "gamma": 0.05}, {"density": 0.4, "gamma": 0.05}),
    ("model_stock", "model_stock", {}, {}),
    ("model_stock", "model_stock", {"filter_wise": True}, {"filter_wise": True}),
    ("sce", "sce", {}, {}),
    ("sce", "sce", {"select_topk": 0.3}, {"select_topk": 0.3}),
    ("dare_linear", "dare_linear", {"density": 1.0}, {"density": 1.0}),
    ("dare_ties", "dare_ties", {"density": 1.0}, {"density": 1.0}),
    ("della", "della", {"density": 1.0}, {"density": 1.0}),
    ("della_linear", "della_linear", {"density": 1.0, "normalize": True}, {"density": 1.0, "normalize": True}),
]


@pytest.mark.parametrize("delta", [0.5, 0.01])
@pytest.mark.parametrize(("name", "their_name", "settings", "parameters"), CASES)
def test_methods_on_a_base(registry, name, their_name, settings, parameters, delta):
    base, models = leaves(shape=(40, 60), delta=delta)
    method = METHODS[name](**settings)
    if method.WEIGHTED:
        parameters = parameters | {"weight": list(WEIGHTS)}
    if method.BASE == "none":
        base = None
    agree(ours(method, base, models), theirs(registry, their_name, base, models, **parameters))


@pytest.mark.parametrize("delta", [2.0, 0.1, 1e-3])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(registry, t, delta):
    base, (a, *_) = leaves(shape=(40, 60), delta=delta)
    agree(ours(METHODS["slerp"](t=t), None, [base, a], None), theirs(registry, "slerp", base, [a], t=t))


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize(("flatten", "row_wise"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("delta", [2.0, 0.1])
def test_nuslerp(registry, with_base, flatten, row_wise, delta):
    base, (a, b, _) = leaves(shape=(40, 60), delta=delta)
    base = base if with_base else None
    method = METHODS["nuslerp"](flatten=flatten, row_wise=row_wise)
    options = {"weight": [0.2, 0.6], "nuslerp_flatten": flatten, "nuslerp_row_wise": row_wise}
    agree(ours(method, base, [a, b], (0.2, 0.6)), theirs(registry, "nuslerp", base, [a, b], **options), rtol=2e-6)


@pytest.mark.parametrize("delta", [2.0, 0.1])
@pytest.mark.parametrize("count", [2, 4])
def test_karcher(registry, count, delta):
    _, models = leaves(count, shape=(40, 60), delta=delta)
    agree(ours(METHODS["karcher"](), None, models, None), theirs(registry, "karcher", None, models), rtol=3e-6)


def test_passthrough(registry):
    base, _ = leaves()
    agree(
        ours(METHODS["passthrough"](scale=0.5), None, [base], None),
        theirs(registry, "passthrough", None, [base], scale=0.5),
    )


def test_the_random_methods_keep_as_many_and_rescale_by_length_as_mergekit_does(sparsify, torch):
    """The masks themselves cannot agree; density and length do, and our default has the papers' mean instead."""
    delta = np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32)
    torch.manual_seed(0)
    tensor, random = torch.from_numpy(delta), np.random.default_rng(0)
    for their, our in (
        (sparsify.bernoulli(tensor, 0.3, sparsify.RescaleNorm.l1), drop(delta, 0.3, random, "l1")),
        # mergekit's epsilon is the half-width of the window, the paper's its width.
        (sparsify.della_magprune(tensor, 0.3, 0.1, sparsify.RescaleNorm.l1), magprune(delta, 0.3, 0.2, random, "l1")),
    ):
        their = their.numpy()
        assert (our != 0).mean() == pytest.approx((their != 0).mean(), abs=0.01)
        assert np.abs(our).sum() == pytest.approx(np.abs(their).sum(), rel=1e-4)
        assert np.median(np.abs(our[our != 0])) == pytest.approx(np.median(np.abs(their[their != 0])), rel=0.05)


def test_the_keep_probabilities_are_mergekits(sparsify, torch, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "bernoulli", lambda p: seen.append(p) or torch.ones_like(p))
    delta = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    sparsify.della_magprune(torch.from_numpy(delta), 0.4, 0.1)
    np.testing.assert_allclose(keep_probability(delta, 0.4, 0.2), seen[0].numpy(), rtol=1e-6)


def test_mergekit_cannot_draw_dellas_masks_for_a_convolution_kernel(sparsify, torch):
    kernel = np.random.default_rng(0).normal(size=(16, 1, 3)).astype(np.float32)
    with pytest.raises(RuntimeError, match=r"p >= 0|Expected p_in"):
        sparsify.della_magprune(torch.from_numpy(kernel), 0.4, 0.1)
    assert (magprune(kernel, 0.4, 0.2, np.random.default_rng(0)) != 0).any()


def test_sce_and_model_stock_depart_from_mergekit_where_task_vectors_are_small(registry):
    """Absolute bounds of 1e-6 in mergekit: equal weights in SCE, shrunken cosines in Model Stock."""
    base = np.zeros((8, 8), np.float32)
    models = [base + np.float32(1e-4), base + np.float32(3e-4)]
    agree(theirs(registry, "sce", base, models), np.full((8, 8), 2e-4, np.float32))
    agree(sce(base, models), np.full((8, 8), 2.8e-4, np.float32))
    agree(model_stock(base, models), np.full((8, 8), 2e-4, np.float32))
    assert theirs(registry, "model_stock", base, [m / 10 for m in models]).max() < 0.9 * 2e-5
    agree(model_stock(base, [m / 10 for m in models]), np.full((8, 8), 2e-5, np.float32))


def test_breadcrumbs_below_one_entry_keeps_nothing_in_both(registry):
    base, models = leaves(1, shape=(2, 2))
    settings = {"density": 0.1, "gamma": 0.01}
    np.testing.assert_array_equal(breadcrumbs(base, models, (1.0,), (0.1,), (0.01,)), base)
    np.testing.assert_array_equal(theirs(registry, "breadcrumbs", base, models, weight=[1.0], **settings), base)
