"""The images of a data set: planned from their headers when rows are tokenised, decoded when batches are made.

A file's bytes are read both times, so that one that has changed in between is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.config import Data
from jaxpo.config.images import Images, ImageSettings
from jaxpo.data.chat.chat import Span
from jaxpo.data.media.decode import ImageLimits, digest, image_header, pixels, place_or_bytes
from jaxpo.data.media.features import Features, named
from jaxpo.data.media.geometry import Geometry, geometry
from jaxpo.data.media.marks import IMAGE, ImageMarks, find_marks
from jaxpo.data.media.patches import patches_of
from jaxpo.data.rows.bad_rows import check_number
from jaxpo.data.rows.clips import shown
from jaxpo.data.rows.pictures import COLUMN, MARK
from jaxpo.data.rows.rows import Record
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.encoded import Encoded
from jaxpo.data.tokens.media import FEATURES, PER_VECTOR, Patches, Picture
from jaxpo.errors import BadImage, DataError


@dataclass(frozen=True)
class Sight:
    """How images become patches, and which are let in.

    Attributes:
      bad, most: rows that were left out when they were tokenised; how many may be in all (`data.max_bad_rows`).
      missed: rows that were left out of batches since this process began, (file, row), for an image that is broken.
      features: what an encoder made of the images, which then stands in batches in place of their patches.
    """

    images: Images
    bad: int = 0
    most: int = Data.max_bad_rows
    missed: set[tuple[str, int]] = field(default_factory=set, compare=False)
    features: Features | None = field(default=None, compare=False)

    @property
    def settings(self) -> ImageSettings:
        """Sizes of tiles and of what is made of them."""
        return self.images.sizes or ImageSettings()

    def planned(self, record: Record) -> tuple[Picture, ...]:
        """A row's images, none of which is decoded.

        Raises:
          BadImage: one that cannot be used; names file, row and the image's number.
        """
        seen = shown(record.pictures, self.images.frames)
        return tuple(self._picture(record, i, x) for i, x in enumerate(record.pictures) if seen[i])

    def geometry(self, picture: Picture) -> Geometry:
        """What an image becomes."""
        return geometry(picture.height, picture.width, self.settings)

    def media(self, pictures: tuple[Picture, ...], file: str | Path) -> tuple[Patches, ...]:
        """The pieces of images, one after another.

        Args:
          file: whose row names them.

        Raises:
          BadImage: one that is broken, or another than when its row was tokenised.
        """
        pieces: Callable[[Picture, int, str | Path], Iterable[Patches]]
        pieces = self._pieces if self.features is None else self._recorded
        return tuple(piece for i, picture in enumerate(pictures) for piece in pieces(picture, i, file))

    def leaves_out(self, file: str, row: int, why: DataError) -> bool:
        """Whether a row with a bad image is left out of its batch, and counted; DataError beyond `most` of them."""
        if self.images.on_bad_image != "skip":
            return False
        self.missed.add((file, row))
        check_number(self.bad + len(self.missed), self.most, why)
        return True

    def limits(self, file: str | Path) -> ImageLimits:
        """Where the images of a file's rows may lie, and how large they may be."""
        root = Path(file).parent if self.images.root is None else Path(self.images.root)
        return ImageLimits(root, self.images.max_pixels)

    def _picture(self, record: Record, number: int, payload: Any) -> Picture:
        try:
            given = place_or_bytes(payload)
            limits = self.limits(record.row.file)
            height, width, size = image_header(given, limits)
            read = digest(given, limits)
            plan = geometry(height, width, self.settings)
        except DataError as error:
            row = record.row
            what = f"image {number}: {error.message}"
            raise BadImage(what, file=row.file, row=row.number, field=COLUMN, remedy=error.remedy) from error
        each = [plan.tokens_per_tile] * (plan.rows * plan.columns) + [plan.tokens_of_thumbnail] * bool(plan.thumbnail)
        values = 3 * self.settings.encoder_patch_size**2
        return Picture(given, size, height, width, tuple(PER_VECTOR * n for n in each), values, digest=read)

    def _pieces(self, picture: Picture, number: int, file: str | Path) -> tuple[Patches, ...]:
        limits = self.limits(file)
        try:
            found = image_header(picture.payload, limits)
            same = found == (picture.height, picture.width, picture.size)
            if not same or (picture.digest and digest(picture.payload, limits) != picture.digest):
                raise BadImage("the file is another than when its row was tokenised.", remedy=_REMEDY)
            decoded = pixels(picture.payload, limits)
            if decoded.shape[:2] != (picture.height, picture.width):
                raise BadImage("its pixels are turned otherwise than its header says.", remedy="Save it again.")
            return patches_of(decoded, self.geometry(picture), self.settings)
        except DataError as error:
            raise BadImage(f"image {number}: {error.message}", remedy=error.remedy) from error

    def _recorded(self, picture: Picture, number: int, file: str | Path) -> Iterator[Patches]:
        """What was made of an image's pieces."""
        assert self.features is not None
        try:
            found = self.features.get(named(picture, self.limits(file)))
        except DataError as error:
            raise BadImage(f"image {number}: {error.message}", remedy=error.remedy) from error
        if found is None:
            self._pieces(picture, number, file)  # it was bad then, and is told as it is without features
            what = f"image {number}: {self.features.directory} holds no features of it."
            raise BadImage(what, remedy="Start the run again: it computes what is missing.")
        ends = np.cumsum(picture.lengths)
        for end, length in zip(ends.tolist(), picture.lengths, strict=True):
            yield Patches(found[end - length : end], np.zeros((length, 4), np.int32), FEATURES)


