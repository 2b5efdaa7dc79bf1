"""Pairs of images: the errors of either, of the trained model and of a frozen one, at latents of their time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxpo.data.images.batch import CHOSEN, REJECTED, ImageBatch
from jaxpo.diffusion.inversion import invert
from jaxpo.diffusion.parameterisation import add_noise, implied_noise, target, to_noise
from jaxpo.losses.denoising import squared_error
from jaxpo.objectives.base import Mean, masked_mean
from jaxpo.objectives.families.denoising import FURTHER, Denoiser, Draws, flat, weight_of

Tree = Any


@struct.dataclass
class ComparedImages:
    """Pairs of images; of either the mean squared errors of the trained model and of the reference.

    Attributes:
      errors, ref_errors: `[N, 2]`, the chosen image first; no gradient reaches the second.
      times: t of each pair.
    """

    errors: Float[Array, "N 2"]
    ref_errors: Float[Array, "N 2"]
    times: Int[Array, "N"]
    present: Bool[Array, "N"]
    weight: Float[Array, "N"]
    columns: dict[str, Any] = struct.field(default_factory=dict)

    def turned(self, where: Bool[Array, "N"] | bool = True) -> ComparedImages:
        """With the images of these pairs exchanged."""
        exchanged = jnp.broadcast_to(jnp.asarray(where), self.present.shape)[:, None]
        errors, ref_errors = (jnp.where(exchanged, x[:, ::-1], x) for x in (self.errors, self.ref_errors))
        return self.replace(errors=errors, ref_errors=ref_errors)  # type: ignore[attr-defined]

    @property
    def sides(self) -> tuple[Array, Array, Array, Array]:
        """`(e_w, e_l, r_w, r_l)`, each `[N]`."""
        of = (self.errors, self.ref_errors)
        (chosen, rejected), (ref_chosen, ref_rejected) = ((x[:, CHOSEN], x[:, REJECTED]) for x in of)
        return chosen, rejected, ref_chosen, ref_rejected


@struct.dataclass
class Noisy:
    """The images of pairs at their times, and what the model should predict of them; constants.

    Attributes:
      x, wanted: `[N, 2, H, W, C]`.
      of_noise: whether `wanted` is noise, whatever the model's own parameterisation.
    """

    x: Array
    wanted: Array
    of_noise: bool = struct.field(pytree_node=False, default=False)


def forward_noise(how: Denoiser, batch: ImageBatch, draws: Draws) -> Noisy:
    """Both images of a pair with the same noise at the same time."""
    noise = jnp.broadcast_to(draws.noise[:, None], batch.images.shape)
    x, wanted = (f(how.schedule, batch.images, noise, draws.times) for f in (add_noise, target))
    return Noisy(x, wanted)


def inverted(how: Denoiser, model: Tree, batch: ImageBatch, draws: Draws, eta: float, **options: Any) -> Noisy:
    """Both images of a pair at the latents where DDIM, run backwards by this model, arrives with each of them.

    Args:
      eta: of the noise that is added after every segment, which a pair shares; 0 = none.
      options: see `jaxpo.diffusion.inversion.invert`.
    """
    own, x0, t = jax.lax.stop_gradient(model), flat(batch.images), jnp.repeat(draws.times, 2)
    text = how.text(own, batch).repeated(2)
    noise = None
    if eta > 0:
        shape = (options["n"], *batch.images.shape[2:])
        drawn = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, FURTHER), shape))(draws.keys)
        noise = jnp.repeat(drawn, 2, axis=0).swapaxes(0, 1)
    denoise = lambda x, at: how.predict(own, x, at, text)  # noqa: E731
    x = invert(how.schedule, denoise, x0, t, eta=eta, noise=noise, **options)
    wanted = implied_noise(how.schedule, x, x0, t)
    return Noisy(x.reshape(batch.images.shape), wanted.reshape(batch.images.shape), of_noise=True)


def compared(
    how: Denoiser,
    params: Tree,
    frozen: Mapping[str, Tree],
    batch: ImageBatch,
    draws: Draws,
    noisy: Noisy,
    user: Array | None = None,
) -> ComparedImages:
    """The errors of both images of every pair, of the trained model and of the reference, which sees no user."""
    x, wanted, t = flat(noisy.x), flat(noisy.wanted), jnp.repeat(draws.times, 2)
    where = jnp.repeat(batch.present, 2)

    def errors(run: Denoiser, model: Tree, user: Array | None) -> Array:
        seen = None if user is None else jnp.repeat(user, 2, axis=0)
        output = run.predict(model, x, t, run.text(model, batch).repeated(2), seen)
        found = to_noise(run.schedule, output, x, t) if noisy.of_noise else how.as_target(run, output, x, t)
        return squared_error(found, wanted, where=where).reshape(-1, 2)

    reference = jax.lax.stop_gradient(errors(how.of_beside("reference"), frozen["reference"], None))
    own = errors(how, params["model"], user)
    return ComparedImages(own, reference, draws.times, batch.present, weight_of(batch), batch.columns)


def compared_metrics(features: ComparedImages, scale: float) -> dict[str, Mean]:
    """TRL's metrics of preferences with the reward `scale (r - e)`, and the errors of either side and the reference.

    Args:
      scale: how strongly the loss ties to the reference, `beta / 2` of Diffusion-DPO.
    """
    e_w, e_l, r_w, r_l = features.sides
    here = features.present
    chosen, rejected = scale * (r_w - e_w), scale * (r_l - e_l)
    return {
        "rewards/chosen": masked_mean(chosen, here),
        "rewards/rejected": masked_mean(rejected, here),
        "rewards/margins": masked_mean(chosen - rejected, here),
        "rewards/accuracies": masked_mean((chosen > rejected).astype(jnp.float32), here),
        "errors/chosen": masked_mean(e_w, here),
        "errors/rejected": masked_mean(e_l, here),
        "errors/ref_chosen": masked_mean(r_w, here),
        "errors/ref_rejected": masked_mean(r_l, here),
    }
