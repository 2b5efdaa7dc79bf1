"""Every vector that was computed with the ecosystem's own processor: sizes, tiles, sums of the pixels, ids."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpo.data.media.geometry import geometry
from jaxpo.data.media.patches import normalised, patches_of
from jaxpo.data.media.settings import ImageSettings

SETTINGS = ImageSettings()

# height, width, rows, columns, size of the whole, image tokens, sum and mean magnitude of the normalised patches.
VECTORS = [
    (64, 64, 1, 1, (256, 256), 64, -13.552945, 0.462496),
    (1, 1, 1, 1, (256, 256), 64, -40863.622070, 0.597386),
    (256, 384, 1, 1, (256, 384), 96, -47.498046, 0.501956),
    (300, 500, 1, 1, (288, 512), 144, 82.470594, 0.429153),
    (511, 513, 1, 1, (512, 512), 256, 370.705924, 0.422066),
    (1000, 500, 1, 1, (704, 352), 242, 297.301981, 0.331695),
    (704, 736, 1, 1, (480, 512), 240, 377.035299, 0.338301),
    (740, 740, 2, 2, (512, 512), 1280, 1580.556914, 0.386918),
    (720, 1280, 1, 2, (384, 672), 764, 870.447088, 0.282911),
    (640, 832, 2, 3, (448, 576), 1788, 4066.815787, 0.391244),
    (768, 1024, 2, 3, (416, 576), 1770, 7386.886445, 0.365520),
    (1080, 1920, 2, 4, (384, 672), 2300, 4345.341277, 0.299862),
    (100, 2000, 1, 1, (96, 1984), 186, 399.552957, 0.363070),
    (1000, 3000, 1, 3, (288, 864), 1011, 1608.556901, 0.116016),
    (3000, 1000, 3, 1, (864, 288), 1011, 1646.870630, 0.119875),
    (2000, 2000, 3, 3, (512, 512), 2560, 3156.180478, 0.206009),
    (1024, 1280, 3, 3, (448, 544), 2542, 10886.604176, 0.339910),
    pytest.param((4000, 3000, 3, 2, (576, 416), 1770, 2791.639293, 0.067328), marks=pytest.mark.slow),
    (10, 3000, 1, 1, (32, 3008), 94, 32.564703, 0.370409),
]


def made(height, width):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((7 * y + 13 * x + 101 * c + (y * x) // 17) % 256).astype(np.uint8)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v[0]}x{v[1]}")
def test_sizes_tokens_and_pixels(vector):
    height, width, rows, columns, whole, tokens, total, magnitude = vector
    plan = geometry(height, width, SETTINGS)
    assert (plan.rows, plan.columns, plan.tokens) == (rows, columns, tokens)
    assert (plan.thumbnail or plan.tile) == whole
    found = patches_of(made(height, width), plan, SETTINGS)
    assert sum(map(len, found)) == 4 * tokens
    values = np.concatenate([normalised(each.values, SETTINGS).astype(np.float64) for each in found])
    assert values.sum() == pytest.approx(total, abs=1e-3)
    assert np.abs(values).mean() == pytest.approx(magnitude, abs=1e-6)
