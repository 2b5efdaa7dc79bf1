"""A tokenizer as the keys of a GGUF file, and back; what llama.cpp's byte-level BPE cannot do is named."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from jaxpo.data.rows.turns import BOS
from jaxpo.data.tokenizer.checkpoint_files import CONFIG, DEFAULT, JINJA
from jaxpo.data.tokenizer.tokenizer import SPLIT_PATTERN, Tokenizer
from jaxpo.data.tokenizer.vocabulary import explained
from jaxpo.errors import CheckpointError
from jaxpo.models.document import shown

BYTE_LEVEL = "gpt2"
WHOLE_FIRST, MERGES_ONLY = "lfm2", "dbrx"
"""`tokenizer.ggml.pre`: llama.cpp splits by LFM2's pattern under both names. Under the first, a piece that is a token
is taken as it is; under the second it is what its merges make of it."""
_READABLE = {WHOLE_FIRST: True, "llama-bpe": True, MERGES_ONLY: False, "smaug-bpe": False}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
_PLAIN_MODEL = {
    "dropout": (None, 0.0),
    "unk_token": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (False, None),
}


def inexpressible(tokenizer: Tokenizer) -> list[str]:
    """What the tokenizer does that a GGUF file cannot say; empty = it can be written."""
    document = tokenizer.document
    model, problems = document["model"], []
    if model["type"] != "BPE":
        return [f"the tokenizer's model is {model['type']}; a GGUF file of LFM2 holds byte-level BPE"]
    for key, good in _PLAIN_MODEL.items():
        if model.get(key) not in good:
            problems.append(f"the tokenizer has {key} = {shown(model[key])}, which llama.cpp's BPE has not")
    if document.get("normalizer") is not None:
        problems.append("the tokenizer normalises texts, which llama.cpp's BPE does not")
    if _splitting(document.get("pre_tokenizer")) != _splitting(_pre_tokenizer()):
        problems.append(
            "the tokenizer splits texts by another pattern than LFM2's, and llama.cpp knows patterns by name"
        )
    for token in document["added_tokens"]:
        if odd := [name for name in ("single_word", "lstrip", "rstrip") if token.get(name)]:
            problems.append(f"the added token {token['content']!r} has {odd[0]}, which llama.cpp does not apply")
    if _around(tokenizer) is None:
        problems.append("the tokenizer adds more around a text than its first token, and a GGUF file can say only that")
    return problems


def write_vocabulary(writer: Any, tokenizer: Tokenizer, rows: int) -> None:
    """Add the keys to a `GGUFWriter`.

    Args:
      rows: of the embedding; ids that the tokenizer does not produce are marked unused.
    """
    pieces, types = _pieces(tokenizer, rows)
    writer.add_tokenizer_model(BYTE_LEVEL)
    writer.add_tokenizer_pre(_pre(tokenizer))
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    merges = tokenizer.document["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_add_bos_token(bool(_around(tokenizer)))
    others = {name: text for name, text in tokenizer.files.templates.items() if name != DEFAULT}
    named = [{"name": name, "template": text} for name, text in {DEFAULT: tokenizer.template, **others}.items()]
    writer.add_chat_template(named if others else tokenizer.template)


def _pieces(tokenizer: Tokenizer, rows: int) -> tuple[list[str], list[int]]:
    # A space is in no piece of byte-level BPE, so that these names are no token's.
    pieces = [f"<|unused {i}|>" for i in range(rows)]
    types = [UNUSED] * rows
    document = tokenizer.document
    for piece, i in document["model"]["vocab"].items():
        pieces[i], types[i] = piece, NORMAL
    for token in document["added_tokens"]:
        pieces[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    return pieces, types


def _around(tokenizer: Tokenizer) -> list[int] | None:
    """Ids that the tokenizer's file puts before a text: [bos] or []; None when it does anything else."""
    inner = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.document))
    plain, whole = (inner.encode("a", add_special_tokens=added).ids for added in (False, True))
    first = whole[: len(whole) - len(plain)]
    return first if first in ([], [tokenizer.bos_id]) and whole == first + plain else None


def _pre(tokenizer: Tokenizer) -> str:
    """The name under which llama.cpp makes the same ids: the two differ where merges do not reach a token."""
    model = tokenizer.document["model"]
    return WHOLE_FIRST if model.get("ignore_merges") or not _unreachable(tokenizer) else MERGES_ONLY


def _unreachable(tokenizer: Tokenizer) -> list[int]:
    """Tokens that are a piece of the splitting as a whole, which their merges yet make other tokens of."""
    document = tokenizer.document
    added = {token["content"] for token in document["added_tokens"]}
    inner = tokenizers.Tokenizer.from_str(json.dumps(document))
    texts = {}
    for piece, i in document["model"]["vocab"].items():
        if piece not in added and "\N{REPLACEMENT CHARACTER}" not in (text := tokenizer.pieces([i])[0]):
            texts[i] = text
    found = inner.encode_batch(list(texts.values()), add_special_tokens=False)
    wrong = [(i, text) for (i, text), got in zip(texts.items(), found, strict=True) if got.ids != [i]]
    splitter = _pre_tokenizer()
    return [i for i, text in wrong if len(splitter.pre_tokenize_str(text)) == 1]


