"""Step-level DPO by tree search: rounds of searching over steps, and learning from the siblings tried.

    jaxpo run mcts_dpo
    jaxpo run mcts_dpo --simulations 16 --rounds 1

Every round searches answers to prompts of its own with the last policy: lines are steps, the verifier judges answers
that are over, and the model itself is asked about every step with the right answer in sight. Pairs of siblings along
the chosen path train the next policy, against the last one, on the tokens of the steps alone, each label smoothed by
the visits of both.
"""

from __future__ import annotations

from jaxpo.config import RecipePart, Run
from jaxpo.construct.tree_search.stage import TreeSearch
from jaxpo.judges import VerifierJudge
from jaxpo.objectives.methods.mcts_dpo import MCTSDPO
from jaxpo.recipes._rounds import START, learning, on_arithmetic
from jaxpo.recipes.grpo import ANSWER, TRAIN

PROMPTS = 200
"""Prompts of a round."""


def config(rounds: int = 2, simulations: int = 8, actions: int = 3, depth: int = 4, beta: float = 0.1) -> Run:
    """The recipe on arithmetic that can be checked.

    Args:
      rounds: how often is searched anew.
      simulations: from a node of the path; four times as many from the root. The paper has 64.
      actions: steps that are tried after a beginning.
      depth: steps of an answer.
      beta: strength of the tie to the last policy.
    """
    policy = START
    stages: list[RecipePart] = []
    for t in range(1, rounds + 1):
        stages += [
            TreeSearch(
                name=f"search_{t}",
                prompts=(TRAIN,),
                model=policy,
                verifier=VerifierJudge("completion"),
                simulations=simulations,
                actions=actions,
                depth=depth,
                step_tokens=ANSWER // 2,
                skip_prompts=(t - 1) * PROMPTS,
                max_prompts=PROMPTS,
                seed=t,
            ),
            learning(
                f"mcts_dpo_{t}",
                policy,
                MCTSDPO(beta=beta),
                (f"stage:search_{t}/pairs.jsonl",),
                held_out=(f"stage:search_{t}/heldout_pairs.jsonl",),
            ),
        ]
        policy = f"mcts_dpo_{t}"
    return on_arithmetic("mcts_dpo", tuple(stages))
