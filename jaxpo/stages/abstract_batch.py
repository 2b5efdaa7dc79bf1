"""Shapes of a stage's batches from its configuration: the arrays that its method reads, in blocks of a likely size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxpo.config import Images, ImageSettings, Stage
from jaxpo.data.images.batch import ImageBatch
from jaxpo.data.images.dataset import USER_TOKENS
from jaxpo.data.packing.batch import CONTINUES, Batch, Media
from jaxpo.data.packing.best_fit import Caps
from jaxpo.data.packing.teacher_records import id_dtype, names_of
from jaxpo.data.rows.columns import DTYPES
from jaxpo.data.rows.needs import recorded_column
from jaxpo.data.rows.segments import COLUMN_OF
from jaxpo.data.source import StepBatch
from jaxpo.data.tokens.media import FEATURES, IMAGE, MEDIA, PER_VECTOR
from jaxpo.errors import ConfigError
from jaxpo.models.family import TextConfig, family, limits
from jaxpo.recipe.beside import Companion
from jaxpo.recipe.kinds import kind_of, method_of, networks_of
from jaxpo.sharding import BATCH_AXES, axis_size
from jaxpo.stages.features import keeps_features

LISTED = 4
"""Responses of a list, items of a text and rewards of a pair, which only the rows know."""
MEAN_SEGMENT = 128
"""Tokens of a segment where only the rows know their lengths; it decides how many a block holds."""
_LISTS = ("candidate",)
REAL = ("advantages", "sampling_logps", "old_logps", "ref_logps", "old_values", "returns")
"""Per-token columns of real numbers, those of a stream `NAME:STREAM`; the others are marks."""
_WIDTHS: Mapping[str, tuple[int, ...]] = {
    **{"scores": (LISTED,), "relevance": (LISTED,), "votes": (2,), "labels": (LISTED,)},
}


def stage_batch(stage: Any, config: Any, mesh: Mesh) -> StepBatch:
    """Shapes of a step's batch over all devices: the arrays that the stage's method reads.

    Raises:
      ConfigError: the devices cannot share the rows of a step.
    """
    return BATCH_OF[kind_of(stage).runs](stage, config, mesh)


def image_batch(stage: Any, config: Any, mesh: Mesh) -> ImageBatch:
    """Images or pairs of a denoiser's size, with captions that its text tower reads or states of texts."""
    rows_per_shard(stage, mesh)
    method: Any = method_of(stage)
    images, rows, words = stage.images, stage.rows_per_step, limits(config).context
    needs, size = method.NEEDS, images.size or config.sample_size
    text = (rows, images.segments if words or method.READS_WORDS else 1, words or stage.data.max_length)
    shapes = {"rewards": (rows, 2), "user": (rows, images.users.tokens, images.users.width)}
    columns = {
        USER_TOKENS if name == "user" else name: _array(shapes.get(name, (rows,)), np.float32)
        for name in (*needs.columns, *(("weight",) if images.per_prompt else ()))
    }
    states = None if words else _array((rows, text[2], config.context_channels), np.float32)
    adapter = getattr(config, "text_adapter", None)
    given = not words and images.empty_states is not None
    return ImageBatch(
        images=_array((rows, 2 if "chosen" in needs.roles else 1, size, size, config.in_channels), np.float32),
        tokens=_array(text, np.int32),
        text_mask=_array(text, np.bool_),
        columns=columns,
        example_id=_array((rows,), np.int32),
        states=states,
        states_mask=None if words else _array((rows, text[2]), np.bool_),
        empty_states=states if given else None,
        empty_mask=_array((rows, text[2]), np.bool_) if given else None,
        adapter_states=None if adapter is None else _array((rows, text[2], adapter.channels), np.float32),
        adapter_mask=None if adapter is None else _array((rows, text[2]), np.bool_),
    )


def token_batch(stage: Any, config: TextConfig, mesh: Mesh) -> Batch:
    """Packed rows."""
    caps, method = _with_media(stage, config, likely_caps(stage, mesh)), method_of(stage)
    needs, widths = method.NEEDS, {**_WIDTHS, "rewards": _of_rewards(method.NEEDS.roles), **method.widths()}
    blocks = stage.rows_per_step // caps.block_rows
    rows, examples = (stage.rows_per_step, caps.row_length), blocks * caps.examples
    roles = {role: (LISTED,) if role in _LISTS else () for role in (*needs.roles, *needs.optional_roles)}
    columns = dict.fromkeys([*needs.columns, *(COLUMN_OF[role] for role in roles if role in COLUMN_OF)])
    per_token = {
        name: _array(rows, np.float32 if name.partition(":")[0] in REAL else np.int32) for name in needs.per_token
    }
    for network in networks_of(stage):
        if network.recorded:
            per_token |= _recorded(network, stage, config, rows)
    media = _media(blocks, stage, config, caps)
    shares = getattr(stage, "share_prompts", False)
    per_token |= {MEDIA: _array(rows, np.int32)} if media else {}
    return Batch(
        tokens=_array(rows, np.int32),
        segment_ids=_array(rows, np.int32),
        positions=_array(rows, np.int32),
        masks={name: _array(rows, np.bool_) for name in ("completion", "prompt")},
        per_token=per_token,
        per_segment={CONTINUES: _array((rows[0], caps.slots), np.int32)} if shares else {},
        per_example={n: _array((examples, *widths.get(n, ())), DTYPES.get(n, np.float32)) for n in columns},
        roles={role: _array((examples, *width), np.int32) for role, width in roles.items()},
        example_id=_array((examples,), np.int32),
        block_rows=caps.block_rows,
        slots=caps.slots,
        max_segment=caps.max_segment,
        media=media,
        reach=getattr(stage, "longest_shared", 0) or None,
    )


