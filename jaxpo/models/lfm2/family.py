"""The family of LFM2, dense or with experts, and LFM3. Loads jax only where a function runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxpo.errors import ConfigError
from jaxpo.models.export import Export
from jaxpo.models.family import Family
from jaxpo.models.lazy import lazy
from jaxpo.models.lfm2.activations import kept_values
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.config_json import CLASSES, ENDINGS, config_from_json, config_to_json, generation_config_to_json
from jaxpo.models.lfm2.file_names import renamed
from jaxpo.models.lfm2.presets import PRESETS
from jaxpo.models.lfm2.reference import reference_hidden, reference_logits, reference_reward
from jaxpo.models.parts import Decoder, Experts, Limits

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.models.language import Inputs

Tree = Any

table = lazy("jaxpo.models.lfm2.table:param_table")
unembedding = lazy("jaxpo.models.lfm2.forward:unembedding")
flops = lazy("jaxpo.models.lfm2.table:flops_per_token")
looped = lazy("jaxpo.models.lfm2.layers:layers_in_program")
cache = lazy("jaxpo.models.lfm2.forward:init_cache")
step = lazy("jaxpo.models.lfm2.forward:step")


def limits(config: LFM2Config) -> Limits:
    """Context and vocabulary."""
    return Limits(config.max_position_embeddings, config.vocab_size, config.causal)


def experts(config: LFM2Config) -> Experts | None:
    """Those of a model that has some."""
    if not config.num_experts:
        return None
    mixtures = [i for i in range(config.num_hidden_layers) if config.is_mixture(i) and config.use_expert_bias]
    biases = tuple(f"layers/{i}/feed_forward/expert_bias/bias" for i in mixtures)
    return Experts(config.num_experts, config.num_experts_per_tok, biases)


def forward(params: Tree, inputs: Inputs, *, config: LFM2Config, **options: Any) -> tuple[Array, dict[str, Any]]:
    """See `jaxpo.models.lfm2.forward.forward`.

    Raises:
      ConfigError: the batch carries more than text.
    """
    from jaxpo.models.lfm2.forward import forward

    if inputs.media:
        raise ConfigError(
            f"the batch carries {', '.join(sorted(inputs.media))}, and {config.model_type} reads text alone; train on "
            "rows without media, or a model that has an encoder for them."
        )
    options |= {"key_ids": inputs.key_ids, "max_segment": inputs.max_segment, "causal": config.causal}
    options["continues"] = inputs.continues
    return forward(params, inputs.tokens, inputs.segment_ids, inputs.positions, config=config, **options)


FAMILY = Family(
    name="lfm2",
    limits=limits,
    table=table,
    forward=forward,
    flops=flops,
    experts=experts,
    unembedding=unembedding,
    decoder=Decoder(cache, step, per_position=("k", "v")),
    kept=kept_values,
    looped=looped,
    export=Export(
        classes=CLASSES,
        endings=ENDINGS,
        to_json=config_to_json,
        from_json=config_from_json,
        generation=generation_config_to_json,
        logits=reference_logits,
        reward=reference_reward,
        hidden=reference_hidden,
        renamed=renamed,
    ),
    presets=PRESETS,
)
