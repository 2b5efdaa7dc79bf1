"""A knockout tournament of K answers: winners meet winners, losers meet losers, and the last of both meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.construct.on_policy.oracles import ByScore, Duel, Oracle, Play, Ring
from jaxpo.construct.on_policy.own_pairs import DrawnPairs
from jaxpo.construct.on_policy.samples import Sample
from jaxpo.judges.duels import ASYMMETRY, TOLERANCE
from jaxpo.judges.questions import Question
from jaxpo.judges.scoring import plainly

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext

Match = tuple[int, int]


def tournament(players: int) -> Generator[list[Match], list[float], Match | None]:
    """Rounds of matches of players 0 .. K - 1: yields those of a round, is sent P(first > other) of each.

    A tie goes to the player listed first. Returns the overall winner and the overall loser, or None where the last
    match between these two does not go to the winner. K = 8 costs 4 + 3 + 3 + 1 matches.
    """
    matches = [(i, i + 1) for i in range(0, players, 2)]
    won = yield matches
    winners = [pair[p < 0.5] for pair, p in zip(matches, won, strict=True)]
    losers = [pair[p >= 0.5] for pair, p in zip(matches, won, strict=True)]
    while len(winners) > 1:
        matches = [(group[i], group[i + 1]) for group in (winners, losers) for i in range(0, len(group), 2)]
        won = yield matches
        half = len(matches) // 2
        winners = [pair[p < 0.5] for pair, p in zip(matches[:half], won[:half], strict=True)]
        losers = [pair[p >= 0.5] for pair, p in zip(matches[half:], won[half:], strict=True)]
    final = (winners[0], losers[0])
    (p,) = yield [final]
    return final if p > 0.5 else None


@dataclass(frozen=True)
class TournamentPairs(DrawnPairs):
    """K answers of an earlier stage's model to every prompt, and the first and the last of their tournament.

    Attributes:
      oracle: `ByScore(judge)`, `ByDuel(judge)` or `ByPreferenceModel(stage)`.
      samples: K, a power of two.
      keep_unfinished: answers that were cut off play too; else they lose unasked, as answers without text do.
    """

    # How many samples a tournament needs has a message of its own.
    LEAST: ClassVar[Mapping[str, float]] = {"max_new_tokens": 1, "max_rows": 1}

    name: str = "tournament"
    samples: int = 8
    oracle: Any = field(default_factory=ByScore)
    keep_unfinished: bool = False

    def needed_models(self) -> tuple[str, ...]:
        asked = self.oracle.models() if isinstance(self.oracle, Oracle) else ()
        return tuple(dict.fromkeys((self.model, *asked)))

    def reward_models(self) -> tuple[str, ...]:
        return self.oracle.reward_models() if isinstance(self.oracle, Oracle) else ()

    def problems(self) -> list[str]:
        found = super().problems()
        if self.samples < 2 or self.samples & (self.samples - 1):
            found.append(
                f"samples is {self.samples}, but players of a tournament meet in pairs to the end; give 2, 4, 8 or 16."
            )
        if not isinstance(self.oracle, Oracle):
            return [*found, f"oracle is {self.oracle!r}; give one of jaxpo.construct.on_policy.oracles."]
        return found + self.oracle.problems()

    def check_inputs(self, files: Sequence[Path]) -> None:
        self.oracle.check(self.questions(files))

    def run(self, context: WorkContext) -> dict[str, Any]:
        questions, counts = self.questions(context.files(self.prompts)), Counter[str]()
        ask = plainly(say=context.say, check=context.check)
        ring = Ring(lambda name: context.network(name, "whole"), context.folder, ask)
        play = self.oracle.open(ring)
        drawn = self.draw(questions, context.network(self.model, "whole"), context, counts)
        told = [q for q in questions if q.number in drawn]
        answers = [[self._player(sample) for sample in drawn[q.number]] for q in told]
        rows = play_all(told, answers, play, counts)
        figures = {**counts, **ring.figures()}
        for why, n in Counter(ring.failures.values()).most_common(3):
            context.say(f"{self.name}: {n} answers were not judged: {why}")
        if figures.get(ASYMMETRY, 0.0) > TOLERANCE:
            context.say(
                f"warning: {self.name}: the judge of duels is not antisymmetric: P(a > b) + P(b > a) is off 1 by "
                f"{figures[ASYMMETRY]:.3f} on average; the mean of both ways round was used"
            )
        return self.write(rows, context.folder, {"prompts": len(questions)}, figures)

    def _player(self, sample: Sample) -> str:
        """The text that plays; "" loses unasked."""
        return sample.text if sample.text.strip() and (sample.finished or self.keep_unfinished) else ""


def play_all(
    questions: Sequence[Question], answers: Sequence[Sequence[str]], play: Play, counts: Counter[str]
) -> list[dict[str, Any]]:
    """The pairs of all tournaments, which are played side by side, a round of all of them at a time."""
    found: dict[int, Match | None] = {}
    open_games = {i: tournament(len(own)) for i, own in enumerate(answers)}
    rounds = {i: next(game) for i, game in open_games.items()}
    while rounds:
        asked = [(i, match) for i, matches in rounds.items() for match in matches]
        won = _played(asked, questions, answers, play, counts)
        following = {}
        for i, matches in rounds.items():
            results = [won[i, match] for match in matches]
            if None in results:
                counts["prompts_left_out_judge_failed"] += 1
                continue
            try:
                following[i] = open_games[i].send(results)  # type: ignore[arg-type]
            except StopIteration as over:
                found[i] = over.value
        rounds = following
    return [row for i in sorted(found) if (row := _pair(questions[i], answers[i], found[i], counts)) is not None]


def _played(
    asked: Sequence[tuple[int, Match]],
    questions: Sequence[Question],
    answers: Sequence[Sequence[str]],
    play: Play,
    counts: Counter[str],
) -> dict[tuple[int, Match], float | None]:
    """P(first > other) of every match; equal texts tie, and one without text loses, unasked."""
    won: dict[tuple[int, Match], float | None] = {}
    duels = {}
    for i, (a, b) in asked:
        first, other = answers[i][a], answers[i][b]
        if not first or not other or first == other:
            won[i, (a, b)] = 0.5 * (1 + bool(first) - bool(other))
        else:
            duels[i, (a, b)] = Duel(questions[i], first, other)
    counts["comparisons"] += len(duels)
    if duels:
        won |= dict(zip(duels, play(list(duels.values())), strict=True))
    return won


def _pair(
    question: Question, answers: Sequence[str], final: Match | None, counts: Counter[str]
) -> dict[str, Any] | None:
    """The pair of a tournament; None where the winner does not beat the loser, or the loser says nothing."""
    if final is None:
        counts["prompts_left_out_final_not_won"] += 1
        return None
    winner, loser = (answers[k] for k in final)
    if not loser:
        counts["prompts_left_out_loser_without_text"] += 1
        return None
    return {"prompt": question.prompt, "chosen": question.as_written(winner), "rejected": question.as_written(loser)}
