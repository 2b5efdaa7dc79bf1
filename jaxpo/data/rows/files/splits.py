"""Training, validation and test files of one folder, told apart by their names, so that no test is trained on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from jaxpo.data.rows.files.readers import base_of, format_of
from jaxpo.errors import DataError

Part = Literal["train", "eval", "all"]
"""What rows are for: training, held-out measurement, or a purpose that splits do not matter to."""

NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evals", "evaluation", "heldout", "holdout"),
    "test": ("test", "tests", "testing"),
}
_TOGETHER = ("", "set", "data", "split")
"""What a word may be written together with: `testset`, `valdata`."""
_SPLIT_OF = {name + more: split for split, names in NAMES.items() for name in names for more in _TOGETHER}
_HELD_OUT = re.compile("(held|hold)[^a-z]out")
_SHOWN = 5


def split_of(inside: Path, folder: Path) -> str | None:
    """ "train", "validation" or "test" as a path below a folder says, or None.

    A name says so by its first or last word, numbers of shards aside: `train-00000-of-00002.parquet`, `my_test.jsonl`,
    `validation/part-0.jsonl`.

    Raises:
      DataError: the path says two things, or has the word for a held-out split where it may mean something else.
    """
    found = {_SPLIT_OF[word] for word in _words_of(inside)}
    if not found and format_of(inside) != ".txt" and (word := _word_within(inside)) is not None:
        raise DataError(
            f"has {word!r} in its name: whether it is held out cannot be known.",
            file=folder / inside,
            remedy="Rename it, or name the files themselves instead of the folder.",
        )
    if len(found) > 1:
        raise DataError(
            f"its path names both the {' and the '.join(sorted(found))} split.",
            file=folder / inside,
            remedy="Rename it, or name the files themselves instead of the folder.",
        )
    return next(iter(found), None)


def choose(folder: Path, files: Sequence[Path], part: Part) -> tuple[list[Path], str | None]:
    """The files of a folder that are read for a part, and a sentence on those that are left out.

    Training takes the training split, or the files of no split where there is none. Held-out measurement takes the
    validation split, or else the test split. A folder without splits is taken whole.

    Raises:
      DataError: it cannot be known which files are meant.
    """
    if part == "all":
        return list(files), None
    splits: dict[str | None, list[Path]] = {}
    for file in files:
        splits.setdefault(split_of(file.relative_to(folder), folder), []).append(file)
    if set(splits) <= {None}:
        return list(files), None
    name = _training(folder, splits) if part == "train" else _held_out(folder, splits)
    left = [file for file in files if file not in splits[name]]
    if not left:
        return splits[name], None
    what = "the files of no split are" if name is None else f"the {name} split is"
    return splits[name], f"{folder}: {what} read ({listed(folder, splits[name])}); left out: {listed(folder, left)}"


def listed(folder: Path, files: Sequence[Path]) -> str:
    """The first names, and how many more there are."""
    names = ", ".join(str(file.relative_to(folder)) for file in files[:_SHOWN])
    return names if len(files) <= _SHOWN else f"{names} and {len(files) - _SHOWN} more"


def named_held_out(files: Sequence[str | Path]) -> Iterator[str]:
    """A sentence for every file or folder that is named itself and called as held-out ones are."""
    for path in map(Path, files):
        word = next(iter(_words_of(Path(path.name))), "train")
        if path.exists() and _SPLIT_OF[word] != "train":
            yield f"warning: {path} is read for training, and its name says {word!r}"


def _words_of(inside: Path) -> list[str]:
    """The words of a path that name a split."""
    ends = [word for words in _words(inside) for word in dict.fromkeys((*words[:1], *words[-1:]))]
    return [word for word in ends if word in _SPLIT_OF]


def _word_within(inside: Path) -> str | None:
    """The word for a held-out split in the midst of a name, where titles have it too."""
    within = (word for words in _words(inside) for word in words[1:-1])
    return next((word for word in within if _SPLIT_OF.get(word, "train") != "train"), None)


def _words(inside: Path) -> list[list[str]]:
    """The words of each name of a path."""
    names = (*inside.parts[:-1], base_of(inside))
    written = (_HELD_OUT.sub(r"\1out", name.lower()) for name in names)
    return [[word for word in re.split(r"[^a-z]+", name) if word and word != "of"] for name in written]


def _training(folder: Path, splits: dict[str | None, list[Path]]) -> str | None:
    if "train" in splits and None in splits:
        raise DataError(
            f"beside the training split ({listed(folder, splits['train'])}) there are files of no split "
            f"({listed(folder, splits[None])}): which are meant cannot be known.",
            file=folder,
            remedy="Name the files themselves.",
        )
    if "train" not in splits and None not in splits:
        there = " and ".join(sorted(f"a {name} split" for name in splits))
        raise DataError(
            f"holds {there} and no training split.", file=folder, remedy="To train on it all the same, name its files."
        )
    return "train" if "train" in splits else None


def _held_out(folder: Path, splits: dict[str | None, list[Path]]) -> str:
    name = next((name for name in ("validation", "test") if name in splits), None)
    if name is None:
        raise DataError(
            "holds a training split and no held-out one.", file=folder, remedy="Name the held-out files themselves."
        )
    spellings = {_words_of(file.relative_to(folder))[0] for file in splits[name]}
    if len(spellings) > 1:
        raise DataError(
            f"holds several held-out splits ({', '.join(sorted(spellings))}): which is meant cannot be known.",
            file=folder,
            remedy="Name the files themselves.",
        )
    return name