def patches_per_row(batch: StepBatch) -> float:
    """Of media beside each row of tokens, padding included."""
    media = batch.media if isinstance(batch, Batch) else {}
    return sum(grid.segment_ids.size for grid in media.values()) / batch.rows


def _with_media(stage: Any, config: Any, caps: Caps) -> Caps:
    """The block with its rows of patches, where the model sees: full of images as large as one in one piece becomes.

    Each stands beside `MEAN_SEGMENT` tokens of text. How large they are, and which rows have any, only the rows know.
    """
    export = family(config).export
    if export is None or export.processor is None or kind_of(stage).purpose == "prompts":
        return caps
    images = stage.data.images or Images()
    sizes = images.sizes or ImageSettings(**export.processor(config))
    tokens = min(sizes.max_image_tokens, stage.data.max_length)
    length = stage.data.media_length or PER_VECTOR * tokens
    shown = max(1, caps.block_rows * caps.row_length // (tokens + MEAN_SEGMENT))
    rows = stage.data.media_rows or math.ceil(shown / max(1, length // (PER_VECTOR * tokens)))
    return replace(caps, media_rows=rows, media_length=length)


def _media(blocks: int, stage: Any, config: Any, caps: Caps) -> dict[str, Media]:
    """The grids of images, of which the family says how many bytes a patch has; or of features in bfloat16."""
    found, shape = family(config), (blocks * caps.media_rows, caps.media_length)
    if not caps.media_rows or found.decoder is None or found.decoder.values is None or found.encoder is None:
        return {}
    values = _array((*shape, found.decoder.values(config)), np.uint8)
    if keeps_features(stage):
        values = _array((*shape, found.encoder.width(config)), jnp.bfloat16)
    kind = FEATURES if keeps_features(stage) else IMAGE
    return {kind: Media(values, _array(shape, np.int32), _array((*shape, 4), np.int32))}


def _of_rewards(roles: tuple[str, ...]) -> tuple[int, ...]:
    """Shape of the column `rewards` of one example: named rewards of a pair, of a list, or of a single answer."""
    if "candidate" in roles:
        return (LISTED, LISTED)
    return (LISTED, 2) if "chosen" in roles else (LISTED,)


def likely_caps(stage: Any, mesh: Mesh) -> Caps:
    """The shape of blocks in which the longest example fits, and segments of a usual length fill the rows.

    Raises:
      ConfigError: the devices cannot share the rows of a step.
    """
    data, needs = stage.data, method_of(stage).NEEDS
    each = rows_per_shard(stage, mesh)
    if kind_of(stage).purpose == "prompts":
        return Caps(data.row_length, 1, stage.slots, stage.slots, data.max_length)
    segments = sum(LISTED if role in _LISTS else 1 for role in needs.roles)
    single = data.packing == "none"
    least = segments if single else math.ceil(segments / (data.row_length // data.max_length))
    fitting = [size for size in range(least, each + 1) if each % size == 0]
    block_rows = data.block_rows or (fitting[0] if fitting else each)
    slots = 1 if single else max(1, data.row_length // min(MEAN_SEGMENT, data.max_length))
    examples = max(1, block_rows * slots // segments)
    return Caps(data.row_length, block_rows, slots, examples, data.max_length)


def rows_per_shard(stage: Stage, mesh: Mesh) -> int:
    """Rows of a microbatch on each device.

    Raises:
      ConfigError: they are no whole number.
    """
    parts = axis_size(mesh, BATCH_AXES) * stage.gradient_accumulation_steps
    if stage.rows_per_step % parts:
        raise ConfigError(
            f"{stage.name}.rows_per_step: {stage.rows_per_step} is not a multiple of {parts} (microbatches x devices)."
        )
    return stage.rows_per_step // parts


def _recorded(network: Companion, stage: Any, config: TextConfig, rows: tuple[int, int]) -> dict[str, Any]:
    """The columns that hold what was recorded of a network."""
    name = recorded_column(network.name, network.kind)
    if network.kind != "top_k":
        return {name: _array(rows, np.float32)}
    k = method_of(stage).top_k  # type: ignore[attr-defined]
    ids, logps, odds = names_of(network.name)
    wide = (*rows, k)
    return {
        ids: _array(wide, id_dtype(config.vocab_size)),
        logps: _array(wide, jnp.bfloat16),
        odds: _array(rows, np.float32),
    }


BATCH_OF: Mapping[str, Callable[[Any, Any, Mesh], StepBatch]] = {"train": token_batch, "denoise": image_batch}
"""`Kind.runs` -> shapes of such a stage's batch."""


def _array(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)
