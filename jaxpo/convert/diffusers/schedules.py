"""`scheduler/scheduler_config.json` of a folder of diffusers, and the noise schedule that it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxpo.config.noise import LINEAR, NoiseSchedule
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.document import Document, shown

FILE = "scheduler_config.json"
CLASS = "DDIMScheduler"
BETAS = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "noise", "v_prediction": "velocity", "sample": "x0"}
_OF_SAMPLERS = ("timestep_spacing", "steps_offset", "clip_sample", "clip_sample_range", "thresholding")
"""Keys that say how images are drawn, not what the model was trained on."""


def schedule_to_json(config: NoiseSchedule) -> dict[str, Any]:
    """A `DDIMScheduler`; leading times from 1 where the clean end is that of time 0, as Stable Diffusion has it.

    Raises:
      ConfigError: rectified flow, whose times diffusers counts from 1 to T.
    """
    if config.betas == "flow" or config.parameterisation == "flow":
        raise ConfigError(
            "export: diffusers' schedulers of rectified flow give the model times from 1 to T, jaxpo's are 0 to T - 1: "
            "such a model has no form there."
        )
    start, end = LINEAR.get(config.betas, (0.0001, 0.02))
    leading = config.clean == "first" and not config.zero_snr
    return {
        "_class_name": CLASS,
        "num_train_timesteps": config.steps,
        "beta_schedule": next(name for name, ours in BETAS.items() if ours == config.betas),
        "beta_start": start if config.beta_start is None else config.beta_start,
        "beta_end": end if config.beta_end is None else config.beta_end,
        "trained_betas": None,
        "prediction_type": next(name for name, ours in PREDICTIONS.items() if ours == config.parameterisation),
        "rescale_betas_zero_snr": config.zero_snr,
        "set_alpha_to_one": config.clean == "one",
        "clip_sample": False,
        "timestep_spacing": "leading" if leading else "trailing",
        "steps_offset": int(leading),
    }


def schedule_from_json(document: Mapping[str, Any], source: object) -> NoiseSchedule:
    """The schedule of any of diffusers' schedulers that add noise by a table of betas.

    Raises:
      CheckpointError: betas of a table of its own, rectified flow, or absurd or mistyped values; names the file.
    """
    read = Document(document)
    kind = shown(document.get("_class_name"))
    if "FlowMatch" in kind or document.get("prediction_type") == "flow_prediction":
        read.problems.append(f"{kind} is one of rectified flow, whose times diffusers counts from 1 to T")
    read.only("trained_betas", None, "betas of a table of its own are not read")
    betas = _choice(read, "beta_schedule", BETAS, "linear")
    linear = betas in LINEAR
    # What diffusers takes where a file leaves them out.
    start, end = (read.number(key, value) for key, value in (("beta_start", 0.0001), ("beta_end", 0.02)))
    values: dict[str, Any] = {
        "betas": betas,
        "steps": read.integer("num_train_timesteps", 1000, least=2, most=2**20),
        "beta_start": start if linear and start != LINEAR[betas][0] else None,
        "beta_end": end if linear and end != LINEAR[betas][1] else None,
        "zero_snr": read.flag("rescale_betas_zero_snr", False),
        "clean": "one" if read.flag("set_alpha_to_one", True) else "first",
        "parameterisation": _choice(read, "prediction_type", PREDICTIONS, "epsilon"),
    }
    read.check(source)
    try:
        return NoiseSchedule(**values)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error


def sampler_notes(document: Mapping[str, Any]) -> Iterator[str]:
    """What the file says of a sampler, which a model does not keep."""
    said = [f"{key} {shown(document[key])}" for key in _OF_SAMPLERS if document.get(key) not in (None, False, 0)]
    if said:
        yield f"of the sampler, and not kept with the model: {', '.join(said)}"


def _choice(read: Document, key: str, known: Mapping[str, str], default: str) -> str:
    name = read.values.get(key, default)
    if not isinstance(name, str) or name not in known:
        name = read.wrong(key, name, f"one of {', '.join(known)}", default)
    return known[name]
