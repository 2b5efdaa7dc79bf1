"""PRO's lists: scored, best first, the first n without ties, prompts cut at their start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools, not_positive
from jaxpo.construct.candidates import READS, Sampling, listed, scored_candidates
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import Text
from jaxpo.judges.named import JudgeOptions


def best_first(scores: np.ndarray, *, drop_ties: bool) -> list[int]:
    """Numbers of the responses by descending score; of equal scores the first in the list, and the others if kept."""
    kept: list[int] = []
    for k in np.argsort(-scores, kind="stable").tolist():
        if not (drop_ties and kept and scores[kept[-1]] == scores[k]):
            kept.append(k)
    return kept


def keep_end(prompt: Text, characters: int) -> Text:
    """The end of a prompt: whole words of a string, whole messages of a conversation (its last one always stays)."""
    if isinstance(prompt, str):
        end = prompt[max(len(prompt) - characters, 0) :]
        cut_word = len(end) < len(prompt) and not end[:1].isspace() and not prompt[-len(end) - 1].isspace()
        words = end.split(maxsplit=1)
        return end[end.index(words[1]) :] if cut_word and len(words) > 1 else end
    kept = list(prompt)
    while len(kept) > 1 and sum(len(str(message["content"])) for message in kept) > characters:
        kept.pop(0)
    return kept


@dataclass(frozen=True)
class PRO(JudgeOptions, Construction):
    """Rankings of n responses, best first, from scored ones.

    Attributes:
      n: length of a ranking; longer lists keep their n best.
      ties: "drop" keeps one response of each score, since equal ones rank nothing; "keep" keeps all.
      keep_prompt: characters kept of a prompt's end; 0 keeps all. (Tokens are cut by data.truncation=prompt_left.)
      candidates, temperature, top_k, max_new_tokens: of the responses drawn from --model where rows have none.
      judge, judge_model, judge_key, judge_rubric, judge_scale, answer, tests, unsandboxed, user: who scores where rows
        have no scores, as of on_policy.
    """

    n: int = 3
    ties: Literal["drop", "keep"] = "drop"
    keep_prompt: int = 0
    candidates: int = 3
    temperature: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 128

    NAME = "pro_ranking"
    READS = READS
    WRITES = "prompt, responses (best first), scores"

    def problems(self) -> list[str]:
        found = not_positive(temperature=self.temperature, candidates=self.candidates)
        if self.n < 2 or self.keep_prompt < 0:
            found.append(f"--n is {self.n} and --keep-prompt {self.keep_prompt}; they must be at least 2 and 0.")
        return found

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        sampling = Sampling(self.candidates, self.temperature, self.top_k, self.max_new_tokens)
        for given in scored_candidates(rows, tools, sampling, self):
            order = best_first(given.scores, drop_ties=self.ties == "drop")
            if len(order) < len(given.scores):
                tools.count("dropped_tied_responses", len(given.scores) - len(order))
            if len(order) < 2:
                tools.count("dropped_fewer_than_2_responses")
                continue
            order = order[: self.n]
            row = listed(given, order, given.scores[order].tolist())
            if self.keep_prompt:
                row["prompt"] = keep_end(given.prompt, self.keep_prompt)
                if row["prompt"] != given.prompt:
                    tools.count("truncated_prompts")
            yield row
