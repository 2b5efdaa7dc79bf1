"""The settings of a stage's data: checked, held against the rows they are for, named in what they make."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jaxpo.config import Data, Fim, Images
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.needs import Needs
from jaxpo.data.rows.requirements import Reading
from jaxpo.data.rows.turns import is_rendered
from jaxpo.data.tokens.media import PER_VECTOR
from jaxpo.data.tokens.rendering import Cut
from jaxpo.data.tokens.specials import allowed
from jaxpo.data.tokens.words import WORD
from jaxpo.errors import ConfigError


def cut_of(data: Data, specials: Iterable[str], *, whole: bool) -> Cut:
    """The settings that decide how a text is cut.

    Args:
      specials: names of the tokenizer's special tokens.
      whole: documents that are trained on from end to end, whatever they hold.
    """
    train_on = "all" if whole and data.train_on == "auto" else data.train_on
    special = allowed(specials, data.special_tokens)
    cut = Cut(data.max_length, data.truncation, train_on, data.fim, data.rendered, special, data.reasoning)
    cut = replace(cut, images=data.images)
    return cut if data.texts is None else replace(cut, texts=data.texts)


def check_settings(data: Data) -> None:
    """ConfigError for window sizes that cannot work."""
    problems = []
    if data.max_length < 2:
        problems.append(f"data.max_length={data.max_length} must be at least 2.")
    if data.row_length < data.max_length:
        problems.append(
            f"data.row_length={data.row_length} is below data.max_length={data.max_length}: a segment must fit a row."
        )
    if data.block_rows is not None and data.block_rows < 1:
        problems.append(f"data.block_rows={data.block_rows} must be at least 1, or None to choose it.")
    if data.media_rows is not None and data.media_rows < 1:
        problems.append(f"data.media_rows={data.media_rows} must be at least 1, or None to choose it.")
    if data.media_length is not None and (data.media_length < 1 or data.media_length % PER_VECTOR):
        problems.append(f"data.media_length={data.media_length} must be a multiple of {PER_VECTOR}, or None.")
    if data.images is not None and data.images.frames < 1:
        problems.append(f"data.images.frames={data.images.frames} must be at least 1.")
    if data.max_bad_rows < 0:
        problems.append(f"data.max_bad_rows={data.max_bad_rows} must be at least 0.")
    if problems:
        raise ConfigError(problems)


def check_train_on(data: Data, kind: str, first: Row) -> None:
    """ConfigError for a mask that rows of this type have no meaning for."""
    if kind not in ("text", "messages", "prompt_completion") and data.train_on not in ("auto", "completion"):
        raise ConfigError(f"data.train_on={data.train_on!r} has no meaning for {kind!r} rows: leave it at 'auto'.")
    if kind == "text" and data.train_on in ("assistant", "completion") and not is_rendered(str(first.data["text"])):
        raise ConfigError(
            f"data.train_on={data.train_on!r} needs messages or completions; {first.file} holds plain text."
        )


def check_fim(fim: Fim, kind: str, files: Sequence[Path]) -> None:
    """ConfigError where no document of the files would be rearranged."""
    if kind != "text":
        raise ConfigError(
            f"data.fim rearranges plain text, but {files[0]} holds {kind!r} rows: leave it out, or give `text`."
        )
    if fim.files and not any(fnmatch.fnmatch(file.name, pattern) for file in files for pattern in fim.files):
        names = ", ".join(file.name for file in files[:5])
        raise ConfigError(f"data.fim.files: {', '.join(fim.files)} matches none of the training files ({names}).")


def _kept(images: Images) -> dict[str, Any]:
    usual = {name: value for name, value in asdict(images).items() if name != "cached"}
    if images.frames == Images.frames:
        del usual["frames"]
    return usual


def settings_of(
    data: Data, reading: Reading, needs: Needs, names: Mapping[str, Sequence[str]] | None
) -> dict[str, Any]:
    """What the tokenised rows depend on beside the files and the tokenizer; its names are part of data sets' hashes."""
    settings = {
        "type": reading.kind,
        "extras": sorted(reading.columns),
        "roles": sorted(needs.roles),
        "optional_roles": sorted(reading.optional),
        "labels": sorted(reading.marks),
        "annotators": list((names or {}).get("annotator", ())),
        "max_length": data.max_length,
        "truncation": data.truncation,
        "train_on": data.train_on,
    }
    # What came later stands there only where it differs from its default: runs of before keep their data.
    settings |= {} if data.fim is None else {"fim": asdict(data.fim)}
    settings |= {} if data.rendered == "auto" else {"rendered": data.rendered}
    settings |= {} if data.reasoning == "keep" else {"reasoning": data.reasoning}
    settings |= {} if data.texts is None else {"texts": asdict(data.texts)}
    # Where images lie is not what they are: those of another size are noticed when they are read.
    # Nor is it whether what becomes of them is kept.
    settings |= {} if data.images is None else {"images": {**_kept(data.images), "root": None}}
    known = {name: list(found) for name, found in (names or {}).items() if name in reading.columns}
    if known.keys() - {"annotator"}:
        settings |= {"names": known, "closed": sorted({"user"} & set(needs.columns) - set(needs.new_names))}
    settings |= {} if not needs.names else {"declared": {name: list(known) for name, known in needs.names}}
    settings |= {} if not needs.classes else {"classes": list(needs.classes)}
    settings |= {} if WORD not in needs.per_token else {"words": True}
    settings |= {} if data.on_empty == "error" else {"on_empty": data.on_empty}
    settings |= {} if data.on_bad_row == "error" else {"on_bad_row": data.on_bad_row}
    return settings | ({"special_tokens": sorted(data.special_tokens)} if data.special_tokens else {})
