"""Families of models: what the rest of the house asks of a model, whatever its kind. Imports no jax.

A family is found by the type of a configuration, in `FAMILIES`. Its module is imported when it is first asked for and
loads jax only where a function needs it, so that configurations are checked without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from jaxpo.errors import ConfigError, near_misses
from jaxpo.models.lazy import named
from jaxpo.models.parts import (
    Decoder,
    Diffusers,
    DiffusersDecoder,
    Encoder,
    Experts,
    Flops,
    Kept,
    Limits,
    Towers,
    no_experts,
)

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.config.noise import NoiseSchedule
    from jaxpo.models.export import Export
    from jaxpo.models.spec import Table

Tree = Any

FAMILIES: dict[str, str] = {
    "jaxpo.models.lfm2.config:LFM2Config": "jaxpo.models.lfm2.family:FAMILY",
    "jaxpo.models.dit.config:DiTConfig": "jaxpo.models.dit.family:FAMILY",
    "jaxpo.models.unet.config:UNetConfig": "jaxpo.models.unet.family:FAMILY",
    "jaxpo.models.lfm2_vl.config:LFM2VLConfig": "jaxpo.models.lfm2_vl.family:FAMILY",
    "jaxpo.models.denscore.config:DenscoreConfig": "jaxpo.models.denscore.family:FAMILY",
    "jaxpo.models.vae.config:VAEDecoderConfig": "jaxpo.models.vae.family:FAMILY",
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

    @property
    def text_adapter(self) -> Any:
        """Of the adapter of a second text encoder's states; None = it reads none."""


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
      encoder: None = it reads no media.
      looped: `(config, scan, remat) -> layers that the program of a forward pass holds`, fewer than the model has where
        repeated ones run in loops; None = it has no loops over layers.
      export: None = its models lie in no Hugging Face file.
      denoise: `(params, x [B, H, W, C], t [B], context [B, L, c], *, mask [B, L], user [B, U, u], config, dtype,
        remat) -> [B, H, W, C]` float32, what the model predicts of noisy images in its own parameterisation; None = it
        reads tokens. Where a caption's states come from is `captions`.
      captions: `(params, tokens [B, L], *, config, dtype) -> [B, L, c]` by the text tower of a model that has one.
      adapted: `(params, states [B, L, C], *, config, dtype) -> [B, L, c]`, those of a second text encoder, by the
        adapter of a model that has one.
      diffusers, diffusers_decoder: models, and decoders of latents, in folders of diffusers; None = they lie in none.
      towers: None = it does not say how well pictures and captions fit.
      decode: `(params, latents [B, h, w, c], *, config, dtype, remat) -> [B, H, W, C]` float32, with a gradient in the
        latents; None = it decodes none.
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
    encoder: Encoder | None = None
    looped: Callable[[Any, bool | None, str], int] | None = None
    export: Export | None = None
    denoise: Callable[..., Array] | None = None
    captions: Callable[..., Array] | None = None
    adapted: Callable[..., Array] | None = None
    diffusers: Diffusers | None = None
    diffusers_decoder: DiffusersDecoder | None = None
    towers: Towers | None = None
    decode: Callable[..., Array] | None = None
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


def adapted_states(params: Tree, states: Array, config: Config, dtype: Any) -> Array:
    """`[B, L, c]`, what a model's adapter makes of a second text encoder's states; ConfigError when it has none."""
    found = family(config)
    if found.adapted is None or getattr(config, "text_adapter", None) is None:
        raise ConfigError(f"the model, of the family {found.name!r}, has no adapter of a second text encoder's states.")
    return found.adapted(params, states, config=config, dtype=dtype)


def sees(config: Config) -> bool:
    """Whether a model continues texts that show images."""
    found = family(config).decoder
    return found is not None and found.see is not None


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
    found: Family = named(where)
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
