"""What a model predicts: the noise, the velocity, the image, or the velocity of rectified flow, each from any other.

    x_t = a x0 + s e;    noise: e    velocity: v = a e - s x0    x0    flow: u = e - x0

Reference: Ho et al. 2020, arXiv:2006.11239; velocity: Salimans and Ho 2022, arXiv:2202.00512, appendix D; flow: Liu et
al. 2022, arXiv:2209.03003.
"""

from __future__ import annotations

from jaxtyping import Array, Float, Int

from jaxpo.diffusion.schedules import Schedule, levels_like

Images = Float[Array, "..."]
Times = Int[Array, "..."] | int


def add_noise(schedule: Schedule, x0: Images, noise: Images, t: Times) -> Images:
    """x_t = a_t x0 + s_t e."""
    a, s = levels_like(schedule, t, x0)
    return a * x0 + s * noise


def target(schedule: Schedule, x0: Images, noise: Images, t: Times) -> Images:
    """What the model's output should be, given the image and the noise that was added to it."""
    kind = schedule.parameterisation
    if kind == "velocity":
        a, s = levels_like(schedule, t, x0)
        return a * noise - s * x0
    return {"noise": noise, "x0": x0}[kind] if kind != "flow" else noise - x0


def to_x0(schedule: Schedule, output: Images, x: Images, t: Times) -> Images:
    """The image that an output stands for: (x - s e) / a, a x - s v over a^2 + s^2, or x - s u over a + s."""
    a, s = levels_like(schedule, t, x)
    kind = schedule.parameterisation
    if kind == "noise":
        return (x - s * output) / a
    if kind == "velocity":
        return (a * x - s * output) / (a * a + s * s)
    return output if kind == "x0" else (x - s * output) / (a + s)


def to_noise(schedule: Schedule, output: Images, x: Images, t: Times) -> Images:
    """The noise that an output stands for: s x + a v over a^2 + s^2, (x - a x0) / s, or x + a u over a + s."""
    a, s = levels_like(schedule, t, x)
    kind = schedule.parameterisation
    if kind == "velocity":
        return (s * x + a * output) / (a * a + s * s)
    if kind == "x0":
        return (x - a * output) / s
    return output if kind == "noise" else (x + a * output) / (a + s)


def implied_noise(schedule: Schedule, x: Images, x0: Images, t: Times) -> Images:
    """tau = (x_t - a_t x0) / s_t: the noise that would have led from the image to this latent."""
    a, s = levels_like(schedule, t, x)
    return (x - a * x0) / s
