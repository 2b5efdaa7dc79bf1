"""R^3: only the product of relevance, length and repetition ends with long answers on the topic that do not repeat."""

from __future__ import annotations

import jax
from evidence.claims._templated_answers import CHOICES, rewards, trained
from evidence.harness import Claim, NotReproduced

from jaxpo.online.rewards.r3 import R3Reward

CLAIM = Claim(
    method="r3",
    paper="arXiv:2402.03469",
    claim="REINFORCE on the product gives most answers that are on the topic, long and without repetition; on "
    "relevance alone it copies the question, on length alone it repeats, on length with the penalty it leaves the "
    "topic.",
    baseline="the best of relevance alone, length alone, and length with the repetition penalty",
    measure="share of answers on the topic with 60 different words, product minus baseline",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.3,
    min_share=1.0,
    not_reproduced=NotReproduced(
        "relevance alone copies and length alone repeats, in every draw; but without relevance answers on and off the "
        "topic have exactly the same reward, so that nothing decides between them, and all five draws ended on the "
        "topic. r3_habit, registered after this run, starts from a policy that strays",
        (-0.01, 0.02),
    ),
)

WANTED = CHOICES.index(("on", 60, 1))
ABLATIONS = {
    "relevance": R3Reward(length=False, repetition=False),
    "length": R3Reward(relevance=False, repetition=False),
    "length and repetition": R3Reward(relevance=False),
}


def measure(seed: int, strays: float = 0.0) -> dict[str, float]:
    key = jax.random.key(seed)
    ours = trained(key, rewards(R3Reward(), "open"), strays=strays)[WANTED]
    others = {name: trained(key, rewards(how, "open"), strays=strays) for name, how in ABLATIONS.items()}
    plain = max(p[WANTED] for p in others.values())
    copied = sum(p for p, (about, _, _) in zip(others["relevance"], CHOICES, strict=True) if about == "copy")
    repeated = sum(p for p, (_, _, n) in zip(others["length"], CHOICES, strict=True) if n > 1)
    off = sum(p for p, (about, _, _) in zip(others["length and repetition"], CHOICES, strict=True) if about == "off")
    shares = {"copied by relevance": copied, "repeated by length": repeated, "off the topic by both": off}
    return {"method": ours, "baseline": plain, "effect": ours - plain, **shares}
