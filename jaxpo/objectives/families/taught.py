"""What a teacher says of the tokens that its student wrote, in one pass over both vocabularies."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import Array, Float

from jaxpo.data.packing.batch import Batch, rows_of
from jaxpo.losses import reverse_kl, vocab
from jaxpo.objectives.encode import Scorer, next_tokens, to_targets
from jaxpo.ops.head import map_vocab

Tree = Any


def from_teacher(
    student: tuple[Scorer, Tree, Float[Array, "R S D"]],
    taught: Scorer,
    teacher: Tree,
    batch: Batch,
    *,
    temperature: float = 1.0,
) -> dict[str, Float[Array, "N T"]]:
    """`student_logps` and `teacher_logps` of every token, without gradient, and `reverse_kl`, KL(student || teacher).

    Args:
      student: how it is run, its parameters, its final hidden states.
      taught, teacher: how the teacher is run, and its parameters.
      temperature: of both distributions.
    """
    scorer, model, hidden = student

    def term(logits: Array, theirs: Array, targets: Array) -> tuple[Array, Array, Array]:
        own, frozen = logits / temperature, jax.lax.stop_gradient(theirs / temperature)
        drawn = vocab.log_prob(jax.lax.stop_gradient(own), targets)
        return drawn, vocab.log_prob(frozen, targets), reverse_kl(own, frozen)

    frozen = jax.lax.stop_gradient(teacher)
    streams = (
        (scorer.unembedding(model), hidden),
        (taught.unembedding(frozen), jax.lax.stop_gradient(taught.hidden(frozen, batch))),
    )
    found = map_vocab(term, streams, next_tokens(batch), chunk=scorer.head_chunk)
    index = batch.roles["completion"]
    names = ("student_logps", "teacher_logps", "reverse_kl")
    return {name: rows_of(to_targets(x, batch), index, batch) for name, x in zip(names, found, strict=True)}
