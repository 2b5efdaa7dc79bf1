"""Online DPO and XPO on arithmetic, by the word of a reward model that the recipe trains itself.

    jaxpo run online_preference
    jaxpo run online_preference --online-dpo.loss.loss-type ipo --xpo.loss.alpha 1e-4

The fine-tuned model answers every problem several times, and a reward model learns from its right and its wrong answers
to tell them apart; where all are wrong, the given answer stands for the right one. Online DPO and XPO start from the
fine-tuned model and learn from that reward model alone; the share of right answers is measured beside it, with weight
0: docs/online.md has the figures.

On your own prompts, with a model and a reward of yours:

    jaxpo run online_preference:own --run runs/my-online --model-from runs/my-sft/export \
        --online-dpo.data.train prompts.jsonl --reward my_rewards.py:score
"""

from __future__ import annotations

from typing import Any

from jaxpo.config import Data, Online, Optimizer, Reward, Run, Tokenizer
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.corpora.arithmetic import Arithmetic
from jaxpo.evaluate.exact_match import ExactMatch
from jaxpo.judges import VerifierJudge
from jaxpo.objectives.methods.bradley_terry import BradleyTerry
from jaxpo.objectives.methods.online_pairs import XPO, OnlineDPO
from jaxpo.online.rewards import FunctionReward, RewardJudge, VerifierReward
from jaxpo.recipes.grpo import ANSWER, HELD_OUT, LENGTH, MODEL, TRAIN, VOCABULARY, fine_tuning


def config() -> Run:
    """The recipe on arithmetic."""
    pairs = Data(
        train=("stage:graded/pairs.jsonl",),
        eval=("stage:graded/heldout_pairs.jsonl",),
        max_length=LENGTH,
        row_length=2 * LENGTH,
    )
    return Run(
        name="online_preference",
        model=MODEL,
        corpus=Arithmetic(levels=(1, 2, 3)),
        tokenizer=Tokenizer(train_on=(TRAIN,), vocab_size=VOCABULARY),
        stages=(
            fine_tuning(800_000),
            OnPolicyPairs(
                name="graded",
                prompts=(TRAIN,),
                model="sft",
                judge=VerifierJudge(),
                samples=4,
                # Given answers take part: without them a problem that the model always gets wrong makes no pair, and
                # the reward model hears nothing of it. Of answers equally right it takes the model's own.
                ties="sample",
                max_new_tokens=ANSWER,
                max_length=LENGTH,
                max_prompts=12_000,
            ),
            Reward(
                init_from="sft",
                data=pairs,
                loss=BradleyTerry(margin="ignore", center_rewards_coefficient=0.01, lm_coefficient=0.5),
                # At 2e-3 it forgets the arithmetic that it judges by: 61% of held-out pairs right, and 94% so.
                optimizer=Optimizer(learning_rate=5e-4, lr_scheduler_type="cosine", warmup_steps=20, weight_decay=0.01),
                rows_per_step=8,
                num_train_epochs=4,
                eval_steps=50,
                eval_rows=256,
                logging_steps=10,
                save_steps=100,
            ),
            learning("online_dpo", OnlineDPO(beta=0.1, missing_eos_penalty=1.0)),
            learning("xpo", XPO(beta=0.1, missing_eos_penalty=1.0)),
        ),
        prompts=(),
        probes=(ExactMatch((HELD_OUT,), prompts=600, max_new_tokens=ANSWER),),
    )


def learning(name: str, loss: Any) -> Online:
    """A stage that learns from what the reward model says of its answers."""
    return Online(
        name=name,
        init_from="sft",
        data=Data(train=(TRAIN,), eval=(HELD_OUT,), max_length=LENGTH, row_length=384),
        share_prompts=True,
        loss=loss,
        # Right or wrong by its word: which of two wrong answers it likes better teaches nothing.
        reward_funcs=(RewardJudge(model="reward", above=0.0), VerifierReward()),
        reward_weights=(1.0, 0.0),
        num_generations=4,
        prompts_per_step=64,
        max_completion_length=ANSWER,
        rows_per_step=128,
        gradient_accumulation_steps=16,
        optimizer=Optimizer(
            learning_rate=3e-4,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            weight_decay=0.0,
            max_grad_norm=1.0,
            adam_beta2=0.99,
        ),
        max_steps=400,
        eval_steps=50,
        eval_rows=256,
        logging_steps=5,
        save_steps=100,
        metric_for_best_model="eval_rewards/correct/mean",
    )


def own(reward: str = "") -> Run:
    """One stage of online DPO for a model and prompts of yours.

    Args:
      reward: `file.py:function` or `module:function`, see `jaxpo.online.rewards.FunctionReward`.
    """
    return Run(
        name="online_preference",
        stages=(
            Online(
                name="online_dpo",
                data=Data(max_length=1024, row_length=2048),
                loss=OnlineDPO(missing_eos_penalty=1.0),
                reward_funcs=(FunctionReward(function=reward),) if reward else (),
                num_generations=2,
                max_completion_length=512,
                prompts_per_step=16,
                rows_per_step=16,
                gradient_accumulation_steps=8,
                optimizer=Optimizer(learning_rate=5e-7, weight_decay=0.0),
                num_train_epochs=1,
                save_steps=50,
            ),
        ),
    )
