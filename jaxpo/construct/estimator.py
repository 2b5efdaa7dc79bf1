"""The estimator of UPO: a classifier of whole pairs, which says whether they stand in the right order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.data.rows.rows import read_record
from jaxpo.data.rows.texts import Text
from jaxpo.errors import ConfigError, DataError

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext
    from jaxpo.judges.network import Network

ROWS, PAIRS = "rows.jsonl", "pairs.jsonl"
TEMPLATE = "Question:\n{prompt}\n\nAnswer 1:\n{first}\n\nAnswer 2:\n{other}\n\nIs answer 1 better than answer 2?"
"""What the estimator reads of a pair; its head stands on the last token of `ANSWER`."""
ANSWER = "Yes."


def said(text: Text) -> str:
    """A prompt or an answer as one text; of a conversation each turn after its role."""
    if isinstance(text, str):
        return text
    if len(text) == 1:
        return str(text[0]["content"])
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in text)


def rendered(prompt: Text, first: Text, other: Text) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """A pair as the estimator reads it: a prompt that holds both answers, and the claim that the first is better."""
    content = TEMPLATE.format(prompt=said(prompt), first=said(first), other=said(other))
    return [{"role": "user", "content": content}], [{"role": "assistant", "content": ANSWER}]


def rendered_lengths(network: Network, pairs: Sequence[tuple[Text, Text, Text]]) -> np.ndarray:
    """Tokens that the estimator reads of each pair (prompt, winner, loser), int64 `[n]`."""
    texts = [rendered(*pair) for pair in pairs]
    return network.lengths([p for p, _ in texts], [c for _, c in texts])


def order_probabilities(
    network: Network, pairs: Sequence[tuple[Text, Text, Text]], masks: int, seed: int
) -> np.ndarray:
    """That each pair (prompt, winner, loser) stands in the right order, under T dropout masks: float64 `[n, T]`.

    Raises:
      ConfigError: no stage of `outcome_reward`, or one that was trained without dropout.
    """
    method = network.asked_reader().method
    if method.INFO.name != "outcome_reward":
        raise ConfigError(f"the estimator was trained by {method.INFO.name}; give a stage of outcome_reward.")
    texts = [rendered(*pair) for pair in pairs]
    logits = network.rewards([p for p, _ in texts], [c for _, c in texts], masks=masks, seed=seed)
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))


@dataclass(frozen=True)
class RenderPairs(Work):
    """Every pair twice, as rows of `outcome_reward`: in its order with label true, the other way round with false.

    Writes these as `rows.jsonl`, and `pairs.jsonl` for a reward model of the same pairs: prompt, chosen and rejected
    alone, since files of different origin have different columns beside them.

    Attributes:
      rows: pairs.
    """

    name: str = "render_pairs"
    rows: tuple[OtherFile, ...] = ()

    def outputs(self) -> tuple[str, ...]:
        return (ROWS, PAIRS)

    def inputs(self) -> tuple[str, ...]:
        return self.rows

    def problems(self) -> list[str]:
        return super().problems() + ([] if self.rows else ["rows names no file."])

    def check_inputs(self, files: Sequence[Path]) -> None:
        self._pairs(files)

    def _pairs(self, files: Sequence[Path]) -> list[dict[str, Text]]:
        made: list[dict[str, Text]] = []
        for row in read_rows(files):
            chosen, rejected = read_record(row, "preference").sides[:2]
            assert chosen.prompt is not None
            made.append({"prompt": chosen.prompt, "chosen": chosen.completion, "rejected": rejected.completion})
        if not made:
            raise DataError("holds no rows.", file=files[0], remedy="Give pairs to train the estimator on.")
        return made

    def run(self, context: WorkContext) -> dict[str, Any]:
        pairs = self._pairs(context.files(self.rows))
        rows = []
        for pair in pairs:
            for label, first, other in ((True, "chosen", "rejected"), (False, "rejected", "chosen")):
                prompt, completion = rendered(pair["prompt"], pair[first], pair[other])
                rows.append({"prompt": prompt, "completion": completion, "label": label})
        write_jsonl(context.folder / PAIRS, pairs)
        write_jsonl(context.folder / ROWS, rows)
        return {"pairs": len(pairs), "rows": len(rows)}
