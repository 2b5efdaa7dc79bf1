"""What `--quantize` does to a model, measured before it answers, on a text that every model is measured on."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.models.family import TextConfig, limits
from jaxpo.models.quantize import quantization_kl, quantized

Tree = Any
PASSAGE = """A lighthouse keeper writes down the weather every evening. On the third of March the wind came \
from the north-west, and the sea was too rough for the boat that brings bread, oil and letters. \
"We have flour for nine days," he noted, "and the lamp burns two litres a night." If 31 litres are \
left, how many nights is that? He divided 31 by 2, got 15.5, and wrote: fifteen nights, and half \
of the sixteenth.

Nobody asked him to keep these notes. They were found eighty years later in a tin box under the stairs, \
together with three buttons, a pencil and a map of the coast on which somebody had drawn currents in blue ink. \
The museum in the harbour town shows them behind glass; on Sundays a volunteer reads a page aloud, and \
children ask whether the keeper was lonely. He does not say. He says that the fog lifted at six, that the \
gulls had come back, and that the paint on the gallery should be renewed before the summer.

To count the entries that mention fog one could write:

    def foggy(entries):
        return sum("fog" in entry.lower() for entry in entries)

and the answer, for the year that has survived, is 112 of 365 days."""
"""Prose, speech, numbers and code: a few hundred tokens. It is compared with nothing but itself."""


def divergence(params: Tree, config: TextConfig, tokenizer: Tokenizer, mode: str, dtype: Any = jnp.float32) -> str:
    """A line that says how far the quantised model's predictions are from the float model's, on `PASSAGE`.

    Args:
      params: the float model's tree.
      mode: see `jaxpo.models.quantize.quantized`.
      dtype: compute type.
    """
    ids = [tokenizer.bos_id, *tokenizer.encode(PASSAGE)][: limits(config).context]
    found = quantization_kl(params, quantized(params, config, mode), config, [ids], dtype=dtype)
    return f"{mode}: KL to the float model {found:.2g} nats per token, over {len(ids)} tokens of a built-in text"
