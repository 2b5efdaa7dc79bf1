"""Which examples a method reads, and which methods ask the same of the networks: their `encode` is one and the same."""

from __future__ import annotations

from collections.abc import Hashable

from contracts.harness import SCORER

from jaxpo.objectives.methods import METHODS
from jaxpo.objectives.methods.base import Method
from jaxpo.objectives.methods.features import FeatureMethod
from jaxpo.objectives.methods.retrieval import RetrievalMethod
from jaxpo.objectives.methods.rewards import RewardMethod

# Settings that exercise what is special about a method; the others run with their defaults.
SETTINGS: dict[str, dict[str, object]] = {
    "lcpo": {"num_annotators": 3},
    "drpo": {"penalty_weight": 1.0},
    # By default each of the three steps agrees with an eighth of the tolerance, from one state; but the rounding of two
    # steps grows in the third to 1.1 of it. The ranges of the scores are no cause: the smallest is 0.30.
    "colbert_distillation": {"normalize": False, "dimensions": None},
    # A sharper order than this makes of rounding what the tolerance does not allow, as with the one before.
    "cosent": {"scale": 5.0},
    "grpo": {"beta": 0.04, "epsilon": 0.05},
    "reinforce_plus_plus": {"epsilon": 0.05, "dual_clip": 3.0},
    "constrained_rlhf": {"thresholds": (("one", 0.5),)},
    "ppo": {"dual_clip": 3.0},
    "modpo": {"weights": (0.5, 0.3, 0.2)},
    "bradley_terry": {"center_rewards_coefficient": 0.01, "soft_labels": True, "lm_coefficient": 0.1},
    "plackett_luce": {"top_k": 2},
    "rating": {"aspects": ("a", "b")},
    "gpm": {"size": 4, "learn_temperature": True, "ptx_coefficient": 0.1},
    "maxmin_rlhf": {"groups": 2},
    "micro": {"heads": 3},
    "micro_router": {"heads": 2},
    "token_classification": {"classes": ("O", "B-x", "I-x")},
    "pal": {"users": ("a", "b", "c"), "size": 4},
    "pro_orchestrator": {"objectives": ("a", "b"), "width": 8},
    **{name: {"top_k": 5} for name in ("decoupled_topk_kd", "bucket_topk_kl", "truncated_topk_kl")},
}
TWO_PROMPTS = ("dove",)
OF_TOKENS = [name for name, method in METHODS.items() if method.INFO.family not in ("images", "pairs of images")]
"""Those that read packed rows; what reads images is in tests/diffusion."""


def configured(name: str) -> Method:
    """The method as the contracts run it."""
    return METHODS[name](**SETTINGS.get(name, {}))


def kind_of(method: Method) -> str:
    """The kind of `contracts.batches` examples that serves the method."""
    needs = method.NEEDS
    if "query" in needs.roles:
        return "retrieval"
    if method.INFO.name == "micro_router":
        return "mixture"
    if method.INFO.name in TWO_PROMPTS:
        return "two_prompts"
    if "tag" in needs.per_token:
        return "tagged"
    if "advantages" in needs.per_token:
        return "rollout"
    for role, kind in (("candidate", "list"), ("items", "items"), ("completion", "completion")):
        if role in needs.roles:
            return "steps" if "labels" in needs.columns else kind
    if "sample_1" in needs.optional_roles:
        return "sampled"
    return "many_roles" if len(needs.roles) + len(needs.optional_roles) > 2 else "pair"


def shape_of_need(name: str) -> Hashable:
    """Methods with equal shapes of need get the same features."""
    method = configured(name)
    needs = method.NEEDS
    if needs.kind("teacher") != "none" and not isinstance(method, FeatureMethod):
        return f"teacher {needs.kind('teacher')}"
    if isinstance(method, RetrievalMethod):
        return f"retrieval {method.COUPLED}"
    if isinstance(method, RewardMethod):
        own = type(method).encoder is not RewardMethod.encoder and name
        tokens = (needs.per_token, getattr(method, "lm_coefficient", 0))
        asked = (needs.roles, needs.optional_roles, needs.extra, *tokens, own)
        return f"reward model {asked}"
    if not isinstance(method, FeatureMethod):
        return name
    changed = ("encode_extra", "objective", "encoder")
    own = any(getattr(type(method), each) is not getattr(FeatureMethod, each) for each in changed)
    further = tuple(name for name, _ in needs.networks if name != "reference")
    roles = (needs.roles, needs.optional_roles, needs.per_token, needs.extra, further)
    return (kind_of(method), roles, needs.kind("reference"), method.TOKENS, method.HIDDEN, method.COUPLED, own and name)


def representatives() -> list[str]:
    """For every way to run the networks the method that asks most of it, and every method that carries state.

    A way is a kind of examples, with or without the reference's vocabulary, coupled or not, or a method's own encoding;
    what asks for tokens, marks or further roles contains what does not.
    """
    found: dict[Hashable, str] = {}
    for name in sorted(OF_TOKENS, key=_demands, reverse=True):
        shape = shape_of_need(name)
        if isinstance(shape, tuple):
            kind, roles, reference, _, _, coupled, own = shape
            shape = (kind, len(roles[0]), reference == "vocab", coupled, own)
        found.setdefault(shape, name)
    carrying = [name for name in OF_TOKENS if configured(name).build(SCORER).init_carry()]
    return sorted({*found.values(), *carrying})


def _demands(name: str) -> tuple[bool, int]:
    """More of it: with a reference first, then the number of things that are gathered."""
    method = configured(name)
    needs = method.NEEDS
    gathered = len(needs.roles) + len(needs.optional_roles) + len(needs.per_token) + getattr(method, "TOKENS", False)
    return needs.kind("reference") != "none", gathered
