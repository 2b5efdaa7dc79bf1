"""A student taught by decoupled top-K distillation against one that sees the same tokens alone."""

from __future__ import annotations

from evidence.claims._low_rank_language import student_loss, teacher_loss
from evidence.harness import Claim

CLAIM = Claim(
    method="decoupled_topk_kd",
    paper="arXiv:2511.23404",
    claim="A student with the decoupled loss (K = 8 of 256, tau = 2) beside the cross-entropy learns more from the "
    "same tokens than from the cross-entropy alone.",
    baseline="cross-entropy alone, the same texts in the same order",
    measure="held-out nats per token, the baseline's minus the method's",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.02,
    min_share=1.0,
)


def measure(seed: int) -> dict[str, float]:
    ours, plain = student_loss("decoupled_topk_kd", seed, 2.0), student_loss(None, seed)
    return {"method": ours, "baseline": plain, "effect": plain - ours, "teacher": teacher_loss()}
