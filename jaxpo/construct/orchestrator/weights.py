"""What the orchestrator is used for: prompts that say the weights predicted for them, or a user's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.construct.rps.directions import TEXT, conditioned
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import canonical
from jaxpo.data.rows.texts import text_of_column


@dataclass(frozen=True)
class PROWeights(Construction):
    """The same rows with the predicted weights in their prompts: for conditioned fine-tuning, and for decoding.

    Attributes:
      share: how far a user's weights replace the predicted ones: w <- (1 - share) w + share w_user.
      user: a user's weights, in the order of the adapter's objectives; a row's column `user_weights`, {name: number},
        takes their place. () = none.
      text: what stands before a prompt; {weights} is replaced by the names with round(100 w).
    """

    share: float = 0.0
    user: tuple[float, ...] = ()
    text: str = TEXT

    NAME = "pro_weights"
    READS = "any rows with a prompt, with `user_weights` where users have their own"
    WRITES = "the same rows, prompt with weights, and `weights: {name: number}`"

    def problems(self) -> list[str]:
        found = []
        if not 0 <= self.share <= 1:
            found.append(f"--share is {self.share} but must lie in 0 .. 1.")
        if self.user and not (min(self.user) >= 0 and sum(self.user) > 0):
            found.append(f"--user is {self.user!r}; none may be negative and one must be positive.")
        if "{weights}" not in self.text:
            found.append("--text must hold {weights}, in whose place the weights stand.")
        return found

    def needed_networks(self) -> tuple[str, ...]:
        return ("reward",)

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        rows = [canonical(row) for row in rows]
        prompts = [text_of_column(row, "prompt") for row in rows]
        names, predicted = tools.network("reward").heads(prompts, None)
        for row, prompt, w in zip(rows, prompts, predicted, strict=True):
            weights = self.weights(row, names, w)
            tools.count(f"largest_weight_{names[int(np.argmax(weights))]}")
            said = [round(100 * float(x)) for x in weights]
            about = {"weights": dict(zip(names, weights.tolist(), strict=True))}
            yield row.data | {"prompt": conditioned(prompt, names, said, self.text)} | about

    def weights(self, row: Row, names: Sequence[str], predicted: np.ndarray) -> np.ndarray:
        """Predicted ones, as far as no user says others."""
        import jax.numpy as jnp

        from jaxpo.losses import interpolated_weights

        own = row.data.get("user_weights")
        if own is None and not self.user:
            return predicted
        chosen = list(self.user) if own is None else []
        given: list[Any] = [own.get(name) for name in names] if isinstance(own, dict) else chosen
        numbers = len(given) == len(names) and all(isinstance(x, int | float) and x >= 0 for x in given)
        if not numbers or sum(given) <= 0:
            raise row.error(
                f"{own if own is not None else self.user!r} are no weights of {', '.join(names)}.",
                field="user_weights",
                remedy="Give one number for each, none negative and one positive.",
            )
        user = np.asarray(given, np.float64) / sum(given)
        return np.asarray(interpolated_weights(jnp.asarray(predicted), jnp.asarray(user), share=self.share), np.float64)
