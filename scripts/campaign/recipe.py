"""The run that is disturbed: two short stages with everything that a run keeps, small enough to start often."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

from jaxpo.config import SFT, Data, Optimizer, Preference, Reward, Run, Tokenizer
from jaxpo.config.serialise import to_jsonable
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.objectives.methods import METHODS

STEPS, SAVE_STEPS = 6, 2
SHARED = ("rows_per_step", "max_steps", "save_total_limit", "eval_steps", "logging_steps", "optimizer")
STAGES = ("sft", "preference")
ROWS = 40
WORDS = ("the", "a", "cat", "dog", "bird", "sees", "hears", "finds", "under", "near", "house", "tree", "slowly", "then")


def write(folder: Path) -> Path:
    """Data files and the recipe, in a folder that is made; the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(3, 9))) + "."

    lines(folder / "sft.jsonl", [{"prompt": sentence(), "completion": sentence()} for _ in range(ROWS)])
    pairs = [{"prompt": sentence(), "chosen": sentence(), "rejected": sentence()} for _ in range(ROWS)]
    lines(folder / "pairs.jsonl", pairs)
    file = folder / "recipe.json"
    file.write_text(json.dumps(to_jsonable(recipe(folder)), indent=1))
    return file


def lines(file: Path, rows: list[dict[str, object]]) -> None:
    """Rows as JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def reward(folder: Path, pairs: Path) -> Path:
    """A recipe of a reward model alone, of pairs with margins; its path."""
    whole = recipe(folder)
    sft = whole.stages[0]
    data = dataclasses.replace(sft.data, train=(str(pairs),), row_length=128)
    common = {f.name: getattr(sft, f.name) for f in dataclasses.fields(sft) if f.name in SHARED}
    run = dataclasses.replace(whole, stages=(Reward(data=data, **{**common, "save_steps": 1}),), export=False)
    file = folder / "reward.json"
    file.write_text(json.dumps(to_jsonable(run), indent=1))
    return file


def recipe(folder: Path) -> Run:
    """Supervised rows, then DPO, whose reference log-probs are stored; a checkpoint every other step; an export."""
    common = {
        "rows_per_step": 4,
        "max_steps": STEPS,
        "save_steps": SAVE_STEPS,
        "save_total_limit": 3,
        "eval_steps": 0,
        "logging_steps": 1,
        "optimizer": Optimizer(learning_rate=3e-3),
    }
    model = LFM2Config(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        layer_types=("full_attention",),
        max_position_embeddings=256,
        initializer_range=0.05,
    )
    return Run(
        name="faults",
        output_dir=str(folder / "runs"),
        model=model,
        tokenizer=Tokenizer(train_on=(str(folder / "sft.jsonl"),), vocab_size=model.vocab_size),
        stages=(
            SFT(data=Data(train=(str(folder / "sft.jsonl"),), max_length=64, row_length=64), **common),
            Preference(
                data=Data(train=(str(folder / "pairs.jsonl"),), max_length=64, row_length=128),
                loss=METHODS["dpo"](),
                **common,
            ),
        ),
    )
