"""The checks of a MaskedLM stage: shares that are some, and a model that sees what stands behind a hidden token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxpo.config import MaskedLM, Run, Stage
from jaxpo.config.fields import flag
from jaxpo.models.family import is_config, limits
from jaxpo.recipe.lineage import declared_model


def masked_lm_problems(run: Run, index: int, stage: MaskedLM) -> Iterator[str]:
    """Rates in range; a model that looks both ways."""
    name = stage.name
    if not 0 < stage.mask_rate < 1:
        yield f"{name}.mask_rate: {stage.mask_rate:g} must lie in (0, 1); it is the share of tokens that are hidden."
    for field in ("mask_share", "random_share"):
        if not 0 <= getattr(stage, field) <= 1:
            yield f"{name}.{field}: {getattr(stage, field):g} must lie in [0, 1]."
    if stage.mask_share + stage.random_share > 1:
        both = f"{stage.mask_share:g} and {stage.random_share:g}"
        yield f"{name}.mask_share, {name}.random_share: {both} are more than all hidden tokens together."
    if not stage.mask_token:
        yield f"{name}.mask_token: is empty; name the token that says that one is hidden."
    if not 0 <= stage.embedding_dropout < 1:
        yield f"{name}.embedding_dropout: {stage.embedding_dropout:g} must lie in [0, 1)."
    if stage.data.fim is not None:
        yield f"{name}.data.fim: rearranges documents for models that go from left to right; leave it out."
    yield from sight_problems(stage, declared_model(run, stage))


def sight_problems(stage: Stage, config: Any) -> Iterator[str]:
    """A model that is to tell hidden tokens, and sees those before them alone; none for an unknown model."""
    if isinstance(stage, MaskedLM) and is_config(config) and limits(config).causal:
        yield (
            f"{stage.name}.model: it sees earlier tokens alone, and is to tell a hidden token from both sides; start "
            f"from an encoder, or set {flag(('model', 'causal'))} False."
        )
