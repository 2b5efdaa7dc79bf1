"""The kinds of stages, as one table: what each minimises, asks of its data, and measures, and how it is checked.

A new kind of stage is its configuration, an entry here, and files of its own. Imports no jax.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxpo.config import (
    SFT,
    Data,
    Denoise,
    Distill,
    Hybrid,
    MaskedLM,
    Merge,
    Online,
    Preference,
    Pretrain,
    RecipePart,
    Retrieval,
    Reward,
    Work,
)
from jaxpo.data.rows.needs import Needs
from jaxpo.errors import ConfigError
from jaxpo.objectives.masked_tokens import MaskedTokens, hidden_by
from jaxpo.objectives.methods.base import PAIRS, Method
from jaxpo.objectives.methods.bradley_terry import BradleyTerry
from jaxpo.objectives.methods.denoising import Denoising
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.hypo import HyPO
from jaxpo.objectives.methods.info_nce import InfoNCE
from jaxpo.objectives.methods.options import Ids, Options
from jaxpo.objectives.next_token import NextToken, NextTokenOfDocuments
from jaxpo.recipe.beside import Companion, companions
from jaxpo.recipe.checks.constraints import constraint_problems
from jaxpo.recipe.checks.denoise import denoise_problems
from jaxpo.recipe.checks.distill import teacher_problems
from jaxpo.recipe.checks.hybrid import hybrid_problems
from jaxpo.recipe.checks.lora import sync_problems
from jaxpo.recipe.checks.masked_lm import masked_lm_problems
from jaxpo.recipe.checks.merge import merge_problems
from jaxpo.recipe.checks.online import online_problems
from jaxpo.recipe.checks.optimizer import dropout_problems
from jaxpo.recipe.checks.retrieval import retrieval_problems
from jaxpo.recipe.checks.reward import reward_problems
from jaxpo.recipe.checks.rollouts import rollout_problems
from jaxpo.recipe.checks.sharing import window_problems
from jaxpo.recipe.checks.work import work_problems
from jaxpo.recipe.kind import Kind, Materials
from jaxpo.recipe.measured import (
    DENOISING,
    MASKED,
    ONLINE,
    PREFERENCE,
    RETRIEVAL,
    REWARD,
    diagnostic_metrics,
    reward_metrics,
)

if TYPE_CHECKING:
    from jaxpo.data.source import Source
    from jaxpo.data.tokenizer.tokenizer import Tokenizer


def rollouts(materials: Materials) -> Source:
    """Answers that the model writes to the prompts of the training files."""
    return answers_of(materials, materials.stage)


def pairs_and_answers(materials: Materials) -> Source:
    """The pairs of the training files, and answers that the model writes to their prompts."""
    from jaxpo.online.hybrid import joined

    return joined(materials, answers_of(materials, materials.stage.answering_part))


def answers_of(materials: Materials, stage: Online) -> Any:
    """The source of the answers of a stage.

    Raises:
      ConfigError: a network beside the policy cannot read prompts that answers share.
    """
    if problems := [p for s in materials.scorers.values() for p in window_problems(stage, s.config)]:
        raise ConfigError(problems)
    from jaxpo.online.assemble import rollout_source
    from jaxpo.online.networks import networks_in_state

    whole = materials.whole
    method: Any = method_of(stage)
    return rollout_source(
        stage,
        method,
        prompts=materials.rows,
        held_out=materials.held_out,
        folder=materials.folder,
        seed=materials.seed,
        scorer=materials.scorer,
        scorers=materials.scorers,
        networks=networks_in_state(whole, materials.frozen, moves=stage.sync_ref_model),
        policy=lambda params: whole(params)["model"],
        network=materials.network,
        say=materials.say,
        show=materials.show,
        frozen=materials.frozen,
    )


def prompts_can_be_used(stage: Online, train: Any, held_out: Any) -> None:
    """Every reward, environment and method of a stage can use every prompt; DataError or ConfigError."""
    from jaxpo.online.assemble import check_prompts

    check_prompts(stage, method_of(stage), train, held_out)


def prompts_of(stage: Online) -> Data:
    """How the prompts of an online stage are cut: they leave room for an answer, and never lose their end."""
    cut = "error" if stage.data.truncation == "response_right" else stage.data.truncation
    return replace(stage.data, max_length=stage.longest_prompt, truncation=cut)


def texts_of(stage: Retrieval) -> Data:
    """How the texts of a retrieval stage are cut: as its own settings say."""
    texts = stage.texts
    return replace(stage.data, texts=texts, max_length=max(texts.query_length, texts.document_length))


KINDS: dict[type[RecipePart], Kind] = {
    Pretrain: Kind("train", "language", default=lambda stage: NextTokenOfDocuments()),
    MaskedLM: Kind(
        "train",
        "language",
        default=lambda stage: MaskedTokens(stage.mask_rate, stage.mask_share, stage.random_share, stage.whole_words),
        metrics=MASKED,
        checks=(masked_lm_problems,),
        predicts=False,
        scoring=lambda stage: {"embedding_dropout": stage.embedding_dropout},
        ids=lambda stage, tokenizer: hidden_by(stage.mask_token, tokenizer, f"{stage.name}.mask_token"),
    ),
    SFT: Kind(
        "train",
        "sft",
        families=("sft",),
        default=lambda stage: NextToken(),
        checks=(dropout_problems,),
        scoring=lambda stage: {"embedding_dropout": stage.embedding_dropout},
    ),
    Distill: Kind(
        "train",
        "sft",
        families=("distillation",),
        checks=(teacher_problems,),
    ),
    Preference: Kind(
        "train",
        "preference",
        families=("pairs", "pairs, coupled", "lists", "unpaired"),
        metrics=PREFERENCE,
        more_metrics=diagnostic_metrics,
        checks=(sync_problems,),
        options=lambda stage: Options(use_weighting=stage.use_weighting, diagnostics=stage.diagnostics),
    ),
    Reward: Kind(
        "train",
        "preference",
        families=("reward model",),
        default=lambda stage: BradleyTerry(stage.label_smoothing, stage.center_rewards_coefficient),
        metrics=REWARD,
        checks=(reward_problems,),
        predicts=False,
        scoring=lambda stage: {name: getattr(stage, name) for name in ("embedding_dropout", "pooled_dropout")},
    ),
    Retrieval: Kind(
        "train",
        "preference",
        families=("retrieval",),
        default=lambda stage: InfoNCE(),
        metrics=RETRIEVAL,
        checks=(retrieval_problems,),
        predicts=False,
        options=lambda stage: Options(query_length=stage.texts.query_length),
        scoring=lambda stage: {"embedding_dropout": stage.embedding_dropout},
        data=texts_of,
    ),
    Online: Kind(
        "train",
        "prompts",
        families=("rollouts",),
        default=lambda stage: GRPO(),
        metrics=ONLINE,
        more_metrics=reward_metrics,
        checks=(sync_problems, online_problems, rollout_problems, constraint_problems),
        options=lambda stage: Options(max_completion_length=stage.max_completion_length),
        scoring=lambda stage: {"temperature": stage.temperature},
        data=prompts_of,
        make_source=rollouts,
        check_rows=prompts_can_be_used,
        measure=lambda source: source.evaluate,
        rows=Needs(),
    ),
    Hybrid: Kind(
        "train",
        "preference",
        families=("rollouts",),
        default=lambda stage: HyPO(),
        metrics=PREFERENCE,
        checks=(sync_problems, hybrid_problems),
        options=lambda stage: Options(max_completion_length=stage.max_completion_length),
        scoring=lambda stage: {"temperature": stage.temperature},
        make_source=pairs_and_answers,
        # Held-out pairs are compared, not answered.
        check_rows=lambda stage, train, held_out: prompts_can_be_used(stage, train, None),
        rows=PAIRS,
    ),
    Denoise: Kind(
        "denoise",
        families=("images", "pairs of images"),
        default=lambda stage: Denoising(),
        metrics=DENOISING,
        checks=(sync_problems, denoise_problems),
        predicts=False,
    ),
    Merge: Kind("merge", checks=(merge_problems,)),
    Work: Kind("work", checks=(work_problems,)),
}


def kind_of(stage: Any) -> Kind:
    """The kind of a stage: that of its class, or of the nearest class that it derives from.

    Raises:
      ConfigError: it is of no kind in the table.
    """
    found = find_kind(stage)
    if found is None:
        raise ConfigError(f"{type(stage).__name__} is no kind of stage; there are {kind_names()}.")
    return found


def find_kind(stage: Any) -> Kind | None:
    """As `kind_of`; None for what is no stage."""
    return next((KINDS[cls] for cls in type(stage).__mro__ if cls in KINDS), None)


def kind_names() -> str:
    """All kinds, as messages list them."""
    *names, last = (cls.__name__ if cls is not Work else "a work stage" for cls in KINDS)
    return f"{', '.join(names)}, or {last}"


def kinds_for(family: str) -> str:
    """The kinds of stages that minimise methods of a family, as messages name them; "" when there is none."""
    return " or ".join(cls.__name__ for cls, kind in KINDS.items() if family in kind.families)


def method_of(stage: Any) -> Method:
    """What a trained stage minimises: the method that it names, or its kind's own.

    Raises:
      ConfigError: it names none and its kind has none.
    """
    found = find_method(stage)
    if found is None:
        raise ConfigError(f"stage {stage.name}: {type(stage).__name__} has no method of its own; give it a loss.")
    return found


def find_method(stage: Any) -> Method | None:
    """As `method_of`; None where the stage names none and its kind has none."""
    named: Method | None = getattr(stage, "loss", None)
    default = kind_of(stage).default
    return named if named is not None or default is None else default(stage)


def ids_of(stage: Any, tokenizer: Tokenizer) -> Ids | None:
    """What a trained stage puts in the place of hidden tokens; None where it hides none.

    Raises:
      ConfigError: the vocabulary lacks it.
    """
    found = kind_of(stage).ids
    return None if found is None else found(stage, tokenizer)


def networks_of(stage: Any) -> tuple[Companion, ...]:
    """The networks that a trained stage keeps beside the one that it trains."""
    return companions(stage, method_of(stage).NEEDS)
