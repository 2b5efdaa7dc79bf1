"""Masked language modelling as a method: what a MaskedLM stage minimises. Importing it loads no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.data.rows.needs import Needs
from jaxpo.errors import ConfigError, did_you_mean
from jaxpo.objectives.methods.base import Info, Method
from jaxpo.objectives.methods.options import Ids, Options

if TYPE_CHECKING:
    from jaxpo.data.tokenizer.tokenizer import Tokenizer
    from jaxpo.objectives.base import Objective
    from jaxpo.objectives.encode import Scorer


@dataclass(frozen=True)
class MaskedTokens(Method):
    """Negative log-likelihood of hidden tokens, given all others of the text; the fields are those of the stage."""

    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_words: bool = False

    INFO = Info(
        name="masked_lm",
        function="jaxpo.losses.vocab.log_prob",
        family="masked language model",
        paper="BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
        arxiv="1810.04805",
        certainty="paper, section 3.1; as many of each text as in its released code",
    )
    NEEDS = Needs(roles=("text",), per_token=("word",))

    def objective(self, scorer: Scorer, options: Options) -> Objective:
        import numpy as np

        from jaxpo.models.family import limits
        from jaxpo.objectives.families.masked import Masking, masked_tokens

        # Without a tokenizer there are shapes alone (a dry run): any ids will do.
        ids = options.ids or Ids(0, np.arange(limits(scorer.config).vocabulary))
        masking = Masking(self.mask_rate, self.mask_share, self.random_share, self.whole_words)
        return masked_tokens(scorer, masking, ids)


def hidden_by(mask_token: str, tokenizer: Tokenizer, where: str) -> Ids:
    """What takes the place of hidden tokens in this vocabulary.

    Args:
      where: the setting that names the mask.

    Raises:
      ConfigError: the vocabulary has no such token.
    """
    import numpy as np

    mask = tokenizer.id_of(mask_token)
    if mask is None:
        raise ConfigError(
            f"{where} is {mask_token!r}, which is no token of the vocabulary"
            f"{did_you_mean(mask_token, tokenizer.special_ids)}; add it with --tokenizer.added {mask_token!r}."
        )
    return Ids(mask, np.setdiff1d(np.arange(tokenizer.vocab_size), [mask, *tokenizer.special_ids.values()]))
