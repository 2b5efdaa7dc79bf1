"""What a family of models consists of: limits, experts, costs, and how it decodes, denoises and is stored.

Loads without jax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.config.noise import NoiseSchedule

Tree = Any
Tower = Literal["trained", "fixed", "recorded"]
"""Of an encoder of media: a gradient reaches it, or none does, or what it makes is read instead of computed."""


@dataclass(frozen=True)
class Limits:
    """What a model can take.

    Attributes:
      context: positions of the longest segment; of a model that denoises images, of the longest caption, 0 where it
        has no text tower.
      vocabulary: ids below which every token lies.
      causal: no position sees a later one; what looks both ways predicts no next token.
    """

    context: int
    vocabulary: int
    causal: bool = True


@dataclass(frozen=True)
class Experts:
    """A mixture of experts, as balance and placement see it.

    Attributes:
      count: experts of each mixture, E, which devices share.
      chosen: how many of them compute a token, k.
      biases: paths of the routing biases in the parameters, in the order of the layers of `RouterSums`; none where
        nothing steers the selection.
    """

    count: int
    chosen: int
    biases: tuple[str, ...] = ()


@dataclass(frozen=True)
class PatchLoad:
    """The media that come with a token, in the mean.

    Attributes:
      per_token: patches.
      context: those that a patch attends to.
      recorded: what the encoder makes of them is read instead of computed.
    """

    per_token: float = 0.0
    context: float = 0.0
    recorded: bool = False


@dataclass(frozen=True)
class Part:
    """A stretch of a network between input and output.

    Attributes:
      names: what the paths of its parameters begin with.
      matrices: path -> entries that what goes through it is multiplied with there; a lookup is none.
      mixing: floating-point operations between positions.
      rate: how often one token goes through; where media do, the patches or vectors that come with a token.
    """

    names: tuple[str, ...]
    matrices: Mapping[str, float]
    mixing: float = 0.0
    rate: float = 1.0

    @property
    def entries(self) -> float:
        """Of all matrices, per token."""
        return self.rate * sum(self.matrices.values())

    @property
    def between(self) -> float:
        """Operations between positions, per token."""
        return self.rate * self.mixing


@dataclass(frozen=True)
class Flops:
    """The work of one token's forward pass; of a model that denoises images, of one image's.

    Attributes:
      matrices: entries of the weight matrices that it is multiplied with, each a multiplication and an addition.
      mixing: floating-point operations between positions, where no weights are.
      parts: the same from input to output, as gradients pass backwards; empty = not told apart.
    """

    matrices: float
    mixing: float
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Kept:
    """Values per token that a training step holds of a network's layers, on a device.

    Attributes:
      layers: what all of them keep for the backward pass.
      working: what the layer at work has beside that.
      keys: keys and values of a layer whose queries see the whole segment: where the positions of a row are spread over
        devices, each holds those of the whole row while it computes the layer.
    """

    layers: float
    working: float
    keys: float = 0.0


@dataclass(frozen=True)
class Decoder:
    """How a model continues sequences, one per row.

    Attributes:
      cache: `(config, batch, length, dtype, pages) -> cache` for sequences of at most so many tokens: `layers`, every
        leaf with the row axis first, and `length` [B]; with `pages = (N, size)` also `table` [B, length / size], and
        what there is for every position lies in N pages.
      step: `(params, tokens [B, s], cache, *, config, valid [B, s], dtype, attention, experts, page) ->
        (hidden [B, s, D], cache)`: any cutting of a sequence into steps gives what `Family.forward` gives for the
        whole; a row continues where `valid` says so. With `page` the cache's `borders` hold, in the form of `layers`,
        what is remembered after every so many columns, `[B, s / page, ...]`.
      per_position: names of the leaves that hold something for every position, the position axis second; the others
        hold what is remembered at the end.
      see: `(params, media, *, config, dtype) -> [Q, P / 4, D]`, the vectors of images, which take the places of
        embeddings: `step` then has `given`, `(vectors [B, s, D], where [B, s])`. None = it reads tokens alone.
      values: `config ->` bytes of a patch; None likewise.
    """

    cache: Callable[..., Any]
    step: Callable[..., tuple[Array, Any]]
    per_position: tuple[str, ...]
    see: Callable[..., Array] | None = None
    values: Callable[[Any], int] | None = None


@dataclass(frozen=True)
class Encoder:
    """What makes features of media, before all else that a model computes.

    Attributes:
      name: where its parameters lie in the model's; what is not below it reads features alone.
      width: `config -> D`.
      encode: `(params, media, *, config, dtype, attention) -> [Q, P, D]`, of a packed grid's patches.
      parts: `(config, PatchLoad) -> ` what media go through before the parts of `Family.flops`, the encoder first.
      kept: `(config, remat, devices that share products, Tower) -> Kept`, per patch, of all these parts.
    """

    name: str
    width: Callable[[Any], int]
    encode: Callable[..., Array]
    parts: Callable[[Any, PatchLoad], tuple[Part, ...]]
    kept: Callable[[Any, str, int, Tower], Kept]

    def holds(self, path: str) -> bool:
        """Whether a parameter of the model is the encoder's."""
        return path.startswith(f"{self.name}/")


@dataclass(frozen=True)
class Diffusers:
    """How a family's models lie in folders of diffusers; tensor names and layouts stand in its parameter table.

    Attributes:
      classes: names of the model's class, the one that is written first.
      component: folder of the model within a pipeline's.
      pipeline: class of the pipeline that is written.
      to_json: `config -> config.json`, without text tower, users and schedule, which lie in files of their own.
      from_json: `(config.json, its path, schedule) -> config`; CheckpointError for what the family has not.
      own_to_json: `config -> ` what diffusers has no place for: text tower and users; empty where there is nothing.
      with_own: `(config, that, its path) -> config`; CheckpointError likewise.
    """

    classes: tuple[str, ...]
    component: str
    pipeline: str
    to_json: Callable[[Any], dict[str, Any]]
    from_json: Callable[[Mapping[str, Any], object, NoiseSchedule], Any]
    own_to_json: Callable[[Any], dict[str, Any]]
    with_own: Callable[[Any, Mapping[str, Any], object], Any]


@dataclass(frozen=True)
class DiffusersDecoder:
    """How a family's decoders of latents lie in folders of diffusers.

    Attributes:
      kind: name of the model's class.
      from_json: `(config.json, its path) -> config`; CheckpointError for what the family has not.
    """

    kind: str
    from_json: Callable[[Mapping[str, Any], object], Any]


@dataclass(frozen=True)
class Towers:
    """How a model gives pictures and captions directions in one space; neither of unit length.

    Attributes:
      images: `(params, images [B, H, W, C]) -> [B, D]`, with a gradient in the images.
      texts: `(params, tokens [B, S, L], mask [B, S, L]) -> [B, S, D]`, of every segment by itself.
    """

    images: Callable[..., Array]
    texts: Callable[..., Array]


def no_experts(config: Any) -> Experts | None:
    """A family of dense models."""
    return None
