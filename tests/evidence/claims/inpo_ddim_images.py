"""DDIM-InPO on scenes: whether latents by inversion teach more than forward noise, at equal steps and equal drift."""

from __future__ import annotations

from evidence.claims._scene_images import by_dpo, by_inpo, compared
from evidence.harness import Claim, NotReproduced

CLAIM = Claim(
    method="inpo_ddim",
    paper="arXiv:2503.18454",
    claim="From one base on one set of pairs, DDIM-InPO (five segments, eta 0) gains a tenth more reward than "
    "Diffusion-DPO, after as many steps and at the same denoising loss.",
    baseline="Diffusion-DPO at the same beta and learning rate",
    measure="mean gain of samples over the base at equal drift (brightness, left); effect: relative advantage, mean "
    "over the two rewards, the smaller of equal steps and equal drift",
    seeds=(0, 1, 2),
    threshold=0.1,
    min_share=0.6,
    not_reproduced=NotReproduced(
        "after as many steps it gains a half less brightness, and a quarter to a half more of what a place is "
        "worth; at equal drift less of both on two of three seeds, since the denoising loss, which is that of "
        "forward noise, rises faster.",
        (-0.7, -0.2),
    ),
)


def measure(seed: int) -> dict[str, float]:
    return compared(by_inpo, by_dpo, seed)
