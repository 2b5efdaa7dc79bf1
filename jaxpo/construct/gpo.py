"""GPO's pairs: a model's own answers, scored against one another by a preference model; the best and the worst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.config import Work
from jaxpo.construct.on_policy.own_pairs import DrawnPairs
from jaxpo.construct.on_policy.samples import Sample
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.errors import ConfigError
from jaxpo.judges.questions import Question

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxpo.construct.context import WorkContext
    from jaxpo.data.rows.texts import Text
    from jaxpo.judges.network import Network


@dataclass(frozen=True)
class GPOPairs(DrawnPairs):
    """K answers of an earlier stage's model to every prompt, and those with the largest and the smallest mean score.

    The score of an answer is sbar_i = (1 / K) sum_j s(i > j) / tau of a stage of `gpm`, from one forward per answer.
    Its rows have prompt, chosen, rejected, `rewards` with the two scores, which `gpo` reads, and the whole table of
    log-odds. An answer that is cut off counts as it stands.

    Attributes:
      preference: the stage whose preference model compares.
    """

    name: str = "gpo_pairs"
    preference: str = "reward"

    def needed_models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.model, self.preference)))

    def run(self, context: WorkContext) -> dict[str, Any]:
        policy, judge = context.network(self.model), context.network(self.preference, "whole")
        if not judge.asked_reader().method.COMPARES_ANSWERS:
            raise ConfigError(f"{self.name}.preference: {self.preference!r} compares no answers; name a stage of gpm.")
        questions, counts = self.questions(context.files(self.prompts)), Counter[str]()
        drawn = self.draw(questions, policy, context, counts)
        rows = list(self.pairs(questions, drawn, judge, counts))
        report = self.write(rows, context.folder, {"prompts": len(questions)}, counts)
        lengths = np.asarray([[_characters(row["chosen"]), _characters(row["rejected"])] for row in rows])
        return report | {"longer_wins": float(np.mean(lengths[:, 0] > lengths[:, 1]))}

    def pairs(
        self, questions: Sequence[Question], drawn: dict[int, list[Sample]], judge: Network, counts: Counter[str]
    ) -> Iterator[dict[str, Any]]:
        """The kept answers of every prompt with two that differ."""
        there = [q for q in questions if q.number in drawn]
        texts = {q.number: list(dict.fromkeys(s.text for s in drawn[q.number] if s.text.strip())) for q in there}
        counts["answers_without_text"] += sum(not s.text.strip() for q in there for s in drawn[q.number])
        told = [q for q in there if len(texts[q.number]) > 1]
        counts["prompts_with_one_answer"] += len(there) - len(told)
        if not told:
            return
        sizes = [len(texts[q.number]) for q in told]
        prompts = [q.prompt for q in told for _ in texts[q.number]]
        _, tables = judge.mean_scores(prompts, [text for q in told for text in texts[q.number]], sizes)
        for q, table in zip(told, tables, strict=True):
            own = texts[q.number]
            # What the policy wrote twice is twice as likely, and so are its duels.
            share = np.asarray([sum(s.text == text for s in drawn[q.number]) for text in own], float)
            scores = table @ (share / share.sum())
            best, worst = int(scores.argmax()), int(scores.argmin())
            if scores[best] == scores[worst]:
                counts["prompts_with_equal_scores"] += 1
                continue
            yield {
                "prompt": q.prompt,
                "chosen": q.as_written(own[best]),
                "rejected": q.as_written(own[worst]),
                "rewards": {"gpm": [float(scores[best]), float(scores[worst])]},
                "log_odds": table.tolist(),
            }


def _characters(answer: Text) -> int:
    """Of an answer, or of its turns."""
    return len(answer) if isinstance(answer, str) else sum(len(str(turn["content"])) for turn in answer)


@dataclass(frozen=True)
class ChosenAnswers(Work):
    """The chosen answers of pairs to imitate, and their prompts in as many parts as there are rounds.

    Attributes:
      rows: pairs.
      rounds: parts.
    """

    name: str = "chosen"
    rows: tuple[str, ...] = ()
    rounds: int = 3

    def outputs(self) -> tuple[str, ...]:
        return ("answers.jsonl", *(f"round_{i}.jsonl" for i in range(1, self.rounds + 1)))

    def inputs(self) -> tuple[str, ...]:
        return self.rows

    def run(self, context: WorkContext) -> dict[str, Any]:
        rows = [row.data for row in read_rows(context.files(self.rows))]
        prompts = list({str(row["prompt"]): {"prompt": row["prompt"]} for row in rows}.values())
        parts = {f"round_{i}.jsonl": prompts[i - 1 :: self.rounds] for i in range(1, self.rounds + 1)}
        parts["answers.jsonl"] = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
        return {name: write_jsonl(context.folder / name, part) for name, part in parts.items()}
