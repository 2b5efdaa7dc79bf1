"""Log-probs in the two forms of OpenAI's: parallel lists for completions, a list of tokens for chats.

All are those of the model itself, at temperature 1 and unfiltered: what training on the text would compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.sampling.request import TopLogps

LEAST = -9999.0
"""What stands for minus infinity, for which JSON has no form; OpenAI's own."""


@dataclass(frozen=True)
class Scored:
    """Tokens with their log-probs.

    Attributes:
      logps: `[len(tokens)]`; NaN where there is none, at the first token of a prompt.
      top: the most probable ids at each; None = not asked for.
      offsets: where in the text each begins.
    """

    tokens: Sequence[int]
    logps: np.ndarray
    top: TopLogps | None
    offsets: Sequence[int]

    def part(self, first: int, last: int) -> Scored:
        """Some of the tokens, whose offsets these are already."""
        top = None if self.top is None else TopLogps(self.top.ids[first:last], self.top.logps[first:last])
        return Scored(self.tokens[first:last], self.logps[first:last], top, self.offsets)


def completion_logprobs(tokenizer: Tokenizer, parts: Sequence[Scored]) -> dict[str, Any]:
    """`{tokens, token_logprobs, top_logprobs, text_offset}` of parts in a row; each token is in its own top."""
    rows = [row for part in parts for row in _rows(part)]
    names = {i: word(tokenizer, i) for i in {i for _, _, top in rows for i, _ in top} | {row[0] for row in rows}}
    return {
        "tokens": [names[token] for token, _, _ in rows],
        "token_logprobs": [logp for _, logp, _ in rows],
        "top_logprobs": [
            None if logp is None else _best_by_name([*((names[i], p) for i, p in top), (names[token], logp)])
            for token, logp, top in rows
        ],
        "text_offset": [offset for part in parts for offset in part.offsets],
    }


def chat_logprobs(tokenizer: Tokenizer, part: Scored) -> dict[str, Any]:
    """`{content: [{token, logprob, bytes, top_logprobs}]}`."""
    return {
        "content": [
            _entry(tokenizer, token, logp) | {"top_logprobs": [_entry(tokenizer, i, p) for i, p in top]}
            for token, logp, top in _rows(part)
        ],
        "refusal": None,
    }


def word(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; as `bytes:\\xe4` where it is no whole character."""
    raw = tokenizer.token_bytes([token])[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _entry(tokenizer: Tokenizer, token: int, logp: float | None) -> dict[str, Any]:
    raw = tokenizer.token_bytes([token])[0]
    return {"token": raw.decode("utf-8", errors="replace"), "logprob": logp, "bytes": list(raw)}


def _rows(part: Scored) -> list[tuple[int, float | None, list[tuple[int, float]]]]:
    """Of each token its id, log-prob, and the most probable ids with theirs."""
    tops: list[list[tuple[int, float]]] = [[] for _ in part.tokens]
    if part.top is not None:
        pairs = zip(part.top.ids.tolist(), part.top.logps.tolist(), strict=True)
        tops = [[(i, max(p, LEAST)) for i, p in zip(ids, logps, strict=True) if i >= 0] for ids, logps in pairs]
    logps = [None if np.isnan(p) else max(float(p), LEAST) for p in part.logps]
    return list(zip(map(int, part.tokens), logps, tops, strict=True))


def _best_by_name(pairs: Sequence[tuple[str, float]]) -> dict[str, float]:
    """By name, the larger where two ids have one name."""
    found: dict[str, float] = {}
    for name, logp in pairs:
        found[name] = max(logp, found.get(name, logp))
    return found
