"""A three-stage recipe over files that exist, and a configuration file that returns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from jaxpo.config import SFT, Data, Merge, Optimizer, Preference, Pretrain, Run, Tokenizer
from jaxpo.data.rows.needs import Needs


@dataclass(frozen=True)
class Pairwise:
    """A method with one number, for configuration tests."""

    NEEDS: ClassVar[Needs] = Needs(roles=("chosen", "rejected"), networks=(("reference", "logps"),))
    PARTS_OF: ClassVar[Mapping[str, str]] = {}
    beta: float = 0.1


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n')
    return str(path)


@pytest.fixture
def recipe(rows: str) -> Run:
    data = Data(train=(rows,), eval=(rows,), max_length=128, row_length=256)
    return Run(
        name="recipe",
        tokenizer=Tokenizer(train_on=(rows,)),
        stages=(
            Pretrain(data=data, max_tokens=1000, optimizer=Optimizer(learning_rate=2e-3)),
            SFT(data=data, num_train_epochs=1),
            Preference(data=data, loss=Pairwise(), max_steps=3),
            Merge(models=("sft", "preference"), weights=(0.25, 0.75)),
        ),
    )


@pytest.fixture
def config_file(tmp_path: Path, rows: str) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text(
        "from jaxpo.config import SFT, Data, Run, Tokenizer\n\n\n"
        "def config():\n"
        f"    data = Data(train=({rows!r},), max_length=128)\n"
        f"    tokenizer = Tokenizer(train_on=({rows!r},))\n"
        "    return Run(name='mine', tokenizer=tokenizer, stages=(SFT(data=data, max_steps=3),))\n\n\n"
        "def longer():\n"
        "    return config()\n"
    )
    return path
