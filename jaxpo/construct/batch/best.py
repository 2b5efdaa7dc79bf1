"""Best of n: a judge scores every answer, and the first of those with the highest score is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxpo.construct.batch.draw import Answer
from jaxpo.construct.batch.prompts import Asked
from jaxpo.judges.asking import Ask, Item, Replies, ask_all
from jaxpo.judges.base import Judge, Networks
from jaxpo.judges.ledger import Ledger
from jaxpo.judges.scoring import score_all


@dataclass(frozen=True)
class Best:
    """The answer that is kept.

    Attributes:
      answer, score: None where no answer has a score.
      unscored: why none has.
    """

    answer: Answer | None = None
    score: float | None = None
    unscored: str | None = None


def choose(
    asked: Sequence[Asked],
    answers: Mapping[int, Sequence[Answer]],
    judge: Judge,
    networks: Networks,
    folder: Path,
    *,
    failures: Counter[str],
    say: Callable[[str], None],
) -> dict[int, Best]:
    """Row number -> the best of its answers.

    Args:
      folder: of the judge's ledgers; answers that failed in an earlier run are asked about again.
      failures: receives why answers have no score, and how many.

    Raises:
      RunError: a judge that fails all the time.
    """
    items = {
        (one.number, s): Item(one.as_text, answer.text, one.row)
        for one in asked
        for s, answer in enumerate(answers[one.number])
        if not _unfit(answer)
    }

    def ask(by_key: dict[str, Item], opened: Ask, ledger: Ledger, what: str, batch: int) -> Replies:
        return ask_all(by_key, opened, ledger, what=what, batch=batch, say=say)

    scores = score_all(judge, list(items.values()), networks, folder, ask)
    found = {}
    for one in asked:
        told: list[tuple[Answer, float | None, str]] = []
        for s, answer in enumerate(answers[one.number]):
            item = items.get((one.number, s))
            key = None if item is None else item.key(None)
            why = _unfit(answer) if key is None else scores.failures.get(key, "")
            told.append((answer, None if key is None else scores.values.get(key), why))
        failures.update(why for _, score, why in told if score is None)
        found[one.number] = _best(told)
    return found


def _best(told: Sequence[tuple[Answer, float | None, str]]) -> Best:
    scored = [(answer, score) for answer, score, _ in told if score is not None]
    if not scored:
        reasons = Counter(why for _, _, why in told)
        return Best(unscored="; ".join(f"{n} x {why}" for why, n in reasons.most_common()))
    answer, score = max(scored, key=lambda pair: pair[1])  # max keeps the first of equals
    return Best(answer, score)


def _unfit(answer: Answer) -> str:
    """Why an answer is not shown to the judge."""
    if answer.reason == "error":
        return f"the answer ended in an error: {answer.error}"
    return "" if answer.text.strip() else "the answer is empty"