def _pre_tokenizer() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _splitting(pre_tokenizer: Any) -> Any:
    """What decides the pieces; where their offsets lie does not."""
    document = pre_tokenizer if isinstance(pre_tokenizer, dict | None) else json.loads(pre_tokenizer.__getstate__())
    if document is None:
        return None
    steps = document.get("pretokenizers", [document])
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]


def read_vocabulary(metadata: Mapping[str, Any], file: Path) -> Tokenizer:
    """The tokenizer that a file's keys mean, with its chat template.

    Raises:
      CheckpointError: tokens of another kind, or keys that are missing or do not agree.
      DataError: a vocabulary without LFM2's special tokens.
    """
    pieces, types, merges = _lists(metadata, file)
    pre = metadata.get("tokenizer.ggml.pre")
    if not isinstance(pre, str) or pre not in _READABLE:
        raise CheckpointError(
            f"{file}: tokenizer.ggml.pre is {shown(pre)}; LFM2's way of splitting is called {', '.join(_READABLE)}."
        )
    used = {piece: i for i, (piece, kind) in enumerate(zip(pieces, types, strict=True)) if kind != UNUSED}
    if len(used) != sum(kind != UNUSED for kind in types):
        raise CheckpointError(f"{file}: tokenizer.ggml.tokens holds a token twice; convert or copy it again.")
    lacking = [f"{a} {b}" for a, b in merges if a not in used or b not in used or a + b not in used]
    if lacking:
        raise CheckpointError(f"{file}: the merge {lacking[0][:80]!r} is of pieces that are no tokens.")
    with explained(file, "its vocabulary makes no tokenizer"):
        inner = tokenizers.Tokenizer(models.BPE(used, merges, ignore_merges=_READABLE[pre]))
        inner.pre_tokenizer, inner.decoder = _pre_tokenizer(), decoders.ByteLevel()
        inner.add_special_tokens([_added(p, True) for p, kind in zip(pieces, types, strict=True) if kind == CONTROL])
        inner.add_tokens([_added(p, False) for p, kind in zip(pieces, types, strict=True) if kind == USER_DEFINED])
        if metadata.get("tokenizer.ggml.add_bos_token", True) and BOS in used:
            inner.post_processor = processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, used[BOS])]
            )
    return _with_templates(inner, metadata, file)


def _added(piece: str, special: bool) -> AddedToken:
    return AddedToken(piece, special=special, normalized=False)


def _lists(metadata: Mapping[str, Any], file: Path) -> tuple[list[str], list[int], list[tuple[str, str]]]:
    if (model := metadata.get("tokenizer.ggml.model")) != BYTE_LEVEL:
        raise CheckpointError(
            f"{file}: tokenizer.ggml.model is {shown(model)}; LFM2's is {BYTE_LEVEL!r}, byte-level BPE."
        )
    pieces = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(pieces, list) or not pieces or not all(type(piece) is str for piece in pieces):
        raise CheckpointError(f"{file}: tokenizer.ggml.tokens is {shown(pieces)}, not a list of tokens.")
    types = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(types, list) or len(types) != len(pieces):
        raise CheckpointError(f"{file}: tokenizer.ggml.token_type is {shown(types)}; there are {len(pieces):,} tokens.")
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list) or not all(type(m) is str and m.count(" ") == 1 for m in merges):
        raise CheckpointError(f"{file}: tokenizer.ggml.merges is {shown(merges)}, not a list of pairs.")
    return pieces, types, [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]


def _with_templates(inner: tokenizers.Tokenizer, metadata: Mapping[str, Any], file: Path) -> Tokenizer:
    """The tokenizer with the file's own chat templates, read as those of a checkpoint's folder are."""
    key = "tokenizer.chat_template"
    template = metadata.get(key)
    others = {name.removeprefix(f"{key}."): text for name, text in metadata.items() if name.startswith(f"{key}.")}
    if template is None:
        return Tokenizer(
            inner, file, notes=(f"{file}: holds no chat template; conversations are rendered with LFM2's",)
        )
    for name, text in {DEFAULT: template, **others}.items():
        if type(text) is not str:
            raise CheckpointError(f"{file}: {key} ({name[:80]!r}) is {shown(text)}, not a text.")
    named = [{"name": name, "template": text} for name, text in {DEFAULT: template, **others}.items()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Tokenizer(inner, file).save(folder)
        (folder / JINJA).write_text(template, encoding="utf-8")
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        (folder / CONFIG).write_text(
            json.dumps(settings | {"chat_template": named if others else template}, indent=2) + "\n", encoding="utf-8"
        )
        loaded = Tokenizer.load(folder)
    return Tokenizer(inner, file, loaded.files, loaded.notes)
