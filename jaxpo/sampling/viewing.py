"""Prompts with images: conversations with their pictures in any form, and the ids and pieces that they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxpo.config import Data, Images, ImageSettings
from jaxpo.data.chat.chat import encode_spans
from jaxpo.data.media.decode import DATA_URL, ImageLimits, image_size, place_or_bytes
from jaxpo.data.media.decode import pixels as decoded
from jaxpo.data.media.geometry import Geometry, geometry
from jaxpo.data.media.marks import IMAGE, expand, find_marks
from jaxpo.data.media.patches import patches_of
from jaxpo.data.rows.clips import shown
from jaxpo.data.rows.pictures import MARK, without_marks
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.data.tokens.media import PER_VECTOR, Patches
from jaxpo.data.tokens.pictures import marked, of_shown
from jaxpo.data.tokens.seeing import seeing
from jaxpo.errors import BadImage, ConfigError, DataError
from jaxpo.models.family import Config, sees
from jaxpo.sampling.prompts import Conversation, Prompt, as_conversation
from jaxpo.sampling.shown import Shown
from jaxpo.sampling.text import encode_prompt, prompt_spans_of

T = TypeVar("T")
READS_TEXT = "the prompt shows an image, and the model reads text alone"


@dataclass(frozen=True)
class Viewer:
    """How the images of prompts become what the engine takes.

    Attributes:
      tokenizer: has the marks with which images stand in texts.
      settings: sizes of tiles and of what is made of them.
      image_token_id: the model's.
      max_pixels: of one image, by its header.
      together: pixels of all images of a prompt; None = no bound.
      root: folder that files must lie in; relative paths begin there. None = the current folder, and anywhere.
      files: whether payloads may be paths at all.
      frames: of a clip that are shown, evenly spaced.
      known: what images have become, for those who show them again in every turn; None = nothing is kept.
    """

    tokenizer: Tokenizer
    settings: ImageSettings
    image_token_id: int
    max_pixels: int = Images.max_pixels
    together: int | None = None
    root: Path | None = None
    files: bool = True
    frames: int = Images.frames
    known: dict[str, tuple[Geometry, tuple[Patches, ...]]] | None = field(default=None, compare=False, repr=False)

    def at(self, root: Path) -> Viewer:
        """The same for rows of a file in this folder."""
        return replace(self, root=root)

    def encode(self, prompt: Prompt) -> tuple[list[int], Shown | None]:
        """Ids to continue, and what they show; see `encode_prompt`.

        Raises:
          BadImage: an image that cannot be used; says which of them.
          DataError: places and images are not as many.
        """
        if not _pictures(prompt):
            return encode_prompt(self.tokenizer, prompt), None
        if self.together is not None:
            self.planned(prompt)
        each = [self._seen(i, payload) for i, payload in self._shown(prompt)]
        ids, places = self._expanded(prompt, [plan for plan, _ in each])
        return ids, Shown(tuple(piece for _, pieces in each for piece in pieces), places)

    def planned(self, prompt: Prompt) -> list[int]:
        """The ids alone: of images no more is read than their headers."""
        if not _pictures(prompt):
            return encode_prompt(self.tokenizer, prompt)
        plans = [self._read(i, payload, self._plan) for i, payload in self._shown(prompt)]
        pixels = sum(plan.height * plan.width for plan in plans)
        if self.together is not None and pixels > self.together:
            raise BadImage(
                f"the images of the prompt have {pixels:,} pixels, more than {self.together:,}.",
                remedy="Show fewer, or smaller ones.",
            )
        return self._expanded(prompt, plans)[0]

    def _expanded(self, prompt: Prompt, plans: Sequence[Geometry]) -> tuple[list[int], np.ndarray]:
        marks = find_marks(self.tokenizer.special_ids, self.image_token_id)
        spans = marked(prompt_spans_of(self.tokenizer, as_conversation(prompt)))
        if sum(span.control and span.text == IMAGE for span in spans) == len(_pictures(prompt)):
            spans = of_shown(spans, shown(_pictures(prompt), self.frames))
        ids, places = expand(encode_spans(self.tokenizer, spans)[0], plans, marks)
        return ids.tolist(), places

    def _shown(self, prompt: Prompt) -> list[tuple[int, Any]]:
        """Images and their numbers, without the frames of a clip beyond so many."""
        given = _pictures(prompt)
        return [(i, given[i]) for i, seen in enumerate(shown(given, self.frames)) if seen]

    @property
    def longest(self) -> int:
        """Patches of the longest piece that an image can have."""
        tile = (self.settings.tile_size // self.settings.encoder_patch_size) ** 2
        whole = self.settings.max_image_tokens * PER_VECTOR
        return max(whole, tile if self.settings.do_image_splitting else 0)

    def _seen(self, number: int, payload: Any) -> tuple[Geometry, tuple[Patches, ...]]:
        if self.known is None or not isinstance(payload, str):
            return self._read(number, payload, self._cut)
        if payload not in self.known:
            self.known[payload] = self._read(number, payload, self._cut)
        return self.known[payload]

    def _read(self, number: int, payload: Any, how: Callable[[Any, ImageLimits], T]) -> T:
        try:
            given = place_or_bytes(payload)
            if isinstance(given, str) and not self.files:
                raise BadImage("files are not read here.", remedy=f"Send the image itself, as a {DATA_URL} URL.")
            return how(given, ImageLimits(self.root, self.max_pixels))
        except DataError as error:
            raise BadImage(f"image {number}: {error.message}", remedy=error.remedy) from error

    def _plan(self, given: Any, limits: ImageLimits) -> Geometry:
        return geometry(*image_size(given, limits), self.settings)

    def _cut(self, given: Any, limits: ImageLimits) -> tuple[Geometry, tuple[Patches, ...]]:
        plan, drawn = self._plan(given, limits), decoded(given, limits)
        if drawn.shape[:2] != (plan.height, plan.width):
            raise BadImage("its pixels are turned otherwise than its header says.", remedy="Save it again.")
        return plan, patches_of(drawn, plan, self.settings)


def _pictures(prompt: Prompt) -> Sequence[Any]:
    return () if isinstance(prompt, str) else as_conversation(prompt).pictures


def viewer_of(config: Config, tokenizer: Tokenizer, **changes: Any) -> Viewer | None:
    """How a model sees; None of one that reads text alone.

    Args:
      changes: fields of `ImageSettings` that are to be others than the model's files say; None = as they are.

    Raises:
      ConfigError: changes for a model that reads text alone, or that do not fit; a tokenizer without marks for images.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if not sees(config):
        if given:
            raise ConfigError([f"{name}: the model reads text alone; leave it out." for name in given])
        return None
    found = seeing(Data(), tokenizer, config).images
    assert found is not None
    assert found.sizes is not None
    if "max_tiles" in given and "min_tiles" not in given:
        given["min_tiles"] = min(found.sizes.min_tiles, given["max_tiles"])
    if "max_image_tokens" in given and "min_image_tokens" not in given:
        given["min_image_tokens"] = min(found.sizes.min_image_tokens, given["max_image_tokens"])
    marks = find_marks(tokenizer.special_ids, getattr(config, "image_token_id", None))
    return Viewer(tokenizer, replace(found.sizes, **given), marks.image)


def seen(viewer: Viewer | None, tokenizer: Tokenizer, prompt: Prompt) -> tuple[list[int], Shown | None]:
    """Ids to continue and what they show, of a model that may read text alone; ConfigError if it is shown images."""
    if viewer is not None:
        return viewer.encode(prompt)
    if _pictures(prompt):
        raise ConfigError(READS_TEXT)
    return encode_prompt(tokenizer, prompt), None


def question(text: str, images: Sequence[Any]) -> dict[str, Any]:
    """What a user says behind the images that they show, as a message; `pictures` are these."""
    return {"role": "user", "content": MARK * len(images) + without_marks(text), "pictures": tuple(images)}


def conversation_of(messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """Messages of which some are `question`s."""
    said = [{key: value for key, value in message.items() if key != "pictures"} for message in messages]
    return Conversation(said, pictures=tuple(p for message in messages for p in message.get("pictures", ())))
