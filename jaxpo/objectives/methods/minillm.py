"""MiniLLM: reverse KL to a teacher by policy gradient, with TRL's options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxpo.data.rows.needs import TEACHER, Needs
from jaxpo.objectives.methods.answering import Answering
from jaxpo.objectives.methods.base import Encode, Info, number
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.options import Options

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.rollouts import Rollouts

TAUGHT = Needs(roles=("completion",), per_token=("advantages", "sampling_logps"), networks=((TEACHER, "vocab"),))


@dataclass(frozen=True)
class MiniLLM(GRPO):
    """GRPO whose advantages are the teacher's log-ratios of what follows, plus those of rewards if there are any.

    Attributes:
      beta: weight of the KL to the reference; at 0 there is no reference.
      epsilon: how far below 1 a ratio counts.
      epsilon_high: how far above 1; None = epsilon (DAPO: 0.28). Of cispo the largest weight itself (5, say).
      delta: bound on the ratio where the advantage is negative; None = none. Of the clipped losses.
      importance_sampling_level: one ratio per "token", or per answer ("sequence", GSPO; LUSPO has it);
        "sequence_token" is GSPO-token, the answer's ratio with a gradient per token, of the clipped losses.
      loss_type: "grpo" averages over each answer's tokens, then over answers; "dapo" and "bnpo" over all tokens of the
        step; "dr_grpo" divides each answer's sum by the longest length an answer may have; "luspo" takes the sum;
        "cispo", "sapo" and "vespo" have other terms in the place of the clipped ones.
      scale_rewards: the deviation that advantages are divided by: of the "group", the "batch", or "none" (Dr. GRPO).
      kl_estimator: of the KL in the loss: "k1", "k2", "k3", or the value of k1 or k3 with the gradient of k2 ("k1+",
        "k3+"; verl's names of it are "kl+" and "low_var_kl+").
      use_bias_correction_kl: weigh the KL of each token with its ratio, so that its gradient is that of the KL.
      importance_sampling_correction: of a sampler that differs from the trainer, by token or answer, its weights cut
        at the cap or left out beyond it. Vespo takes those of tokens into its own weight.
      importance_sampling_cap: see there.
      importance_sampling_floor: likewise from below; None = none. IcePop is "token_mask" with 0.5 and 5.
      geometric_mask: answers whose mean ratio of trainer to sampler lies outside these two bounds are left out, such as
        (0.99, 1.01); None = none is.
      off_policy_mask_threshold: answers of negative advantage that the policy has lost so much of per token, in nats,
        are left out; None = none is.
      top_entropy_quantile: share of the step's tokens that is trained on, those of the highest entropy; below 1 the
        loss couples the step.
      sapo_temperature_pos: of sapo's gate where the advantage is positive.
      sapo_temperature_neg: elsewhere.
      vespo_k_pos: shape of vespo's weight where the advantage is not negative.
      vespo_lambda_pos: see there.
      vespo_k_neg: elsewhere.
      vespo_lambda_neg: see there.
      rkl_advantage: add the teacher's log-ratios to the advantages.
      single_step_decomposition: add the reverse KL of every token's whole distribution to the loss.
      kd_temperature: of both distributions in either term.
      gamma: discount of what follows; 0 = the token alone.
      length_normalization: divide what follows by the sum of its discounts.
      teacher_mixed: share of the teacher in the distribution that answers are drawn from, 0.2 in the paper.
    """

    rkl_advantage: bool = True
    single_step_decomposition: bool = True
    kd_temperature: float = number(1.0, above=0)
    gamma: float = number(0.0, at_least=0, at_most=1)
    length_normalization: bool = True
    teacher_mixed: float = number(0.0, at_least=0, at_most=1)

    HIDDEN = True
    INFO = Info(
        name="minillm",
        family="rollouts",
        paper="MiniLLM: Knowledge Distillation of Large Language Models",
        arxiv="2306.08543",
        certainty="TRL's former trainer, whose discount gamma^i is gamma^(i - t) here; answers of the mixture with the "
        "teacher are corrected for as those of another sampler; the paper's pre-training loss is not there",
        function="jaxpo.losses.minillm_advantages",
    )
    NEEDS = TAUGHT

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta > 0:
            networks = (*TAUGHT.networks, ("reference", "logps"))
            object.__setattr__(self, "NEEDS", replace(TAUGHT, networks=networks))

    @property
    def answering(self) -> Answering:
        by: Any = "teacher_mixture" if self.teacher_mixed else "policy"
        return Answering(by, self.teacher_mixed, rewarded=False)

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.rkl_advantage and not self.single_step_decomposition:
            found.append(
                "minillm: rkl_advantage and single_step_decomposition are both off: nothing is learnt from the teacher."
            )
        return found

    def encoder(self, scorer: Scorer, options: Options) -> Encode:
        from jaxpo.objectives.families.features import Wanted, score
        from jaxpo.objectives.families.taught import from_teacher

        scorers = {name: scorer.alike(other) for name, other in options.scorers.items()}
        want = Wanted(self.NEEDS, options.recorded, tokens=True, hidden=True, scorers=scorers)
        taught = scorers.get(TEACHER, scorer)

        def encode(params: Any, frozen: Any, batch: Batch, rng: Array | None) -> tuple[Any, dict[str, Any]]:
            scores = score(scorer, params, frozen, batch, want, rng)
            student = (scorer, params["model"], scores.hidden)
            extra = from_teacher(student, taught, frozen[TEACHER], batch, temperature=self.kd_temperature)
            return self.shape().features(scores, batch, want, extra), scores.aux

        return encode

    def terms(self, x: Rollouts, max_completion_length: int) -> dict[str, Array]:
        import jax.numpy as jnp

        found = super().terms(self._advised(x), max_completion_length)
        if self.single_step_decomposition:
            divergence = jnp.sum(jnp.where(x.mask, x.extra["reverse_kl"], 0.0), axis=-1)
            found["tokens"] = found["tokens"] + divergence if "tokens" in found else divergence
        return found

    def _advised(self, x: Rollouts) -> Rollouts:
        """The same answers, their advantages with the teacher's."""
        from jaxpo.losses import minillm_advantages
        from jaxpo.objectives.families.rollouts import ADVANTAGES

        if not self.rkl_advantage:
            return x
        how: dict[str, Any] = {"gamma": self.gamma, "length_normalization": self.length_normalization}
        own, teacher = x.extra["student_logps"], x.extra["teacher_logps"]
        advantages = x.advantages + minillm_advantages(own, teacher, x.mask, **how)
        tokens = x.answer.tokens
        rows = tokens.replace(columns={**tokens.columns, ADVANTAGES: advantages})  # type: ignore[attr-defined]
        return x.replace(answer=x.answer.replace(rows=rows))  # type: ignore[attr-defined]

    def metrics(self, x: Rollouts) -> dict[str, Metric]:
        """Those of GRPO, `rkl_advantage` per token, `reverse_kl` of the whole distributions."""
        from jaxpo.objectives.base import masked_mean

        return super().metrics(self._advised(x)) | {
            "rkl_advantage": masked_mean(x.extra["teacher_logps"] - x.extra["student_logps"], x.mask),
            "reverse_kl": masked_mean(x.extra["reverse_kl"], x.mask),
        }
