"""Sparse token-level preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.models.family import TextConfig
    from jaxpo.models.spec import Table
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.features import Scores
    from jaxpo.objectives.families.pairs import Pair

LEARNED = ("all_layers", "last_layer", "two_layer", "sign")
_UNTRAINED = Needs(roles=("chosen", "rejected"), networks=(("reference", "vocab"),))
_TRAINED = Needs(roles=("chosen", "rejected"), networks=(("reference", "vocab"),), extra=("mask",))


@dataclass(frozen=True)
class SparsePO(PairMethod):
    """Token-level DPO: every response token has a learned, sparse weight on its log-ratio and on its KL penalty.

    Attributes:
      beta: strength of the tie to the reference (0.1 dialogue; 0.8 sentiment and summaries).
      mask: where the weights come from. all_layers: a linear head per layer of the frozen reference (the paper's
        SparsePO); last_layer: one head on its final state; two_layer: 200 units in front of each head; sign: 0 or 1
        (has no gradient, so the network stays as drawn); random: uniform in [0, 1]; mapo: the reference's activations,
        mapped to [0, 1] without any parameter (the paper's MaPO).
      independent: a second network for the weights on the KL; False = one mask serves both. MaPO has one.
      lambda_u: weight of the L1 norm of the mask on log-ratios, of masks that learn; None = what the paper has on
        dialogue, 1e-3 for a common mask and 0 for independent ones.
      lambda_d: of the mask on the KL, likewise.
      mask_dropout: on every head's output and on the mask, in training only.
    """

    beta: float = number(0.1, above=0)
    mask: Literal["all_layers", "last_layer", "two_layer", "sign", "random", "mapo"] = "all_layers"
    independent: bool = False
    lambda_u: float | None = number(None, at_least=0)
    lambda_d: float | None = number(None, at_least=0)
    mask_dropout: float = number(0.01, at_least=0, at_most=0.99)

    INFO = Info(
        name="sparsepo",
        family="pairs",
        paper="SparsePO: Controlling Preference Alignment of LLMs via Sparse Token Masks",
        arxiv="2410.05102",
        certainty="authors' code; the mixer's start at 1/L and MaPO's activations of convolution layers are ours",
    )
    NEEDS = _TRAINED
    TOKENS = True
    SAME_SHAPE = ("reference",)
    METRICS = ("sparsity", "sparsity_kl", "kl/chosen", "kl/rejected")

    def __post_init__(self) -> None:
        # What this configuration needs, over the class's default.
        object.__setattr__(self, "NEEDS", _TRAINED if self.mask in LEARNED else _UNTRAINED)

    def problems(self) -> list[str]:
        """MaPO has one mask only."""
        found = super().problems()
        if self.mask == "mapo" and self.independent:
            found.append("sparsepo: mask mapo gives one mask for both terms; set independent to False.")
        return found

    def extra_tables(self, config: TextConfig) -> dict[str, Table]:
        """The mask networks."""
        from jaxpo.models.heads import mask_table

        if self.mask not in LEARNED:
            return {}
        return {"mask": mask_table(config, heads=self._heads(), independent=self.independent)}

    def l1_weights(self) -> tuple[float, float]:
        """Of the masks on log-ratios and on the KL; 0 for masks that do not learn."""
        if self.mask not in LEARNED:
            return 0.0, 0.0
        of_variant = 0.0 if self.independent else 1e-3
        u, d = (of_variant if given is None else given for given in (self.lambda_u, self.lambda_d))
        return u, d

    def _heads(self) -> Any:
        return "all_layers" if self.mask == "sign" else self.mask

    def encode_extra(
        self, scorer: Scorer, params: Any, frozen: Any, batch: Batch, scores: Scores, rng: Array | None
    ) -> dict[str, Array]:
        """The weights `[N, T]`: `chosen_reward`, `rejected_reward`, and `_kl` ones for independent masks."""
        from jax.numpy import sign

        from jaxpo.objectives.families import token_masks

        if self.mask == "mapo":
            return token_masks.mapo(scorer, frozen["reference"], batch)
        if self.mask == "random":
            return token_masks.random(batch, rng, independent=self.independent)
        weights = token_masks.learned(
            scorer, params["mask"], frozen["reference"], batch, rng, heads=self._heads(), rate=self.mask_dropout
        )
        return {k: sign(w) for k, w in weights.items()} if self.mask == "sign" else weights

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import sparsepo

        x, (l1_reward, l1_kl) = pair.extra, self.l1_weights()
        return sparsepo(
            *pair.token_logps,
            *pair.token_kls,
            *pair.token_masks,
            x["chosen_reward"],
            x["rejected_reward"],
            x.get("chosen_kl"),
            x.get("rejected_kl"),
            beta=self.beta,
            l1_reward=l1_reward,
            l1_kl=l1_kl,
            where=pair.present,
        )

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`sparsity`, `sparsity_kl`: share of response tokens of weight 0; `kl/*`: summed over a response."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        here = jnp.concatenate(pair.token_masks) & jnp.tile(pair.present, 2)[:, None]

        def sparsity(network: str) -> Metric:
            x = pair.extra
            weights = [x.get(f"{side}_{network}", x[f"{side}_reward"]) for side in ("chosen", "rejected")]
            return masked_mean(jnp.concatenate(weights) == 0, here)

        chosen, rejected = pair.kls
        return {
            "sparsity": sparsity("reward"),
            "sparsity_kl": sparsity("kl"),
            "kl/chosen": masked_mean(chosen, pair.present),
            "kl/rejected": masked_mean(rejected, pair.present),
        }
