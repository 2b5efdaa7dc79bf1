"""Models of which one leaf at a time is read: what merges take, whether it lies in safetensors or in Orbax.

Leaves carry the names and the layout of a Hugging Face checkpoint, wherever they come from.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.convert.folder import is_export, open_folder
from jaxpo.convert.heads_hf import is_heads
from jaxpo.convert.hf import check_tensors, disk_shape
from jaxpo.convert.kept import MODEL, Kept, kept
from jaxpo.convert.model_io import near_generation, near_tokenizer, read_config
from jaxpo.convert.reader import REWARD
from jaxpo.convert.reward_hf import is_reward
from jaxpo.convert.shards import Stored
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.errors import CheckpointError
from jaxpo.models.family import TextConfig, param_table
from jaxpo.models.spec import Param, leaves
from jaxpo.sharding import current_mesh, replicated


@dataclass(frozen=True)
class OpenModel:
    """A model whose values stay on disk.

    Attributes:
      leaves: Hugging Face name -> leaf, read when asked for; the tied output matrix is not among them.
      generation: its own generation_config.json, if any.
    """

    path: Path
    config: TextConfig
    tokenizer: Tokenizer | None
    leaves: Mapping[str, Stored]
    generation: Mapping[str, Any] | None = None


class Latest:
    """Holds the one array that was read last, whose parts are asked for one after another."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._value: np.ndarray | None = None

    def get(self, name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of this name, read unless it is the one held."""
        if self._value is None or name != self._name:
            # Before the next is read: both at once would be twice the memory.
            self._value = None
            self._value, self._name = read(), name
        return self._value


@contextlib.contextmanager
def open_model(path: Path | str) -> Iterator[OpenModel]:
    """Open a run directory (its last finished stage), a stage directory, an HF export, or a PEFT adapter on its base.

    Raises:
      CheckpointError: no model there, one with a head besides, or tensors that do not fit its configuration.
    """
    path = Path(path)
    config = read_config(path)
    table = dict(leaves(param_table(config)))
    tokenizer, generation = near_tokenizer(path), near_generation(path)
    if is_export(path):
        if is_reward(path) or is_heads(path):
            raise CheckpointError(f"{path}: is a reward model; its head cannot be merged.")
        with open_folder(path) as found:
            check_tensors(found.tensors, param_table(config), path)
            names = [name for param in table.values() for name in param.tensors]
            yield OpenModel(path, config, tokenizer, {name: found.tensors[name] for name in names}, generation)
        return
    own_model = kept(path)
    if "value" in own_model.heads or REWARD in own_model.about:
        raise CheckpointError(f"{path}: is a reward model; its head cannot be merged.")
    latest = Latest()
    tensors = {hf: tensor for name, param in table.items() for hf, tensor in _stored(own_model, name, param, latest)}
    yield OpenModel(path, config, tokenizer, tensors, generation)


def _stored(found: Kept, name: str, param: Param, latest: Latest) -> Iterator[tuple[str, Stored]]:
    """The tensors that a parameter is on disk, each turned to its layout there."""
    read, to_disk = _reader(found, name, param), param.layout.to_disk
    if isinstance(param.hf, str):
        yield param.hf, Stored(disk_shape(param), "F32", lambda: to_disk(read()))
        return

    def whole() -> np.ndarray:
        return latest.get(name, read)

    for i, hf in enumerate(param.tensors):
        yield hf, Stored(disk_shape(param), "F32", functools.partial(_entry, whole, i, to_disk))


def _entry(whole: Callable[[], np.ndarray], i: int, to_disk: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return to_disk(whole()[i])


def _reader(model: Kept, name: str, param: Param) -> Callable[[], np.ndarray]:
    """Reads one leaf of a stage's model, onto every device of the mesh in use."""

    def read() -> np.ndarray:
        mesh = current_mesh()
        # All processes read together, and programs on fewer devices than the mesh has would be refused.
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0]) if mesh is None else replicated(mesh)
        abstract = jax.ShapeDtypeStruct(param.shape, jnp.float32, sharding=place)
        return np.asarray(model.store.restore_leaf(model.step, f"{model.part}{MODEL}/{name}", abstract))

    return read
