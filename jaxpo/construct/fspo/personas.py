"""Labels by personas that decide: where one does not, a choice is drawn and becomes a part of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.construct.fspo.layout import asked, said
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import Text, string, text_of_column, text_or_messages
from jaxpo.judges.asking import Item
from jaxpo.judges.named import JudgeOptions

FIRST, SECOND = "Response 1", "Response 2"


@dataclass(frozen=True)
class FSPOPersonas(JudgeOptions, Construction):
    """Which of two responses a persona prefers, asked in both orders; a persona that cannot tell is refined.

    A judge scores how much Response 1 is preferred to Response 2; the difference of both orders says which one is, so
    that a judge's taste for a place cancels. Rows of one user are asked one after another, each with what the earlier
    ones have added to the persona.

    Attributes:
      undecided: differences of at most so much decide nothing: the choice is drawn and appended to the persona.
      judge, judge_model, judge_key, judge_rubric, judge_scale, answer: as of on_policy; a function's row has the
        columns `persona`, `first` and `second`.
    """

    undecided: float = 0.0

    NAME = "fspo_personas"
    READS = "prompt, responses: [text, text], user, persona"
    WRITES = "prompt, chosen, rejected, user, persona (as it was refined up to the row), decided"

    def problems(self) -> list[str]:
        wrong = not self.undecided >= 0
        return [f"--undecided is {self.undecided} but must be at least 0."] if wrong else []

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        by_user: dict[str, list[Row]] = {}
        for row in rows:
            by_user.setdefault(string(row, "user", row.data.get("user"), empty_ok=False), []).append(row)
        personas = {user: string(own[0], "persona", own[0].data.get("persona")) for user, own in by_user.items()}
        made: dict[int, dict[str, Any]] = {}
        rng = np.random.default_rng(tools.seed)
        for turn in range(max(map(len, by_user.values()), default=0)):
            now = {user: own[turn] for user, own in by_user.items() if turn < len(own)}
            items = {user: _both_orders(row, personas[user]) for user, row in now.items()}
            scores = tools.judged(self.judges(), [item for pair in items.values() for item in pair])
            for user, row in now.items():
                keys = [item.key(None) for item in items[user]]
                if any(key not in scores for key in keys):
                    tools.count("rows_left_out_judge_failed")
                    continue
                made[id(row)], personas[user] = self._label(row, user, personas[user], keys, scores, rng, tools)
        labelled = [made[id(row)] for row in rows if id(row) in made]
        if labelled:
            longer = np.mean([len(said(new["chosen"])) > len(said(new["rejected"])) for new in labelled])
            tools.say(f"{longer:.0%} of the chosen responses are the longer ones")
        yield from labelled

    def _label(
        self, row: Row, user: str, persona: str, keys: Sequence[str], scores: dict[str, float], rng: Any, tools: Tools
    ) -> tuple[dict[str, Any], str]:
        """The labelled pair, and the persona after it."""
        prompt, responses = _texts(row)
        difference = scores[keys[0]] - scores[keys[1]]
        decided = abs(difference) > self.undecided
        first = difference > 0 if decided else bool(rng.random() < 0.5)
        chosen, rejected = responses if first else responses[::-1]
        tools.count("decided" if decided else "drawn_and_added_to_the_persona")
        if not decided:
            persona = refined(persona, asked(prompt), said(chosen), said(rejected))
        new = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "user": user}
        return new | {"persona": persona, "decided": decided}, persona


def refined(persona: str, question: str, chosen: str, rejected: str) -> str:
    """The persona with a choice that decides the next pair of the kind."""
    return f'{persona.rstrip()} Asked "{question}", this user prefers "{chosen}" to "{rejected}".'


def _both_orders(row: Row, persona: str) -> tuple[Item, Item]:
    """The questions whether Response 1 is preferred, with either response in its place."""
    prompt, (a, b) = _texts(row)
    return _item(row, persona, prompt, a, b), _item(row, persona, prompt, b, a)


def _item(row: Row, persona: str, prompt: Text, first: Text, second: Text) -> Item:
    shown = (
        f"A user is described so: {persona}\n\nThe user asks: {asked(prompt)}\n\n{FIRST}:\n{said(first)}\n\n"
        f"{SECOND}:\n{said(second)}\n\nHow much does this user prefer {FIRST}? Its length alone is no reason."
    )
    data = {**row.data, "persona": persona, "first": said(first), "second": said(second)}
    return Item(shown, FIRST, Row(row.file, row.number, data))


def _texts(row: Row) -> tuple[Text, list[Text]]:
    value = row.data.get("responses")
    if not isinstance(value, list) or len(value) != 2:
        raise row.error("expected two responses.", field="responses", remedy="Give [text, text].")
    return text_of_column(row, "prompt"), [text_or_messages(row, "responses", x, empty_ok=False) for x in value]
