"""The media of packed examples: the second grid of their blocks, and the vectors that their tokens name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxpo.config import Data
from jaxpo.data.packing.batch import Media
from jaxpo.data.packing.best_fit import Caps, Laid
from jaxpo.data.packing.caps import rows_alone
from jaxpo.data.rows.pictures import COLUMN
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.data.tokens.examples import Example
from jaxpo.data.tokens.media import MEDIA, PER_VECTOR, Patches
from jaxpo.errors import BadImage, DataError


def check_capacity(dataset: Dataset, data: Data) -> None:
    """DataError for an example whose media do not fit the grid that the settings give to a block."""
    media = dataset.lengths.media
    if media is None:
        return
    longest = int(media.values.max())
    length = data.media_length or longest
    if longest > length:
        at = int(media.values.argmax())
        example = int(np.searchsorted(media.offsets, at, side="right")) - 1
        what = f"medium {at - media.offsets[example]} has {longest} patches, and data.media_length is {length}."
        raise _error(dataset, example, what, "Raise data.media_length, or make the medium smaller.")
    alone = rows_alone(media, length)[0]
    if data.media_rows is not None and alone.max() > data.media_rows:
        what = f"its media need {alone.max()} rows of {length} patches, and data.media_rows is {data.media_rows}."
        raise _error(dataset, int(alone.argmax()), what, "Raise data.media_rows, or give the row fewer media.")


def _error(dataset: Dataset, example: int, what: str, remedy: str) -> DataError:
    (found,) = dataset.store.read([example])
    return found.error(what, field=MEDIA, remedy=remedy, file=dataset.files[found.file])


def media_of(dataset: Dataset, example: Example) -> tuple[Patches, ...] | None:
    """An example's media, its images decoded; None where one is bad and such rows are left out.

    Raises:
      DataError: an image that cannot be used; names file, row and the image's number. More rows that are left out than
        `data.max_bad_rows`, or all that there are.
    """
    if not example.pictures:
        return example.media
    assert dataset.sight is not None
    file = dataset.files[example.file]
    try:
        return dataset.sight.media(example.pictures, file)
    except BadImage as error:
        leave_out(dataset, example, error)
        return None


def leave_out(dataset: Dataset, example: Example, error: BadImage) -> None:
    """Count an example whose image cannot be used among those that are left out.

    Raises:
      DataError: such rows are not left out, and what `media_of` raises.
    """
    assert dataset.sight is not None
    file = dataset.files[example.file]
    remedy = error.remedy or "Replace it, or set data.images.on_bad_image to skip."
    bad = example.error(error.message, field=COLUMN, remedy=remedy, file=file)
    if not dataset.sight.leaves_out(file, example.row, bad):
        raise bad from error
    if len(dataset.sight.missed) == len(dataset):
        raise DataError(f"no example is left: all {len(dataset)} have a broken image. The last: {bad}") from error


def empty_media(dataset: Dataset, caps: Caps, blocks: int) -> dict[str, Media]:
    """The grids of a batch without any example."""
    shape = (blocks * caps.media_rows, caps.media_length)
    return {
        kind: Media(np.zeros((*shape, *more), dtype), np.zeros(shape, np.int32), np.zeros((*shape, 4), np.int32))  # type: ignore[arg-type]
        for kind, (dtype, more) in dataset.media.items()
    }


def lay_media(grids: Mapping[str, Media], media: tuple[Patches, ...], laid: Laid, block: int, caps: Caps) -> np.ndarray:
    """Put an example's media into their places.

    Args:
      laid: of these media alone.
      block: number of the example's block in the batch.

    Returns:
      int32 `[vectors + 1]`: block-relative place of each of the example's vectors, and -1, which mark -1 reads.
    """
    places = []
    for patches, row, slot, start in zip(media, laid.row, laid.slot, laid.start, strict=True):
        grid, at = grids[patches.kind], (block * caps.media_rows + row, slice(start, start + len(patches)))
        grid.values[at], grid.positions[at], grid.segment_ids[at] = patches.values, patches.positions, slot + 1
        first = (int(row) * caps.media_length + int(start)) // PER_VECTOR
        places.append(np.arange(first, first + len(patches) // PER_VECTOR))
    return np.concatenate([*places, [-1]]).astype(np.int32)
