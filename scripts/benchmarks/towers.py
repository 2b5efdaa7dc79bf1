"""W15: encoders of images and of text packed and padded; a step whose tower is trained, fixed or read from a disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import Times, interleaved
from benchmarks.models import NARROW, TINY
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.data.packing.batch import Media
from jaxpo.models.language import Inputs
from jaxpo.models.lfm2 import forward as lfm2
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lfm2_vl import forward as lfm2_vl
from jaxpo.models.lfm2_vl.config import FEATURES, IMAGE, LFM2VLConfig
from jaxpo.models.lfm2_vl.table import param_table as vl_table
from jaxpo.models.siglip.config import SiglipConfig
from jaxpo.models.siglip.forward import encode
from jaxpo.models.siglip.table import siglip_table
from jaxpo.models.spec import init_params

Tree = Any
PACKED, PADDED = "packed", "padded"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Shapes:
    """What is measured.

    Attributes:
      grids: rows and columns of patches of the images, in turn; LFM2-VL's sizes of one piece.
      images, documents: how many.
      patches, tokens: of a row: the longest that a piece or a document has.
    """

    tower: SiglipConfig
    text: LFM2Config
    grids: tuple[tuple[int, int], ...]
    images: int
    documents: int
    patches: int
    tokens: int


GRIDS = ((16, 16), (2, 188), (16, 24), (18, 32), (32, 32), (44, 22), (30, 32), (6, 124), (16, 16), (24, 42))
"""Of a published table of sizes: pictures of 64 by 64 to 1000 by 500 pixels, and thumbnails of larger ones."""
LARGE = Shapes(
    SiglipConfig(hidden_size=192, intermediate_size=768, num_hidden_layers=3, num_attention_heads=3, patch_size=16),
    replace(NARROW, causal=False, layer_types=("conv", "conv", "full_attention")),
    GRIDS,
    images=10,
    documents=32,
    patches=1024,
    tokens=512,
)
SMALL = Shapes(
    SiglipConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=2),
    replace(TINY, causal=False),
    ((2, 2), (4, 4), (2, 6)),
    images=6,
    documents=6,
    patches=16,
    tokens=16,
)


def rows_of(lengths: Sequence[int], row: int, *, together: bool) -> list[list[int]]:
    """Numbers of what lies in each row: best-fit of the longest first, or each by itself."""
    if not together:
        return [[i] for i in range(len(lengths))]
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [r for r, left in enumerate(room) if left >= lengths[i]]
        if not fitting:
            rows.append([])
            room.append(row)
            fitting = [len(rows) - 1]
        best = min(fitting, key=lambda r: room[r])
        rows[best].append(i)
        room[best] -= lengths[i]
    return rows


def laid(pieces: Sequence[Sequence[np.ndarray]], row: int, *, together: bool) -> list[np.ndarray]:
    """Arrays `[R, row, ...]` of what every piece has, segment ids last."""
    lengths = [len(piece[0]) for piece in pieces]
    rows = rows_of(lengths, row, together=together)
    found = [np.zeros((len(rows), row, *x.shape[1:]), x.dtype) for x in pieces[0]]
    segments = np.zeros((len(rows), row), np.int32)
    for r, members in enumerate(rows):
        start = 0
        for number, i in enumerate(members, start=1):
            at = (r, slice(start, start + lengths[i]))
            for whole, own in zip(found, pieces[i], strict=True):
                whole[at] = own
            segments[at], start = number, start + lengths[i]
    return [*found, segments]


def images(shapes: Shapes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Noise: patches as bytes, and their places."""
    rng, found = np.random.default_rng(0), []
    for i in range(shapes.images):
        rows, columns = shapes.grids[i % len(shapes.grids)]
        places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
        size = np.broadcast_to(np.asarray((rows, columns)), places.shape)
        patches = rng.integers(0, 256, (rows * columns, shapes.tower.patch_values)).astype(np.uint8)
        found.append((patches, np.concatenate([places, size], -1).astype(np.int32)))
    return found


