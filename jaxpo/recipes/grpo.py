"""Reinforcement learning on arithmetic that can be checked: fine-tune, then GRPO on the model's own answers.

    jaxpo run grpo
    jaxpo run grpo --grpo.loss.loss-type dr_grpo --grpo.loss.scale-rewards none
    jaxpo run grpo:rloo         the same by RLOO
    jaxpo run grpo:ppo          the same by PPO, with a critic of its own
    jaxpo run grpo:side_by_side all three, from one fine-tuned model
    jaxpo run grpo:drpo         and with an eye on length: grpo:drpo, grpo:dler, grpo:hapo, grpo:orion
    jaxpo run grpo:lengths      GRPO and these four from one fine-tuned model, side by side

The corpus is made here: word problems with an answer after `####`. A model of half a million parameters learns their
form and a part of the arithmetic from examples, and the rest from being told which of its answers were right.

On your own prompts, with a model of yours and a reward of yours (`my_rewards.py`, TRL's signature):

    jaxpo run grpo:own --run runs/my-grpo --model-from LFM2-350M --grpo.data.train prompts.jsonl \
        --reward my_rewards.py:correct --compute.dtype bfloat16
"""

from __future__ import annotations

from dataclasses import replace

from jaxpo.config import SFT, Data, Online, Optimizer, Run, Tokenizer
from jaxpo.corpora.arithmetic import Arithmetic
from jaxpo.evaluate.exact_match import ExactMatch
from jaxpo.evaluate.probes import EndsByItself
from jaxpo.models.family import preset
from jaxpo.objectives.methods.dler import DLER
from jaxpo.objectives.methods.drpo import DRPO
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.hapo import HAPO
from jaxpo.objectives.methods.orion import ORION
from jaxpo.objectives.methods.ppo import PPO
from jaxpo.objectives.methods.rloo import RLOO
from jaxpo.objectives.methods.rollouts import RolloutMethod
from jaxpo.online.rewards import VerifierReward, named_reward

VOCABULARY = 320
LENGTH = 160
ANSWER = 48
TRAIN, HELD_OUT = "corpus:arithmetic_train.jsonl", "corpus:arithmetic_heldout.jsonl"
FEW_PROMPTS, FEW = 320, "corpus:arithmetic_few.jsonl"
"""Asked again every 20 steps of 16: HAPO compares with what became of a problem before."""
STEPS_BESIDE = 60
"""Of each of five methods side by side: five times the steps of one would take half an hour."""
SHORTER = {"drpo": DRPO(), "dler": DLER(limit=16, beta=0.0), "hapo": HAPO(), "orion": ORION()}
"""Methods of short answers, as the variants of these names have them."""
MODEL = replace(
    preset("nano"),
    vocab_size=VOCABULARY,
    hidden_size=96,
    intermediate_size=256,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=24,
    layer_types=("conv", "full_attention", "conv", "full_attention"),
    rope_theta=10_000.0,
)


def fine_tuning(max_tokens: int) -> SFT:
    """The stage that online stages on arithmetic begin with."""
    return SFT(
        data=Data(train=(TRAIN,), eval=(HELD_OUT,), max_length=LENGTH, row_length=2 * LENGTH),
        optimizer=Optimizer(learning_rate=4e-3, lr_scheduler_type="cosine", warmup_steps=20, weight_decay=0.0),
        rows_per_step=16,
        max_tokens=max_tokens,
        logging_steps=10,
        save_steps=100,
    )


def config() -> Run:
    """The recipe on arithmetic."""
    return Run(
        name="grpo",
        model=MODEL,
        corpus=Arithmetic(levels=(1, 2, 3)),
        tokenizer=Tokenizer(train_on=(TRAIN,), vocab_size=VOCABULARY),
        stages=(
            fine_tuning(800_000),
            Online(
                name="grpo",
                # Two groups of eight usual answers, each behind its prompt.
                data=Data(train=(TRAIN,), eval=(HELD_OUT,), max_length=LENGTH, row_length=384),
                share_prompts=True,
                loss=GRPO(),
                reward_funcs=(VerifierReward(),),
                num_generations=8,
                prompts_per_step=16,
                max_completion_length=ANSWER,
                rows_per_step=64,
                gradient_accumulation_steps=16,
                optimizer=Optimizer(
                    learning_rate=1.5e-4,
                    lr_scheduler_type="cosine",
                    warmup_steps=10,
                    weight_decay=0.0,
                    max_grad_norm=1.0,
                    adam_beta2=0.99,
                ),
                max_steps=1200,
                eval_steps=100,
                eval_rows=128,
                logging_steps=5,
                save_steps=200,
            ),
        ),
        prompts=(),
        probes=(ExactMatch((HELD_OUT,), prompts=600, max_new_tokens=ANSWER),),
    )


