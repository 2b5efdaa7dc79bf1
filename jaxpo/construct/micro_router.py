"""MiCRo's second stage: what a few comparisons of each user say of a mixture of heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.construct.lcpo import read_pairs
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import Record
from jaxpo.data.rows.texts import Text
from jaxpo.errors import ConfigError
from jaxpo.objectives.methods.micro import named


@dataclass(frozen=True)
class MicroContext(Construction):
    """Weights of a mixture's heads after the first comparisons of each user, as targets for `micro_router`.

    Every user's first rows are their comparisons; for each of the user's other prompts a row says which weights the
    router should give it with the context in front: w_k ~ w0_k exp(-eta sum_i l_ik), w0 the router's own on context and
    prompt. Its answer comes along, which the router does not see. A user with no more rows than comparisons has a row
    for each prompt of those.

    Attributes:
      user: column that names the user, or the attribute that a row was judged by.
      context: column with the text that is put in front of the prompt; users without it have their name there.
      comparisons: of each user.
      eta: of Hedge; 1 is Bayes' rule.
    """

    user: Literal["user", "annotator", "group"] = "user"
    context: str = "context"
    comparisons: int = 10
    eta: float = 1.0

    NAME = "micro_router"
    READS = "pairs with a column that names the user, and one with a text about them"
    WRITES = "prompt (the context in front), completion, ratings: {head: weight}, and the user's column"

    def needed_networks(self) -> tuple[str, ...]:
        return ("reward",)

    def problems(self) -> list[str]:
        found = []
        if self.comparisons < 1:
            found.append(f"--comparisons is {self.comparisons} but must be at least 1.")
        if not self.eta > 0:
            found.append(f"--eta is {self.eta} but must be greater than 0.")
        return found

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        import jax.numpy as jnp

        from jaxpo.losses import micro_hedge

        network = tools.network("reward")
        method = network.mixture_method()
        if method.READ_PER_ANSWER != ("heads",):
            raise ConfigError(f"micro_router reads a model of micro; this one is of {method.INFO.name}.")
        if getattr(method, "routes_answers", False):
            raise ConfigError(
                "micro_router needs weights that belong to a prompt; this model of micro mixes rewards by a router at "
                "the end of each answer. Train it with --stage.loss.variant mixture."
            )
        by_user: dict[str, list[Record]] = {}
        for record in read_pairs(rows):
            name = record.row.data.get(self.user)
            if not isinstance(name, str | int) or name == "":
                raise record.row.error(f"expected a name, found {name!r}.", field=self.user)
            by_user.setdefault(str(name), []).append(record)
        for user, records in by_user.items():
            first, rest = records[: self.comparisons], records[self.comparisons :]
            losses = self.losses(first, tools)
            rest = rest or first
            prompts = [with_context(self.about(record, user), record.sides[0].prompt or "") for record in rest]
            answers = [record.sides[0].completion for record in rest]
            logits = network.read(prompts, answers, ("router",))["router"]
            prior = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
            weights = np.asarray(micro_hedge(jnp.asarray(prior), jnp.asarray(losses)[None], eta=self.eta), np.float64)
            tools.count("users")
            for prompt, answer, w in zip(prompts, answers, weights, strict=True):
                ratings = {named(k): float(x) if x >= 1e-12 else 0.0 for k, x in enumerate(w)}
                yield {"prompt": prompt, "completion": answer, "ratings": ratings, self.user: user}

    def losses(self, records: Sequence[Record], tools: Tools) -> np.ndarray:
        """softplus(-D_ik) of each comparison under each head, `[C, K]`."""
        network = tools.network("reward")
        sides = [
            network.read(
                [r.sides[k].prompt or "" for r in records], [r.sides[k].completion for r in records], ("heads",)
            )
            for k in (0, 1)
        ]
        return np.logaddexp(0.0, sides[1]["heads"] - sides[0]["heads"])

    def about(self, record: Record, user: str) -> str:
        """The text in front of the prompt."""
        found = record.row.data.get(self.context, user)
        if not isinstance(found, str) or not found.strip():
            raise record.row.error(f"expected a text, found {found!r}.", field=self.context)
        return found


def with_context(context: str, prompt: Text) -> Text:
    """A context and a blank line in front of a prompt: of a conversation, of its first turn by the user."""
    if isinstance(prompt, str):
        return f"{context}\n\n{prompt}"
    turns = [dict(turn) for turn in prompt]
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    if first is None or not isinstance(first["content"], str):
        raise ConfigError("micro_router: a conversation without a turn of the user has no place for a context.")
    first["content"] = f"{context}\n\n{first['content']}"
    return turns
