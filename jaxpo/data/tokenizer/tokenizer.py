"""LFM2's tokenizer: byte-level BPE with its split pattern and special ids, on top of Hugging Face `tokenizers`."""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from jaxpo.data.media.settings import ImageSettings, settings_in
from jaxpo.data.rows.turns import BOS, IM_END, IM_START
from jaxpo.data.tokenizer.checkpoint_files import CONFIG, DEFAULT, JINJA, TOKENS, CheckpointFiles, read_checkpoint_files
from jaxpo.data.tokenizer.lfm2_template import CHAT_TEMPLATE
from jaxpo.data.tokenizer.long_text import encode_texts, places_of
from jaxpo.data.tokenizer.vocabulary import added_to_one, explained, read_vocabulary
from jaxpo.errors import ConfigError, DataError

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PAD = "<|pad|>"
SPECIAL_TOKENS = (
    PAD,
    BOS,
    "<|endoftext|>",
    "<|fim_pre|>",
    "<|fim_mid|>",
    "<|fim_suf|>",
    IM_START,
    IM_END,
    "<|tool_list_start|>",
    "<|tool_list_end|>",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "<|tool_response_start|>",
    "<|tool_response_end|>",
)
BYTES = 256
MAX_RESERVED = 487


class Tokenizer:
    """Text to ids and back. `encode` never adds a special token and never reads one out of the text.

    Attributes:
      special_ids: of the template's tokens, and of all others that the file marks special.
      bos_id, eos_id, pad_id: `<|startoftext|>`, `<|im_end|>` (a turn's end; also a document's end), `<|pad|>`.
      vocab_size: largest id + 1.
      hash: of the canonical tokenizer.json.
      files: what lay beside it, the checkpoint's own; its chat template among it.
      notes: what was switched off or is missing, one line each.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        source: object = None,
        files: CheckpointFiles | None = None,
        notes: tuple[str, ...] = (),
    ):
        inner.encode_special_tokens = True
        self._inner, self._source = inner, source
        self.files = files or CheckpointFiles()
        self.notes = (*notes, self.files.note) if self.files.note else notes
        vocabulary = inner.get_vocab(with_added_tokens=True)
        missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
        if missing:
            raise DataError(
                f"the vocabulary has no {', '.join(missing)}.",
                file=source,
                remedy="Use an LFM2 tokenizer, or train one (tokenizer.path=None).",
            )
        self.special_ids = {token: vocabulary[token] for token in SPECIAL_TOKENS}
        added = inner.get_added_tokens_decoder().items()
        self.special_ids |= {token.content: i for i, token in added if token.special}
        self.bos_id, self.eos_id, self.pad_id = (vocabulary[token] for token in (BOS, IM_END, PAD))
        self.vocab_size = max(vocabulary.values()) + 1
        leaks = [token for token in SPECIAL_TOKENS if vocabulary[token] in self.encode(token)]
        if leaks:
            raise DataError(
                f"{', '.join(leaks)} is not marked special, so a user's text could forge it.",
                file=source,
                remedy='Set "special": true on these entries of added_tokens in tokenizer.json.',
            )

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer.json, or the one in a folder, and the checkpoint's own files beside it.

        Raises:
          DataError: absent, not a tokenizer, or a file beside it that cannot be read.
        """
        file = Path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        inner, notes = read_vocabulary(file)
        return cls(inner, file, read_checkpoint_files(file.parent), notes)

    def save(self, directory: str | Path) -> None:
        """Write tokenizer.json and what lay beside it, or else the files that let `transformers` load the folder."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._inner.to_str(pretty=True), encoding="utf-8")
        tokens = {"bos_token": BOS, "eos_token": IM_END, "pad_token": PAD}
        config = {
            **tokens,
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": CHAT_TEMPLATE,
        }
        ours = {name: json.dumps(content, indent=2) + "\n" for name, content in ((CONFIG, config), (TOKENS, tokens))}
        self.files.write(folder, {**ours, JINJA: CHAT_TEMPLATE})

    @property
    def template(self) -> str:
        """The Jinja text of its chat template."""
        return self.files.templates.get(DEFAULT, CHAT_TEMPLATE)

    @functools.cached_property
    def image_settings(self) -> ImageSettings | None:
        """What becomes of an image, as the processor's files beside it say; None where there are none."""
        return settings_in(self.files.texts, Path(str(self._source or "tokenizer.json")).parent)

    @functools.cached_property
    def hash(self) -> str:
        return hashlib.sha256(self._inner.to_str().encode()).hexdigest()

    @functools.cached_property
    def document(self) -> dict[str, Any]:
        """What its tokenizer.json says."""
        found: dict[str, Any] = json.loads(self._inner.to_str())
        return found

    def added_to_one(self, other: Tokenizer) -> tuple[str, ...] | None:
        """The added tokens that only one of the two has; None when any text could give other tokens."""
        same = all(self.special_ids[token] == other.special_ids[token] for token in SPECIAL_TOKENS)
        return added_to_one(self._inner, other._inner) if same else None

    def with_added(self, tokens: Sequence[str], *, special: bool = False) -> Tokenizer:
        """A vocabulary with these tokens too, behind all others; itself where it has them.

        Args:
          special: no text yields them.
        """
        new = [token for token in tokens if self.id_of(token) is None]
        if not new:
            return self
        inner = tokenizers.Tokenizer.from_str(self._inner.to_str())
        inner.add_tokens([tokenizers.AddedToken(token, normalized=False, special=special) for token in new])
        return Tokenizer(inner, self._source, self.files, self.notes)

    def with_files(self, files: CheckpointFiles) -> Tokenizer:
        """The same vocabulary with other files beside it."""
        return Tokenizer(
            self._inner, self._source, files, tuple(note for note in self.notes if note != self.files.note)
        )

    def id_of(self, token: str) -> int | None:
        """The id of a token of the vocabulary, special or not; None when it has none."""
        found: int | None = self._inner.token_to_id(token)
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; `"<|im_end|>"` inside it becomes ordinary characters, not the turn end."""
        with explained(self._source, "the tokenizer fails on a text"):
            return self._inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of many texts of any length, on several threads; int32."""
        with explained(self._source, "the tokenizer fails on a text"):
            return encode_texts(self._inner, texts, self._places)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        numbers = [int(i) for i in ids]
        with explained(self._source, "the tokenizer cannot decode"):
            return self._inner.decode(numbers, skip_special_tokens=skip_special_tokens)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """One string per id for display; bytes that are no character on their own show as U+FFFD."""
        return [self._bytes_of(int(i), special=True).decode("utf-8", errors="replace") for i in ids]

    def token_bytes(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes that each id stands for, special tokens by their names; joined they are the text in UTF-8."""
        return [self._bytes_of(int(i), special=True) for i in ids]

    def spelling(self) -> list[bytes]:
        """The bytes that each of the `vocab_size` ids adds to a text; none for added tokens and unused ids."""
        known = (self._inner.id_to_token(i) is not None for i in range(self.vocab_size))
        return [self._bytes_of(i, special=False) if there else b"" for i, there in enumerate(known)]

    def stream(self, *, skip_special_tokens: bool = True) -> StreamDecoder:
        """A decoder fed one id at a time, for printing while generating."""
        return StreamDecoder(self, skip_special_tokens)

    @functools.cached_property
    def _places(self) -> re.Pattern[str] | None:
        return places_of(self._inner, SPLIT_PATTERN)

    @functools.cached_property
    def _added(self) -> dict[int, str]:
        return {i: token.content for i, token in self._inner.get_added_tokens_decoder().items()}

    def _bytes_of(self, token_id: int, *, special: bool) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode() if special else b""
        token = self._inner.id_to_token(token_id)
        if token is None:
            return "\N{REPLACEMENT CHARACTER}".encode()
        return bytes(_byte_of_character()[character] for character in token)


class StreamDecoder:
    """Emits text as soon as its characters are complete: a character split over several tokens is held back."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool):
        self._tokenizer, self._special = tokenizer, not skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The characters that this id completes; may be empty."""
        return self._decoder.decode(self._tokenizer._bytes_of(int(token_id), special=self._special))

    def finish(self) -> str:
        """What an unfinished character at the end decodes to."""
        return self._decoder.decode(b"", final=True)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE with LFM2's split pattern and its special ids 0..13, then reserved ones.

    Args:
      texts: documents; read once.
      vocab_size: total, special tokens and the 256 bytes included; fewer result when the texts have fewer pairs.

    Raises:
      ConfigError: no room for the special tokens and the bytes.
    """
    smallest = len(SPECIAL_TOKENS) + BYTES
    if vocab_size < smallest:
        raise ConfigError(f"tokenizer.vocab_size={vocab_size} is below {smallest} (14 special tokens + 256 bytes).")
    reserved = min(MAX_RESERVED, (vocab_size - smallest) // 64)
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, SPECIAL_TOKENS.index(BOS))]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *(f"<|reserved_{4 + i}|>" for i in range(reserved))],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return Tokenizer(inner)


def check_vocabulary(tokenizer: Tokenizer, model_vocab_size: int) -> None:
    """ConfigError when the tokenizer can produce an id that the model's embedding has no row for."""
    if tokenizer.vocab_size > model_vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} ids but the model's vocab_size is {model_vocab_size}: raise the "
            f"model's vocab_size to at least {tokenizer.vocab_size}, or use a tokenizer with at most "
            f"{model_vocab_size} ids (tokenizer.vocab_size)."
        )


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes a byte as one printable character: itself, or U+0100 + n for the n-th unprintable one."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(BYTES) if b not in printable]
    return {**{chr(b): b for b in printable}, **{chr(0x100 + n): b for n, b in enumerate(others)}}
