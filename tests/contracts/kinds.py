"""An example of every kind of stage: what enrols a kind in the tests of whole runs.

A kind without an example fails `test_kinds.py`; with one it is run, measured, accumulated, sharded, stopped and resumed
as all others are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.recipe import MODEL, write_data

from jaxpo.config import (
    SFT,
    Data,
    Distill,
    Hybrid,
    MaskedLM,
    Merge,
    Online,
    Optimizer,
    Preference,
    Pretrain,
    Retrieval,
    Reward,
    Run,
    Texts,
    Tokenizer,
    Work,
)
from jaxpo.construct.spo_degree import SPODegree
from jaxpo.construct.stage import Construct
from jaxpo.objectives.methods import METHODS
from jaxpo.online.rewards import PatternReward

# One block shape for every number of microbatches and devices, so that the batches are the same.
COMMON: dict[str, Any] = {
    "max_steps": 3,
    "rows_per_step": 8,
    "eval_rows": 8,
    "save_steps": 2,
    "optimizer": Optimizer(learning_rate=3e-3, adam_epsilon=1e-5),
}


def data(folder: Path, kind: str) -> Data:
    """Training and held-out files of a kind of rows."""
    files = {part: (str(folder / f"{kind}_{part}.jsonl"),) for part in ("train", "eval")}
    return Data(train=files["train"], eval=files["eval"], max_length=48, row_length=96, block_rows=2)


EXAMPLES: dict[type, Callable[[Path], Any]] = {
    Pretrain: lambda folder: Pretrain(data=data(folder, "text"), **COMMON),
    SFT: lambda folder: SFT(data=data(folder, "sft"), **COMMON),
    Distill: lambda folder: Distill(
        data=data(folder, "sft"), loss=METHODS["decoupled_topk_kd"](top_k=4), teacher="pretrain", **COMMON
    ),
    Preference: lambda folder: Preference(data=data(folder, "pref"), loss=METHODS["dpo"](), **COMMON),
    Reward: lambda folder: Reward(data=data(folder, "pref"), **COMMON),
    Retrieval: lambda folder: Retrieval(
        data=data(folder, "query"),
        loss=METHODS["info_nce"](dimensions=8),
        texts=Texts("", "", query_length=8, document_length=32),
        **COMMON,
    ),
    Online: lambda folder: Online(
        data=dataclasses.replace(data(folder, "sft"), max_length=96, block_rows=None),
        reward_funcs=(PatternReward(pattern=".*[aeiou] .*"),),
        num_generations=4,
        prompts_per_step=2,
        max_completion_length=16,
        **COMMON,
    ),
    Hybrid: lambda folder: Hybrid(
        data=dataclasses.replace(data(folder, "pref"), block_rows=1),
        num_generations=2,
        prompts_per_step=4,
        max_completion_length=12,
        pair_rows=8,
        **COMMON | {"rows_per_step": 16},
    ),
    Merge: lambda folder: Merge(models=("sft", "preference")),
    Work: lambda folder: Construct(
        construction=SPODegree(), rows=(str(folder / "pref_train.jsonl"),), heldout_one_in=10
    ),
    MaskedLM: lambda folder: MaskedLM(
        data=data(folder, "text"),
        model=dataclasses.replace(MODEL, causal=False),
        init_from="random",
        mask_token="<|endoftext|>",
        **COMMON,
    ),
}
"""Kind -> `folder of data -> stage`; in the order of a recipe that has them all."""


def every_kind(folder: Path, **changes: Any) -> Run:
    """A recipe with a stage of every kind that is enrolled."""
    write_data(folder)
    settings = {
        "name": "every",
        "output_dir": str(folder / "runs"),
        "model": MODEL,
        "tokenizer": Tokenizer(train_on=(str(folder / "text_train.jsonl"),), vocab_size=MODEL.vocab_size),
        "stages": tuple(example(folder) for example in EXAMPLES.values()),
        "export": False,
    }
    return Run(**settings | changes)
