"""Hybrid preference optimisation: DPO on offline pairs, and the KL to the reference on the policy's answers.

    jaxpo run hypo
    jaxpo run hypo --kl-weight 0            DPO on the same pairs

The pairs are drawn once, from the fine-tuned model, and labelled. Every step joins some of them with unlabelled answers
that the policy writes to their prompts; these carry the reverse KL to the fine-tuned model, weighed by each answer's
log-ratio less the mean of the others to its prompt. On your own pairs:

    jaxpo run hypo:own --run runs/my-hypo --model-from runs/my-sft/export --pairs pairs.jsonl
"""

from __future__ import annotations

from jaxpo.config import Data, Hybrid, Optimizer, Run
from jaxpo.judges import VerifierJudge
from jaxpo.objectives.methods.hypo import HyPO
from jaxpo.recipes._rounds import START, on_arithmetic, own_answers
from jaxpo.recipes.grpo import ANSWER, LENGTH


def config(beta: float = 0.1, kl_weight: float = 0.01, samples: int = 2) -> Run:
    """The recipe on arithmetic that can be checked.

    Args:
      beta: of DPO.
      kl_weight: lambda.
      samples: k, answers that the policy writes to a prompt.
    """
    stage = Hybrid(
        name="hypo",
        init_from=START,
        loss=HyPO(beta=beta, kl_weight=kl_weight),
        data=Data(
            train=("stage:pairs/pairs.jsonl",),
            eval=("stage:pairs/heldout_pairs.jsonl",),
            max_length=LENGTH,
            row_length=2 * LENGTH,
        ),
        num_generations=samples,
        prompts_per_step=16,
        max_completion_length=ANSWER,
        pair_rows=16,
        rows_per_step=16 + 8 * samples,
        optimizer=Optimizer(learning_rate=2e-4, lr_scheduler_type="cosine", warmup_steps=5, weight_decay=0.0),
        num_train_epochs=1,
        logging_steps=5,
    )
    return on_arithmetic("hypo", (own_answers("pairs", START, VerifierJudge("completion"), 4, 1), stage))


def own(pairs: str = "") -> Run:
    """One stage for a model and pairs of yours.

    Args:
      pairs: rows with prompt, chosen and rejected.
    """
    stage = Hybrid(
        name="hypo",
        loss=HyPO(),
        data=Data(train=(pairs,) if pairs else (), max_length=1024, row_length=2048),
        num_generations=2,
        prompts_per_step=8,
        max_completion_length=512,
        pair_rows=8,
        rows_per_step=16,
        gradient_accumulation_steps=8,
        optimizer=Optimizer(learning_rate=1e-6, weight_decay=0.0),
        num_train_epochs=1,
        save_steps=50,
    )
    return Run(name="hypo", stages=(stage,))
