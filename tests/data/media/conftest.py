"""A tokenizer that knows images, a folder of four, and a way to load rows that show them."""

from __future__ import annotations

import numpy as np
import pytest
from data.media.shown_rows import DATA, SHAPES
from PIL import Image

from jaxpo.data.media.marks import NAMES
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokens.prepare import prepare


@pytest.fixture(scope="module")
def sees(tokenizer):
    return tokenizer.with_added(NAMES, special=True)


@pytest.fixture
def folder(tmp_path):
    for i, (name, shape) in enumerate(SHAPES.items()):
        noise = np.random.default_rng(i).integers(0, 255, (*shape, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def load(sees, folder, tmp_path):
    def load(path, purpose="sft", data=DATA, tokenizer=sees, log=lambda line: None, **needs):
        return prepare(
            [path],
            data=data,
            tokenizer=tokenizer,
            purpose=purpose,
            needs=Needs(**needs) if needs else None,
            cache_dir=tmp_path / "cache",
            log=log,
        )

    return load
