"""A small recipe that learns from its own answers, and the rewards of the tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from stages.recipe import MODEL, write_data

from jaxpo.config import SFT, Data, Online, Optimizer, Reward, Run, Tokenizer
from jaxpo.online.rewards import FunctionReward

HERE = Path(__file__)


def vowels(prompts, completions, **columns):
    """Share of vowels."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [sum(ch in "aeiou" for ch in text) / max(len(text), 1) for text in texts]


def short(completion_ids, **columns):
    """Shorter is better."""
    return [-len(ids) / 16 for ids in completion_ids]


def longer(completions, opponent, **columns):
    """The probability that an answer is longer than its opponent, which is never sure."""
    return [1 / (1 + 2 ** (len(o) - len(c[0]["content"]))) for c, o in zip(completions, opponent, strict=True)]


def online(folder: Path, **changes: Any) -> Online:
    """A stage of a few steps."""
    files = {part: (str(folder / f"sft_{part}.jsonl"),) for part in ("train", "eval")}
    settings: dict[str, Any] = {
        "data": Data(train=files["train"], eval=files["eval"], max_length=56, row_length=112),
        "reward_funcs": (FunctionReward(function=f"{HERE}:vowels"),),
        "num_generations": 4,
        "prompts_per_step": 2,
        "max_completion_length": 12,
        "rows_per_step": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "save_steps": 2,
        "eval_rows": 4,
        "optimizer": Optimizer(learning_rate=3e-3, adam_epsilon=1e-5),
    }
    return Online(**settings | changes)


def reward_stage(folder: Path) -> Reward:
    """A reward model of the policy's shape."""
    files = (str(folder / "pref_train.jsonl"),)
    return Reward(data=Data(train=files, max_length=56, row_length=112), max_steps=2, rows_per_step=4)


def recipe(folder: Path, stage: Online | None = None, *, reward: bool = False, **changes: Any) -> Run:
    """Fine-tuning, or a reward model where asked for, and the online stage."""
    write_data(folder)
    files = (str(folder / "sft_train.jsonl"),)
    sft = SFT(data=Data(train=files, max_length=56, row_length=112), max_steps=4, rows_per_step=4)
    run = Run(
        name="tiny",
        output_dir=str(folder / "runs"),
        model=MODEL,
        tokenizer=Tokenizer(train_on=(str(folder / "text_train.jsonl"),), vocab_size=MODEL.vocab_size),
        stages=(reward_stage(folder) if reward else sft, stage or online(folder)),
        export=False,
    )
    return dataclasses.replace(run, **changes)
