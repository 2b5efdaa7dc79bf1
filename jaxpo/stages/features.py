"""Features of images that a fixed encoder makes: computed once, before training, and read in every step."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.config.fields import flag
from jaxpo.data.media.features import Features, named
from jaxpo.data.packing.ahead import prefetched
from jaxpo.data.packing.batch import Media
from jaxpo.data.packing.loader import Loader
from jaxpo.data.packing.media import leave_out, media_of
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.data.tokens.examples import Example
from jaxpo.data.tokens.layout import Layout
from jaxpo.data.tokens.media import FEATURES, Patches
from jaxpo.errors import BadImage
from jaxpo.models.family import TextConfig, family
from jaxpo.models.paths import split_table
from jaxpo.models.spec import Table, leaves
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.wrappers.lora import ADAPTER
from jaxpo.recipe.beside import START
from jaxpo.recipe.kinds import networks_of
from jaxpo.sharding import BATCH_AXES, axis_size, put_batch, row_share, to_host
from jaxpo.sharding.turns import first_process_first

if TYPE_CHECKING:
    from jaxpo.stages.distilling import Part
    from jaxpo.stages.setting import Setting

Tree = Any
MODEL, VERSION = "model", 1
PATCHES, PART_PATCHES = 8192, 1 << 16
"""Patches that are encoded together, and of one file."""
READ = 1024
"""Examples whose images are listed at a time."""


def keeps_features(stage: Any) -> bool:
    """Whether a stage reads features of images that were made before."""
    images = getattr(stage.data, "images", None)
    return images is not None and images.cached


def feature_problems(stage: Any, tables: Mapping[str, Table], config: TextConfig) -> Iterator[str]:
    """Why features that are made once would not be those of the networks that a stage runs."""
    if not keeps_features(stage):
        return
    where, encoder = f"{stage.name}.data.images.cached", family(config).encoder
    if encoder is None:
        yield f"{where}: a model of the family {family(config).name!r} has no encoder of images; leave it out."
        return
    trained = split_table(tables, stage.train)[0].get(MODEL, {})
    if found := [path for path, _ in leaves(trained) if encoder.holds(path)]:
        yield (
            f"{where}: the encoder is trained ({len(found)} arrays, such as {MODEL}/{found[0]}), and what it makes of "
            f"an image changes with it; train other parts ({flag((stage.name, 'train'))} 'model/connector/*'), or "
            "leave it out."
        )
    if found := [path for path, _ in leaves(tables.get(ADAPTER, {})) if encoder.holds(path)]:
        yield (
            f"{where}: the adapter reaches into the encoder (such as {found[0]}), and what it makes of an image "
            f"changes with it; name other parts in {flag((stage.name, 'lora', 'target_modules'))} (such as "
            "'layers/*'), or leave it out."
        )
    if stage.qat is not None:
        yield f"{where}: {flag((stage.name, 'qat'))} rounds the encoder in every step; leave one of the two out."
    for network in networks_of(stage):
        if network.source not in (None, START):
            yield (
                f"{where}: {network.name} ({network.source}) may see images through another encoder; leave it out, or "
                "compare with the model that the stage starts from."
            )


def with_features(setting: Setting, stage: Any, model: Tree, loaders: Mapping[Part, Loader]) -> dict[Part, Loader]:
    """The loaders, whose batches hold features of images in place of patches; computes those that are missing.

    Features are known by an image's contents, the sizes of its pieces, the weights of the encoder, the model's shape
    and the type that it computes in; they lie with the run's data, and every stage and part finds them there.

    Args:
      model: that the stage starts from.

    Raises:
      DataError: an image that cannot be used, where such rows are not left out.
    """
    if not keeps_features(stage):
        return dict(loaders)
    found = {}
    for part, loader in loaders.items():
        if loader.dataset.lengths.media is None:
            found[part] = loader
            continue
        making = Making(setting.scorer_of(stage), model, setting.mesh, loader.caps.media_length)
        features = making.features(loader.dataset, setting.home.path / "data" / "features", setting.console.say)
        found[part] = reading(loader, features)
    return found


def reading(loader: Loader, features: Features) -> Loader:
    """The same loader, whose batches hold these features in place of patches."""
    dataset = loader.dataset
    assert dataset.sight is not None
    layout: Layout = {FEATURES: (features.dtype, (features.width,))}
    return loader.over(replace(dataset, media=layout, sight=replace(dataset.sight, features=features)))


@dataclass(frozen=True)
class Making:
    """How features are made.

    Attributes:
      scorer: how the model is run.
      model: its parameters.
      length: patches of a row in which images are encoded.
    """

    scorer: Scorer
    model: Tree
    mesh: Mesh
    length: int

    def features(self, dataset: Dataset, directory: Path, say: Any) -> Features:
        """Those of a data set's images; what is missing is computed, one process writes it."""
        encoder = family(self.scorer.config).encoder
        assert encoder is not None
        assert dataset.sight is not None
        key = self._key(encoder.name, asdict(dataset.sight.settings))
        kept = (directory / key[:16], key, encoder.width(self.scorer.config), self.scorer.dtype)
        features = first_process_first(lambda: Features(*kept))
        for name in features.damaged:
            say(f"features of images: {features.directory / name} is not as it was written; it is made again.")
        missing = {name: number for name, number in _images(dataset).items() if name not in features}
        if missing:
            say(f"features of images: {len(missing):,} to compute, {len(features):,} are there")
            self._make(dataset, missing, features)
            features = first_process_first(lambda: Features(*kept))
        say(f"features of images: {len(features):,} images, {features.bytes / 2**20:,.1f} MiB in {features.directory}")
        return features

    def _key(self, name: str, settings: dict[str, Any]) -> str:
        said = {
            "version": VERSION,
            "weights": fingerprint(self.model[name]),
            "config": asdict(self.scorer.config),
            "dtype": self.scorer.dtype,
            "sizes": settings,
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()

    def _make(self, dataset: Dataset, missing: Mapping[str, int], features: Features) -> None:
        """Encode images, some at a time, and keep what is made of them; all processes compute, the first one writes."""
        encode = jax.jit(self._encode)
        made: dict[str, list[np.ndarray]] = {}
        for pieces in _together(_pieces(dataset, missing), self.length, self.rows):
            grid = _grid([(patches, row, start) for _, patches, row, start in pieces], self.rows, self.length)
            found = to_host(encode(self.model, put_batch(self._share(grid), self.mesh)))
            for name, patches, row, start in pieces:
                made.setdefault(name, []).append(found[row, start : start + len(patches)])
            *whole, last = made
            if sum(len(x) for name in whole for x in made[name]) >= PART_PATCHES:
                _keep(features, {name: made[name] for name in whole})
                made = {last: made[last]}
        _keep(features, made)

    @property
    def rows(self) -> int:
        """In which images are encoded together; the devices share them."""
        shards = axis_size(self.mesh, BATCH_AXES)
        return max(1, round(PATCHES / self.length / shards)) * shards

    def _encode(self, model: Tree, media: Media) -> jax.Array:
        encoder, config = family(self.scorer.config).encoder, self.scorer.config
        assert encoder is not None
        dtype = jnp.dtype(self.scorer.dtype)
        return encoder.encode(model, media, config=config, dtype=dtype, attention=self.scorer.attention)

    def _share(self, grid: Media) -> Media:
        """This process's rows."""
        index, count = row_share(self.mesh)
        own = self.rows // count
        return jax.tree.map(lambda x: x[index * own : (index + 1) * own], grid)


def _images(dataset: Dataset) -> dict[str, int]:
    """Each image by its contents, and an example that shows it; DataError for a file that cannot be read."""
    found: dict[str, int] = {}
    assert dataset.sight is not None
    for start in range(0, len(dataset), READ):
        numbers = range(start, min(start + READ, len(dataset)))
        for number, example in zip(numbers, dataset.store.read(numbers), strict=True):
            limits = dataset.sight.limits(dataset.files[example.file])
            for i, picture in enumerate(example.pictures):
                try:
                    found.setdefault(named(picture, limits), number)
                except BadImage as error:
                    leave_out(dataset, example, BadImage(f"image {i}: {error.message}", remedy=error.remedy))
    return found


def _pieces(dataset: Dataset, missing: Mapping[str, int]) -> Iterator[tuple[str, Patches]]:
    """The pieces of images, one after another, decoded ahead; none of broken ones whose rows are left out."""
    examples = sorted(set(missing.values()))
    wanted = set(missing)
    assert dataset.sight is not None

    def decoded(i: int) -> tuple[Example, list[tuple[Patches, ...]]]:
        (example,) = dataset.store.read([examples[i]])
        return example, _decoded(dataset, example)

    for example, shown in prefetched(len(examples), decoded):
        limits = dataset.sight.limits(dataset.files[example.file])
        for picture, own in zip(example.pictures, shown, strict=True):
            if own and (name := named(picture, limits)) in wanted:
                wanted.remove(name)
                yield from ((name, piece) for piece in own)


def _decoded(dataset: Dataset, example: Example) -> list[tuple[Patches, ...]]:
    """The pieces of each image of an example; of one that is left out those that are whole, which others may show."""
    assert dataset.sight is not None
    if (shown := media_of(dataset, example)) is not None:
        ends = np.cumsum([0, *(len(picture.lengths) for picture in example.pictures)]).tolist()
        return [shown[start:end] for start, end in itertools.pairwise(ends)]
    found: list[tuple[Patches, ...]] = []
    for picture in example.pictures:
        try:
            found.append(dataset.sight.media((picture,), dataset.files[example.file]))
        except BadImage:
            found.append(())
    return found


def _together(
    pieces: Iterator[tuple[str, Patches]], length: int, rows: int
) -> Iterator[list[tuple[str, Patches, int, int]]]:
    """As many pieces as fit into rows one after another, with the row and the start of each."""
    found: list[tuple[str, Patches, int, int]] = []
    row = start = 0
    for name, patches in pieces:
        if start + len(patches) > length:
            row, start = row + 1, 0
        if row == rows:
            yield found
            found, row = [], 0
        found.append((name, patches, row, start))
        start += len(patches)
    if found:
        yield found


def _grid(pieces: Sequence[tuple[Patches, int, int]], rows: int, length: int) -> Media:
    """The packed grid of some pieces."""
    first = pieces[0][0]
    values = np.zeros((rows, length, *first.values.shape[1:]), first.values.dtype)
    segments, positions = np.zeros((rows, length), np.int32), np.zeros((rows, length, 4), np.int32)
    for number, (patches, row, start) in enumerate(pieces, start=1):
        at = (row, slice(start, start + len(patches)))
        values[at], segments[at], positions[at] = patches.values, number, patches.positions
    return Media(values, segments, positions)  # type: ignore[arg-type]


def _keep(features: Features, made: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Written by one process: two would undo each other's work."""
    if made and jax.process_index() == 0:
        features.add({name: np.concatenate(pieces) for name, pieces in made.items()})
