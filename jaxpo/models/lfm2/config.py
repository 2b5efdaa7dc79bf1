"""Hyper-parameters of an LFM2 model, dense or with experts (arXiv 2511.23404), or of one with LFM3's blocks."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpo.errors import ConfigError, near_misses

LAYER_TYPES = ("conv", "full_attention", "sliding_attention")
"""Mixers that the backbone knows; `jaxpo.models.lfm2.blocks.MIXERS` holds their functions."""
MODEL_TYPES = ("lfm2", "lfm3")
"""Generations: the same backbone, other tensor names and another config file."""


@dataclass(frozen=True)
class LFM2Config:
    """Shape of the model; names are those of the released config files where the concept is theirs.

    Attributes:
      intermediate_size: the feed-forward width that is used, F (released configs may hold another number: see
        `jaxpo.models.lfm2.config_json.feed_forward_width`).
      head_dim: width of one attention head, h; need not be hidden_size / num_attention_heads.
      layer_types: one of `LAYER_TYPES` per layer.
      num_experts: experts of each mixture, E; 0 = a dense model, to which the six fields after it mean nothing.
      num_experts_per_tok: experts that each token is sent to, k.
      moe_intermediate_size: feed-forward width of one expert.
      num_dense_layers: the first layers, whose feed-forward stays dense (of width `intermediate_size`).
      norm_topk_prob: whether the weights of the selected experts are divided by their sum.
      routed_scaling_factor: multiplies the weights.
      use_expert_bias: whether a bias per expert steers the selection.
      conv_kernel: taps of the short convolution, k (`conv_L_cache`).
      rope_theta, partial_rotary_factor: base of the rotary embedding of full-attention layers, and the share of the
        head's dimensions that it turns: the floor(factor * h / 2) fastest pairs, at the angles that they have when all
        are turned.
      sliding_window: positions that a query of a sliding-attention layer sees, its own included.
      sliding_rope_theta: base of the rotary embedding of sliding-attention layers, which turns the whole head.
      initializer_range: standard deviation of the initial matrices and of the embedding.
      model_type: "lfm2", or "lfm3", which may have the following and sliding or partial rotation as well.
      sandwich_norm: also normalise what mixer and feed-forward add to the residual stream.
      attention_gate: scale each head's output by a sigmoid of the layer's input.
      tie_word_embeddings: the output matrix is the embedding.
      causal: False of encoders: attention sees the whole segment, and the convolutions are centred.

    Raises:
      ConfigError: lists every inconsistent field.
    """

    vocab_size: int = 65536
    hidden_size: int = 1024
    intermediate_size: int = 4608
    num_attention_heads: int = 16
    num_key_value_heads: int = 8
    head_dim: int = 64
    layer_types: tuple[str, ...] = ("conv", "conv", "full_attention", "conv")
    num_experts: int = 0
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 1792
    num_dense_layers: int = 2
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    use_expert_bias: bool = True
    conv_kernel: int = 3
    rope_theta: float = 1e6
    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    model_type: str = "lfm2"
    partial_rotary_factor: float = 1.0
    sliding_window: int = 256
    sliding_rope_theta: float = 1e4
    sandwich_norm: bool = False
    attention_gate: bool = False
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 128_000
    bos_token_id: int = 1
    eos_token_id: int = 7
    pad_token_id: int = 0
    causal: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer_types", tuple(self.layer_types))
        problems = [
            *_bad_sizes(self),
            *_bad_layers(self),
            *_bad_heads(self),
            *_bad_rotation(self),
            *_bad_generation(self),
            *_bad_experts(self),
            *_bad_encoder(self),
            *_bad_ids(self),
        ]
        if problems:
            raise ConfigError(problems)

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers, L."""
        return len(self.layer_types)

    def window(self, kind: str) -> int | None:
        """Positions that a query of this layer type sees; None = the whole segment."""
        return self.sliding_window if kind == "sliding_attention" else None

    def rotation(self, kind: str) -> tuple[float, int]:
        """Base of the rotary embedding of this attention type, and how many pairs of dimensions it turns."""
        if kind == "sliding_attention":
            return self.sliding_rope_theta, self.head_dim // 2
        return self.rope_theta, int(self.partial_rotary_factor * self.head_dim // 2)

    def is_mixture(self, layer: int) -> bool:
        """Whether the feed-forward of a layer is a mixture of experts."""
        return self.num_experts > 0 and layer >= self.num_dense_layers


def _bad_sizes(config: LFM2Config) -> list[str]:
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "conv_kernel",
        "sliding_window",
        "max_position_embeddings",
    )
    problems = [
        f"model.{name} is {getattr(config, name)!r}; it must be a positive integer"
        for name in sizes
        if not isinstance(getattr(config, name), int) or getattr(config, name) < 1
    ]
    for name in ("rope_theta", "sliding_rope_theta", "norm_eps", "initializer_range"):
        if not getattr(config, name) > 0:
            problems.append(f"model.{name} is {getattr(config, name)!r}; it must be positive")
    return problems


