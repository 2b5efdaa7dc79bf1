"""GPO's pairs: a model's own answers, scored against one another by a preference model; the best and the worst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.construct.least import below
from jaxpo.construct.on_policy.samples import Sample, draw_samples
from jaxpo.construct.stage import split
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.errors import ConfigError, DataError
from jaxpo.judges.questions import Question, read_questions
from jaxpo.sampling.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxpo.construct.context import WorkContext
    from jaxpo.data.rows.texts import Text
    from jaxpo.judges.network import Network

PAIRS, HELD_OUT = "pairs.jsonl", "heldout_pairs.jsonl"


@dataclass(frozen=True)
class GPOPairs(Work):
    """K answers of an earlier stage's model to every prompt, and those with the largest and the smallest mean score.

    The score of an answer is sbar_i = (1 / K) sum_j s(i > j) / tau of a stage of `gpm`, from one forward per answer.
    Writes `pairs.jsonl` and `heldout_pairs.jsonl` (no prompt is in both): prompt, chosen, rejected, `rewards` with the
    two scores, which `gpo` reads, and the whole table of log-odds.

    Attributes:
      prompts: files whose rows have a prompt; their answers are not used.
      model: the stage that answers: the last iterate.
      preference: the stage whose preference model compares.
      samples: K.
      temperature, max_new_tokens: of the answers; one that is cut off counts as it stands.
      max_prompts: only the first so many rows; None = all.
      heldout_one_in: about one prompt in so many is held out, and at least one.
      max_rows: answers that are drawn at once.
    """

    name: str = "gpo_pairs"
    prompts: tuple[OtherFile, ...] = ()
    model: str = "previous"
    preference: str = "reward"
    samples: int = 5
    temperature: float = 1.0
    max_new_tokens: int = 128
    max_prompts: int | None = None
    heldout_one_in: int = 20
    max_rows: int = 64

    def outputs(self) -> tuple[str, ...]:
        return (PAIRS, HELD_OUT)

    def inputs(self) -> tuple[str, ...]:
        return self.prompts

    def needed_models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.model, self.preference)))

    def problems(self) -> list[str]:
        found = super().problems()
        least = {"samples": 2, "max_new_tokens": 1, "heldout_one_in": 2, "max_rows": 1}
        found += below(self, least)
        if not self.temperature > 0:
            found.append(f"temperature is {self.temperature} but must be greater than 0: all answers would be alike.")
        if not self.prompts:
            found.append("prompts names no file.")
        return found

    def run(self, context: WorkContext) -> dict[str, Any]:
        policy, judge = context.network(self.model), context.network(self.preference, "whole")
        if not judge.asked_reader().method.COMPARES_ANSWERS:
            raise ConfigError(f"{self.name}.preference: {self.preference!r} compares no answers; name a stage of gpm.")
        questions = read_questions(list(islice(read_rows(context.files(self.prompts)), self.max_prompts)))
        counts = Counter[str]()
        drawn = draw_samples(
            questions,
            policy,
            context.folder,
            n=self.samples,
            sampler=Sampler(temperature=self.temperature),
            max_new_tokens=self.max_new_tokens,
            seed=context.seed,
            max_rows=self.max_rows,
            counts=counts,
            say=context.say,
            check=context.check,
        )
        rows = list(self.pairs(questions, drawn, judge, counts))
        trained, held_out = split(rows, self.heldout_one_in)
        report = {"prompts": len(questions), "pairs": len(trained), "heldout_pairs": len(held_out), **counts}
        if not trained or not held_out:
            raise DataError(f"stage {self.name}: pairs of two prompts at least are needed: {report}.")
        write_jsonl(context.folder / PAIRS, trained)
        write_jsonl(context.folder / HELD_OUT, held_out)
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
