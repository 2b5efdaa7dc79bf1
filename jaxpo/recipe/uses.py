"""The kinds of training that a data file may be for, each with the recipe that does it. Imports no jax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxpo.data.rows.trainable import OWN_TOKENIZER, Asked, Names, Use
from jaxpo.objectives.methods import METHODS, Method
from jaxpo.recipe.kinds import kind_of, method_of
from jaxpo.recipe.overrides import load_run

OF_MODEL = "--model-from MODEL"
OFFERED = (
    ("pretraining", "pretrain", OWN_TOKENIZER),
    ("fine-tuning", "sft", OF_MODEL),
    ("distillation", "distill", "--distill.teacher TEACHER --tokenizer.path TEACHER"),
    ("preferences", "preference", OF_MODEL),
    ("a reward model", "reward", OF_MODEL),
    ("retrieval", "colbert:own", OF_MODEL),
)
"""What users call it, the recipe, and what that is given beside the rows (`CAPITALS` of `rows.trainable`)."""
SUGGESTED = ("tpo_tree", "kto", "lipo")
"""Methods to name before others of their family, where the recipe's own does not fit the rows."""


def uses() -> tuple[Use, ...]:
    """Every kind of training, with all of its methods."""
    return tuple(use_of(*offered) for offered in OFFERED)


def use_of(name: str, recipe: str, words: str) -> Use:
    """What a recipe of one stage can be used for."""
    (stage,) = load_run(recipe).stages
    kind, own = kind_of(stage), method_of(stage)
    of_family = {name: asked(method()) for name, method in METHODS.items() if method.INFO.family in kind.families}
    likely = {name: of_family[name] for name in SUGGESTED if name in of_family}
    options = f"{words} --{stage.name}.data.train FILE"
    return Use(name, recipe, options, kind.purpose, {own.INFO.name: asked(own)} | likely | of_family)


def asked(method: Method) -> Asked:
    """What a method asks of a file."""
    return Asked(method.NEEDS, lambda columns, names: unnamed(method, columns, names), method.NAMED)


def unnamed(method: Method, columns: Mapping[str, Any], names: Names) -> list[str]:
    """Problems of the columns' values; the method's name stands beside them already."""
    told: Any = replace(method, **{to: names[column] for column, to in method.NAMED.items() if column in names})
    found = told.check_names(names) or told.check_columns(columns)
    return [problem.removeprefix(f"{method.INFO.name}: ") for problem in found]
