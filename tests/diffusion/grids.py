"""Pictures of what preference methods make of the base: `scripts/diffusion_grids`."""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np
from diffusion.base import base, samples, unit_noise, words
from evidence.claims import _scene_images as images
from PIL import Image

from jaxpo.corpora.scenes import draw

COLUMNS, SIDE, GAP = 12, 32, 4
METHODS = (("Diffusion-DPO", images.by_dpo), ("DDIM-InPO", images.by_inpo), ("SmPO", images.by_smpo))


def grid(rows: list[np.ndarray]) -> Image.Image:
    """Rows of pictures `[COLUMNS, h, w, 3]` in [-1, 1], each pixel enlarged, on white."""
    each = SIDE + GAP
    sheet = Image.new("RGB", (COLUMNS * each + GAP, len(rows) * each + GAP), "white")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            pixels = np.round((np.clip(picture, -1, 1) + 1) * 127.5).astype(np.uint8)
            small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(small, (GAP + c * each, GAP + r * each))
    return sheet


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/diffusion_grids", description=__doc__)
    docs = Path(__file__).resolve().parents[2] / "docs"
    parser.add_argument("out", nargs="?", type=Path, default=docs, help="folder (default: docs)")
    out: Path = parser.parse_args(argv).out
    for reward in images.WANTED:
        scenes = draw(COLUMNS, 7, held_out=True, unplaced=float(reward == "left"))
        tokens, noise = words([scene.caption for scene in scenes]), unit_noise(7, COLUMNS)
        data = images.data_of(reward, 0)
        models = [base()]
        for _, loss in METHODS:
            moments = images.trained(loss, base(), data, jax.random.key(0))
            models.append(jax.tree.map(lambda x: x[-1], moments))
        grid([np.asarray(samples(p, noise, tokens, guidance=1.0)) for p in models]).save(
            out / f"diffusion_{reward}.png", optimize=True
        )
        print(f"{reward}: " + " | ".join(scene.caption for scene in scenes), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
