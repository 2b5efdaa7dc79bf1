"""A generation's answers as steps train on them, and what the trainer's networks say of their tokens beforehand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.config import Online
from jaxpo.data.packing.batch import Batch, join_leading
from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.critic import critic_heads
from jaxpo.objectives.families.rollouts import OLD_LOGPS, OLD_VALUES, REF_LOGPS, SAMPLING_LOGPS
from jaxpo.objectives.methods.answering import Answering
from jaxpo.online.advantages import Shaped
from jaxpo.online.batches import Trained, share_of
from jaxpo.online.generation import Generation
from jaxpo.online.layout import Layout
from jaxpo.sharding import current_mesh, put_batch, row_share, settle, to_host

Tree = Any


def columns_of(
    names: Sequence[str], needs: Needs, *, penalised: bool = False, searched: Sequence[str] = ()
) -> tuple[str, ...]:
    """The per-example columns of a stage whose rewards have these names: those of pairs are the method's alone.

    Args:
      searched: rewards whose thresholds are.
    """
    if "completion" not in needs.roles:
        return needs.columns
    own = ("reward", "rewarded", "group_std", "finished", "failed", "answer_length", "group", "correct")
    more = ("kl_coef",) if penalised else ()
    return (*own, *(f"reward:{name}" for name in names), *more, *(f"threshold:{name}" for name in searched))


def per_token_of(stage: Online, needs: Needs) -> tuple[str, ...]:
    """The per-token columns of a stage; old log-probs where ratios are taken over several steps."""
    needed = needs.per_token
    if SAMPLING_LOGPS not in needed:
        return needed
    recorded = stage.steps_per_cycle > 1 or stage.old_logps == "sampler"
    return (*needed, OLD_LOGPS) if recorded and OLD_LOGPS not in needed else needed


def trained(
    generation: Generation,
    shaped: Shaped,
    names: Sequence[str],
    verifies: Sequence[int],
    columns: Mapping[str, Sequence[np.ndarray]],
    *,
    mask_truncated: bool,
    kl_coef: float = 0.0,
    thresholds: Mapping[str, float] | None = None,
    places: range,
    answering: Answering | None = None,
) -> list[Trained]:
    """The answers of some of a generation's groups.

    Args:
      columns: name -> an array per answer of the generation.
      names: of the rewards.
      thresholds: of the generation, by reward.
      verifies: numbers of those that say whether an answer is right: `correct` is 1 or 0 then, -1 where none says it.
    """
    answering, found = answering or Answering(), []
    for place in places:
        group = generation.groups[place]
        for k, answer in enumerate(group.answers):
            reward = shaped.reward[place, k]
            about = {
                "reward": float(np.nan_to_num(reward)),
                "rewarded": float(not np.isnan(reward)),
                "group_std": float(shaped.std[place]),
                "finished": float(answer.finished),
                "failed": float(generation.failed[place, k]),
                "answer_length": float(answer.written),
                "group": float(place),
                "correct": correctness(generation.rewards[place, k, list(verifies)]),
                "kl_coef": kl_coef,
                **{f"threshold:{name}": theta for name, theta in (thresholds or {}).items()},
                **{f"reward:{name}": generation.rewards[place, k, f] for f, name in enumerate(names)},
            }
            known = shaped.kept[place, k] and not (answering.rewarded and np.isnan(reward))
            on = bool(known) and (answer.finished or not mask_truncated)
            number = place * len(group.answers) + k
            per_token = {name: values[number] for name, values in columns.items()}
            per_token[SAMPLING_LOGPS] = drawn = answer.sampling_logps
            mask = None if answer.talk is None else answer.talk.mask
            own = drawn_by_policy(answering, k, len(group.answers)) and not np.isnan(drawn).any()
            found.append(Trained(number, group.prompt.ids, answer.tokens, on, per_token, about, own, mask))
    return found


def drawn_by_policy(answering: Answering, k: int, n: int) -> bool:
    """Whether answer k of n was drawn from the policy's own distribution."""
    return answering.by != "teacher_mixture" and not (answering.opponents and k >= n // 2)


def correctness(values: np.ndarray) -> float:
    """1 where all that say anything say 1, 0 where one does not; -1 where none says anything."""
    known = values[~np.isnan(values)]
    return float(np.all(known >= 1)) if known.size else -1.0


def own_rows(batch: Batch) -> Batch:
    """What this process brings of a step's batch."""
    mesh = current_mesh()
    return batch if mesh is None else share_of(batch, *row_share(mesh))


Read = Callable[[Mapping[str, Tree], Batch], Mapping[str, np.ndarray]]
"""`(networks, host batch) -> {column: [R, S]}`."""


def make_read(scorer: Scorer, reference: Scorer, layout: Layout, names: Sequence[str]) -> Read:
    """What the trainer's networks say of every token, a microbatch at a time; one that is empty is not computed.

    The networks are the plain trained tree as "policy", with its critic, and the model of "reference".

    Args:
      scorer, reference: how the two are run.
      names: of the columns: "old_logps", "ref_logps", and "old_values" of every stream, in the order of its heads.
    """
    values = [name for name in names if name.partition(":")[0] == OLD_VALUES]

    def read(networks: Mapping[str, Tree], batch: Batch) -> dict[str, jax.Array]:
        found = {}
        if OLD_LOGPS in names or values:
            policy = networks["policy"]
            hidden = scorer.hidden(policy["model"], batch)
            if OLD_LOGPS in names:
                found[OLD_LOGPS] = scorer.logps(policy["model"], batch, hidden)
            if values:
                found |= dict(zip(values, critic_heads(scorer, policy, batch, hidden), strict=True))
        if REF_LOGPS in names:
            found[REF_LOGPS] = scorer.alike(reference).logps(networks["reference"], batch)
        return found

    def one(networks: Mapping[str, Tree], micro: Batch) -> dict[str, jax.Array]:
        shapes = jax.eval_shape(read, networks, micro)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.cond(jnp.any(micro.present), read, lambda *_: nothing, networks, micro)

    @jax.jit
    def run(networks: Mapping[str, Tree], batch: Batch) -> dict[str, jax.Array]:
        if layout.microbatches == 1:
            return read(networks, batch)
        stacked = jax.lax.map(functools.partial(one, networks), batch.split(layout.microbatches))
        return {name: join_leading(x, batch.blocks) for name, x in stacked.items()}

    def of(networks: Mapping[str, Tree], batch: Batch) -> dict[str, np.ndarray]:
        mesh = current_mesh()
        placed = batch if mesh is None else put_batch(own_rows(batch), mesh)
        return {name: np.asarray(x) for name, x in to_host(settle(run(networks, placed))).items()}

    return of
