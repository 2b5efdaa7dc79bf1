"""The E step of MaxMin-RLHF between two reward stages: which group each user belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.errors import ConfigError, DataError
from jaxpo.objectives.methods.maxmin_rlhf import MaxMinRLHF
from jaxpo.train.files import write_json

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext
    from jaxpo.data.rows.rows import Record

ROWS, USERS = "rows.jsonl", "users.json"
SMALLEST = 1e-6
"""A smaller responsibility is none."""


@dataclass(frozen=True)
class ByGroups(Work):
    """Base of what asks the heads of every group about pairs of named users.

    Attributes:
      rows: pairs with a column of users.
      column: its name.
      groups: K.
      model: the stage whose heads judge.
      models: instead of it K stages, the separate reward model of each group (`own` of maxmin_rlhf).
    """

    rows: tuple[OtherFile, ...] = ()
    column: Literal["user", "annotator"] = "user"
    groups: int = 2
    model: str | None = None
    models: tuple[str, ...] = ()

    def inputs(self) -> tuple[str, ...]:
        return self.rows

    def needed_models(self) -> tuple[str, ...]:
        return self.models if self.model is None else (self.model, *self.models)

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.rows:
            found.append("rows names no file.")
        if self.groups < 1:
            found.append(f"groups is {self.groups} but must be at least 1.")
        if self.models and (self.model is not None or len(self.models) != self.groups):
            found.append(
                f"models names {len(self.models)} stages; name one for each of {self.groups} groups, and no model."
            )
        return found

    def check_inputs(self, files: Sequence[Path]) -> None:
        self.read(files)

    def read(self, files: Sequence[Path]) -> tuple[list[Record], list[str], np.ndarray]:
        """The pairs, the users by their first appearance, and each pair's user.

        Raises:
          DataError: a row without a user, or users of whom there is one alone; names file, row and field.
        """
        from jaxpo.construct.lcpo import read_pairs

        records = read_pairs(list(read_rows(files)))
        if not records:
            raise DataError("holds no rows.", file=files[0], remedy="Give pairs with a column of users.")
        numbers: dict[str, int] = {}
        who = []
        for record in records:
            user = record.row.data.get(self.column)
            if not isinstance(user, str | int) or isinstance(user, bool) or user == "":
                raise record.row.error(f"expected a name, found {user!r}.", field=self.column)
            who.append(numbers.setdefault(str(user), len(numbers)))
        if len(numbers) == 1 and self.groups > 1:
            remedy = "Groups are made of several users; train a plain reward model."
            raise records[0].row.error("all rows are of one user.", field=self.column, remedy=remedy)
        return records, list(numbers), np.asarray(who)

    def rewards(self, context: WorkContext, records: Sequence[Record]) -> np.ndarray:
        """Of every head, of the chosen answers and then of the rejected ones, float64 `[2 n, K]`."""
        sides = [(record.sides[k].prompt or "", record.sides[k].completion) for k in (0, 1) for record in records]
        if self.model is not None:
            return self.heads(context, self.model, sides, None)
        each = [self.heads(context, name, sides, k)[:, k] for k, name in enumerate(self.models)]
        return np.stack(each, axis=1)

    def heads(self, context: WorkContext, name: str, sides: Sequence[tuple[Any, Any]], own: int | None) -> np.ndarray:
        """Those of one stage, `[n, K]`; ConfigError where it is none of maxmin_rlhf, or trains other groups."""
        network = context.network(name, "whole")
        method = network.mixture_method()
        if not isinstance(method, MaxMinRLHF) or method.groups != self.groups:
            raise ConfigError(f"{self.name}: {name!r} is no stage of maxmin_rlhf with {self.groups} groups.")
        if method.own != own:
            which = "shares one model among the groups" if method.own is None else f"trains group {method.own} alone"
            remedy = "name it as model" if method.own is None else "name the stages of all groups as models, in order"
            raise ConfigError(f"{self.name}: {name!r} {which}; {remedy}.")
        prompts, texts = zip(*sides, strict=True)
        return network.read(prompts, texts, ("groups",))["groups"].astype(np.float64)


@dataclass(frozen=True)
class AssignUsers(ByGroups):
    """Every row with the `responsibilities` of its user's group, by the heads of an earlier stage of `maxmin_rlhf`.

    Writes `rows.jsonl` and `users.json`: the groups' weights for each user, their proportions, the log-likelihood of
    the labels, and mean and standard deviation of each head's rewards over all answers, for `means` and `scales`.
    Without a model, at the start, user number i belongs to group i modulo K.

    Attributes:
      em: "hard": a user belongs to the likeliest group. "soft": to each by its posterior.
      before: an earlier stage of this kind, whose proportions the soft form begins with; None = equal ones.
    """

    name: str = "assign"
    em: Literal["hard", "soft"] = "hard"
    before: str | None = None

    def outputs(self) -> tuple[str, ...]:
        return (ROWS, USERS)

    def problems(self) -> list[str]:
        found = super().problems()
        if self.before is not None and (self.em == "hard" or not self.needed_models()):
            found.append("before belongs to the soft form, after a stage has been trained; leave it out.")
        return found

    def run(self, context: WorkContext) -> dict[str, Any]:
        records, users, who = self.read(context.files(self.rows))
        if not self.needed_models():
            gamma = np.eye(self.groups, dtype=np.float32)[np.arange(len(users)) % self.groups]
            about: dict[str, Any] = {}
        else:
            rewards = self.rewards(context, records)
            margins = rewards[: len(records)] - rewards[len(records) :]
            gamma, about = self.assigned(margins, who, len(users), self.proportions(context))
            about |= {"means": rewards.mean(0).tolist(), "scales": np.maximum(rewards.std(0), 1e-12).tolist()}
        gamma = np.where(gamma < SMALLEST, 0.0, gamma.astype(np.float64))
        gamma /= gamma.sum(1, keepdims=True)
        names = [f"group_{k:03d}" for k in range(self.groups)]
        made = (
            {**record.row.data, "responsibilities": dict(zip(names, gamma[u].tolist(), strict=True))}
            for record, u in zip(records, who, strict=True)
        )
        write_jsonl(context.folder / ROWS, made)
        about |= {"proportions": gamma.mean(0).tolist()}
        assigned = {user: gamma[u].tolist() for u, user in enumerate(users)}
        write_json(context.folder / USERS, {"responsibilities": assigned, **about})
        sizes = np.bincount(gamma.argmax(1), minlength=self.groups).tolist()
        context.say(f"{self.name}: users of each group {sizes}")
        return {"users": len(users), "rows": len(records), "users_of_groups": sizes, **about}

    def proportions(self, context: WorkContext) -> np.ndarray | None:
        """Those of an earlier E step."""
        if self.before is None:
            return None
        from jaxpo.train.files import read_json

        (path,) = context.files((f"stage:{self.before}/{USERS}",))
        return np.asarray((read_json(path) or {})["proportions"])

    def assigned(
        self, margins: np.ndarray, who: np.ndarray, users: int, proportions: np.ndarray | None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Responsibilities `[U, K]`, and the log-likelihood of the labels under them.

        Args:
          margins: `[n, K]` r_k(chosen) - r_k(rejected).
          who: `[n]` number of each pair's user.
        """
        import jax.numpy as jnp

        from jaxpo.losses import maxmin_responsibilities

        of_users = np.zeros((users, margins.shape[1]))
        np.add.at(of_users, who, -np.logaddexp(0.0, -margins))
        prior = None if proportions is None else jnp.asarray(proportions)
        gamma = np.asarray(maxmin_responsibilities(jnp.asarray(of_users), prior, hard=self.em == "hard"))
        p = np.full(margins.shape[1], 1.0 / margins.shape[1]) if proportions is None else proportions
        with np.errstate(divide="ignore"):
            soft = np.logaddexp.reduce(of_users + np.log(p), axis=1).sum()
        likelihood = of_users.max(1).sum() if self.em == "hard" else soft
        return gamma, {"log_likelihood": float(likelihood)}
