"""The benchmark of images: what is drawn, what counts as the same, and which products the ceiling counts."""

import numpy as np
import pytest
from benchmarks import images
from benchmarks.measure import Times
from benchmarks.work import Options

from jaxpo.models.dit.work import flops_per_image

TINY = Options(repeats=1, threads=1, smoke=True, peers=False)


def test_images_are_drawn_one_at_a_time_and_many_at_once(monkeypatch):
    monkeypatch.setattr(images, "interleaved", lambda runs, options: {n: Times((1.0,), (1.0,)) for n in runs})
    monkeypatch.setattr(images, "best_products", lambda shapes, peers: {"jax": 1e9})
    found = images.measure(TINY)
    assert [table.rows[0].amount for table in found.tables] == [1, 2]
    one, two = (table.rows[0].ceiling for table in found.tables)
    assert one == pytest.approx(two)
    assert len(found.notes) == 2


def test_the_products_of_a_step_are_those_of_the_model():
    shapes = images.LARGE
    products = sum(2 * m * k * n for m, k, n in images.products_of(shapes, 3)) / 6
    assert products == pytest.approx(2 * flops_per_image(shapes.config, shapes.words).matrices, rel=0.02)


def test_contestants_that_draw_something_else_are_refused():
    ours = np.ones((1, 2, 2, 3), np.float32)
    assert images.agree({images.JAXPO: lambda: ours, "other": lambda: ours + 5e-4}) == pytest.approx(5e-4, rel=1e-3)
    with pytest.raises(ValueError, match="other draws other images"):
        images.agree({images.JAXPO: lambda: ours, "other": lambda: ours * np.nan})
