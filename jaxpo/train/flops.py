"""Analytic floating-point operations of a training step, the formula behind the `tflops` metric."""

from __future__ import annotations

from collections.abc import Collection

from jaxpo.models.family import Config, family
from jaxpo.models.parts import Flops, PatchLoad

NO_MEDIA = PatchLoad()


def work_per_token(config: Config, context: float, media: PatchLoad = NO_MEDIA) -> Flops:
    """The forward pass of a token, and of the media that come with it where the family reads any."""
    found = family(config)
    work = found.flops(config, context)
    if found.encoder is None:
        return work
    before = found.encoder.parts(config, media)
    matrices, mixing = sum(part.entries for part in before), sum(part.between for part in before)
    return Flops(work.matrices + matrices, work.mixing + mixing, (*before, *work.parts))


def training_flops_per_token(config: Config, context: float, media: PatchLoad = NO_MEDIA) -> float:
    """Multiply-adds counted as two, forward and backward (three times the forward), recomputation not counted.

        3 * (2 * N + M)

    with N the entries of the matrices that a token is multiplied with and M the operations between positions: in
    attention 4 * H h * c per layer, H h the query width, c the mean number of positions that a token attends to.
    Of images both sums are over the patches that come with a token.

    Args:
      context: mean attended positions per token (half the mean segment length for causal attention).
      media: what comes with a token.
    """
    work = work_per_token(config, context, media)
    return 3.0 * (2.0 * work.matrices + work.mixing)


def spared_flops_per_token(
    config: Config, context: float, trained: Collection[str], *, reached: Collection[str], media: PatchLoad = NO_MEDIA
) -> float:
    """What of `training_flops_per_token` is not computed where a part of the parameters is trained.

        2 * (entries of the fixed matrices) + 2 * (entries below) + 2 * (operations between positions below)

    A fixed matrix has no gradient of its own. Parts of the network below the first that holds a parameter which a
    gradient must reach run forward alone; that part itself is counted whole. Of a family that does not tell its parts
    apart only a model that is fixed as a whole spares something.

    Args:
      trained: paths of the model's trained leaves.
      reached: paths that a gradient must reach: those, and those of adapters.
      media: what comes with a token.
    """
    work = work_per_token(config, context, media)
    if not work.parts:
        return 0.0 if trained else 2.0 * work.matrices
    below = work.parts[: lowest(work, reached)]
    fixed = sum(part.rate * n for part in work.parts for path, n in part.matrices.items() if path not in trained)
    return 2.0 * (fixed + sum(part.entries + part.between for part in below))


def lowest(work: Flops, reached: Collection[str]) -> int:
    """The first part of a network that holds one of the paths; their number if none does."""
    held = (i for i, part in enumerate(work.parts) if any(path.startswith(part.names) for path in reached))
    return next(held, len(work.parts))
