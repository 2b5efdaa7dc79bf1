"""The catalogue: every module of this package that defines a `Method` is in it. Importing it loads no jax."""

from __future__ import annotations

import importlib
import pkgutil

from jaxpo.errors import ConfigError, near_misses
from jaxpo.objectives.methods.base import Info, Method

__all__ = ["AMBIGUOUS", "BY_RECIPE", "BY_REWARD", "BY_SETTING", "METHODS", "Info", "Method", "resolve"]


def _discover() -> dict[str, type[Method]]:
    found: dict[str, type[Method]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Method) and "INFO" in vars(value):
                found[value.INFO.name] = value
    return dict(sorted(found.items()))


METHODS: dict[str, type[Method]] = _discover()
"""Name -> dataclass of hyper-parameters."""

_RDPO = (
    ("rdpo_robust", "Provably Robust DPO, arXiv:2403.00409; TRL's loss_type robust"),
    ("rdpo_length", "length-regularised DPO, arXiv:2403.19159"),
    ("rationales", "DPO with rationales, arXiv:2407.14477"),
)

AMBIGUOUS: dict[str, tuple[tuple[str, str], ...]] = {
    "tpo": (
        ("tpo_tree", "Tree Preference Optimization, arXiv:2410.12854"),
        ("tpo_triple", "Triple Preference Optimization, arXiv:2405.16681; TRL's TPO"),
    ),
    "spo": (
        ("spo_degree", "Self-supervised Preference Optimization, arXiv:2409.17791"),
        ("spo_minimax", "Self-Play Preference Optimization, arXiv:2401.04056"),
    ),
    "pro": (
        ("pro_ranking", "Preference Ranking Optimization, arXiv:2306.17492"),
        ("pro_orchestrator", "Preference Orchestrator, arXiv:2511.10656"),
    ),
    "irpo": (
        ("irpo_ranking", "In-context Ranking Preference Optimization, arXiv:2504.15477"),
        ("irpo_iterative", "Iterative Reasoning Preference Optimization, arXiv:2404.19733"),
    ),
    "rdpo": _RDPO,
    "r_dpo": _RDPO,
    "exo": (
        ("exo_pair", "EXO on pairs, arXiv:2402.00856; TRL's exo_pair"),
        ("exo_rw", "EXO on lists with rewards, arXiv:2402.00856"),
    ),
    "hinge_norm": (
        ("hinge", "RSO's hinge-norm on sums, arXiv:2309.06657; TRL's loss_type hinge"),
        ("hinge_per_token", "hinge on rewards per token, arXiv:2511.23404"),
    ),
    "sppo": (
        ("sppo_hard", "win probabilities of 1 and 0, arXiv:2405.00675; TRL's sppo_hard"),
        ("sppo_soft", "win probabilities from votes, arXiv:2405.00675"),
    ),
    "tdpo": (
        ("tdpo1", "Token-level DPO with gradient through both sequential KLs, arXiv:2404.11999"),
        ("tdpo2", "Token-level DPO with a stopped gradient on the chosen side, arXiv:2404.11999"),
    ),
    "apo": (
        ("apo_zero", "Anchored Preference Optimization, zero, arXiv:2408.06266"),
        ("apo_down", "Anchored Preference Optimization, down, arXiv:2408.06266"),
        ("apo_zero_unpaired", "APO-zero on single rows; TRL's KTO trainer, arXiv:2408.06266"),
        ("apo_accel", "Accelerated Preference Optimization, arXiv:2410.06293"),
    ),
}
"""Acronyms that several papers share -> (name here, paper) of each."""

_WPO = ("WPO, arXiv:2406.11827, weighs the pairs of any loss on pairs", "--stage.use-weighting True")
_TR_DPO = ("TR-DPO, arXiv:2404.09656, moves the reference of any loss that has one", "--stage.sync-ref-model True")

