"""Weights of several rewards from the prompt alone (PRO), and fine-tuning on prompts that say them.

    jaxpo run pro_orchestrator --run runs/my-pro --model-from runs/my-sft/export \
        --ratings rated.jsonl --pairs pairs.jsonl

Rated rows have prompt, completion and `ratings: {name: number}`: a reward model with a head for each reward is trained
on them. The preferred answers of the pairs are learnt, and scored by all heads; the adapter learns which of them a
prompt is about, while the model stays as it is; then the model is fine-tuned on the preferred answers, each prompt with
its weights. `objectives` are the names in the ratings, in alphabetical order:

    jaxpo run pro_orchestrator ... --objectives "correct harmless helpful"

`jaxpo run pro_orchestrator:online` ends with GRPO on the prompts of the pairs instead: every head is a reward, and each
prompt's weights are the adapter's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxpo.config import Data, Online, Optimizer, Preference, Reward, Run
from jaxpo.construct.orchestrator.rewards import PROOrchestrator as Scored
from jaxpo.construct.orchestrator.weights import PROWeights
from jaxpo.construct.stage import Construct
from jaxpo.judges import RewardJudge
from jaxpo.judges.orchestrated import OrchestratedJudge
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.pro_orchestrator import PROOrchestrator
from jaxpo.objectives.methods.rating import Rating
from jaxpo.objectives.methods.sft import SFT as Chosen


def config(ratings: str = "", pairs: str = "", objectives: str = "helpful short") -> Run:
    """Reward heads, the adapter, and conditioned fine-tuning.

    Args:
      ratings: rows with ratings of answers.
      pairs: rows with prompt, chosen and rejected.
      objectives: names in the ratings, in alphabetical order, with spaces between them.
    """
    names = tuple(objectives.split())
    rows = (pairs,) if pairs else ()
    cut: dict[str, Any] = {"max_length": 1024, "row_length": 2048}
    optimizer = Optimizer(learning_rate=1e-5, warmup_ratio=0.1, weight_decay=0.0)
    one: dict[str, Any] = {"optimizer": optimizer, "num_train_epochs": 1, "save_steps": 200}
    return Run(
        name="pro_orchestrator",
        stages=(
            Preference(name="sft", loss=Chosen(), data=Data(train=rows, **cut), **one),
            Reward(
                name="rewards",
                loss=Rating(aspects=names),
                data=Data(train=(ratings,) if ratings else (), **cut),
                **one,
            ),
            Construct(
                name="scored", construction=Scored(), rows=rows, networks=(("reward", "rewards"),), heldout_one_in=20
            ),
            Reward(
                name="adapter",
                init_from="sft",
                loss=PROOrchestrator(objectives=names),
                train=("orchestrator/*",),
                data=Data(train=("stage:scored/rows.jsonl",), eval=("stage:scored/heldout_rows.jsonl",), **cut),
                optimizer=Optimizer(learning_rate=1e-4, weight_decay=0.0),
                rows_per_step=4,
                num_train_epochs=3,
            ),
            Construct(name="weighed", construction=PROWeights(), rows=rows, networks=(("reward", "adapter"),)),
            Preference(
                name="conditioned",
                init_from="sft",
                loss=Chosen(),
                data=Data(train=("stage:weighed/rows.jsonl",), **cut),
                **one,
            ),
        ),
    )


def online(ratings: str = "", pairs: str = "", objectives: str = "helpful short") -> Run:
    """Reward heads, the adapter, and reinforcement learning on rewards that it weighs for every prompt.

    Args:
      ratings: rows with ratings of answers.
      pairs: rows with prompt, chosen and rejected; their prompts are answered.
      objectives: names in the ratings, in alphabetical order, with spaces between them.
    """
    plain = config(ratings, pairs, objectives)
    heads = tuple(RewardJudge("rewards", head=name) for name in objectives.split())
    last = Online(
        name="online",
        init_from="sft",
        loss=GRPO(beta=0.04),
        reward_funcs=(OrchestratedJudge(heads, weights_of="adapter"),),
        data=Data(
            train=("stage:scored/rows.jsonl",),
            eval=("stage:scored/heldout_rows.jsonl",),
            max_length=768,
            row_length=1536,
        ),
        max_completion_length=256,
        rows_per_step=32,
        gradient_accumulation_steps=8,
        max_steps=200,
        optimizer=Optimizer(learning_rate=1e-6, weight_decay=0.0),
    )
    return dataclasses.replace(plain, stages=(*plain.stages[:4], last))
