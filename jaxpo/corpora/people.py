"""People with different tastes who compare real answers: the answers are a file of the user's, the people are made up.

Every pair of answers to a prompt is put to one person, who prefers the one of larger utility with the probability of
Bradley and Terry. Utilities of a text are functions of it alone, or the file's scores.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxpo.config.places import DataFile
from jaxpo.corpora.files import reusable, write
from jaxpo.data.cleaning.heldout import is_held_out
from jaxpo.data.rows.files.listing import unsaid
from jaxpo.data.rows.formats import file_hash, list_files, read_rows
from jaxpo.errors import DataError

FORMAT = 1
TRAIN, HELD_OUT, LISTS = "people_train.jsonl", "people_heldout.jsonl", "people_heldout_lists.jsonl"
SMALLEST = 1e-6
"""Scores are probabilities, taken this far from 0 and 1."""
TRIES = 8
"""Pairs that a person without a preference is shown at most."""
REMEDY = "Give rows with prompt, responses and scores, such as alpaca_eval's ranked answers."

MARKUP = re.compile(r"^\s*(?:[-*+]|\d+\.)\s|^#{1,6}\s|\*\*[^*\n]+\*\*", re.MULTILINE)

Utility = Callable[[str, float], float]


def judged(text: str, score: float) -> float:
    """The logit of the file's score."""
    p = min(max(score, SMALLEST), 1.0 - SMALLEST)
    return math.log(p / (1.0 - p))


def markup(text: str, score: float) -> float:
    """Less of lists, headers and bold passages."""
    return -math.log1p(len(MARKUP.findall(text)))


TASTES: dict[str, tuple[Utility, float, int]] = {
    "judged": (judged, 0.5, 5),
    "thorough": (lambda text, score: math.log1p(len(text)), 3.0, 2),
    "brief": (lambda text, score: -math.log1p(len(text)), 3.0, 1),
    "plain": (markup, 2.0, 2),
}
"""Group -> (utility, how sharply its people see a difference of 1, people)."""
GROUPS = tuple(group for group, (_, _, people) in TASTES.items() for _ in range(people))
USERS = tuple(f"{group}-{place}" for place, group in enumerate(GROUPS))
"""Everybody, and the group of each."""


