"""Folders of images with a text file beside each, and the pairs of folders that kohya's scripts train on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jaxpo.data.images.formats import Item
from jaxpo.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
TEXTS = (".txt", ".caption")
WINNERS, LOSERS = "w", "l"


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder and those below it, by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def is_image_folder(path: Path) -> bool:
    """Whether a folder holds images rather than files of rows."""
    return path.is_dir() and bool(images_in(path))


def is_pair_folder(folder: Path) -> bool:
    """Whether it holds the winners in `w/` and the losers in `l/`, under the same names."""
    return (folder / WINNERS).is_dir() and (folder / LOSERS).is_dir()


def caption_beside(image: Path) -> str:
    """What `NAME.txt` or `NAME.caption` beside an image says.

    Raises:
      DataError: there is neither.
    """
    for suffix in TEXTS:
        text = image.with_suffix(suffix)
        if text.is_file():
            return text.read_text(encoding="utf-8").strip()
    remedy = f"Add {image.stem}.txt; an empty file is the empty caption."
    raise DataError("has no caption beside it.", file=image, remedy=remedy)


def folder_items(folder: Path) -> Iterator[Item]:
    """The images of a folder, or its pairs; rows are counted from 1 in the order of their paths.

    Raises:
      DataError: an image without a caption or, of pairs, without its other half, or with the name of another one.
    """
    if not is_pair_folder(folder):
        for row, image in enumerate(images_in(folder), 1):
            yield Item(image, row, (image,), ("image",), caption_beside(image))
        return
    winners, losers = (_by_name(folder / part) for part in (WINNERS, LOSERS))
    alone = sorted(winners.keys() ^ losers.keys())
    if alone:
        where = WINNERS if alone[0] in winners else LOSERS
        raise DataError(
            f"{alone[0]} lies in {where}/ alone ({len(alone)} such images).",
            file=folder,
            remedy="Give both images of a pair the same name.",
        )
    for row, name in enumerate(sorted(winners), 1):
        pair = (winners[name], losers[name])
        has = next((image for image in pair if any(image.with_suffix(s).is_file() for s in TEXTS)), pair[0])
        yield Item(pair[0], row, pair, (WINNERS, LOSERS), caption_beside(has))


def _by_name(folder: Path) -> dict[str, Path]:
    """Path below the folder, without its suffix -> image."""
    found: dict[str, Path] = {}
    for image in images_in(folder):
        name = image.relative_to(folder).with_suffix("").as_posix()
        if found.setdefault(name, image) != image:
            what = f"has the name of {found[name].name} beside it, and pairs are told by names."
            raise DataError(what, file=image, remedy="Rename one of them, and its other half.")
    return found
