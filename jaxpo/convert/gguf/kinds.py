"""What the weights of a GGUF file are stored as: the types that it mixes, and how far each may be from the model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One choice of `--dtype`. Vectors, convolution taps and routers are float32 in every file, as llama.cpp asks.

    Attributes:
      matrix, embedding: ggml's types of the matrices, and of the embedding, which is the output matrix as well.
      file_type: llama.cpp's name of the mixture (`LlamaFileType`).
      weight_error: largest |W - stored| / |W| of a tensor (Frobenius) that rounding to these types explains.
      nats: largest difference of a log-prob in llama.cpp from the model's; None where that depends on the model, and
        `divergence` is looked at instead.
      divergence: largest KL, nats per token, between the file in float64 and in llama.cpp, which rounds what it
        multiplies with too. A wrong conversion is off by whole nats.
    """

    name: str
    matrix: str
    embedding: str
    file_type: str
    weight_error: float
    nats: float | None = None
    divergence: float = 0.1


KINDS = {
    kind.name: kind
    for kind in (
        Kind("f32", "F32", "F32", "ALL_F32", 0.0, nats=1e-3),
        Kind("f16", "F16", "F16", "MOSTLY_F16", 2**-10),
        Kind("bf16", "BF16", "BF16", "MOSTLY_BF16", 2**-8),
        Kind("q8_0", "Q8_0", "Q8_0", "MOSTLY_Q8_0", 0.02),
        # llama.cpp's own quantiser gives the output matrix six bits here, which only it can write.
        Kind("q4_0", "Q4_0", "Q8_0", "MOSTLY_Q4_0", 0.2),
    )
}
K_QUANTS = ("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k")
"""Mixtures that llama.cpp's own quantiser makes of a float32 file; see `jaxpo.convert.gguf.k_quants`."""
OWN_QUANTISER = Kind("K-quants", "", "", "", 0.5, divergence=1.0)
"""Bounds of what it makes, down to two bits."""
WITHOUT_BLOCKS = "F16"
"""Type of a matrix whose rows are no whole number of blocks."""
