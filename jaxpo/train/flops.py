"""Analytic floating-point operations of a training step, the formula behind the `tflops` metric."""

from __future__ import annotations

from jaxpo.models.family import Config, family


def active_matrices(config: Config) -> float:
    """Entries of the weight matrices that one token is multiplied with."""
    return family(config).flops(config, 0.0).matrices


def training_flops_per_token(config: Config, context: float) -> float:
    """Multiply-adds counted as two, forward and backward (three times the forward), recomputation not counted.

        3 * (2 * N + M)

    with N the entries of the matrices that a token is multiplied with and M the operations between positions: in
    attention 4 * H h * c per layer, H h the query width, c the mean number of positions that a token attends to.

    Args:
      context: mean attended positions per token (half the mean segment length for causal attention).
    """
    work = family(config).flops(config, context)
    return 3.0 * (2.0 * work.matrices + work.mixing)