def _bad_layers(config: LFM2Config) -> list[str]:
    if not config.layer_types:
        return ["model.layer_types is empty; give one layer type per layer"]
    problems = []
    for i, kind in enumerate(config.layer_types):
        if kind not in LAYER_TYPES:
            near = near_misses(str(kind), LAYER_TYPES, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(f"model.layer_types[{i}] is {kind!r}; known layer types: {', '.join(LAYER_TYPES)}{hint}")
            if len(problems) == 3:  # the others are most likely the same mistake
                return problems
    return problems


def _bad_heads(config: LFM2Config) -> list[str]:
    problems = []
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    if isinstance(groups, int) and groups > 0 and heads % groups:
        problems.append(
            f"model.num_attention_heads ({heads}) is not divisible by model.num_key_value_heads ({groups}); "
            "each key-value head serves the same number of query heads"
        )
    if isinstance(width, int) and width % 2:
        problems.append(f"model.head_dim is {width}; rotary position embedding pairs dimensions, so it must be even")
    return problems


def _bad_rotation(config: LFM2Config) -> list[str]:
    share, width = config.partial_rotary_factor, config.head_dim
    if not 0 < share <= 1:
        return [f"model.partial_rotary_factor is {share!r}; it is the share of a head that is turned, in (0, 1]"]
    if isinstance(width, int) and width > 0 and width % 2 == 0 and share * width < 2:
        return [
            f"model.partial_rotary_factor is {share!r}, which turns no pair of the {width} dimensions of a head; "
            f"give at least {2 / width:g}"
        ]
    return []


def _bad_generation(config: LFM2Config) -> list[str]:
    if config.model_type not in MODEL_TYPES:
        near = near_misses(str(config.model_type), MODEL_TYPES, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return [f"model.model_type is {config.model_type!r}; known: {', '.join(MODEL_TYPES)}{hint}"]
    only_lfm3 = {
        "model.layer_types has 'sliding_attention'": "sliding_attention" in config.layer_types,
        f"model.partial_rotary_factor is {config.partial_rotary_factor}": config.partial_rotary_factor != 1,
        "model.sandwich_norm is on": config.sandwich_norm,
        "model.attention_gate is on": config.attention_gate,
        "model.tie_word_embeddings is off": not config.tie_word_embeddings,
    }
    if config.model_type == "lfm3":
        return []
    return [
        f"{what}, which {config.model_type!r} has not; set model.model_type to 'lfm3'"
        for what, is_so in only_lfm3.items()
        if is_so
    ]


def _bad_experts(config: LFM2Config) -> list[str]:
    experts, chosen = config.num_experts, config.num_experts_per_tok
    if not isinstance(experts, int) or experts < 0:
        return [f"model.num_experts is {experts!r}; it must be a positive integer, or 0 for a dense model"]
    if experts == 0:
        return []
    if config.model_type == "lfm3":
        return [f"model.num_experts is {experts} and model.model_type 'lfm3', which has no experts; set one of them"]
    problems = [
        f"model.{name} is {getattr(config, name)!r}; it must be a positive integer"
        for name in ("num_experts_per_tok", "moe_intermediate_size")
        if not isinstance(getattr(config, name), int) or getattr(config, name) < 1
    ]
    if isinstance(chosen, int) and chosen > experts:
        problems.append(
            f"model.num_experts_per_tok is {chosen} and there are {experts} experts (model.num_experts); "
            f"a token can be sent to at most {experts}"
        )
    if not isinstance(config.num_dense_layers, int) or not 0 <= config.num_dense_layers < len(config.layer_types):
        problems.append(
            f"model.num_dense_layers is {config.num_dense_layers!r}; it must leave at least one of the "
            f"{len(config.layer_types)} layers to the experts, or set model.num_experts to 0"
        )
    if not config.routed_scaling_factor > 0:
        problems.append(f"model.routed_scaling_factor is {config.routed_scaling_factor!r}; it must be positive")
    return problems


def _bad_encoder(config: LFM2Config) -> list[str]:
    if config.causal or (config.model_type == "lfm2" and not config.num_experts):
        return []
    kind = "a mixture of experts" if config.num_experts else repr(config.model_type)
    return [f"model.causal is off and the model {kind}; the bidirectional models are dense 'lfm2'"]


def _bad_ids(config: LFM2Config) -> list[str]:
    return [
        f"model.{name} is {getattr(config, name)}; it must lie in [0, vocab_size) = [0, {config.vocab_size})"
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        if not 0 <= getattr(config, name) < config.vocab_size
    ]
