"""Fill-in-the-middle: a share of the documents is rearranged, so that a left-to-right model learns to infill.

The special tokens are LFM2's; their order and the rates per stage are not published, so both are options.
"""

from __future__ import annotations

import fnmatch
import hashlib
from pathlib import Path

import numpy as np

from jaxpo.config import Fim
from jaxpo.data.chat.chat import Span
from jaxpo.data.tokenizer.tokenizer import BOS, IM_END

PREFIX, MIDDLE, SUFFIX = "<|fim_pre|>", "<|fim_mid|>", "<|fim_suf|>"


def is_chosen(text: str, file: Path, fim: Fim) -> bool:
    """Whether this document is rearranged: a draw from the seed and the text, wherever in the files it stands."""
    named = not fim.files or any(fnmatch.fnmatch(file.name, pattern) for pattern in fim.files)
    return named and _draws(text, fim).random() < fim.rate


def split(text: str, fim: Fim) -> tuple[str, str, str]:
    """Prefix, middle and suffix: two borders, uniform over the n + 1 places between characters, ends included.

    Any part may be empty. Borders are between characters and not tokens, since an editor's cursor may stand anywhere.

    Reference:
      Bavarian et al. 2022, arXiv 2207.14255, section 3 (character-level spans).
    """
    generator = _draws(text, fim)
    generator.random()  # the draw of `is_chosen`
    first, second = np.sort(generator.integers(0, len(text) + 1, 2))
    return text[:first], text[first:second], text[second:]


def spans_of(text: str, fim: Fim) -> list[Span]:
    """The rearranged document; each part is encoded by itself, as it will be when the middle is asked for.

        psm:  BOS <|fim_pre|> prefix <|fim_suf|> suffix <|fim_mid|> middle END
        spm:  BOS <|fim_pre|> <|fim_suf|> suffix <|fim_mid|> prefix middle END

    Reference:
      arXiv 2207.14255, section 3 (PSM) and appendix D (the variant of SPM that shares PSM's tokens).
    """
    prefix, middle, suffix = split(text, fim)
    first, last = Span(prefix, True, "prefix"), Span(middle, True, "middle")
    ending = [_control(SUFFIX), Span(suffix, True, "suffix"), _control(MIDDLE)]
    body = [first, *ending, last] if fim.order == "psm" else [*ending, first, last]
    return [Span(BOS, control=True), _control(PREFIX), *body, _control(IM_END)]


def _control(name: str) -> Span:
    return Span(name, True, control=True)


def _draws(text: str, fim: Fim) -> np.random.Generator:
    digest = hashlib.sha256(f"{fim.seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
