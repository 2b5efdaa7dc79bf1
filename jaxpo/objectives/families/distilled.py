"""Learning from a teacher's distributions, token by token, inside the chunked vocabulary head.

A teacher is either the network itself in `frozen["teacher"]`, run in every step beside the student, or the record of
its K likeliest tokens that the batch carries. The logits of a whole batch exist on neither side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.data.packing.batch import Batch
from jaxpo.data.packing.teacher_records import names_of
from jaxpo.data.rows.needs import TEACHER, Needs
from jaxpo.losses.decoupled_topk_kd import TopKRecord, complement_logsumexp, topk_record
from jaxpo.models.lfm2.forward import unembedding
from jaxpo.objectives.base import Counts, Mean, Objective, Out, Tree
from jaxpo.objectives.encode import Scorer, TokenStats, next_tokens, to_targets, token_stats
from jaxpo.ops.head import map_vocab

PerToken = Callable[[Array, TopKRecord | Array], Float[Array, "..."]]
"""A loss of the student's logits `[..., V]` and the teacher's record, or its logits."""


class DistilledTokens(NamedTuple):
    """Per-token features, float32 `[R, S]`, target coordinates.

    Attributes:
      stats: of the student.
      kd: the teacher's loss.
      masses: "teacher_mass" and "student_mass", probability of the teacher's top K under either; empty for whole
        distributions.
      mask: the supervised tokens.
    """

    stats: TokenStats
    kd: Float[Array, "R S"]
    masses: dict[str, Float[Array, "R S"]]
    mask: Bool[Array, "R S"]


def student_log_odds(logits: Float[Array, "... V"], record: TopKRecord) -> Float[Array, "..."]:
    """log(M_S / (1 - M_S)) of the teacher's top K."""
    inside = jnp.take_along_axis(logits, record.ids, axis=-1)
    return jax.nn.logsumexp(inside, axis=-1) - complement_logsumexp(logits, record.ids)


def record_term(loss: PerToken) -> Callable[[Array, tuple[Array, TopKRecord]], tuple[Tree, ...]]:
    """Term of one stream whose `per_token` is `(targets, records)`; records as they are stored, in any dtype."""

    def term(logits: Array, per_token: tuple[Array, TopKRecord]) -> tuple[Tree, ...]:
        targets, r = per_token
        record = TopKRecord(r.ids.astype(jnp.int32), r.logps.astype(jnp.float32), r.log_odds)
        return _distilled(logits, record, targets, loss)

    return term


def network_term(loss: PerToken, top_k: int | None) -> Callable[[Array, Array, Array], tuple[Tree, ...]]:
    """Term of two streams, student and teacher; the teacher's record is made on the spot where the loss reads one."""

    def term(logits: Array, taught: Array, targets: Array) -> tuple[Tree, ...]:
        taught = jax.lax.stop_gradient(taught)
        return _distilled(logits, taught if top_k is None else topk_record(taught, top_k), targets, loss)

    return term


def _distilled(logits: Array, teacher: TopKRecord | Array, targets: Array, loss: PerToken) -> tuple[Tree, ...]:
    kd = loss(logits, teacher)
    if not isinstance(teacher, TopKRecord):
        return token_stats(logits, targets), kd, {}
    student = student_log_odds(jax.lax.stop_gradient(logits), teacher)
    masses = {"teacher_mass": jax.nn.sigmoid(teacher.log_odds), "student_mass": jax.nn.sigmoid(student)}
    return token_stats(logits, targets), kd, masses


def records_of(batch: Batch, network: str = TEACHER) -> TopKRecord:
    """The batch's records of a network, each at the position whose logits it describes: one before its token."""

    def before(x: Array) -> Array:
        return jnp.pad(x[:, 1:], ((0, 0), (0, 1)) + ((0, 0),) * (x.ndim - 2))

    return TopKRecord(*(before(batch.per_token[name]) for name in names_of(network)))


def distilled_tokens(
    scorer: Scorer,
    model: Tree,
    batch: Batch,
    loss: PerToken,
    *,
    top_k: int | None,
    teacher: Tree = None,
    teacher_scorer: Scorer | None = None,
    rng: Array | None = None,
) -> DistilledTokens:
    """Everything that distillation needs of every token, in one pass over the vocabulary.

    Args:
      loss: of the student's logits and the teacher.
      top_k: the loss reads a record of this many ids; None = it reads the teacher's logits.
      teacher: parameters; None = the batch carries its records.
      teacher_scorer: of a teacher with its own architecture; None = the student's.
      rng: the step's key, for the student's dropout; None = without.
    """
    targets = next_tokens(batch)
    student = (unembedding(model), scorer.hidden(model, batch, rng))
    if teacher is None:
        found = map_vocab(record_term(loss), (student,), (targets, records_of(batch)), chunk=scorer.head_chunk)
    else:
        frozen = jax.lax.stop_gradient(teacher)
        hidden = jax.lax.stop_gradient((teacher_scorer or scorer).hidden(frozen, batch))
        streams = (student, (unembedding(frozen), hidden))
        found = map_vocab(network_term(loss, top_k), streams, targets, chunk=scorer.head_chunk)
    stats, kd, masses = jax.tree.map(lambda x: to_targets(x, batch), found)
    return DistilledTokens(stats, kd, masses, batch.masks["completion"])


def distillation(
    name: str,
    needs: Needs,
    scorer: Scorer,
    loss: PerToken,
    *,
    ce_weight: float,
    kd_weight: float,
    top_k: int | None,
    records: bool,
    teacher_scorer: Scorer | None = None,
) -> Objective:
    """Cross-entropy and the teacher's loss, both means over the supervised tokens.

        L = sum_t m_t (ce_weight (- log p(y_t | y_<t)) + kd_weight kd_t) / sum_t m_t,   sums over the whole step

    Args:
      records: the batch carries the teacher's records; else `frozen["teacher"]` is run in every step.
    """

    def counts(batch: Batch) -> dict[str, Array]:
        return {"tokens": jnp.sum(batch.masks["completion"].astype(jnp.float32))}

    def encode(params: Tree, frozen: Tree, batch: Batch, rng: Array | None) -> DistilledTokens:
        teacher = None if records else frozen[TEACHER]
        return distilled_tokens(
            scorer, params["model"], batch, loss, top_k=top_k, teacher=teacher, teacher_scorer=teacher_scorer, rng=rng
        )

    def total(x: DistilledTokens, batch: Batch, carry: Tree, counts: Counts) -> Out:
        def mean(value: Array) -> Mean:
            return Mean(jnp.sum(jnp.where(x.mask, value, 0.0)), jnp.sum(x.mask.astype(jnp.float32)))

        both = jnp.where(x.mask, kd_weight * x.kd - ce_weight * x.stats.logps, 0.0)
        metrics = {
            "entropy": mean(x.stats.entropy),
            "mean_token_accuracy": mean(x.stats.correct),
            "ce_loss": mean(-x.stats.logps),
            "kd_loss": mean(x.kd),
        }
        metrics |= {name: mean(mass) for name, mass in x.masses.items()}
        return Out(jnp.sum(both) / jnp.maximum(counts["tokens"], 1.0), metrics, {})

    return Objective(name, counts, encode, total, needs=needs)
