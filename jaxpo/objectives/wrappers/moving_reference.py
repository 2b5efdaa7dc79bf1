"""A reference that follows the policy (TR-DPO), for any objective that has one."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Array

from jaxpo.data.packing.batch import Batch
from jaxpo.losses import tr_dpo_reference
from jaxpo.objectives.base import Counts, Objective, Out

Tree = Any
METHOD, REFERENCE = "method", "reference"


def with_moving_reference(objective: Objective, *, alpha: float, every: int) -> Objective:
    """The same objective, whose reference moves towards the policy every `every` steps.

    The carry becomes `{"method": the objective's own, "reference": parameters}`: the reference starts as the policy, is
    sharded like it, is stored with the state, and stays as it is in a step that is skipped.

    Args:
      objective: any whose `encode` reads `frozen["reference"]`, log-probs or vocabulary terms alike.
      alpha, every: see `jaxpo.losses.tr_dpo_reference`.
    """

    def start(carry: Tree, params: Tree) -> Tree:
        return {METHOD: objective.start(carry, params), REFERENCE: params["model"]}

    def networks(frozen: Tree, carry: Tree) -> Tree:
        return {**objective.networks(frozen, carry[METHOD]), REFERENCE: carry[REFERENCE]}

    def loss(features: Tree, batch: Batch, carry: Tree, counts: Counts) -> Out:
        return objective.loss(features, batch, carry[METHOD], counts)

    def after(carry: Tree, stats: Tree) -> Tree:
        return {**carry, METHOD: objective.after(carry[METHOD], stats)}

    def follow(carry: Tree, params: Tree, step: Array) -> Tree:
        moved = tr_dpo_reference(carry[REFERENCE], params["model"], step, alpha=alpha, every=every)
        return {METHOD: objective.follow(carry[METHOD], params, step), REFERENCE: moved}

    return dataclasses.replace(objective, loss=loss, after=after, start=start, networks=networks, follow=follow)
