"""The merge stage: one model from the models of earlier stages."""

from __future__ import annotations

from typing import Any

from jaxpo.config import Merge
from jaxpo.merge.soup import effective_weights, soup
from jaxpo.stages.setting import Setting

Tree = Any


def merge(setting: Setting, stage: Merge) -> Tree:
    """Average the models that the stage names."""
    names = setting.merged(stage)
    weights = effective_weights(len(names), stage.weights)
    setting.console.say(f"{stage.name}: " + " + ".join(f"{w:.4g} x {n}" for w, n in zip(weights, names, strict=True)))
    models = [setting.load(setting.home.path / "stages" / name)["model"] for name in names]
    return {"model": soup(models, weights)}
