"""SCE: select where the models differ, calculate their weights, erase the minority's signs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpo.merge.consensus import add_agreeing, plain_sum, task_vectors
from jaxpo.merge.numerics import Leaf, largest


def sce(base: Leaf, leaves: Sequence[Leaf], *, select_topk: float = 1.0) -> np.ndarray:
    """Weights from the energy of each task vector, leaf by leaf.

        S: keep the `select_topk` share of entries with the largest variance over the models (of those that vary)
        C: w_i = sum tau_i^2 / sum_j sum tau_j^2
        E: theta = theta_0 + sum_{i in A} w_i tau_i / sum_{i in A} w_i,   A = those with the elected sign

    The sign is elected by the plain sum of the selected entries. Weights are equal when no task vector has any.

    Args:
      select_topk: 1 keeps every entry.

    Reference: Wan et al. 2024 (arXiv 2408.07990), section 3.2. mergekit 0.1.5 takes equal weights already when the
    mean squares sum to less than 1e-6, which those of a model tuned with usual learning rates always do.
    """
    deltas = list(task_vectors(base, leaves))
    if select_topk < 1:
        variance = np.var(np.stack(deltas), axis=0)
        mask = largest(variance, int(np.count_nonzero(variance) * select_topk))
        deltas = [np.where(mask, d, np.float32(0)) for d in deltas]
    energies = [float(np.sum(np.square(d), dtype=np.float64)) for d in deltas]
    total = sum(energies)
    weights = [e / total if total > 0 else 1 / len(deltas) for e in energies]
    return add_agreeing(base, deltas, weights, positive=plain_sum(deltas) >= 0)
