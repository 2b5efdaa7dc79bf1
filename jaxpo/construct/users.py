"""What a recipe's model of users has learnt: how it serves them, its prototypes as files, and a map of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.construct.tastes import ACCURACY, groups_of, kept, lengths, ordered, read_users, sides_of
from jaxpo.errors import ConfigError
from jaxpo.evaluate.picture import Marks, Picture
from jaxpo.train.files import write_json

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext
    from jaxpo.judges.network import Network
    from jaxpo.objectives.methods.pal import PAL

USERS, PROTOTYPES = "users.json", "prototypes.npz"


@dataclass(frozen=True)
class MapUsers(Work):
    """Held-out pairs of named users under a stage of `pal`, and under other reward models beside it.

    Writes `accuracy.json`, `users.json` (the mixture of every user) and `prototypes.npz`: `prototypes`, and of variant
    "a" `ideal`, their places in the space of the items, and `users`, each user's. The report has the accuracy of every
    model for each group beside 'longer wins', and a map of prototypes and users.

    Attributes:
      rows: pairs with a column of users, and perhaps one of groups.
      model: the stage of `pal`.
      others: further stages of reward models, a preference model among them, that are measured on the same pairs.
      group: column that the results are split by; rows without it are of one group.
      max_length: of prompt and answer, in tokens; longer prompts lose their start.
    """

    name: str = "users"
    rows: tuple[OtherFile, ...] = ()
    model: str = "previous"
    others: tuple[str, ...] = ()
    group: str = "group"
    max_length: int = 1024

    def outputs(self) -> tuple[str, ...]:
        return (USERS, PROTOTYPES, ACCURACY)

    def inputs(self) -> tuple[str, ...]:
        return self.rows

    def needed_models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.model, *self.others)))

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.rows:
            found.append("rows names no file.")
        if self.max_length < 2:
            found.append(f"max_length is {self.max_length} but must be at least 2.")
        return found

    def check_inputs(self, files: Sequence[Path]) -> None:
        read_users(files)

    def run(self, context: WorkContext) -> dict[str, Any]:
        from jaxpo.objectives.methods.pal import PAL

        network = context.network(self.model, self.max_length, "prompt_left")
        method = network.asked_reader().method
        if not isinstance(method, PAL):
            raise ConfigError(f"{self.name}.model: {self.model!r} is of {method.INFO.name}, not of pal.")
        records = read_users(context.files(self.rows))
        unknown = [r for r in records if str(r.row.data["user"]) not in method.users]
        if unknown:
            raise unknown[0].row.error(f"the model knows no user {unknown[0].row.data['user']!r}.", field="user")
        sides = sides_of(records)
        users = [str(r.row.data["user"]) for r in records]
        better, worse = (network.rewards_under(*side, users=users) for side in sides)
        right = {self.model: better > worse, f"{self.model} (all prototypes alike)": ordered(network, sides)}
        for name in self.others:
            right[name] = ordered(context.network(name, self.max_length, "prompt_left"), sides)
            context.check()
        named = dict(zip(users, groups_of(records, self.group), strict=True))
        picture = self.keep(context, network, method, named)
        report = kept(context, records, right, lengths(network, sides), self.group)
        return report | {"pictures": [asdict(picture)]}

    def keep(self, context: WorkContext, network: Network, method: PAL, groups: dict[str, str]) -> Picture:
        """Write what the model knows of its users, and draw it."""
        import jax.numpy as jnp

        from jaxpo.evaluate.rewards.tastes import plane

        mixtures = np.asarray(method.mixtures(network.params, method.users), np.float64)
        write_json(context.folder / USERS, {u: w.tolist() for u, w in zip(method.users, mixtures, strict=True)})
        prototypes = network.params["prototypes"]
        if method.variant == "b":
            arrays: dict[str, Any] = {name: np.asarray(x) for name, x in _leaves(prototypes)}
            places, corners = mixtures, np.eye(method.prototypes)
        else:
            places = np.asarray(method.ideals(network.params, jnp.asarray(mixtures), None), np.float64)
            corners = np.asarray(method.ideals(network.params, jnp.eye(method.prototypes), None), np.float64)
            arrays = {"prototypes": np.asarray(prototypes["weight"]), "ideal": corners, "users": places}
        np.savez(context.folder / PROTOTYPES, **arrays)
        flat, (own,) = plane(np.concatenate([corners, places]), [places])
        k = method.prototypes
        series = [Marks("prototypes", flat[:k, 0].tolist(), flat[:k, 1].tolist(), joined=False)]
        for group in sorted(set(groups.values())):
            here = [i for i, user in enumerate(method.users) if groups.get(user) == group]
            series.append(Marks(f"users: {group}", own[here, 0].tolist(), own[here, 1].tolist(), joined=False))
        what = "mixtures" if method.variant == "b" else "ideal points"
        axes = (f"first principal axis of the {what}", "second")
        return Picture("Prototypes and users", *axes, tuple(series))


def _leaves(tree: Any, before: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, dict):
        return [(before.removesuffix("."), tree)]
    return [leaf for name, below in tree.items() for leaf in _leaves(below, f"{before}{name}.")]
