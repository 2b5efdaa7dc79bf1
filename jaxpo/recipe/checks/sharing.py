"""The checks of answers that share their prompt. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxpo.config import Online, Run
from jaxpo.config.fields import flag
from jaxpo.models.family import is_config


def sharing_problems(run: Run, stage: Online) -> Iterator[str]:
    """What rows, positions and kernels must be like."""
    if not stage.share_prompts:
        return
    name = f"{stage.name}.share_prompts"
    if hasattr(stage, "pair_rows"):
        yield f"{name}: the rows of pairs beside the answers have a prompt each; leave it out."
    if run.mesh.sequence > 1:
        yield (
            f"{name}: positions lie on {run.mesh.sequence} devices, and what answers share must lie on theirs; give "
            f"{flag(('mesh', 'sequence'))} 1, or leave it out."
        )
    if run.compute.attention not in (None, "xla"):
        yield (
            f"{name}: compute.attention {run.compute.attention!r} takes segments by themselves; give "
            f"{flag(('compute', 'attention'))} xla, or leave it out."
        )


def window_problems(stage: Any, config: Any) -> Iterator[str]:
    """A model with sliding windows reads no shared prompts.

    Args:
      config: of the stage's model, or of one beside it; nothing is said of what is unknown.
    """
    text = getattr(config, "text", config)
    if not getattr(stage, "share_prompts", False) or not is_config(config) or not hasattr(text, "layer_types"):
        return
    if any(text.window(kind) is not None for kind in text.layer_types):
        yield (
            f"{stage.name}.share_prompts: the model has layers with a sliding window, which counts positions of the "
            "row, and answers that share a prompt do not lie directly behind it; leave it out."
        )
