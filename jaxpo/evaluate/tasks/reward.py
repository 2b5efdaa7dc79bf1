"""A reward model on answers of known quality; see `jaxpo.evaluate.rewards`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from jaxpo.data.tokens.rendering import Cut
from jaxpo.errors import ConfigError
from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.picture import Picture
from jaxpo.evaluate.rewards import bench
from jaxpo.evaluate.rewards.files import Answers, Kind, read_answers
from jaxpo.evaluate.rewards.judged import Judged, best_of, pairs_of
from jaxpo.evaluate.rewards.measures import measures, pictures
from jaxpo.evaluate.rewards.style import style_of, style_results
from jaxpo.evaluate.tasks.base import Ask, Reader, Reply, Task
from jaxpo.evaluate.tasks.files import place, present, spaced
from jaxpo.evaluate.tasks.ranking import shown
from jaxpo.evaluate.tasks.reading import Score

LONGER = "longer_wins"


@dataclass(frozen=True)
class Reward(Task[Answers]):
    """How often a reward model prefers the better answer (a tie is wrong), by how much, and what 'longer wins' gets.

    Attributes:
      rows: what the file's rows are; None = what the first one shows.
      gap: two answers of a list are a pair where their scores differ by so much at least.
      best_of: n of best-of-n, of rows with three answers and more; those with fewer than n have none.
      max_length: of a prompt with an answer, in tokens; None = what the model has.
      truncation: of a longer one, as in training: an error, or the answer loses its end, or the prompt its start; `cut`
        counts them.
    """

    NAME: ClassVar[str] = "reward"
    ABOUT: ClassVar[str] = "how often a reward model prefers the better answer, and how much of that is length"
    NEEDS: ClassVar[str] = (
        "rows with [prompt,] chosen, rejected [, subset]; prompt, responses, scores; or those of RewardBench 1, 2"
    )

    rows: Kind | None = None
    gap: float = 0.0
    best_of: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    max_length: int | None = None
    truncation: Literal["error", "response_right", "prompt_left"] = "error"

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.max_length is not None and self.max_length < 2:
            yield f"{self.NAME}.max_length: {self.max_length} must be at least 2."
        if not self.gap >= 0:
            yield f"{self.NAME}.gap: {self.gap} must be at least 0."
        if any(n < 1 for n in self.best_of):
            yield f"{self.NAME}.best_of: {', '.join(map(str, self.best_of))} must each be at least 1."

    def examples(self) -> list[Answers]:
        path = present(self.NAME, self.source or "", self.NEEDS)
        found = read_answers(path, self.rows)
        if not any(len(pairs_of(one.quality, self.gap)) for one in found):
            raise found[0].row.error("no two answers of the file differ.", remedy=f"Lower {self.NAME}.gap.")
        ties = [one for one in found if one.tied is not None]
        # The rows of a tie belong together, so a limit leaves all of them.
        return spaced([one for one in found if one.tied is None], self.limit) + ties

    def ask(self, example: Answers, reader: Reader) -> Ask:
        from jaxpo.evaluate.rewards.score import answer_segments

        if reader.reward is None:
            raise ConfigError(f"--tasks {self.NAME}: the model is no reward model; give one of a reward stage.")
        cut = Cut(self.max_length or reader.context, self.truncation)
        n, counts = len(example.texts), Counter[str]()
        how = (reader.reward.method, reader.tokenizer, cut, counts)
        segments = answer_segments([example.row] * n, [example.prompt] * n, example.texts, *how)
        tokens = tuple(len(reader.tokenizer.encode(shown(text))) for text in example.texts)
        lost = counts["truncated_response"] + counts["truncated_prompt"] > 0
        return RewardAsk(rewarded=tuple(segments), where=place(example.row), tokens=tokens, cut=lost)

    def scores(self) -> Mapping[str, Score]:
        curve = {f"best_of_{n}": f"quality of the answer with the largest reward of {n}" for n in self.best_of}
        both = {
            "accuracy": Score("the better answer of a pair, or the best of four, has the largest reward", binary=True),
            "pair_accuracy": Score("pairs of answers whose better one has the larger reward"),
            **{name: Score(about) for name, about in curve.items()},
        }
        told = {f"{name}_{LONGER}": dataclasses.replace(how, about=_by_length(how)) for name, how in both.items()}
        beside = {
            "margin": Score("reward of the better answer less that of the worse, mean over pairs"),
            "loss": Score("softplus(-margin), mean over pairs", higher=False),
            "reward": Score("mean over answers"),
            "cut": Score(
                "rows with an answer that lost its end, or whose prompt lost its start", binary=True, higher=False
            ),
            "empty_answers": Score("answers of a row that hold nothing and are left out", higher=False),
        }
        return {
            name: how for one, two in zip(both.items(), told.items(), strict=True) for name, how in (one, two)
        } | beside

    def score(self, example: Answers, reply: Reply) -> Judged:
        assert isinstance(reply.ask, RewardAsk)
        rewards, lengths = np.asarray(reply.rewards, np.float64), np.asarray(reply.ask.tokens, np.int64)
        if not np.isfinite(rewards).all():
            raise example.row.error(f"the model gives an answer the reward {rewards[~np.isfinite(rewards)][0]}.")
        quality, pairs = np.asarray(example.quality), pairs_of(example.quality, self.gap)
        texts = [shown(text) for text in example.texts]
        group = str(example.row.data.get("group", example.subset))
        found = Judged(
            values={},
            quality=quality,
            rewards=rewards,
            lengths=lengths,
            style=np.asarray([style_of(text, n) for text, n in zip(texts, reply.ask.tokens, strict=True)]),
            pairs=pairs,
            subset=example.subset,
            group=group,
            tied=example.tied,
            cut=reply.ask.cut,
            groups=tuple(name for name in dict.fromkeys((example.subset, group)) if name),
            prompt=shown(example.prompt),
            answer=texts[int(rewards.argmax())],
            expected=texts[int(quality.argmax())],
        )
        values, weights = self._values(example, found)
        worst = float(-found.margins.min()) if len(pairs) else float("-inf")
        return dataclasses.replace(found, values=values, weights=weights, worst=worst)

    def _values(self, example: Answers, found: Judged) -> tuple[dict[str, float], dict[str, float]]:
        """Of one prompt, with weights where a score is over pairs or answers."""
        values, weights = {"reward": float(found.rewards.sum())}, {"reward": float(len(found.rewards))}
        values |= {"cut": float(found.cut)} if self.truncation != "error" else {}
        values |= {"empty_answers": float(example.empty)} if example.kind == "lists" else {}
        n, answers = float(len(found.pairs)), len(found.rewards)
        if n:
            values |= {"margin": float(found.margins.sum()), "loss": float(np.logaddexp(0, -found.margins).sum())}
            weights |= {"margin": n, "loss": n}
        for name, verdict, differences in (
            ("{}", found.rewards, found.margins),
            ("{}_" + LONGER, found.lengths, found.longer),
        ):
            if example.kind != "lists" and found.tied is None:
                values[name.format("accuracy")] = float((differences > 0).all())
            if n and answers > 2:
                values[name.format("pair_accuracy")] = float((differences > 0).sum())
                weights[name.format("pair_accuracy")] = n
            if answers > 2 and found.tied is None:
                curve = {f"best_of_{k}": best_of(verdict, found.quality, k) for k in self.best_of if k <= answers}
                values |= {name.format(k): value for k, value in curve.items()}
        return values, weights

    def further(self, scored: Sequence[Judged]) -> Mapping[str, Measurement]:
        paired = [one for one in scored if len(one.pairs)]
        found = {**self._bench(scored), **measures(paired), **style_results(paired)}
        groups = dict.fromkeys(one.group for one in paired)
        # The published benches have too many subsets, of too few pairs, for a fit to each.
        if len(groups) == 1 or {one.subset for one in paired} <= {*bench.SUBSETS, *bench.SUBSETS_2}:
            return found
        for group in groups:
            members = [one for one in paired if one.group == group]
            each = style_results(members) | {k: v for k, v in measures(members).items() if k.startswith("phi")}
            found |= {f"{name}_{group}": value for name, value in each.items()}
        return found

    def _bench(self, scored: Sequence[Judged]) -> dict[str, Measurement]:
        """RewardBench's own numbers, each beside that of 'longer wins'."""
        found: dict[str, Measurement] = {}
        for suffix, of in (("", "rewards"), (f"_{LONGER}", "lengths")):
            right: dict[str, list[float]] = {}
            for one in scored:
                if one.tied is None and f"accuracy{suffix}" in one.values:
                    right.setdefault(one.subset, []).append(one.values[f"accuracy{suffix}"])
            tied = bench.ties(scored, [getattr(one, of) for one in scored])
            results = {} if tied is None else {"ties": tied}
            results |= bench.sections(right) if set(right) <= set(bench.SUBSETS) else bench.overall_2(right, tied)
            found |= {f"{name}{suffix}": value for name, value in results.items()}
        return found

    def pictures(self, scored: Sequence[Judged]) -> Sequence[Picture]:
        return pictures([one for one in scored if len(one.pairs)])

    @property
    def in_template(self) -> bool:
        return True


@dataclass(frozen=True)
class RewardAsk(Ask):
    """An ask that knows its answers' texts.

    Attributes:
      tokens: of each.
      cut: whether one lost its end, or the prompt its start.
    """

    tokens: tuple[int, ...] = ()
    cut: bool = False


def _by_length(how: Score) -> str:
    return f"the same of the rule 'longer wins': {how.about}"