BY_SETTING: dict[str, tuple[str, str]] = {
    "wpo": _WPO,
    "tr_dpo": _TR_DPO,
    "trdpo": _TR_DPO,
    "tpo_l": (
        "TPO-L, arXiv:2405.16681, is a variant of triple TPO",
        "--stage.loss tpo_triple --stage.loss.variant tpo_l",
    ),
    "rorpo": (
        "RORPO, arXiv:2407.14477, is ORPO with rationales, released with weight 1",
        "--stage.loss rationales --stage.loss.base orpo --stage.loss.gamma 1",
    ),
    "rsimpo": (
        "RSimPO, arXiv:2407.14477, is SimPO with rationales",
        "--stage.loss rationales --stage.loss.base simpo",
    ),
    "sft_dpo": (
        "SFT-DPO, arXiv:2406.07327, is DPO plus the chosen likelihood, whose weight the paper does not give",
        "--stage.loss dpo3d --stage.loss.beta-minus 0.1 --stage.loss.sft-weight WEIGHT",
    ),
}
"""Names of papers that are no loss of their own -> (what they are, the flags that choose it)."""

BY_RECIPE: dict[str, tuple[str, str]] = {
    "apo_accel": (
        "Accelerated Preference Optimization, arXiv:2410.06293, extrapolates between rounds of any loss on pairs",
        "jaxpo run apo_accel",
    ),
    "pugc": (
        "PUGC, arXiv:2506.04463, is DPO on a policy's answers that posts judge which nobody labelled",
        "jaxpo run pugc",
    ),
    "dpa": ("DPA, arXiv:2402.18571, fine-tunes on the best of several answers along a direction", "jaxpo run rps"),
    "rps": ("RPS, arXiv:2510.20498, chooses among answers for neighbouring directions", "jaxpo run rps"),
}
"""Names of papers whose algorithm is made of stages -> (what they are, the command that runs them)."""

BY_REWARD: dict[str, tuple[str, str]] = {
    "r3": ("R^3, arXiv:2402.03469, is a reward of any online loss", "reward_funcs=(R3Reward(),)"),
    "spo_minimax": (
        "SPO, arXiv:2401.04056, rewards the answers of any online loss by how often they win",
        "reward_funcs=(WinRateReward(judge=JUDGE),)",
    ),
}
"""Names of papers whose method is a reward of `jaxpo.online.rewards` -> (what they are, how a stage has it)."""


def resolve(name: str) -> type[Method]:
    """The method of that name or alias.

    Raises:
      ConfigError: the name is shared by several methods, is a setting of others, or unknown; with the candidates.
    """
    key = name.strip().lower().replace("-", "_")
    if key in METHODS:
        return METHODS[key]
    if key in AMBIGUOUS:
        raise ConfigError(_ambiguous(name, AMBIGUOUS[key]))
    if key in BY_SETTING:
        what, flags = BY_SETTING[key]
        raise ConfigError(f"loss {name!r} is no loss of its own: {what}; set {flags}.")
    if key in BY_RECIPE:
        what, command = BY_RECIPE[key]
        raise ConfigError(f"loss {name!r} is no loss of its own: {what}; `{command}`.")
    if key in BY_REWARD:
        what, setting = BY_REWARD[key]
        raise ConfigError(f"loss {name!r} is no loss of its own: {what}; give the online stage {setting}.")
    aliases = {alias: method for method in METHODS.values() for alias in method.INFO.aliases}
    if key in aliases:
        return aliases[key]
    close = near_misses(key, [*METHODS, *aliases, *AMBIGUOUS, *BY_SETTING, *BY_RECIPE, *BY_REWARD], n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(METHODS)}."
    raise ConfigError(f"unknown loss {name!r}; {hint}")


def _ambiguous(name: str, candidates: tuple[tuple[str, str], ...]) -> str:
    def where(name: str) -> str:
        if name in BY_RECIPE:
            return f"; `{BY_RECIPE[name][1]}`"
        if name in BY_REWARD:
            return f"; {BY_REWARD[name][1]}"
        return "" if name in METHODS else "; not in this version"

    lines = (f"{c} ({paper}{where(c)})" for c, paper in candidates)
    return f"loss {name!r} is the name of several methods; say which: {', or '.join(lines)}."
