"""diffusers' side of W16: the loop of its pipelines around a model and a scheduler that it reads from a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

NO_CONDITIONS = {"resolution": None, "aspect_ratio": None}


def export(subject: Any, folder: Path) -> None:
    """The subject's model as a pipeline's folder."""
    from jaxpo.convert.diffusers.write import export_diffusers

    export_diffusers(subject.params, subject.config, folder, verify=False)


class Loop:
    """Sampling; a call returns images `[B, H, W, C]`."""

    def __init__(self, subject: Any, folder: Path, threads: int, *, compiled: bool = False):
        os.environ["HF_HUB_OFFLINE"] = "1"
        import torch
        from diffusers import DDIMScheduler, PixArtTransformer2DModel

        torch.set_num_threads(threads)
        self.torch, self.shapes = torch, subject.shapes
        model = PixArtTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval()
        self.model = torch.compile(model, dynamic=False) if compiled else model
        self.scheduler = DDIMScheduler.from_pretrained(
            folder, subfolder="scheduler", timestep_spacing="trailing", clip_sample=False, steps_offset=0
        )
        self.noise = torch.from_numpy(np.ascontiguousarray(np.moveaxis(subject.noise, -1, 1)))
        self.states = torch.from_numpy(subject.states.reshape(-1, *subject.states.shape[2:]))

    def __call__(self) -> np.ndarray:
        torch, x = self.torch, self.noise
        with torch.no_grad():
            self.scheduler.set_timesteps(self.shapes.steps)
            for t in self.scheduler.timesteps:
                twice = torch.cat([x, x])
                output = self.model(
                    twice,
                    timestep=t.expand(len(twice)),
                    encoder_hidden_states=self.states,
                    added_cond_kwargs=NO_CONDITIONS,
                ).sample
                told, untold = output.chunk(2)
                x = self.scheduler.step(untold + self.shapes.guidance * (told - untold), t, x).prev_sample
        return np.moveaxis(x.numpy(), 1, -1)
