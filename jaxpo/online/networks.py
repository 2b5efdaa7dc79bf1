"""The networks that the trainer reads before it trains, out of a state and what lies beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxpo.models.paths import joined
from jaxpo.objectives.wrappers.fixed import FIXED, MODEL
from jaxpo.objectives.wrappers.lora import BASE
from jaxpo.objectives.wrappers.moving_reference import REFERENCE

Tree = Any


def networks_in_state(
    whole: Callable[[Any], Tree], frozen: Mapping[str, Tree], *, moves: bool
) -> Callable[[Any], dict[str, Tree]]:
    """`state ->` the plain trained tree as "policy", and the model of "reference" where there is one.

    Args:
      whole: what is trained -> the plain model and its heads.
      frozen: what lies beside the trained part; an adapter's base stands in for a reference that is not there.
      moves: the reference follows the policy, in the state.
    """

    def of(state: Any) -> dict[str, Tree]:
        found = {"policy": whole(state.params)}
        if moves:
            return {**found, "reference": joined(state.carry[REFERENCE], frozen.get(FIXED, {}).get(MODEL, {}))}
        reference = frozen.get(REFERENCE, frozen.get(BASE))
        return found if reference is None else {**found, "reference": reference}

    return of
