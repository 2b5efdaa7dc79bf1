"""Accelerated preference optimisation: rounds of DPO on the model's own answers, each overshooting the last.

    jaxpo run apo_accel
    jaxpo run apo_accel --alpha 0 --run runs/iterative-dpo

Every round samples answers of the extrapolated policy anew, labels them, trains from that policy with it as the
reference (`hat_t`), and goes (1 + alpha) of the way from the last round's solution, which was not extrapolated:

    pi_t = hat_t + alpha (hat_t - hat_{t-1}),    hat_0 = pi_0 = the fine-tuned model

`Divergence` logs KL(pi_t || hat_t): a large alpha wears out the calibration.
"""

from __future__ import annotations

from typing import Literal

from jaxpo.config import SFT, Data, Merge, Optimizer, Preference, Run, Tokenizer
from jaxpo.construct.divergence import Divergence
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.corpora.arithmetic import Arithmetic
from jaxpo.evaluate.exact_match import ExactMatch
from jaxpo.judges import Judge, VerifierJudge
from jaxpo.objectives.methods.dpo import DPO
from jaxpo.objectives.methods.sppo_hard import SPPOHard
from jaxpo.recipes.grpo import ANSWER, HELD_OUT, LENGTH, MODEL, TRAIN, VOCABULARY

START = "sft"


def rounds(
    prompts: tuple[str, ...],
    judge: Judge,
    *,
    count: int,
    alpha: float,
    inner: Literal["dpo", "sppo"],
    max_prompts: int,
    answer: int = ANSWER,
    length: int = LENGTH,
    rate: float = 2e-4,
) -> tuple[OnPolicyPairs | Preference | Merge | Divergence, ...]:
    """The stages of all rounds."""
    stages: list[OnPolicyPairs | Preference | Merge | Divergence] = []
    policy = before = START
    for t in range(1, count + 1):
        solution, following = f"hat_{t}", f"pi_{t}"
        pairs = f"stage:pairs_{t}/pairs.jsonl"
        stages += [
            OnPolicyPairs(
                name=f"pairs_{t}",
                prompts=prompts,
                model=policy,
                judge=judge,
                samples=4,
                given=False,
                max_prompts=max_prompts,
                max_new_tokens=answer,
                seed=t,
            ),
            Preference(
                name=solution,
                init_from=policy,
                loss={"dpo": DPO(beta=0.1), "sppo": SPPOHard(beta=1e-2)}[inner],
                data=Data(
                    train=(pairs,),
                    eval=(f"stage:pairs_{t}/heldout_pairs.jsonl",),
                    max_length=length,
                    row_length=2 * length,
                ),
                optimizer=Optimizer(learning_rate=rate, lr_scheduler_type="cosine", warmup_steps=5, weight_decay=0.0),
                rows_per_step=16,
                num_train_epochs=1,
                logging_steps=5,
            ),
            Merge(name=following, models=(solution, before), weights=(1.0 + alpha, -alpha)),
            Divergence(
                name=f"kl_{t}",
                model=following,
                other=solution,
                prompts=prompts,
                max_new_tokens=answer,
                max_length=length,
            ),
        ]
        policy, before = following, solution
    return tuple(stages)


def config(alpha: float = 0.3, count: int = 3, inner: Literal["dpo", "sppo"] = "dpo") -> Run:
    """The recipe on arithmetic that can be checked.

    Args:
      alpha: how far each round overshoots; 0 = iterative DPO.
      count: rounds.
      inner: the method inside a round.
    """
    own = rounds((TRAIN,), VerifierJudge("completion"), count=count, alpha=alpha, inner=inner, max_prompts=600)
    return Run(
        name="apo_accel",
        model=MODEL,
        corpus=Arithmetic(levels=(1, 2, 3)),
        tokenizer=Tokenizer(train_on=(TRAIN,), vocab_size=VOCABULARY),
        stages=(
            SFT(
                name=START,
                data=Data(train=(TRAIN,), eval=(HELD_OUT,), max_length=LENGTH, row_length=2 * LENGTH),
                optimizer=Optimizer(learning_rate=4e-3, lr_scheduler_type="cosine", warmup_steps=20, weight_decay=0.0),
                rows_per_step=16,
                max_tokens=600_000,
                logging_steps=10,
            ),
            *own,
        ),
        prompts=(),
        probes=(ExactMatch((HELD_OUT,), prompts=300, max_new_tokens=ANSWER),),
    )
