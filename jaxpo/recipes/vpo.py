"""Value-incentivised preference optimisation: rounds that explore on all pairs so far, or one that stays near.

    jaxpo run vpo
    jaxpo run vpo --calibration iterate --alpha 0.001
    jaxpo run vpo:offline

Online every round draws two answers of the policy to each of its prompts, has them labelled, and a third response from
the distribution that calibrates the reward: that of the fine-tuned model, or of the policy itself. It trains on the
pairs of all rounds with the online form, whose value term lowers the likelihood of these responses. Offline the pairs
are drawn once, and the value term raises the likelihood of the chosen answers.
"""

from __future__ import annotations

from typing import Literal

from jaxpo.config import RecipePart, Run
from jaxpo.construct.calibration import Calibrate
from jaxpo.judges import VerifierJudge
from jaxpo.objectives.methods.vpo import VPO
from jaxpo.recipes._rounds import START, learning, on_arithmetic, own_answers
from jaxpo.recipes.grpo import ANSWER


def config(
    rounds: int = 3,
    alpha: float = 0.01,
    beta: float = 0.1,
    calibration: Literal["reference", "iterate", "chosen"] = "reference",
) -> Run:
    """The online form on arithmetic that can be checked.

    Args:
      rounds: how often new pairs are drawn.
      alpha: weight of the value; 0 is iterative DPO on all pairs so far.
      beta: strength of the tie to the fine-tuned model.
      calibration: whose responses calibrate the reward: the reference's, the last iterate's, or the chosen ones.
    """
    judge, policy, files = VerifierJudge("completion"), START, []
    stages: list[RecipePart] = []
    loss = VPO("online", "chosen" if calibration == "chosen" else "drawn", beta=beta, alpha=alpha)
    for t in range(1, rounds + 1):
        stages.append(own_answers(f"pairs_{t}", policy, judge, 2, t))
        made = f"stage:pairs_{t}/pairs.jsonl"
        if calibration != "chosen":
            model = START if calibration == "reference" else policy
            stages.append(
                Calibrate(f"calibrated_{t}", rows=(made,), model=model, max_new_tokens=ANSWER, seed=t),
            )
            made = f"stage:calibrated_{t}/rows.jsonl"
        files.append(made)
        stages.append(learning(f"vpo_{t}", policy, loss, tuple(files), reference=START))
        policy = f"vpo_{t}"
    return on_arithmetic("vpo", tuple(stages))


def offline(alpha: float = 0.1, beta: float = 0.1) -> Run:
    """The offline form on pairs of the fine-tuned model's answers, calibrated by the chosen ones.

    Args:
      alpha: weight of the value; 0 is DPO.
      beta: strength of the tie to the fine-tuned model.
    """
    held = ("stage:pairs/heldout_pairs.jsonl",)
    pairs = own_answers("pairs", START, VerifierJudge("completion"), 4, 1)
    loss = VPO(beta=beta, alpha=alpha)
    stages = (pairs, learning("vpo", START, loss, ("stage:pairs/pairs.jsonl",), held_out=held))
    return on_arithmetic("vpo", stages)
