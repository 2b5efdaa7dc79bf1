"""MaxMin-RLHF's policy again, on ten draws of its own: the first claim asked for the sign in every one of five."""

from __future__ import annotations

from evidence.claims.maxmin_policy import measure
from evidence.harness import Claim

__all__ = ["CLAIM", "measure"]

CLAIM = Claim(
    method="maxmin_rlhf",
    paper="arXiv:2402.08925",
    claim="REINFORCE on the rewards of the batch's worst group ends, in eight draws of ten, with a worst group that is "
    "better off than under the mean reward of a majority of three to one.",
    baseline="REINFORCE on (3 r_1 + r_2) / 4, the reward of the majority's vote",
    measure="utility of the worst group with the divergence from the reference, 'group' minus the single reward",
    seeds=(20, 21, 22, 23, 24, 25, 26, 27, 28, 29),
    threshold=0.1,
    min_share=0.8,
)
