"""W16: images per second by guided DDIM on a diffusion transformer of PixArt's form, beside diffusers."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.ceilings import Shape, best_products, described, has
from benchmarks.measure import ChildFailed, alone, interleaved, say
from benchmarks.work import Options, Result, Row, Table, Work
from jaxpo.diffusion.ddim import sample
from jaxpo.diffusion.guidance import classifier_free
from jaxpo.diffusion.schedules import destinations, schedule, times
from jaxpo.models.dit.config import DiTConfig
from jaxpo.models.family import denoiser, param_table
from jaxpo.models.spec import init_params
from jaxpo.train.jaxpr_flops import count_flops

Tree = Any
Run = Callable[[], Any]
JAXPO, EAGER, COMPILED = "jaxpo", "diffusers, eager", "diffusers, torch.compile"
TOLERANCE = 1e-3
COMPILE_LIMIT = 300.0


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What is drawn.

    Attributes:
      batches: numbers of images drawn at once.
      steps: of the sampler, each of which asks for a prediction with the caption and one without; they divide the
        schedule's, or diffusers' scheduler goes to other times.
      words: states of a caption.
    """

    config: DiTConfig
    batches: tuple[int, ...]
    steps: int
    words: int
    guidance: float = 4.5


LARGE = Shapes(
    DiTConfig(
        sample_size=32,
        out_channels=4,
        num_layers=8,
        num_attention_heads=4,
        attention_head_dim=64,
        caption_channels=512,
    ),
    batches=(1, 16),
    steps=10,
    words=64,
)
SMALL = Shapes(
    DiTConfig(
        sample_size=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        caption_channels=8,
    ),
    batches=(1, 2),
    steps=4,
    words=4,
)


class Subject:
    """A model with random weights, and the noise and the captions' states that every contestant draws from."""

    def __init__(self, shapes: Shapes, images: int):
        self.shapes, self.images, self.config = shapes, images, shapes.config
        fresh = init_params(param_table(self.config), jax.random.key(0))
        rng = np.random.default_rng(0)
        # A fresh model predicts zeros, whatever it is asked.
        self.params = jax.tree.map(lambda x: x + 0.02 * rng.standard_normal(x.shape, np.float32), fresh)
        side, width = self.config.sample_size, self.config.context_channels
        self.noise = rng.standard_normal((images, side, side, self.config.in_channels), np.float32)
        self.states = rng.standard_normal((2, images, shapes.words, width), np.float32)
        """With the caption, and without."""
        self.times = times("trailing", shapes.steps, self.config.schedule.steps)


class Sampler:
    """jaxpo's: all steps in one program; a call returns images `[B, H, W, C]`."""

    def __init__(self, subject: Subject):
        made, network, src = schedule(subject.config.schedule), denoiser(subject.config), subject.times
        guidance = subject.shapes.guidance

        @jax.jit
        def run(params: Tree, noise: jax.Array, states: jax.Array) -> jax.Array:
            def predict(x: jax.Array, t: jax.Array, context: jax.Array, mask: Any) -> jax.Array:
                return network(params, x, t, context, mask=mask, config=subject.config)

            return sample(made, classifier_free(predict, *states, guidance), noise, src, destinations(src))

        self.run, self.arguments = run, (subject.params, subject.noise, subject.states)

    def __call__(self) -> np.ndarray:
        return np.asarray(self.run(*self.arguments))

    def flops(self) -> float:
        """Of the products of a call, from its program."""
        return count_flops(self.run, *self.arguments).flops


def contestants(shapes: Shapes, images: int, options: Options, folder: Path) -> tuple[dict[str, Run], dict[str, str]]:
    """Those that run here, and why others do not."""
    subject = Subject(shapes, images)
    found: dict[str, Run] = {JAXPO: Sampler(subject)}
    if not options.peers:
        return found, {}
    if not (has("torch") and has("diffusers")):
        return found, dict.fromkeys((EAGER, COMPILED), "torch and diffusers are not installed")
    from benchmarks.images_diffusers import Loop, export

    export(subject, folder)
    found[EAGER] = Loop(subject, folder, options.threads)
    if options.smoke:
        return found, {COMPILED: "a smoke run does not wait for the compiler"}
    say(f"  torch.compile for {images}, first in a process of its own")
    try:
        args = (str(folder), str(images), str(options.threads))
        took = alone("benchmarks.images", "compile_alone", *args, timeout=COMPILE_LIMIT, threads=options.threads)
    except ChildFailed as error:
        return found, {COMPILED: f"torch.compile: {error}"}
    say(f"  which took {took.wall:.0f} s")
    found[COMPILED] = Loop(subject, folder, options.threads, compiled=True)
    return found, {}