def rloo() -> Run:
    """The recipe on arithmetic, by RLOO; without a reference, as GRPO's."""
    return _instead(RLOO(beta=0.0), "rloo")


def ppo() -> Run:
    """The recipe on arithmetic, by PPO: the same answers per step, none compared with the others of its group."""
    return _instead(PPO(kl_coef=0.0, vf_coef=0.5), "ppo")


def drpo() -> Run:
    """The recipe on arithmetic, by DRPO: right answers are weighed by their length, wrong ones pushed down apart."""
    return _instead(SHORTER["drpo"], "drpo")


def dler() -> Run:
    """The recipe on arithmetic, by DLER: answers of more than 16 tokens are worth nothing, and questions whose answers
    are all alike are replaced once."""
    run = _instead(SHORTER["dler"], "dler")
    sft, stage = run.stages
    return replace(run, stages=(sft, replace(stage, dynamic_sampling=1)))


def hapo() -> Run:
    """The recipe on arithmetic, by HAPO: on few problems, which come again and again."""
    return _on_few(_instead(SHORTER["hapo"], "hapo"))


def orion() -> Run:
    """The recipe on arithmetic, by ORION's second stage; the recipe "orion" has the first one too."""
    return _instead(SHORTER["orion"], "orion")


def lengths() -> Run:
    """GRPO and the methods of short answers from one fine-tuned model, on the same few problems."""
    runs = (config(), drpo(), dler(), hapo(), orion())
    stages = tuple(replace(run.stages[1], init_from="sft", max_steps=STEPS_BESIDE) for run in runs)
    return _on_few(replace(runs[0], name="lengths", stages=(runs[0].stages[0], *stages)))


def _on_few(run: Run) -> Run:
    """The recipe with prompts that come several times, and the tokens of answers among its measurements."""
    few = replace(run.stages[1].data, train=(FEW,))
    stages = (run.stages[0], *(replace(stage, data=few) for stage in run.stages[1:]))
    probes = (*run.probes, EndsByItself((HELD_OUT,), prompts=600, max_new_tokens=ANSWER))
    return replace(run, corpus=replace(run.corpus, few=FEW_PROMPTS), stages=stages, probes=probes)


def side_by_side() -> Run:
    """GRPO, RLOO and PPO, each from the same fine-tuned model."""
    sft, grpo = config().stages
    others = [run.stages[1] for run in (rloo(), ppo())]
    return replace(config(), stages=(sft, grpo, *(replace(stage, init_from=sft.name) for stage in others)))


def _instead(loss: RolloutMethod, name: str) -> Run:
    """The recipe with another method."""
    run = config()
    sft, stage = run.stages
    return replace(run, name=name, stages=(sft, replace(stage, name=name, loss=loss)))


def own(reward: str = "", unsandboxed: bool = False) -> Run:
    """One online stage for a model and prompts of yours.

    Args:
      reward: `file.py:function` or `module:function`, see `jaxpo.online.rewards.FunctionReward`; `unit_tests`, of a
        column `tests`; or a `file.py` that somebody else wrote. These two run in a sandbox.
      unsandboxed: run them with limits alone where bubblewrap does not work: they have the network and your files.
    """
    return Run(
        name="grpo",
        stages=(
            Online(
                name="grpo",
                data=Data(max_length=1024, row_length=2048),
                loss=GRPO(),
                reward_funcs=(named_reward(reward, unsandboxed=unsandboxed),) if reward else (),
                max_completion_length=512,
                prompts_per_step=8,
                rows_per_step=32,
                gradient_accumulation_steps=8,
                optimizer=Optimizer(learning_rate=1e-6, weight_decay=0.0),
                num_train_epochs=1,
                save_steps=50,
            ),
        ),
    )
