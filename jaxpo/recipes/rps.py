"""A model that answers along a direction of preference (DPA, two rounds), and answers by its neighbours (RPS).

    jaxpo run rps --run runs/my-rps --model-from runs/my-sft/export --ratings rated.jsonl --questions prompts.jsonl

Rated rows have prompt, completion and `ratings: {"helpfulness": number, "verbosity": number}`: a reward model with a
head for each, and the model to begin with, are trained on them. Each round writes eight answers to every prompt for a
drawn direction, keeps the best along it, and fine-tunes on these; the second round's answers are the first one's
model's. The last stage answers the prompts for one direction, by RPS and by the best of as many answers for it alone:

    jaxpo run rps ... --angle 45 --rps.construction.spread 20
"""

from __future__ import annotations

from jaxpo.config import SFT, Data, Optimizer, Reward, Run
from jaxpo.construct.rps.dpa import DPA
from jaxpo.construct.rps.neighbours import RPS
from jaxpo.construct.stage import Construct
from jaxpo.objectives.methods.rating import Rating

ATTRIBUTES = ("helpfulness", "verbosity")
ROUNDS = 2


def config(ratings: str = "", questions: str = "", angle: float = 40.0, cone: float = 45.0) -> Run:
    """Attribute regression, two rounds of conditioned rejection-sampling fine-tuning, and the choice among neighbours.

    Args:
      ratings: rows with ratings of answers.
      questions: rows with prompts.
      angle: of the direction that is asked for in the end, degrees from helpfulness towards verbosity.
      cone: degrees around helpfulness within which directions are trained.
    """
    asked = (questions,) if questions else ()
    rated = Data(train=(ratings,) if ratings else (), max_length=1024, row_length=2048)
    optimizer = Optimizer(learning_rate=1e-5, warmup_ratio=0.1, weight_decay=0.0)
    start = SFT(name="sft", data=rated, optimizer=optimizer, num_train_epochs=1, save_steps=200)
    reward = Reward(
        name="attributes", loss=Rating(aspects=ATTRIBUTES), data=rated, optimizer=optimizer, num_train_epochs=1
    )
    stages: list[Reward | SFT | Construct] = [start, reward]
    policy = "sft"
    for number in range(1, ROUNDS + 1):
        networks = (("model", policy), ("reward", "attributes"))
        stages += [
            Construct(name=f"best_{number}", construction=DPA(cone=cone), rows=asked, networks=networks, seed=number),
            SFT(
                name=f"dpa_{number}",
                init_from=policy,
                data=Data(train=(f"stage:best_{number}/rows.jsonl",), max_length=1024, row_length=2048),
                optimizer=optimizer,
                num_train_epochs=1,
                save_steps=200,
            ),
        ]
        policy = f"dpa_{number}"
    chosen = RPS(cone=cone, angle=angle)
    networks = (("model", policy), ("reward", "attributes"))
    return Run(name="rps", stages=(*stages, Construct(name="rps", construction=chosen, rows=asked, networks=networks)))
