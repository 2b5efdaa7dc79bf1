"""The stages that learn from what their own model writes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from jaxpo.config.places import ModelFolder
from jaxpo.config.stages import Stage


@dataclass(frozen=True)
class RolloutEngine:
    """How the answers of a stage are computed; none of it changes what a model would write, but for rounding.

    Attributes:
      slots: answers in flight at once; None = those of one generation, at most 128.
      rounds: tokens per answer between two looks of the host.
      cache: "dense" (a stretch of `data.max_length` positions per slot) or "pages".
      dtype: compute type; None = the trainer's. With another one the two differ: the difference is said and logged.
      quantize: "int8" = matrices as 8-bit integers.
      one_shape: no bit of an answer depends on what else is in flight, so that a generation that was cut short goes on
        bit for bit; False takes less time for the last answers of a generation.
    """

    slots: int | None = None
    rounds: int = 16
    cache: Literal["dense", "pages"] = "dense"
    dtype: Literal["float32", "bfloat16"] | None = None
    quantize: Literal["int8"] | None = None
    one_shape: bool = True


@dataclass(frozen=True)
class MaxMin:
    """The policy is paid by the group of users that fares worst (MaxMin-RLHF); every reward is a group's.

    Attributes:
      mode: "group" pays the rewards of the group whose mean over a generation is smallest, as the paper says; "sample"
        each answer's least reward, as its code does, which forbids to serve groups by different answers; "smooth" the
        rewards weighed by lambda, which moves towards groups that fare worse: lambda <- lambda exp(-eta F) / Z.
      learning_rate: eta of "smooth", once per generation.
      standardise: compare z-scores over the answers of the first generation; False = rewards that have one scale.
    """

    mode: Literal["group", "sample", "smooth"] = "group"
    learning_rate: float = 0.1
    standardise: bool = True


@dataclass(frozen=True)
class Online(Stage):
    """Reinforcement learning from rewards of the answers that the model itself writes; `data` gives the prompts.

    An optimiser step trains on `prompts_per_step` groups of `num_generations` answers. A segment is a prompt and its
    answer: `data.max_length` bounds it, and a prompt has what `max_completion_length` leaves of it. A step has
    `rows_per_step` rows, enough for its longest answers; microbatches (`gradient_accumulation_steps`) that stay empty
    are not computed.

    Attributes:
      loss: a method of the rollouts family; None = GRPO.
      reward_funcs: frozen dataclasses of `jaxpo.online.rewards`, or any judge of `jaxpo.judges`; their weighted sum is
        an answer's reward. Losses with a teacher (GKD, MiniLLM) need none.
      reward_weights: one per reward; () = 1 each.
      multi_objective_aggregation: "sum_then_normalize" weighs the rewards and compares their sum within the group;
        "normalize_then_sum" compares each reward within the group first, then weighs and whitens over the generation.
      maxmin: rewards are those of groups of users, and the worst-off group's counts; those of weight 0 are only
        measured. None = their weighted sum.
      reward_tries: a reward that fails about an answer is asked so often; what still fails is left out, and counted.
      reward_failures: so many failures of a reward one after another stop the run.
      num_generations: answers per prompt; half of them are the opponent's where the loss has one (XPO, NashMD).
      prompts_per_step: prompts per optimiser step.
      steps_per_generation: optimiser steps that share the answers of one generation, each on its own prompts (TRL
        counts microbatches here).
      num_iterations: passes over the answers of one generation.
      max_staleness: generations that the weights of the sampler lie behind: generation g is written by the weights of
        the beginning of generation g - max_staleness, while the steps between are trained. 0 = on-policy.
      old_logps: the log-probs that ratios are taken over, where answers serve more than one step: "trainer" computes
        them before the first of these steps, "sampler" takes those that the answers were drawn with.
      share_prompts: the answers of a group continue one copy of their prompt, which is read once in training instead of
        once for each: the same log-probs, losses and gradients from fewer positions. (Statistics of a mixture's routing
        count it once, too.) Such rows need the attention backend "xla".
      max_completion_length: tokens of an answer, its end included.
      temperature, top_k, top_p, min_p, repetition_penalty: of the sampling. The trainer's log-probs are taken at the
        same temperature.
      mask_truncated_completions: answers without an end are not trained on; their rewards count in their group.
      dynamic_sampling: prompts whose answers all have the same reward are replaced by the next ones, so many times per
        generation; those that remain then are trained on as they are. 0 = none is replaced.
      critic_from: of a loss with a critic, the reward model that it starts from: an earlier stage's name, or a folder;
        None = the model that the stage starts from, with a fresh head, or with the critic that a stage before left.
      environment: a frozen dataclass of `jaxpo.online.environments`: answers are conversations of several turns, of
        which the model's own tokens are trained on; None = an answer is one turn.
      engine: how answers are computed.
      num_generations_eval: answers per held-out prompt.
      eval_temperature: 0 = greedy.
      sync_ref_model, ref_model_mixup_alpha, ref_model_sync_steps: as for Preference.
    """

    RECORDS: ClassVar[bool] = False

    name: str = "online"
    loss: Any = None
    reward_funcs: tuple[Any, ...] = ()
    reward_weights: tuple[float, ...] = ()
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    maxmin: MaxMin | None = None
    reward_tries: int = 3
    reward_failures: int = 50
    num_generations: int = 8
    prompts_per_step: int = 8
    steps_per_generation: int = 1
    num_iterations: int = 1
    max_staleness: int = 0
    old_logps: Literal["trainer", "sampler"] = "trainer"
    share_prompts: bool = False
    max_completion_length: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    mask_truncated_completions: bool = False
    dynamic_sampling: int = 0
    critic_from: ModelFolder | None = None
    environment: Any = None
    engine: RolloutEngine = field(default_factory=RolloutEngine)
    num_generations_eval: int = 1
    eval_temperature: float = 0.0
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512

    @property
    def answers_per_step(self) -> int:
        """Answers that an optimiser step trains on."""
        return self.prompts_per_step * self.num_generations

    @property
    def steps_per_cycle(self) -> int:
        """Optimiser steps that one generation serves."""
        return self.steps_per_generation * self.num_iterations

    @property
    def longest_prompt(self) -> int:
        """Tokens that a prompt may have."""
        return self.data.max_length - self.max_completion_length

    @property
    def slots(self) -> int:
        """Segments that a row may hold: several times as many as fit at their longest, since most are shorter."""
        shared = self.num_generations + 1 if self.share_prompts else 0
        return max(4, shared) * self.per_row

    @property
    def longest_shared(self) -> int:
        """Positions that the answers of a group take at most behind one copy of their prompt; 0 = a prompt for each."""
        whole = self.longest_prompt + self.num_generations * (self.max_completion_length + 1)
        return min(whole, self.data.row_length) if self.share_prompts else 0

    @property
    def per_row(self) -> int:
        """Answers that a row holds whatever their lengths are."""
        return max(self.data.row_length // self.data.max_length, 1)


@dataclass(frozen=True)
class Hybrid(Online):
    """Offline pairs, and answers that the model writes to their prompts, in every step; `data` gives the pairs.

    `rows_per_step` counts both: `pair_rows` of them hold pairs, the others answers. Epochs are passes over the pairs.

    Attributes:
      loss: a method of the rollouts family that reads pairs too; None = HyPO.
      pair_rows: rows of a step that hold pairs.
    """

    name: str = "hybrid"
    pair_rows: int = 8

    @property
    def answering_part(self) -> Online:
        """The stage as its answers see it: with the rows that they have."""
        return replace(self, rows_per_step=self.rows_per_step - self.pair_rows)
