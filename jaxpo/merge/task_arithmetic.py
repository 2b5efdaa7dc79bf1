"""Sum of task vectors on top of a base model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpo.merge.blocks import blockwise
from jaxpo.merge.consensus import added
from jaxpo.merge.numerics import Leaf


def task_arithmetic(
    base: Leaf, leaves: Sequence[Leaf], weights: Sequence[float], *, scale: float = 1.0, normalize: bool = False
) -> np.ndarray:
    """Add what each model learned since the base.

        theta = theta_0 + lambda sum_i w_i (theta_i - theta_0)

    With weights that sum to 1 and lambda = 1 this is the soup of the models.

    Args:
      scale: lambda.
      normalize: divide the sum by sum_i w_i.

    Reference: Ilharco et al. 2023 (arXiv 2212.04089), section 4; LFM2 Technical Report (arXiv 2511.23404), merging.
    """

    def fused(origin: np.ndarray, *models: np.ndarray) -> np.ndarray:
        return added(origin, [model - origin for model in models], weights, scale, normalize)

    return blockwise(fused, base, *leaves)
