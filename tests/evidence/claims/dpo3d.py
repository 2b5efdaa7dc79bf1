"""3D-Properties: a smaller beta on the rejected side slows the drop that drags the chosen response along."""

from __future__ import annotations

from evidence.claims._softmax_policy import features, trainer
from evidence.harness import Claim

from jaxpo.losses import dpo, dpo3d, unseen_mass

BETA, BETA_MINUS, SFT_WEIGHT = 0.1, 0.05, 0.1

CLAIM = Claim(
    method="dpo3d",
    paper="arXiv:2406.07327",
    claim="DPO drags the chosen likelihood down with the rejected one; Flex-DPO and SFT-DPO keep it higher.",
    baseline="DPO, beta 0.1",
    measure="final log-probability of the chosen response in nats, the worse of Flex-DPO (beta- 0.05) and SFT-DPO "
    "(lambda 0.1) minus DPO",
    seeds=(0, 1, 2, 3, 4),
    threshold=1.0,
    min_share=0.8,
)


def _dpo(*logps):
    return dpo(*logps, beta=BETA)


def _flex(*logps):
    return dpo3d(*logps, beta_plus=BETA, beta_minus=BETA_MINUS)[0]


def _sft(*logps):
    return sum(dpo3d(*logps, beta_plus=BETA, beta_minus=BETA, sft_weight=SFT_WEIGHT))


def measure(seed: int) -> dict[str, float]:
    x = features(seed)
    plain, flex, sft = (trainer(loss)(x) for loss in (_dpo, _flex, _sft))
    worse = min(flex[0], sft[0])
    return {
        "method": worse,
        "baseline": plain[0],
        "effect": worse - plain[0],
        "Flex-DPO": flex[0],
        "SFT-DPO": sft[0],
        "rejected, DPO": plain[1],
        "unseen, DPO": unseen_mass(plain[:2]),
        "unseen, SFT-DPO": unseen_mass(sft[:2]),
    }
