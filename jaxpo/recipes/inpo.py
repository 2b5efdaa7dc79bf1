"""Iterative Nash policy optimisation: rounds of self-play, each a step of mirror descent on tournament pairs.

    jaxpo run inpo
    jaxpo run inpo --selection best_worst --eta 0.5

Every round draws eight answers of the last iterate to prompts of its own, has them meet in a tournament (or takes the
best and the worst by their scores), and trains from the last iterate with two networks beside it: the last iterate and
the fine-tuned model, which stays the reference of all rounds. On your own preferences give `TournamentPairs` another
oracle: `ByPreferenceModel("STAGE")` asks a stage of gpm, `ByDuel(judge)` a judge that compares two answers.
"""

from __future__ import annotations

from typing import Literal

from jaxpo.config import RecipePart, Run
from jaxpo.construct.on_policy.oracles import ByScore
from jaxpo.construct.on_policy.stage import OnPolicyPairs
from jaxpo.construct.on_policy.tournament import TournamentPairs
from jaxpo.judges import Judge, VerifierJudge
from jaxpo.objectives.methods.inpo import INPO
from jaxpo.recipes._rounds import PROMPTS, START, learning, on_arithmetic, own_answers
from jaxpo.recipes.grpo import ANSWER, TRAIN

Selection = Literal["tournament", "best_worst"]


def config(
    rounds: int = 3, eta: float = 0.1, tau: float | None = None, samples: int = 8, selection: Selection = "tournament"
) -> Run:
    """The recipe on arithmetic that can be checked.

    Args:
      rounds: T.
      eta: inverse step size; the paper has 0.005, a target of 100 nats.
      tau: strength of the tie to the fine-tuned model; None = eta / 3.
      samples: K, a power of two where they meet in a tournament.
      selection: "tournament", or "best_worst" by the scores.
    """
    judge, policy = VerifierJudge("completion"), START
    stages: list[RecipePart] = []
    for t in range(1, rounds + 1):
        stages += [
            pairs_of(selection, f"pairs_{t}", policy, judge, samples, t),
            learning(
                f"inpo_{t}",
                policy,
                INPO(eta=eta, tau=tau),
                (f"stage:pairs_{t}/pairs.jsonl",),
                held_out=(f"stage:pairs_{t}/heldout_pairs.jsonl",),
                reference=START,
            ),
        ]
        policy = f"inpo_{t}"
    return on_arithmetic("inpo", tuple(stages))


def pairs_of(
    selection: Selection, name: str, model: str, judge: Judge, samples: int, t: int
) -> TournamentPairs | OnPolicyPairs:
    """The stage that makes the pairs of round t."""
    if selection == "best_worst":
        return own_answers(name, model, judge, samples, t)
    return TournamentPairs(
        name=name,
        prompts=(TRAIN,),
        model=model,
        oracle=ByScore(judge),
        samples=samples,
        keep_unfinished=True,
        skip_prompts=(t - 1) * PROMPTS,
        max_prompts=PROMPTS,
        max_new_tokens=ANSWER,
        seed=t,
    )
