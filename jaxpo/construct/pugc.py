"""Questions that posts answer (PUGC): one for every post, kept where the post holds what the question asks for."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.errors import DataError
from jaxpo.judges.asking import Item, Patience, ask_all
from jaxpo.judges.base import Judge
from jaxpo.judges.ledger import Ledger
from jaxpo.judges.refine import Refiner
from jaxpo.judges.scoring import plainly, score_all
from jaxpo.models.family import limits

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext

ROWS = "rows.jsonl"
QUESTION = (
    "Read the post and write one question that a reader of it might ask, and that it answers. The question must be "
    "understood without the post. Reply with the question alone."
)
FILTER = (
    "Question: {question}\n\nPost: {post}\n\nDoes the post hold enough information to answer the question? "
    "Answer Yes or No."
)
REPLIES = ("Yes", "No")
NO_QUESTION = ""
ANSWERS = ("completion", "chosen", "rejected")
"""Columns that on-policy pairs take for answers."""
Kept = tuple[Row, str, str]
"""Row, post and question."""


@dataclass(frozen=True)
class PostQuestions(Work):
    """A question for every post, as prompts for on-policy pairs whose judge reads the post and whose policy does not.

    Writes `rows.jsonl`: prompt, and the post for the judge. `OnPolicyPairs(judge=OverlapJudge())` samples answers to
    the prompts alone and keeps no column of its rows, so that no post is trained on. Posts whose question is longer
    than they are, or that do not answer it, are left out and counted; so are those that writer or filter failed on, or
    that a model cannot read whole, with the commonest reasons.

    Attributes:
      posts: files of rows with a text.
      column: its name.
      model: the stage that writes and filters the questions; not asked where `writer` and `filter` are given.
      writer: None, or one of `jaxpo.judges.refine`, which is given the post as the prompt: `ChatRefiner(endpoint,
        QUESTION)`.
      filter: None = the model's odds of Yes; or one of `jaxpo.judges`, which scores the post as an answer to the
        question.
      filter_at: posts that score less are left out. Of the model it is a probability.
      unfiltered: keep all.
      temperature, max_new_tokens: of the questions.
      max_posts: only the first so many; None = all.
    """

    name: str = "post_questions"
    posts: tuple[OtherFile, ...] = ()
    column: str = "post"
    model: str = "previous"
    writer: Any = None
    filter: Any = None
    filter_at: float = 0.5
    unfiltered: bool = False
    temperature: float = 0.7
    max_new_tokens: int = 64
    max_posts: int | None = None

    def outputs(self) -> tuple[str, ...]:
        return (ROWS,)

    def inputs(self) -> tuple[str, ...]:
        return self.posts

    def needed_models(self) -> tuple[str, ...]:
        asked = self.filter.models() if isinstance(self.filter, Judge) else ()
        by_model = self.writer is None or (self.filter is None and not self.unfiltered)
        return tuple(dict.fromkeys((*((self.model,) if by_model else ()), *asked)))

    def reward_models(self) -> tuple[str, ...]:
        return self.filter.reward_models() if isinstance(self.filter, Judge) else ()

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.posts:
            found.append("posts names no file.")
        if not isinstance(self.writer, Refiner | None):
            found.append(f"writer is {self.writer!r}; give one of jaxpo.judges.refine.")
        if not isinstance(self.filter, Judge | None):
            found.append(f"filter is {self.filter!r}; give one of jaxpo.judges.")
        if self.column in ("prompt", *ANSWERS):
            found.append(
                f"column is {self.column!r}, which later stages take for the prompt or an answer, so that the post "
                "would be trained on; rename it in the files."
            )
        if self.max_new_tokens < 1:
            found.append(f"max_new_tokens is {self.max_new_tokens} but must be at least 1.")
        if not self.temperature > 0:
            found.append(f"temperature is {self.temperature} but must be greater than 0.")
        for part in (self.writer, self.filter):
            if isinstance(part, Judge | Refiner):
                found += part.problems()
        return found

    def check_inputs(self, files: Sequence[Path]) -> None:
        self._posts(files)

    def _posts(self, files: Sequence[Path]) -> list[Row]:
        rows = list(read_rows(files))[: self.max_posts]
        for row in rows:
            post = row.data.get(self.column)
            if not isinstance(post, str) or not post.strip():
                raise row.error("expected a text.", field=self.column, remedy="Remove rows without a post.")
        if not rows:
            raise DataError("holds no rows.", file=files[0], remedy="Give posts.")
        return rows

    def run(self, context: WorkContext) -> dict[str, Any]:
        rows, counts, failures = self._posts(context.files(self.posts)), Counter[str](), Counter[str]()
        posts = [str(row.data[self.column]) for row in rows]
        written = self._questions(rows, posts, context, counts, failures)
        asked = [(row, post, _first_line(own)) for row, post, own in zip(rows, posts, written, strict=True)]
        kept = []
        for row, post, question in asked:
            if not question:
                counts["posts_without_a_question"] += 1
            elif len(post.split()) < len(question.split()):
                counts["posts_shorter_than_their_question"] += 1
            else:
                kept.append((row, post, question))
        if n := counts["posts_shorter_than_their_question"]:
            context.say(f"{self.name}: {n} of {len(rows)} posts are shorter than their question; they are left out")
        good = self._answered(kept, context, counts, failures)
        made = [
            {"prompt": [{"role": "user", "content": question}], self.column: post}
            for (_, post, question), ok in zip(kept, good, strict=True)
            if ok
        ]
        report: dict[str, Any] = {"posts": len(rows), "questions": len(made), **counts}
        if failures:
            report["failures"] = dict(failures.most_common(5))
            context.say(f"{self.name}: {failures.total()} failures, most often: {failures.most_common(1)[0][0]}")
        if not made:
            raise DataError(f"stage {self.name}: no question is left: {report}.")
        write_jsonl(context.folder / ROWS, made)
        return report

    def _questions(
        self,
        rows: Sequence[Row],
        posts: Sequence[str],
        context: WorkContext,
        counts: Counter[str],
        failures: Counter[str],
    ) -> list[str]:
        """One for every post; "" where nobody gave one, or the post leaves the model no room."""
        if self.writer is None:
            chats = [[{"role": "user", "content": f"{QUESTION}\n\n{post}"}] for post in posts]
            network = context.network(self.model)
            room = limits(network.config).context - self.max_new_tokens
            fitting = [i for i, n in enumerate(network.prompt_lengths(chats)) if n <= room]
            how: dict[str, Any] = {"temperature": self.temperature, "top_k": 0, "max_new_tokens": self.max_new_tokens}
            texts = network.generate([chats[i] for i in fitting], 1, seed=context.seed, **how) if fitting else []
            found = dict(zip(fitting, (text for (text,) in texts), strict=True))
            counts["posts_too_long"] = len(posts) - len(fitting)
            return [found.get(i, NO_QUESTION) for i in range(len(posts))]
        items = [Item(post, "", row) for row, post in zip(rows, posts, strict=True)]
        ledger = Ledger(context.folder, f"questions-{self.writer.NAME}", self.writer.identity())
        replies = ask_all(
            {item.key(None): item for item in items},
            self.writer.open(),
            ledger,
            what="question",
            batch=self.writer.BATCH,
            patience=Patience(),
            say=context.say,
            check=context.check,
        )
        failures.update(replies.failures.values())
        return [replies.values.get(item.key(None), NO_QUESTION) for item in items]

    def _answered(
        self, kept: Sequence[Kept], context: WorkContext, counts: Counter[str], failures: Counter[str]
    ) -> list[bool]:
        """Whether each post answers its question; of those that the filter failed on nobody knows, and they do not."""
        scores = self._scores(kept, context, failures)
        good = [score is not None and score >= self.filter_at for score in scores]
        failed = scores.count(None)
        counts["posts_that_do_not_answer"] = len(kept) - sum(good) - failed
        if failed:
            counts["posts_filter_failed"] = failed
        return good

    def _scores(self, kept: Sequence[Kept], context: WorkContext, failures: Counter[str]) -> list[float | None]:
        """What the filter gives each post as an answer to its question; None where it failed."""
        if self.unfiltered or not kept:
            return [np.inf] * len(kept)
        if self.filter is not None:
            items = [Item(question, post, row) for row, post, question in kept]
            ask = plainly(say=context.say, check=context.check)
            whole = partial(context.network, max_length="whole")
            found = score_all(self.filter, items, whole, context.folder, ask, "filter")
            failures.update(found.failures.values())
            return [found.values.get(item.key(None)) for item in items]
        network = context.network(self.model, "whole")
        texts = [FILTER.format(question=question, post=post) for _, post, question in kept]
        chats = [[{"role": "user", "content": text}] for text in texts]
        uncut = replace(network, max_length=sys.maxsize)
        both = (uncut.segments(chats, [reply] * len(chats)) for reply in REPLIES)
        longest = [max(len(yes.tokens), len(no.tokens)) for yes, no in zip(*both, strict=True)]
        fitting = [i for i, length in enumerate(longest) if length <= network.max_length]
        if left := len(chats) - len(fitting):
            failures[f"question and post are longer than the {network.max_length} tokens that the filter reads"] += left
        if not fitting:
            return [None] * len(chats)
        yes, no = (network.logps([chats[i] for i in fitting], [reply] * len(fitting)) for reply in REPLIES)
        sure = dict(zip(fitting, np.exp(-np.logaddexp(0.0, no - yes)).tolist(), strict=True))
        return [sure.get(i) for i in range(len(chats))]


def _first_line(text: str) -> str:
    """The question alone: the first line that is not blank, without quotation marks around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].strip('"').strip() if lines else ""
