"""The family of decoders of latents. Loads jax only where a function runs it."""

from __future__ import annotations

from jaxpo.models.family import Family
from jaxpo.models.lazy import lazy
from jaxpo.models.parts import DiffusersDecoder, Limits
from jaxpo.models.vae.config import VAEDecoderConfig
from jaxpo.models.vae.config_json import CLASS, config_from_json


def limits(config: VAEDecoderConfig) -> Limits:
    """It reads no tokens."""
    return Limits(0, 0, causal=False)


FAMILY = Family(
    name="vae",
    limits=limits,
    table=lazy("jaxpo.models.vae.table:param_table"),
    diffusers_decoder=DiffusersDecoder(CLASS, config_from_json),
    flops=lazy("jaxpo.models.vae.table:flops_per_latent"),
    decode=lazy("jaxpo.models.vae.forward:decode"),
)
