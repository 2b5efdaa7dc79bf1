"""Text to ids and back over HTTP: what lm-eval asks of a server whose tokenizer it does not have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.serve.errors import wrong
from jaxpo.serve.protocol import TokenizeBody
from jaxpo.serve.served import Served


def tokenized(served: Served, body: TokenizeBody) -> dict[str, Any]:
    """`{tokens, count, max_model_len}`."""
    tokenizer = served.tokenizer
    ids = [tokenizer.bos_id] * body.bos + with_specials(tokenizer, body.text)
    return {"tokens": ids, "count": len(ids), "max_model_len": served.context}


def with_specials(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text whose special tokens are read as such, as transformers does."""
    names = sorted(tokenizer.special_ids, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
    known = tokenizer.special_ids
    return [i for part in parts if part for i in ([known[part]] if part in known else tokenizer.encode(part))]


def detokenized(served: Served, ids: list[int]) -> dict[str, Any]:
    """`{prompt}`: the text, special tokens by their names."""
    beyond = next((i for i in ids if i >= served.tokenizer.vocab_size), None)
    if beyond is not None:
        raise wrong("tokens", f"`tokens` holds the id {beyond}; the tokenizer has {served.tokenizer.vocab_size}.")
    return {"prompt": served.tokenizer.decode(ids, skip_special_tokens=False)}


def described(served: Served) -> dict[str, Any]:
    """The tokens that a client must know, and the chat template."""
    tokenizer = served.tokenizer
    names = {i: name for name, i in tokenizer.special_ids.items()}
    ends = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    return {
        **{name: names[i] for name, i in ends.items()},
        "chat_template": tokenizer.template,
        "vocab_size": tokenizer.vocab_size,
        "model_max_length": served.context,
    }


def text_and_offsets(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of ids without special tokens, and where in it each begins."""
    decoder, text, offsets = tokenizer.stream(), "", []
    for token in ids:
        offsets.append(len(text))
        text += decoder.feed(token)
    return text + decoder.finish(), offsets
