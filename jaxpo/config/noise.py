"""How a diffusion model's noise grows with time, and what the model predicts of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jaxpo.errors import ConfigError

Betas = Literal["scaled_linear", "linear", "cosine", "flow"]
Parameterisation = Literal["noise", "velocity", "x0", "flow"]
PARAMETERISATIONS: tuple[str, ...] = get_args(Parameterisation)
LINEAR = {"scaled_linear": (0.00085, 0.012), "linear": (1e-4, 0.02)}
"""The first and the last beta where none is given."""


@dataclass(frozen=True)
class NoiseSchedule:
    """The schedule of a model, in words; `jaxpo.diffusion.schedules.schedule` makes its tables.

    Attributes:
      betas: "scaled_linear" (Stable Diffusion), "linear" (DDPM), "cosine", or "flow", the straight path of rectified
        flow, x_t = (1 - s) x0 + s e with s = (t + 1) / T.
      steps: T, the number of times.
      beta_start: first beta of the two linear ones; None = 0.00085 and 1e-4.
      beta_end: the last one; None = 0.012 and 0.02.
      zero_snr: rescale so that nothing of the image is left at the last time. A model of the noise has no estimate of
        the image there and is refused.
      clean: what lies below time 0: "one", the image itself, or "first", the noise of time 0, which the last step of
        a sampler then leaves in (`set_alpha_to_one: false` in diffusers).
      parameterisation: what the model's output is: the noise e, the velocity v = a e - s x0, the image x0, or the
        velocity of rectified flow, e - x0.
    """

    betas: Betas = "scaled_linear"
    steps: int = 1000
    beta_start: float | None = None
    beta_end: float | None = None
    zero_snr: bool = False
    clean: Literal["one", "first"] = "one"
    parameterisation: Parameterisation = "noise"

    def __post_init__(self) -> None:
        problems = [
            f"{name}: {value!r}; choose one of {', '.join(choices)}"
            for name, value, choices in (
                ("betas", self.betas, get_args(Betas)),
                ("clean", self.clean, ("one", "first")),
                ("parameterisation", self.parameterisation, PARAMETERISATIONS),
            )
            if value not in choices
        ]
        if not self.steps >= 2:
            problems.append(f"steps: {self.steps}; a schedule has 2 times or more")
        linear = self.betas in ("scaled_linear", "linear")
        for name, beta in (("beta_start", self.beta_start), ("beta_end", self.beta_end)):
            if beta is not None and not linear:
                problems.append(f"{name}: only the linear schedules have one; leave it out with {self.betas!r}")
            elif beta is not None and not 0.0 < beta < 1.0:
                problems.append(f"{name}: {beta} is not between 0 and 1")
        if self.parameterisation == "noise" and (self.zero_snr or self.betas == "flow"):
            problems.append(
                "parameterisation: at the last time nothing is left of the image, and a model of the noise says nothing"
                ' about it there; choose "velocity", "x0" or "flow"'
            )
        if problems:
            raise ConfigError(problems)