_REMEDY = "Put the old file back, or delete the folder of the tokenised rows."


def marked(spans: Iterable[Span]) -> list[Span]:
    """The spans with the marks in their texts as control tokens, on which nothing is trained."""
    result: list[Span] = []
    for span in spans:
        for i, text in enumerate([span.text] if span.control else span.text.split(MARK)):
            result += [Span(IMAGE, False, span.role, True)] if i else []
            result += [Span(text, span.supervised, span.role, span.control)] if text else []
    return result


def of_shown(spans: Iterable[Span], seen: Sequence[bool]) -> list[Span]:
    """The spans without the marks of images that are not shown."""
    each = iter(seen)
    return [span for span in spans if not (span.control and span.text == IMAGE) or next(each)]


def with_images(record: Record, role: str, spans: list[Span], frames: int = Images.frames) -> list[Span]:
    """The spans of a side of a row, `marked`, without those of frames beyond so many of each clip.

    Raises:
      DataError: marks and images of the row are not as many.
    """
    result = marked(spans)
    marks = sum(span.control and span.text == IMAGE for span in result)
    if marks != len(record.pictures):
        raise record.row.error(
            f"{role} has {marks} place{'s' * (marks != 1)} for images, and {len(record.pictures)} are given.",
            field=COLUMN,
            remedy="Give one image for each place, in their order; all answers to a prompt share its images.",
        )
    return of_shown(result, shown(record.pictures, frames))


@dataclass(frozen=True)
class Looking:
    """Sees to the images of rows while they become tokens; without any it asks nothing of tokenizer and settings.

    Attributes:
      images: None = the model does not see, and no row has got this far with an image.
    """

    images: Images | None
    tokenizer: Tokenizer

    @cached_property
    def marks(self) -> ImageMarks:
        """Their ids; ConfigError where the tokenizer has none."""
        return find_marks(self.tokenizer.special_ids)

    @cached_property
    def sight(self) -> Sight:
        """What they become."""
        return Sight(self.images or Images())

    def planned(self, record: Record) -> tuple[Picture, ...]:
        """See `Sight.planned`; ConfigError where the tokenizer has no ids for them."""
        return self.sight.planned(record) if record.pictures and self.marks else ()

    def shown(
        self, record: Record, sides: Sequence[Encoded | None], pictures: tuple[Picture, ...]
    ) -> list[Encoded | None]:
        """The sides with all ids of a row's images in place of their marks.

        Raises:
          DataError: marks and images are not as many.
          BadImage: one that is cut into more rows or columns of tiles than there are marks.
        """
        if not pictures:
            return list(sides)
        plans = [self.sight.geometry(picture) for picture in pictures]
        try:
            return [None if side is None else side.shown(plans, self.marks) for side in sides]
        except DataError as error:
            # Of its own kind: what becomes of a bad image is decided elsewhere.
            row = record.row
            raise type(error)(
                error.message, file=row.file, row=row.number, field=COLUMN, remedy=error.remedy
            ) from error