def documents(shapes: Shapes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids and positions of texts whose lengths are log-normal, cut at the row: most are far shorter."""
    rng = np.random.default_rng(1)
    drawn = np.exp(rng.normal(np.log(shapes.tokens / 4), 0.8, shapes.documents)).astype(int)
    lengths = np.clip(drawn, 4, shapes.tokens).tolist()
    high = shapes.text.vocab_size
    return [(rng.integers(8, high, n).astype(np.int32), np.arange(n, dtype=np.int32)) for n in lengths]


def tower_runs(shapes: Shapes, *, gradients: bool) -> tuple[dict[str, Callable[[], Any]], int, dict[str, float]]:
    """Both forms of the tower; real patches; and the share of positions that hold one."""
    params = init_params(siglip_table(shapes.tower, "x"), jax.random.key(0))

    def loss(params: Tree, values: Any, positions: Any, segments: Any) -> jax.Array:
        found = encode(params, values.astype(jnp.float32) / 127.5 - 1, segments, positions, config=shapes.tower)
        return _read(found, segments)

    return _both(loss, params, images(shapes), shapes.patches, gradients=gradients)


def text_runs(shapes: Shapes, *, gradients: bool) -> tuple[dict[str, Callable[[], Any]], int, dict[str, float]]:
    """Likewise of a bidirectional LFM2."""
    params = init_params(param_table(shapes.text), jax.random.key(0))

    def loss(params: Tree, tokens: Any, positions: Any, segments: Any) -> jax.Array:
        hidden, _ = lfm2.forward(params, tokens, segments, positions, config=shapes.text, causal=False)
        return _read(hidden, segments)

    return _both(loss, params, documents(shapes), shapes.tokens, gradients=gradients)


def _read(hidden: jax.Array, segments: Any) -> jax.Array:
    """A number of what real positions have become; no norm makes its gradients vanish."""
    return jnp.sum(jnp.where(segments[..., None] > 0, hidden * jnp.sin(jnp.arange(hidden.shape[-1])), 0.0))


def _both(
    loss: Callable[..., jax.Array], params: Tree, pieces: Any, row: int, *, gradients: bool
) -> tuple[dict[str, Callable[[], Any]], int, dict[str, float]]:
    """What each form computes, checked to be the same.

    Raises:
      ValueError: it is not.
    """
    run = jax.jit(jax.grad(loss) if gradients else loss)
    grids = {name: laid(pieces, row, together=name == PACKED) for name in (PACKED, PADDED)}
    found = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(run(params, *grid))]) for grid in grids.values()]
    if not np.abs(found[0] - found[1]).max() < TOLERANCE * np.abs(found[1]).max():
        raise ValueError("packed rows give something else than padded ones")
    real = sum(len(piece[0]) for piece in pieces)
    filled = {name: real / grid[-1].size for name, grid in grids.items()}
    return {name: lambda grid=grid: run(params, *grid) for name, grid in grids.items()}, real, filled


def step_runs(shapes: Shapes) -> tuple[dict[str, Callable[[], Any]], int]:
    """Gradients of a whole model on rows that images fill: of everything, of all but the tower, and from features."""
    text = replace(shapes.text, causal=True)
    config = LFM2VLConfig(text, shapes.tower, image_token_id=1, projector_hidden_size=4 * text.hidden_size)
    params = init_params(vl_table(config), jax.random.key(0))
    values, positions, segments = laid(images(shapes), shapes.patches, together=True)
    media = Media(values, segments, positions)
    vectors, rows = shapes.patches // 4, len(values)
    length = 2 * vectors
    tokens = np.random.default_rng(2).integers(8, text.vocab_size, (rows, length)).astype(np.int32)
    places = np.where(np.arange(length) < vectors, np.arange(length), -1) + np.arange(rows)[:, None] * vectors
    places = np.where(np.arange(length) < vectors, places, -1).astype(np.int32)
    at = (np.ones((rows, length), np.int32), np.tile(np.arange(length, dtype=np.int32), (rows, 1)))

    def loss(own: Tree, fixed: Tree, kind: str, media: Media) -> jax.Array:
        inputs = Inputs(tokens, *at, media={kind: media}, places=jnp.asarray(places), blocks=1, max_segment=length)
        hidden, _ = lfm2_vl.forward(own | fixed, inputs, config=config)
        logits = hidden[:, :-1] @ own["embed_tokens"]["weight"].T
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(tokens)[:, 1:, None], -1)
        return -jnp.mean(picked)

    how: dict[str, Any] = {"config": config, "dtype": jnp.float32, "remat": False, "attention": None}
    see = jax.jit(lambda params, media: lfm2_vl.image_features(params, media, **how))
    recorded = Media(np.asarray(see(params, media)), segments, positions)
    rest = {name: x for name, x in params.items() if name != "vision"}
    tower = {"vision": params["vision"]}
    gradient = jax.jit(jax.grad(loss), static_argnums=2)
    runs: dict[str, Callable[[], Any]] = {
        "the tower trained": lambda: gradient(params, {}, IMAGE, media),
        "the tower fixed": lambda: gradient(rest, tower, IMAGE, media),
        "its features read": lambda: gradient(rest, tower, FEATURES, recorded),
    }
    fixed, read = (jax.tree.leaves(runs[name]()) for name in ("the tower fixed", "its features read"))
    if not all(np.abs(a - b).max() <= TOLERANCE * (1e-6 + np.abs(a).max()) for a, b in zip(fixed, read, strict=True)):
        raise ValueError("features that are read give other gradients than a tower that runs")
    return runs, rows * length


def measure(options: Options) -> Result:
    """Forward and with gradients of both encoders, and the step."""
    shapes = SMALL if options.smoke else LARGE
    tables, notes = [], []
    for what, unit, make in (("tower of images", "patches", tower_runs), ("encoder of text", "tokens", text_runs)):
        for gradients in (False, True):
            runs, real, filled = make(shapes, gradients=gradients)
            times = interleaved(runs, options)
            passes = "with gradients" if gradients else "forward"
            tables.append(Table(f"{what}, {passes}", unit, _rows(times, real)))
            shown = ", ".join(f"{name} {share:.0%}" for name, share in filled.items())
            notes.append(f"The {what}, {passes}: {_ratio(times, PADDED, PACKED)}. Positions filled: {shown}.")
    runs, tokens = step_runs(shapes)
    times = interleaved(runs, options)
    tables.append(Table("gradients of a model that sees", "tokens", _rows(times, tokens)))
    others = [_ratio(times, name, "its features read") for name in ("the tower trained", "the tower fixed")]
    notes.append(f"Half of all positions are images. {'; '.join(others)}.")
    return Result(tuple(tables), notes=tuple(notes))


def _rows(times: Mapping[str, Times], amount: float) -> tuple[Row, ...]:
    return tuple(Row(name, amount, each.wall, each.cpu) for name, each in times.items())


def _ratio(times: Mapping[str, Times], one: str, other: str) -> str:
    """Processor time of one in units of the other, round by round."""
    found = [a / b for a, b in zip(times[one].cpu, times[other].cpu, strict=True)]
    return f"{one} takes {median(found):.2f} ({min(found):.2f}..{max(found):.2f}) times the processor of {other}"


WORK = Work(
    key="W15",
    title="Encoders packed and padded",
    goal="twice the patches of images of mixed sizes; a step that reads features costs what it costs without a tower",
    measure=measure,
)
