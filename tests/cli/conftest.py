"""A one-layer model with a tokenizer in a directory, and data files to train on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from jaxpo.cli.main import main
from jaxpo.convert.model_io import save_model
from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params

TEXT = "path file join read write open close list string number module function value error"
WORDS = TEXT.split(" ")


def make_model(folder: Path, seed: int) -> Path:
    """Write a tiny random model and its tokenizer."""
    tokenizer = train_tokenizer([TEXT] * 8, 320)
    config = LFM2Config(
        vocab_size=352,
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=("conv", "full_attention"),
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    params = init_params(param_table(config), jax.random.key(seed))
    save_model(folder, {"model": params}, config, {"stage": "sft", "trained_on": "docs.jsonl (9 examples)"})
    tokenizer.save(folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "one", 0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "two", 1)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"prompt": f"what does {w} do", "chosen": f"{w} file", "rejected": f"open {w}"} for w in WORDS]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Call a command in this process, with its output no terminal: exit code, stdout, stderr."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def call(*argv: object) -> tuple[int, str, str]:
        code = main([str(a) for a in argv])
        return code, *capsys.readouterr()

    return call