def compile_alone(folder: str, images: str, threads: str) -> None:
    """Fill PyTorch's cache of compiled code."""
    from benchmarks.images_diffusers import Loop

    Loop(Subject(LARGE, int(images)), Path(folder), int(threads), compiled=True)()


def agree(runs: Mapping[str, Run]) -> float:
    """How far the images that are drawn of one noise lie from jaxpo's, in units of its largest value.

    Raises:
      ValueError: further than rounding explains.
    """
    images = {name: run() for name, run in runs.items()}
    ours, worst = images[JAXPO], 0.0
    for name, found in images.items():
        apart = float(np.max(np.abs(found - ours)) / np.max(np.abs(ours)))
        if not apart <= TOLERANCE:
            raise ValueError(f"{name} draws other images than jaxpo, apart by {apart:.1e} of the largest value")
        worst = max(worst, apart)
    return worst


def products_of(shapes: Shapes, images: int) -> list[Shape]:
    """The products (m, k, n) of one step with the weights: of both predictions of all images."""
    c, d = shapes.config, shapes.config.width
    patches, words = (2 * images * n for n in ((c.sample_size // c.patch_size) ** 2, shapes.words))
    pixels = c.patch_size**2
    layer = [(patches, d, d)] * 6 + [(words, d, d)] * 2 + [(patches, d, 4 * d), (patches, 4 * d, d)]
    ends = [(patches, pixels * c.in_channels, d), (patches, d, pixels * c.out_channels)]
    return layer * c.num_layers + ends + [(words, c.caption_channels, d), (words, d, d)]


def measure(options: Options) -> Result:
    """Images per second at each batch, beside what the products alone would allow."""
    shapes = SMALL if options.smoke else LARGE
    tables, ceilings, worst = [], {}, 0.0
    for images in shapes.batches:
        with tempfile.TemporaryDirectory() as folder:
            runs, missing = contestants(shapes, images, options, Path(folder) / "pipeline")
        worst = max(worst, agree(runs))
        say(f"  {images} at once: all draw the same")
        products = best_products(products_of(shapes, images), peers=options.peers)
        of = f", {images} image{'s' * (images > 1)}"
        ceilings |= {name + of: value for name, value in described(products).items()}
        ours: Any = runs[JAXPO]
        ceiling = images * max(products.values()) / ours.flops()
        rows = [Row(name, images, t.wall, t.cpu, ceiling=ceiling) for name, t in interleaved(runs, options).items()]
        absent = [Row(name, missing=why) for name, why in missing.items()]
        tables.append(Table(f"{images} image{'s' * (images > 1)} at once", "images", (*rows, *absent)))
    return Result(tuple(tables), ceilings, notes(shapes, worst if len(runs) > 1 else None))


def notes(shapes: Shapes, worst: float | None) -> tuple[str, ...]:
    """What was measured; `worst` is None where no peer was."""
    c = shapes.config
    count = sum(int(np.size(x)) for x in jax.tree.leaves(Subject(shapes, 1).params))
    ours = (
        f"Shape: a diffusion transformer of {count / 1e6:.1f}M parameters, d {c.width}, {c.num_layers} layers, "
        f"{c.num_attention_heads} heads, latents of {c.sample_size} x {c.sample_size} x {c.in_channels} in patches of "
        f"{c.patch_size}, captions given as {shapes.words} states, float32, random weights; {shapes.steps} DDIM steps, "
        f"guidance {shapes.guidance:g}, both predictions in one call; no decoder.",
        "The ceiling: the products of the sampler, attention's included, at the speed of the faster library's plain "
        "products with the weights.",
    )
    if worst is None:
        return ours
    theirs = (
        "diffusers reads jaxpo's own export (`PixArtTransformer2DModel`, `DDIMScheduler`) and runs the loop of its "
        f"pipelines without gradients; checked: the images agree, apart by {worst:.0e} of the largest value at most.",
    )
    return ours + theirs


WORK = Work(
    key="W16",
    title="drawing images",
    goal="as many images per second as diffusers, one at a time and many at once",
    measure=measure,
)
