"""Where the critic of a stage comes from."""

from __future__ import annotations

from typing import Any

import jax

from jaxpo.errors import CheckpointError
from jaxpo.models.spec import abstract_params, init_params
from jaxpo.objectives.families.critic import CRITIC, MODEL
from jaxpo.recipe.kinds import method_of
from jaxpo.stages.assemble import own_tables
from jaxpo.stages.setting import Setting

Tree = Any
VALUE = "value"


def with_critic(setting: Setting, stage: Any, base: Tree) -> Tree:
    """What a stage starts from, with a critic where its method has one.

    Raises:
      CheckpointError: the model that it is to start from has no value head, or another shape.
    """
    if CRITIC not in method_of(stage).NEEDS.extra:
        return base
    table = own_tables(stage, setting.config(stage))[CRITIC]
    if stage.critic_from is not None:
        return {**base, CRITIC: _of_reward_model(setting, stage, table)}
    if jax.tree.map(_shape, base.get(CRITIC, {})) == jax.tree.map(_shape, abstract_params(table)):
        return base
    head = init_params(table[VALUE], jax.random.key(0))  # zeros, whatever the key
    return {**base, CRITIC: {MODEL: base[MODEL], VALUE: head} if MODEL in table else {VALUE: head}}


def _of_reward_model(setting: Setting, stage: Any, table: Tree) -> Tree:
    """The model and the head of a reward model, or its head alone."""
    found = setting.load(setting.model_folder(stage.critic_from))
    where = f"{stage.name}.critic_from: {stage.critic_from}"
    if VALUE not in found:
        raise CheckpointError(f"{where} has no value head; name a reward model.")
    critic = {name: found[name] for name in table}
    if jax.tree.map(_shape, critic) != jax.tree.map(_shape, abstract_params(table)):
        raise CheckpointError(f"{where} has another architecture than the policy; name a reward model of its shape.")
    return critic


def _shape(x: Any) -> str:
    return str(x.shape)
