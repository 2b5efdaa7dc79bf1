"""Where modules went whose types stand in saved configurations: a run or model of an earlier version still loads.

`jaxpo.models.lfm2.config` is written into every model and never moves.
"""

from __future__ import annotations

MOVED: dict[str, str] = {
    "jaxpo.construct.judges.base": "jaxpo.judges.base",
    "jaxpo.construct.judges.endpoint": "jaxpo.judges.endpoint",
    "jaxpo.construct.judges.function": "jaxpo.judges.function",
    "jaxpo.construct.judges.jury": "jaxpo.judges.jury",
    "jaxpo.construct.judges.reward": "jaxpo.judges.reward",
    "jaxpo.construct.judges.verifier": "jaxpo.judges.verifier",
    "jaxpo.construct.judges": "jaxpo.judges",
    "jaxpo.construct.refine": "jaxpo.judges.refine",
    "jaxpo.construct.workshop": "jaxpo.construct.on_policy.workshop",
    "jaxpo.construct.on_policy_stage": "jaxpo.construct.on_policy.stage",
    "jaxpo.data.arithmetic": "jaxpo.corpora.arithmetic",
    "jaxpo.data.own_files": "jaxpo.corpora.own_files",
    "jaxpo.data.recipe_corpus": "jaxpo.corpora.recipe",
    "jaxpo.data.stdlib_docs": "jaxpo.corpora.stdlib_docs",
}
"""Old module -> new module."""


def present_name(type_name: str) -> str:
    """`module:QualName` as it is called today."""
    module, _, attribute = type_name.rpartition(":")
    return f"{MOVED.get(module, module)}:{attribute}"


def moved_hint(error: Exception) -> str:
    """'. It is jaxpo.X now.' for the import of a module that has moved, otherwise nothing."""
    module = getattr(error, "name", None) if isinstance(error, ImportError) else None
    return f". It is {MOVED[module]} now." if module in MOVED else ""
