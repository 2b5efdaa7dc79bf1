"""Families of models: what the rest of the house asks of a model, whatever its kind. Imports no jax.

A family is found by the type of a configuration, in `FAMILIES`. Its module is imported when it is first asked for and
loads jax only where a function needs it, so that configurations are checked without.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from jaxpo.errors import ConfigError, near_misses

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    from jaxpo.config.noise import NoiseSchedule
    from jaxpo.models.spec import Table

Tree = Any
Tensor = Callable[[str], "np.ndarray"]
"""Name in a file -> values."""

FAMILIES: dict[str, str] = {
    "jaxpo.models.lfm2.config:LFM2Config": "jaxpo.models.lfm2.family:FAMILY",
    "jaxpo.models.dit.config:DiTConfig": "jaxpo.models.dit.family:FAMILY",
    "jaxpo.models.unet.config:UNetConfig": "jaxpo.models.unet.family:FAMILY",
    "jaxpo.models.denscore.config:DenscoreConfig": "jaxpo.models.denscore.family:FAMILY",
}
"""Type of a configuration, `module:name` -> where its `Family` stands."""
COMBINED: dict[str, str] = {"jaxpo.models.mixture:Mixture": "jaxpo.models.mixture:FAMILY"}
"""Likewise, of what several models write together: it is neither trained nor stored."""


class Config(Protocol):
    """The configuration of a model of any family: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class TextConfig(Config, Protocol):
    """The configuration of a family that reads tokens."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def bos_token_id(self) -> int: ...
    @property
    def eos_token_id(self) -> int: ...
    @property
    def pad_token_id(self) -> int: ...


class DenoiserConfig(Config, Protocol):
    """The configuration of a family that denoises images."""

    @property
    def sample_size(self) -> int:
        """Side of its images."""

    @property
    def in_channels(self) -> int:
        """Channels of its images."""

    @property
    def context_channels(self) -> int:
        """Width of a text's states."""

    @property
    def user_channels(self) -> int:
        """Width of the vectors that describe a user; 0 = it knows none."""

    @property
    def schedule(self) -> NoiseSchedule:
        """Of the noise that it was trained with."""

    @property
    def caption(self) -> Any:
        """Of its text tower; None = it has none."""


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
class Part:
    """A stretch of a network between input and output.

    Attributes:
      names: what the paths of its parameters begin with.
      matrices: path -> entries that a token is multiplied with there; a lookup is none.
      mixing: floating-point operations between positions.
    """

    names: tuple[str, ...]
    matrices: Mapping[str, float]
    mixing: float = 0.0


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
    """

    cache: Callable[..., Any]
    step: Callable[..., tuple[Array, Any]]
    per_position: tuple[str, ...]


@dataclass(frozen=True)
class Export:
    """How a family's models lie in Hugging Face files; tensor names and layouts stand in its parameter table.

    Attributes:
      classes: `model_type` of a config.json -> what the names of its classes in transformers begin with.
      to_json: `(config, dtype) -> config.json`.
      from_json: `(config.json, its path) -> config`; CheckpointError for what the family has not.
      generation: `config -> generation_config.json`.
      logits: `(tensor, config, tokens) -> [S, V]`, the model in float64 numpy on the tensors of a file, which shares no
        code with `Family.forward`: exports are compared with it.
      reward: likewise, what a reward model gives the sequence.
      hidden: likewise, the final hidden states `[S, D]`.
    """

    classes: Mapping[str, str]
    to_json: Callable[[Any, str], dict[str, Any]]
    from_json: Callable[[Mapping[str, Any], object], Any]
    generation: Callable[[Any], dict[str, Any]]
    logits: Callable[[Tensor, Any, np.ndarray], np.ndarray]
    reward: Callable[[Tensor, Any, np.ndarray], float]
    hidden: Callable[[Tensor, Any, np.ndarray], np.ndarray]


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


def reads_no_tokens(params: Tree, inputs: Any, *, config: Config, **options: Any) -> tuple[Array, dict[str, Any]]:
    """The forward pass of a family that denoises images: ConfigError."""
    raise ConfigError(
        f"a model of the family {family(config).name!r} denoises images and reads no tokens: it has neither hidden "
        "states nor log-probabilities of a text."
    )


@dataclass(frozen=True)
class Family:
    """One kind of model, as functions of its configuration.

    Attributes:
      name: for messages.
      limits: `config -> Limits`; loads no jax.
      table: `config -> Table`, every parameter of `params["model"]`.
      flops: `(config, context) -> Flops`; context is the mean number of positions that a token sees, or of a caption.
      forward: `(params, inputs, *, config, dtype, tap, remat, scan, attention, experts, conv, embedding_dropout,
        row_keys) -> (hidden [R, S, D], aux)`. Inputs are the family's own type; those of language families are
        `jaxpo.models.language.Inputs`. `aux["taps"]` is what `tap(name, x)` returned; other entries hold sums with the
        row axis first (`"router"`: `RouterSums`), which objectives hand on.
      experts: `config -> Experts | None`; loads no jax.
      unembedding: `params -> [V, D]`, `logits = hidden @ W^T`; None = it predicts no tokens.
      logits: `(params, hidden [..., D], config) -> [..., V]` of a family whose logits are another function; None = the
        product with `unembedding`.
      decoder: None = it does not continue a text token by token.
      kept: `(config, remat, devices that share products) -> Kept`, for `compute.remat auto`; None = it is not known.
      looped: `(config, scan, remat) -> layers that the program of a forward pass holds`, fewer than the model has where
        repeated ones run in loops; None = it has no loops over layers.
      export: None = its models lie in no Hugging Face file.
      denoise: `(params, x [B, H, W, C], t [B], context [B, L, c], *, mask [B, L], user [B, U, u], config, dtype,
        remat) -> [B, H, W, C]` float32, what the model predicts of noisy images in its own parameterisation; None = it
        reads tokens. Where a caption's states come from is `captions`.
      captions: `(params, tokens [B, L], *, config, dtype) -> [B, L, c]` by the text tower of a model that has one.
      diffusers: None = its models lie in no folder of diffusers.
      towers: None = it does not say how well pictures and captions fit.
      presets: name -> configuration; loads no jax.
    """

    name: str
    limits: Callable[[Any], Limits]
    table: Callable[[Any], Table]
    flops: Callable[[Any, float], Flops]
    forward: Callable[..., tuple[Array, dict[str, Any]]] = reads_no_tokens
    experts: Callable[[Any], Experts | None] = no_experts
    unembedding: Callable[[Tree], Array] | None = None
    logits: Callable[[Tree, Array, Any], Array] | None = None
    decoder: Decoder | None = None
    kept: Callable[[Any, str, int], Kept] | None = None
    looped: Callable[[Any, bool | None, str], int] | None = None
    export: Export | None = None
    denoise: Callable[..., Array] | None = None
    captions: Callable[..., Array] | None = None
    diffusers: Diffusers | None = None
    towers: Towers | None = None
    presets: Mapping[str, Any] = field(default_factory=dict)


def family(config: Config) -> Family:
    """The family of a configuration.

    Raises:
      ConfigError: its type is in no family; lists those that there are.
    """
    name = type_key(config)
    where = FAMILIES.get(name) or COMBINED.get(name)
    if where is None:
        known = ", ".join(key.rpartition(":")[2] for key in FAMILIES)
        raise ConfigError(
            f"{type(config).__name__} is the configuration of no family of models; there are: {known}. "
            "A further family is an entry of jaxpo.models.family.FAMILIES."
        )
    return _load(where)


def limits(config: Config) -> Limits:
    """What a model can take; loads no jax."""
    return family(config).limits(config)


def param_table(config: Config) -> Table:
    """Every parameter of a model, as its family declares them."""
    return family(config).table(config)


def output_matrix(params: Tree, config: Config) -> Array:
    """`[V, D]`, `logits = hidden @ W^T`; ConfigError when the family predicts no tokens."""
    found = family(config)
    if found.unembedding is None:
        raise ConfigError(f"a model of the family {found.name!r} predicts no tokens; it has no log-probabilities.")
    return found.unembedding(params)


def decoder(config: Config) -> Decoder:
    """How a model continues a text; ConfigError when its family cannot."""
    found = family(config)
    if found.decoder is None:
        raise ConfigError(
            f"a model of the family {found.name!r} cannot generate: it does not continue a text token by token."
        )
    if not found.limits(config).causal:
        raise ConfigError(
            "the model looks both ways (model.causal is off): it is an encoder and does not continue a text. Use it "
            "for retrieval or as a reward model, or generate with a causal one."
        )
    return found.decoder


def denoiser(config: Config) -> Callable[..., Array]:
    """How a model denoises images, `Family.denoise`; ConfigError when its family does not."""
    found = family(config)
    if found.denoise is None:
        raise ConfigError(
            f"a model of the family {found.name!r} reads tokens and denoises no images; those that do are "
            f"{', '.join(each.name for each in families() if each.denoise is not None)}."
        )
    return found.denoise


def caption_states(params: Tree, tokens: Array, config: Config, dtype: Any) -> Array:
    """`[B, L, c]`, what a model's text tower makes of captions; ConfigError when the model has none."""
    found = family(config)
    if found.captions is None or not found.limits(config).vocabulary:
        raise ConfigError(
            f"the model, of the family {found.name!r}, has no text tower: give it one (model.caption) or data with the "
            "states of its texts."
        )
    return found.captions(params, tokens, config=config, dtype=dtype)


def type_key(config: object) -> str:
    """The name under which a configuration's type stands in `FAMILIES`."""
    return f"{type(config).__module__}:{type(config).__qualname__}"


def is_config(value: object) -> bool:
    """Whether a value is the configuration of a model."""
    return type_key(value) in FAMILIES


def families() -> Iterator[Family]:
    """All of them, in the order of the table."""
    return map(_load, dict.fromkeys(FAMILIES.values()))


def _load(where: str) -> Family:
    module, _, name = where.partition(":")
    found: Family = getattr(importlib.import_module(module), name)
    return found


def presets() -> dict[str, Any]:
    """Name -> configuration, of all families."""
    return {name: config for each in families() for name, config in each.presets.items()}


def preset(name: str) -> Any:
    """The configuration of that name; ConfigError with the nearest name if there is none."""
    known = presets()
    if name in known:
        return known[name]
    near = near_misses(name, known, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"unknown model preset {name!r}; {hint}known: {', '.join(known)}")
