"""What becomes of the images of a stage's rows: its own settings, the tokenizer's files', or the model's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace

from jaxpo.config import Data, Images, ImageSettings
from jaxpo.data.media.marks import IMAGE, NAMES, find_marks
from jaxpo.data.media.settings import PREPROCESSOR, PROCESSOR
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import ConfigError
from jaxpo.models.family import Config, family


def seeing(data: Data, tokenizer: Tokenizer, config: Config, say: Callable[[str], None] = lambda line: None) -> Data:
    """The settings of a stage's data with all that is to be known of its images; those of a model that sees none as is.

    Args:
      say: told where the stage's own sizes are not those that the model is exported with.

    Raises:
      ConfigError: settings of images for a model that reads text; patches of another size, or colours of another mean
        or deviation, than the model's; a tokenizer whose mark of an image is not the model's.
    """
    export = family(config).export
    if export is None or export.processor is None:
        if data.images is not None:
            raise ConfigError(f"data.images: a model of the family {family(config).name!r} sees no images.")
        return data
    of_model = export.processor(config)
    images = data.images or Images()
    exported = tokenizer.image_settings or ImageSettings(**of_model)
    sizes = images.sizes or exported
    side = of_model["encoder_patch_size"]
    if sizes.encoder_patch_size != side:
        raise ConfigError(
            f"data.images.sizes.encoder_patch_size is {sizes.encoder_patch_size}, and the model's patches have {side} "
            "pixels along a side."
        )
    for name in ("image_mean", "image_std"):
        # The model makes numbers of bytes by its own: others would change nothing here, and everything once exported.
        given, own = list(getattr(sizes, name)), list(of_model.get(name, getattr(sizes, name)))
        if given != own:
            where = f"data.images.sizes.{name}" if images.sizes else f"{name} of the tokenizer's image processor"
            raise ConfigError(f"{where} is {given}, and the model's {name} is {own}: make them alike.")
    if others := [each.name for each in fields(sizes) if getattr(sizes, each.name) != getattr(exported, each.name)]:
        listed = ", ".join(f"{name} {getattr(sizes, name)} (files: {getattr(exported, name)})" for name in others)
        say(f"images: the stage's own sizes are not written into the model's processor files: {listed}")
    if IMAGE in tokenizer.special_ids:
        find_marks(tokenizer.special_ids, getattr(config, "image_token_id", None))
    return replace(data, images=replace(images, sizes=sizes))


def with_images(tokenizer: Tokenizer, settings: ImageSettings) -> Tokenizer:
    """A tokenizer with the special tokens of images, and with these settings in the file of the image processor."""
    others = {name: text for name, text in tokenizer.files.texts.items() if name != PROCESSOR}
    own = {**others, PREPROCESSOR: json.dumps(settings.to_json(), indent=2) + "\n"}
    return tokenizer.with_added(NAMES, special=True).with_files(replace(tokenizer.files, texts=own))
