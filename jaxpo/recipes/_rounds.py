"""What the recipes of rounds share: the fine-tuned start on arithmetic, a round's own answers, its preference stage."""

from __future__ import annotations

from typing import Any

from jaxpo.config import Beside, Data, Optimizer, Preference, RecipePart, Run, Tokenizer
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.corpora.arithmetic import Arithmetic
from jaxpo.evaluate.exact_match import ExactMatch
from jaxpo.judges import Judge
from jaxpo.recipes.grpo import ANSWER, HELD_OUT, LENGTH, MODEL, TRAIN, VOCABULARY, fine_tuning

START = "sft"
PROMPTS = 600
"""Prompts of a round."""


def on_arithmetic(name: str, stages: tuple[RecipePart, ...], max_tokens: int = 600_000) -> Run:
    """A model that is fine-tuned on word problems, and stages after it."""
    return Run(
        name=name,
        model=MODEL,
        corpus=Arithmetic(levels=(1, 2, 3)),
        tokenizer=Tokenizer(train_on=(TRAIN,), vocab_size=VOCABULARY),
        stages=(fine_tuning(max_tokens), *stages),
        prompts=(),
        probes=(ExactMatch((HELD_OUT,), prompts=300, max_new_tokens=ANSWER),),
    )


def own_answers(name: str, model: str, judge: Judge, samples: int, round_number: int, **more: Any) -> OnPolicyPairs:
    """Pairs of a model's own answers to the prompts of a round, counted from 1, which no other round has."""
    return OnPolicyPairs(
        name=name,
        prompts=(TRAIN,),
        model=model,
        judge=judge,
        samples=samples,
        given=False,
        keep_unfinished=True,
        skip_prompts=(round_number - 1) * PROMPTS,
        max_prompts=PROMPTS,
        max_new_tokens=ANSWER,
        max_length=LENGTH,
        seed=round_number,
        **more,
    )


def learning(
    name: str,
    start: str,
    loss: Any,
    train: tuple[str, ...],
    *,
    held_out: tuple[str, ...] = (),
    reference: str | None = None,
    rate: float = 2e-4,
) -> Preference:
    """A preference stage of a round.

    Args:
      start: the stage whose model it starts from.
      reference: the stage whose model is the reference; None = `start`.
    """
    return Preference(
        name=name,
        init_from=start,
        loss=loss,
        beside=() if reference is None else (("reference", Beside(reference)),),
        data=Data(train=train, eval=held_out, max_length=LENGTH, row_length=2 * LENGTH),
        optimizer=Optimizer(learning_rate=rate, lr_scheduler_type="cosine", warmup_steps=5, weight_decay=0.0),
        rows_per_step=16,
        num_train_epochs=1,
        logging_steps=5,
    )
