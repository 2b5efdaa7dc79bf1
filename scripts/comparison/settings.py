"""What is fixed for all methods, and the two sizes the comparison comes in."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpo.models.lfm2.config import LFM2Config


@dataclass(frozen=True)
class Settings:
    """Sizes and budgets; equal for every method.

    Attributes:
      sft_tokens: row slots of the SFT stage that all methods start from.
      budget_tokens: row slots that each method trains on, padding included.
      seeds: order of the data (and dropout, where a method has it).
      gap: least difference of the judge's scores within a pair.
      response_tokens, prompt_tokens: responses are cut at the end, prompts at the start.
      pairs_per_prompt: drawn from the pairs of a training prompt.
      held_out: share of the prompts; evaluation pairs are drawn from them, half of them length-matched.
      evaluation_pairs: held-out pairs, at most.
      matched: relative difference in length that counts as matched.
    """

    sft_tokens: int = 1_048_576
    budget_tokens: int = 65_536
    seeds: tuple[int, ...] = (0, 1, 2)
    learning_rate: float = 1e-3
    sft_learning_rate: float = 4e-3
    rows: int = 8
    row_length: int = 512
    max_length: int = 200
    gap: float = 0.1
    response_tokens: int = 128
    prompt_tokens: int = 56
    pairs_per_prompt: int = 4
    held_out: float = 0.25
    evaluation_pairs: int = 400
    matched: float = 0.2
    vocab_size: int = 2048
    bootstrap: int = 2000


# Most prompts are held out: what costs time is the reference on all training data, and few pairs are evaluated anyway.
SMOKE = Settings(
    sft_tokens=16_384, budget_tokens=8_192, seeds=(0,), evaluation_pairs=40, held_out=0.9, vocab_size=600, bootstrap=200
)

MODEL = LFM2Config(
    vocab_size=2048,
    hidden_size=96,
    intermediate_size=256,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=32,
    layer_types=("conv", "full_attention", "conv"),
    initializer_range=0.05,
    max_position_embeddings=1024,
)
"""Half a million parameters, of which 0.2 are the embedding: sixty methods in three seeds fit into two hours."""
