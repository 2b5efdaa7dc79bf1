"""Uncertainty-enhanced preference optimisation: rounds of self-training in which three models are trained anew.

    jaxpo run upo
    jaxpo run upo --mu 8 --rounds 2

From pairs that the verifier labels come a reward model, a first policy by DPO, and an estimator that reads whole pairs
and says whether they stand in the right order. Every round draws answers of the last policy to prompts of its own,
ranks them by the reward model, and draws pairs by how well the estimator's dropout masks agree about them: certain
pairs more often, and smoothed less. The next policy learns from these against the last one, and reward model and
estimator are trained again, from the fine-tuned model, on the labelled pairs and all that were drawn.
"""

from __future__ import annotations

from jaxpo.config import Data, Optimizer, RecipePart, Reward, Run
from jaxpo.construct.estimator import RenderPairs
from jaxpo.construct.on_policy.uncertain import UncertainPairs
from jaxpo.judges import VerifierJudge
from jaxpo.objectives.methods.bradley_terry import BradleyTerry
from jaxpo.objectives.methods.dpo import DPO
from jaxpo.objectives.methods.outcome_reward import OutcomeReward
from jaxpo.objectives.methods.upo import UPO
from jaxpo.recipes._rounds import PROMPTS, START, learning, on_arithmetic, own_answers
from jaxpo.recipes.grpo import ANSWER, LENGTH, TRAIN


def config(rounds: int = 3, mu: float = 4.0, masks: int = 10, nll_weight: float = 1.0, samples: int = 6) -> Run:
    """The recipe on arithmetic that can be checked.

    Args:
      rounds: of self-training.
      mu: how much certain pairs are preferred; 0 = not.
      masks: dropout masks under which the estimator reads a pair.
      nll_weight: of the likelihood of the chosen answers.
      samples: answers to a prompt.
    """
    files = ["stage:labelled/pairs.jsonl"]
    stages: list[RecipePart] = [
        own_answers("labelled", START, VerifierJudge("completion"), samples, 1),
        *judges(0, tuple(files)),
        learning("upo_0", START, DPO(beta=0.1), tuple(files)),
    ]
    for t in range(1, rounds + 1):
        before = f"upo_{t - 1}"
        stages.append(
            UncertainPairs(
                name=f"pairs_{t}",
                prompts=(TRAIN,),
                model=before,
                reward=f"reward_{t - 1}",
                estimator=f"estimator_{t - 1}",
                samples=samples,
                masks=masks,
                mu=mu,
                skip_prompts=t * PROMPTS,
                max_prompts=PROMPTS,
                max_new_tokens=ANSWER,
                seed=t,
            )
        )
        files.append(f"stage:pairs_{t}/pairs.jsonl")
        held = (f"stage:pairs_{t}/heldout_pairs.jsonl",)
        stages.append(learning(f"upo_{t}", before, UPO(nll_weight=nll_weight), (files[-1],), held_out=held))
        if t < rounds:
            stages += judges(t, tuple(files))
    return on_arithmetic("upo", tuple(stages))


def judges(t: int, files: tuple[str, ...]) -> tuple[RenderPairs, Reward, Reward]:
    """Reward model and estimator of round t, trained anew on all pairs so far."""
    estimated = Data(train=(f"stage:rendered_{t}/rows.jsonl",), max_length=3 * LENGTH, row_length=3 * LENGTH)
    ranked = Data(train=(f"stage:rendered_{t}/pairs.jsonl",), max_length=LENGTH, row_length=2 * LENGTH)
    return (
        RenderPairs(f"rendered_{t}", rows=files),
        _judge(f"reward_{t}", BradleyTerry(), ranked),
        _judge(f"estimator_{t}", OutcomeReward(), estimated, pooled_dropout=0.1),
    )


def _judge(name: str, loss: BradleyTerry | OutcomeReward, data: Data, pooled_dropout: float = 0.0) -> Reward:
    return Reward(
        name=name,
        init_from=START,
        loss=loss,
        data=data,
        optimizer=Optimizer(learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=10, weight_decay=0.01),
        rows_per_step=16,
        num_train_epochs=1,
        pooled_dropout=pooled_dropout,
        logging_steps=5,
    )
