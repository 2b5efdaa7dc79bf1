"""Two small models with one tokenizer in folders, as `jaxpo eval` reads them."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from jaxpo.convert.model_io import save_model
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from jaxpo.evaluate.subject import Subject, reader_of, subject_of
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params

TEXTS = [
    "Ann has 3 apples and finds 4 more. How many apples does Ann have now?",
    "Ben keeps 12 coins in a box. He gives 5 to Eva. How many coins are left?",
    "For 6 days Kim buys 2 pens a day. How many pens does she have?",
    "Ein Satz mit Umlauten: Äpfel, Öl, Übung – und ein Gedankenstrich.",
]


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(TEXTS, 320)
    config = LFM2Config(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=("conv", "full_attention"),
        initializer_range=0.3,
        max_position_embeddings=256,
    )
    made = []
    for seed in (0, 1):
        path = folder / f"model{seed}"
        save_model(path, {"model": init_params(param_table(config), jax.random.key(seed))}, config, {"stage": "sft"})
        tokenizer.save(path / "tokenizer")
        made.append(path)
    return made[0], made[1]


@pytest.fixture(scope="session")
def subject(model_folders: tuple[Path, Path]) -> Subject:
    return subject_of(model_folders[0], reader_of(model_folders[0]))


@pytest.fixture(scope="session")
def tokenizer(subject: Subject) -> Tokenizer:
    return subject.reader.tokenizer


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file per task."""
    folder = tmp_path_factory.mktemp("tasks")
    choices = ["7", "seven apples", "zwölf Äpfel", "none at all"]
    rows = {
        "choices": [{"question": t, "choices": choices, "answer": i % 4} for i, t in enumerate(TEXTS)],
        "maths": [{"question": t, "answer": f"It is so.\n#### {i + 7}"} for i, t in enumerate(TEXTS)],
        "pairs": [{"prompt": t, "chosen": "Seven.", "rejected": "I do not know it."} for t in TEXTS],
        "numbers": [{"prompt": t, "completion": f"#### {i}", "level": i % 2} for i, t in enumerate(TEXTS)],
        "texts": [{"text": t} for t in TEXTS],
    }
    for name, found in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder
