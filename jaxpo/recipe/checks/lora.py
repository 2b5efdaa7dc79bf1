"""The checks of what a stage trains and what it compares with: adapters, and a reference that moves."""

from __future__ import annotations

from collections.abc import Iterator

from jaxpo.config import Denoise, Online, Preference, Run, Stage
from jaxpo.config.fields import flag


def lora_problems(stage: Stage) -> Iterator[str]:
    """Ranges of the adapter's numbers. Its patterns need the model's parameter table: `jaxpo.stages.adapter`."""
    lora = stage.lora
    if lora is None:
        return
    name = f"{stage.name}.lora"
    if lora.rank < 1:
        yield f"{name}.rank: {lora.rank} must be at least 1."
    if not 0 < lora.alpha < float("inf"):
        yield f"{name}.alpha: {lora.alpha:g} must be a number above 0; the update is scaled by alpha / rank."
    if not lora.target_modules:
        path = flag((stage.name, "lora", "target_modules"))
        yield f"{name}.target_modules: nothing would be trained; give patterns, or {path} all-linear."


def sync_problems(run: Run, index: int, stage: Preference | Online | Denoise) -> Iterator[str]:
    """A moving reference needs a reference that is a model of its own, run in every step."""
    name = stage.name
    if not 0 < stage.ref_model_mixup_alpha <= 1:
        yield (
            f"{name}.ref_model_mixup_alpha: {stage.ref_model_mixup_alpha:g} must lie in (0, 1]; 1 copies the policy, "
            f"and {flag((name, 'sync_ref_model'))} False keeps the reference still."
        )
    if stage.ref_model_sync_steps < 1:
        yield f"{name}.ref_model_sync_steps: {stage.ref_model_sync_steps} must be at least 1."
    if not stage.sync_ref_model:
        return
    needs = getattr(stage.loss, "NEEDS", None)
    if needs is not None and needs.kind("reference") == "none":
        yield (
            f"{name}.sync_ref_model: {type(stage.loss).__name__} has no reference that could move; "
            f"leave it out, or choose a loss with a reference."
        )
        return
    if needs is not None and needs.kind("reference") == "logps" and getattr(stage, "precompute_ref_log_probs", None):
        yield (
            f"{name}.sync_ref_model: log-probs of a moving reference cannot be computed beforehand; "
            f"leave it out, or {flag((name, 'precompute_ref_log_probs'))} False, to run it in every step."
        )
    if stage.lora is not None:
        yield (
            f"{name}.sync_ref_model: with adapters the reference is the frozen base, which cannot move (a mix of two "
            f"adapters' factors is not the mix of the two models); train without {flag((name, 'lora'))}, or keep the "
            f"reference still."
        )
