"""A small trained tokenizer, the example files, and a way to write rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxpo.config import Data
from jaxpo.data.rows.needs import Needs
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from jaxpo.data.tokens.prepare import Dataset, prepare
from jaxpo.data.tokens.texts import texts_of

FILES = Path(__file__).parent / "files"


@pytest.fixture(scope="session")
def files() -> Path:
    """One small file per dataset type."""
    return FILES


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(texts_of(sorted(FILES.glob("*.jsonl"))), 512)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(row, row, ..., name="x.jsonl")` -> path."""

    def write(*rows: Any, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def prepared(tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., Dataset]:
    """`prepared(path, purpose, roles=..., columns=..., **data)` -> Dataset; the first are fields of `Needs`."""

    def make(
        path: Path, purpose: str = "sft", *, log=lambda line: None, names=None, declared=(), **data: Any
    ) -> Dataset:
        asked = ("roles", "columns", "per_token", "optional_roles", "networks", "new_names")
        given = {name: data.pop(name) for name in asked if name in data}
        needs = Needs(**given, names=(("user", tuple(declared)),) if declared else ())
        length = data.get("max_length", 64)
        settings = Data(**{"max_length": length, "row_length": max(length, 2), **data})
        return prepare(
            [path],
            data=settings,
            tokenizer=tokenizer,
            purpose=purpose,  # type: ignore[arg-type]
            needs=needs,
            cache_dir=tmp_path / "cache",
            log=log,
            names=names,
        )

    return make
