"""FSPO's episodes: N labelled pairs of a user in the prompt, another one to be learnt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.construct.fspo.layout import PREFERRED, Shot, as_answer, as_prompt, few_shot, headed
from jaxpo.construct.lcpo import read_pairs
from jaxpo.data.cleaning.heldout import is_held_out
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import Record
from jaxpo.errors import DataError


@dataclass(frozen=True)
class FSPO(Construction):
    """Pairs whose prompts show N other pairs of the same user, drawn from shuffles of each user's rows.

    Attributes:
      shots: N, pairs that a prompt shows; 0 leaves every row as it is: what a model learns that does not see users.
      window: rows of a shuffle that an episode takes up, shots + 1 at least; 0 = that, which wastes none. The released
        loader's is shots + 2.
      passes: shuffles of every user's rows; 0 = 2 (shots + 1), as for training. Tests take 1.
      form: "pairs", or "sft": prompt and completion, to begin with (Pref-FT).
      targets: of the form sft: the "chosen" responses, or "both", as the released loader has them.
      users: "all", or the users that are "train" or "held_out", told by their names.
      heldout_users_one_in: about one user in so many is held out.
    """

    shots: int = 4
    window: int = 0
    passes: int = 0
    form: Literal["pairs", "sft"] = "pairs"
    targets: Literal["chosen", "both"] = "chosen"
    users: Literal["all", "train", "held_out"] = "all"
    heldout_users_one_in: int = 10

    NAME = "fspo"
    READS = "pairs with a column `user`, and `description` where users have one"
    WRITES = "prompt with labelled pairs of the user, chosen, rejected, user; of the form sft prompt, completion, user"

    def problems(self) -> list[str]:
        low = {"shots": 0, "window": 0, "passes": 0, "heldout_users_one_in": 2}
        found = [
            f"--{name.replace('_', '-')} is {getattr(self, name)} but must be at least {least}."
            for name, least in low.items()
            if getattr(self, name) < least
        ]
        if 0 < self.window <= self.shots:
            found.append(f"--window is {self.window} but an episode has {self.shots + 1} rows; give as many, or 0.")
        return found

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        by_user = self.chosen_users(read_pairs(rows), tools)
        window = self.window or self.shots + 1
        made = 0
        for number, (user, records) in enumerate(by_user.items()):
            tools.count("users")
            if len(records) < window:
                tools.count("users_with_too_few_rows")
                tools.count("rows_of_users_with_too_few", len(records))
                continue
            rng = np.random.default_rng((tools.seed, number))
            passes = self.passes or 2 * (self.shots + 1)
            for episode in episodes(len(records), self.shots, window, passes, rng):
                made += 1
                yield from self.rows_of(user, [records[i] for i in episode])
        tools.count("episodes", made)
        if not made:
            most = Counter({user: len(records) for user, records in by_user.items()}).most_common(1)
            whose = f"; the most are {most[0][1]}, of {most[0][0]!r}" if most else ""
            raise DataError(
                f"no user ({self.users}) has the {window} rows of an episode{whose}.",
                file=rows[0].file,
                field="user",
                remedy="Give more rows of each user, or fewer --shots.",
            )

    def chosen_users(self, records: Sequence[Record], tools: Tools) -> dict[str, list[Record]]:
        """User -> rows, of the users that are asked for, in the order of their first rows."""
        by_user: dict[str, list[Record]] = {}
        for record in records:
            by_user.setdefault(user_of(record), []).append(record)
        if len(by_user) == 1:
            tools.say("all rows are of one user: the shots tell users apart, and there is nobody to be told from.")
        if self.users == "all":
            return by_user
        wanted = self.users == "held_out"
        return {u: r for u, r in by_user.items() if is_held_out(u, self.heldout_users_one_in) == wanted}

    def rows_of(self, user: str, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
        """What is learnt of one episode, whose last row is the question."""
        *shots, query = records
        prompt, chosen, rejected = _texts(query)
        if shots:
            question = few_shot([_texts(shot) for shot in shots], prompt)
            chosen, rejected = (as_answer(headed(PREFERRED, text), prompt) for text in (chosen, rejected))
            prompt = as_prompt(question, prompt)
        about = {"user": user} | {k: v for k, v in query.row.data.items() if k == "description"}
        if self.form == "pairs":
            yield {"prompt": prompt, "chosen": chosen, "rejected": rejected, **about}
            return
        for text in (chosen,) if self.targets == "chosen" else (chosen, rejected):
            yield {"prompt": prompt, "completion": text, **about}


def episodes(rows: int, shots: int, window: int, passes: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Indices of `shots + 1` different rows each, of shuffles that are walked through window by window."""
    for _ in range(passes):
        order = rng.permutation(rows).tolist()
        for start in range(0, rows - window + 1, window):
            yield order[start : start + shots + 1]


def user_of(record: Record) -> str:
    """Whose choice a pair is; DataError where the row does not say it."""
    user = record.row.data.get("user")
    if user is None:
        raise record.row.error("there is no user.", field="user", remedy="Say in every row whose choice it is.")
    return str(user)


def _texts(record: Record) -> Shot:
    chosen, rejected = record.sides[:2]
    if chosen.prompt != rejected.prompt:
        raise record.row.error(
            "the two responses answer different prompts.", remedy="Give pairs under one prompt, which a shot shows."
        )
    return chosen.prompt or "", chosen.completion, rejected.completion
