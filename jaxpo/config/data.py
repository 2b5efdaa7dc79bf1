"""Where examples come from, how they are cut, packed and ordered, and the tokenizer."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Literal

from jaxpo.config.images import Images, ImageSettings
from jaxpo.config.places import DataFile, OtherFile


@dataclass(frozen=True)
class Fim:
    """Fill-in-the-middle (arXiv 2207.14255): documents rearranged as prefix, suffix, middle; all tokens are trained on.

    The report applies it to half of its code; the order of the parts is not published.

    Attributes:
      rate: share of the documents that are rearranged.
      order: "psm" (prefix, suffix, middle) or "spm" (suffix, then prefix and middle).
      files: glob patterns over the names of the files whose documents are meant, such as "code-*.jsonl"; () = all.
      seed: of the draws, which belong to the document's text: the same in every epoch.
    """

    rate: float = 0.5
    order: Literal["psm", "spm"] = "psm"
    files: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Curriculum:
    """Train from easy to hard rows instead of in a shuffled order; the same in every epoch.

    Attributes:
      column: a number in every training row, larger for harder ones (`jaxpo data difficulty` makes it).
      phases: parts of equal size with rising difficulty; shuffled inside.
      mix: share of the graded rows that are spread at random over all phases.
      ungraded: what rows without the column mean: "error", or "spread" over all phases too (conversations that cannot
        be graded, among exercises that can).
    """

    column: str = "difficulty"
    phases: int = 4
    mix: float = 0.1
    ungraded: Literal["error", "spread"] = "error"


@dataclass(frozen=True)
class Mixed:
    """One source of a mixture: its files, and how much of what is trained on is theirs.

    Attributes:
      files: as `Data.train`; all sources have rows of one type.
      weight: share of the tokens, relative to the other sources' weights.
      end_weight: what the weight becomes, linearly in the tokens given, over the first `data.mix_until` epochs; None =
        it stays.
      max_epochs: times that the source may be passed through; a stage whose budget asks for more is refused. None =
        it is repeated as often as that takes.
    """

    files: tuple[DataFile, ...] = ()
    weight: float = 1.0
    max_epochs: float | None = None
    end_weight: float | None = None


@dataclass(frozen=True)
class Texts:
    """How queries and documents become the tokens of a retriever; the defaults are those of LFM2-ColBERT.

    A text is BOS, the prefix, and as much of its own tokens as its length leaves room for.

    Attributes:
      query_prefix, document_prefix: a token of the vocabulary each, set behind BOS; "" = none.
      query_text, document_text: what is written before every text instead, as embedding models have it ("query: ").
      query_length, document_length: tokens, BOS and prefix included.
      expansion: queries are filled up to their length with the end-of-turn token; those positions are scored too.
      attend_to_expansion: and attention sees them as keys.
      skip: words whose token is not scored in documents, where it stands alone; those that are no single token are
        left out, and named.
    """

    query_prefix: str = "[Q] "
    document_prefix: str = "[D] "
    query_text: str = ""
    document_text: str = ""
    query_length: int = 32
    document_length: int = 512
    expansion: bool = True
    attend_to_expansion: bool = False
    skip: tuple[str, ...] = tuple(string.punctuation)


@dataclass(frozen=True)
class Data:
    """Where a stage's examples come from and how they are cut and packed.

    Attributes:
      train: JSONL, JSON, CSV, Parquet, Arrow and text files, compressed or not, or folders of them, of which the
        training split is read; "corpus:FILE" is one of the run's corpus, "stage:NAME/FILE"
        one that an earlier work stage writes.
      mix: several sources by name instead, each with its share of the tokens: `--stage.data.mix.NAME.files FILES`,
        `--stage.data.mix.NAME.weight 0.3`. An epoch has as many tokens as all of them together.
      mix_until: epochs, of all sources together, over which weights become their `end_weight`.
      eval: held-out files of the same type, or folders, of which the validation split is read, else the test split;
        empty = no evaluation.
      max_length: longest segment in tokens; longer examples are truncated as `truncation` says.
      row_length: tokens per packed row (>= max_length).
      truncation: "response_right" cuts the end of responses, "prompt_left" the start of prompts (both sides of a pair
        get the same prompt), "drop" leaves the example out, "error" stops; all counted. Plain text is split instead.
      train_on: "auto" = assistant turns for messages, completion for prompt+completion, everything for text (in
        fine-tuning the assistant turns of a text that is a rendered conversation).
      rendered: texts that were rendered with the chat template before: "auto" reads their marks as control tokens, and
        counts them; "text" takes them as characters; "refuse" stops. Marks in the midst of other text, such as a
        user's, are always characters.
      special_tokens: tokens that the tokenizer marks special beside the template's, by name or "all": ids where answers
        and documents hold them. The others are characters there, and counted.
      reasoning: what assistants think aloud (`reasoning_content`, `thinking`, <think>...</think> before the content):
        "keep" renders it as the template does, "strip" leaves it out; rows with it are counted.
      on_empty: rows without any text to learn are an "error", or "skip" counts and leaves them out.
      on_bad_row: rows that cannot be parsed or used are an "error", or "skip" counts them, lists them by file and row,
        and leaves them out; empty ones too, unless on_empty says so already.
      max_bad_rows: more of them are an error all the same.
      shuffle: a new order each epoch.
      curriculum: from easy to hard instead, by a column of the training rows. `--stage.data.curriculum` or any of its
        fields on the command line switches it on.
      spread_groups: spread the groups of the column `group` evenly over an epoch, in a new order each epoch, so that
        steps hold them in their shares: exactly so every stretch of the 256 examples that are packed together.
      balance_groups: and give every group as many places as any other; members of small groups come more than once.
      block_rows: rows within which an example's segments stay, whole on one device; None = chosen from the data and
        rows_per_step alone, small where that costs little.
      media_rows: rows of patches beside a block's rows of tokens, of examples with images; None = as many as keep the
        rows of tokens full.
      media_length: patches per such row, a multiple of 4; None = those of the largest image.
      packing: "best_fit", or "none" for one segment per row.
      images: how images of rows are found and what becomes of them; None = as its fields' defaults say, where the model
        sees. `--stage.data.images` or any of its fields on the command line changes them.
      texts: how queries and documents become tokens; a Retrieval stage gives its own.
      fim: rearrange plain-text training documents for infilling; those that would exceed max_length stay as they are,
        and are counted.
    """

    train: tuple[DataFile, ...] = ()
    eval: tuple[DataFile, ...] = ()
    mix: tuple[tuple[str, Mixed], ...] = ()
    mix_until: float = 1.0
    max_length: int = 1024
    row_length: int = 1024
    truncation: Literal["response_right", "prompt_left", "drop", "error"] = "response_right"
    train_on: Literal["auto", "assistant", "completion", "all"] = "auto"
    rendered: Literal["auto", "text", "refuse"] = "auto"
    special_tokens: tuple[str, ...] = ()
    reasoning: Literal["keep", "strip"] = "keep"
    on_empty: Literal["error", "skip"] = "error"
    on_bad_row: Literal["error", "skip"] = "error"
    max_bad_rows: int = 100
    shuffle: bool = True
    block_rows: int | None = None
    media_rows: int | None = None
    media_length: int | None = None
    packing: Literal["best_fit", "none"] = "best_fit"
    images: Images | None = None
    texts: Texts | None = None
    fim: Fim | None = None
    curriculum: Curriculum | None = None
    spread_groups: bool = False
    balance_groups: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """The training files, those of all sources in their order."""
        return (*self.train, *(file for _, source in self.mix for file in source.files))


@dataclass(frozen=True)
class Tokenizer:
    """A `tokenizer.json` to use, or what to train one on.

    Attributes:
      path: existing tokenizer.json (or a folder holding it); None = that of `model_from`, else train.
      train_on: text, JSONL or Parquet files.
      vocab_size: total, special tokens included.
      added: tokens that the vocabulary has besides, such as "[Q] " and "[D] " of a retriever; those that are there
        already change nothing.
      images: what becomes of images, kept beside the vocabulary, which gets the special tokens with which they stand in
        texts; None = as the tokenizer's own files say. `--tokenizer.images` or any of its fields on the command line
        switches it on.
      new_embedding: the tokenizer is another than that of the model that training starts from. The rows of its
        embedding are taken over by their numbers and stand for other tokens from then on: all are learnt anew.
    """

    path: DataFile | None = None
    train_on: tuple[OtherFile, ...] = ()
    vocab_size: int = 4096
    added: tuple[str, ...] = ()
    images: ImageSettings | None = None
    new_embedding: bool = False