@dataclass(frozen=True)
class Answered:
    """A prompt with answers and their scores."""

    prompt: str
    texts: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class People:
    """Pairs that made-up people judged; their rows have `user`, `group` and `rewards`, one for each taste.

    Attributes:
      answers: file with prompt, responses (texts) and scores (probabilities); None = made up as well, which the report
        says.
      pairs: per prompt.
      held_out_one_in: about one prompt in this many is held out, by a hash of it.
      seed: of who is asked about which two answers, and of what they say.
    """

    answers: DataFile | None = None
    pairs: int = 2
    held_out_one_in: int = 6
    seed: int = 0

    def build(self, directory: Path) -> dict[str, Any]:
        """Write the JSONL files into `directory`, unless they are there and made from the same file.

        Raises:
          DataError: rows without answers, or too few for a training and a held-out part.
        """
        hashes = [file_hash(file) for file in list_files([self.answers], say=unsaid)] if self.answers else []
        settings = {**asdict(self), "answers": hashes, "format": FORMAT}
        inputs = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
        if (report := reusable(directory, inputs)) is not None:
            return {**report, "reused": True}
        answered = read_answered(self.answers) if self.answers else list(made_up(self.seed))
        parts = [[one for one in answered if self._held_out(one) is which] for which in (False, True)]
        rows = [[row for one in part for row in self.judgements(one)] for part in parts]
        if not all(rows):
            raise DataError("there are too few prompts with different answers.", file=self.answers, remedy=REMEDY)
        lists = [
            {
                "prompt": [{"role": "user", "content": x.prompt}],
                "responses": list(x.texts),
                "scores": list(x.scores),
            }
            for x in parts[1]
        ]
        lines = [
            f"{len(rows[0]):,} pairs to train on and {len(rows[1]):,} held out, of {len(answered):,} prompts, judged "
            f"by made-up people of {len(TASTES)} tastes: {', '.join(TASTES)}"
        ]
        if not self.answers:
            lines.append(
                "the prompts and answers are made up too, since no file of answers was given (--answers FILE): figures "
                "say nothing about real ones"
            )
        counts = {"train": len(rows[0]), "heldout": len(rows[1]), "prompts": len(answered)}
        made = {"made_from": asdict(self), "counts": counts, "lines": lines, "inputs": inputs}
        return {**write(directory, {TRAIN: rows[0], HELD_OUT: rows[1], LISTS: lists}, made), "reused": False}

    def judgements(self, one: Answered) -> Iterator[dict[str, Any]]:
        """The pairs of a prompt, each with who judged it."""
        rng = random.Random(f"{self.seed} {one.prompt}")
        for _ in range(self.pairs):
            place = rng.randrange(len(GROUPS))
            group, user = GROUPS[place], USERS[place]
            # Some people see differences more sharply than others.
            sharp = TASTES[group][1] * random.Random(f"{self.seed} {user}").uniform(0.5, 2.0)
            for _ in range(TRIES):
                a, b = rng.sample(range(len(one.texts)), 2)
                difference = self.utility(group, one, a) - self.utility(group, one, b)
                if difference:
                    first = rng.random() < 1.0 / (1.0 + math.exp(-max(min(sharp * difference, 50.0), -50.0)))
                    yield self.row(one, (a, b) if first else (b, a), user, group)
                    break

    @staticmethod
    def utility(group: str, one: Answered, place: int) -> float:
        """What a taste thinks of an answer."""
        return TASTES[group][0](one.texts[place], one.scores[place])

    def row(self, one: Answered, places: tuple[int, int], user: str, group: str) -> dict[str, Any]:
        """A judged pair, better answer first."""
        chosen, rejected = (one.texts[k] for k in places)
        rewards = {taste: [round(self.utility(taste, one, k), 4) for k in places] for taste in TASTES}
        return {
            "prompt": [{"role": "user", "content": one.prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "user": user,
            "group": group,
            "rewards": rewards,
        }

    def _held_out(self, one: Answered) -> bool:
        return is_held_out(one.prompt, self.held_out_one_in)


def read_answered(path: str) -> list[Answered]:
    """The prompts of a file that have two different answers; the empty and the repeated ones are left out.

    Raises:
      DataError: a row of another type; names file, row, field and remedy.
    """
    found = []
    for row in read_rows([path]):
        prompt, responses, scores = (row.data.get(name) for name in ("prompt", "responses", "scores"))
        if not isinstance(prompt, str) or not isinstance(responses, list) or not isinstance(scores, list):
            lacking = next(name for name in ("prompt", "responses", "scores") if not row.data.get(name))
            raise row.error("the row has no answers to compare.", field=lacking, remedy=REMEDY)
        if len(responses) != len(scores) or not all(_is_probability(score) for score in scores):
            raise row.error("every response needs a score in [0, 1].", field="scores", remedy=REMEDY)
        both = {text: score for text, score in zip(responses, scores, strict=True) if str(text).strip()}
        if len(both) > 1:
            found.append(Answered(prompt, tuple(map(str, both)), tuple(map(float, both.values()))))
    return found


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


THEMES: dict[str, Sequence[str]] = {
    "rivers": ("It flows to the sea.", "Its banks are green.", "Boats go down it.", "It rises in the hills."),
    "bread": ("It is made of flour.", "It rises for an hour.", "The crust is brown.", "It is baked hot."),
    "stars": ("They are far away.", "They shine at night.", "Some are red.", "They are made of gas."),
    "music": ("It has a rhythm.", "A tune comes back.", "The strings are loud.", "It ends on one note."),
}


def made_up(seed: int, prompts: int = 240) -> Iterator[Answered]:
    """Prompts whose answers have a share of sentences on the theme, which is their score."""
    rng = random.Random(seed)
    for number in range(prompts):
        theme = rng.choice(sorted(THEMES))
        others = [sentence for name, lines in THEMES.items() if name != theme for sentence in lines]
        texts: dict[str, float] = {}
        for _ in range(5):
            n = rng.randrange(1, 9)
            on_theme = rng.randrange(n + 1)
            lines = [rng.choice(THEMES[theme]) for _ in range(on_theme)] + rng.choices(others, k=n - on_theme)
            rng.shuffle(lines)
            mark, gap = ("- ", "\n") if rng.random() < 0.4 else ("", " ")
            texts[gap.join(mark + line for line in lines)] = on_theme / n
        yield Answered(f"Question {number}: tell me about {theme}.", tuple(texts), tuple(texts.values()))
