"""How a denoiser's images and captions are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jaxpo.config.places import OtherFile


@dataclass(frozen=True)
class Users:
    """How a user of a data set of pairs becomes tokens that the denoiser reads (PPD, arXiv 2501.06655).

    The first `support` pairs of a user are set aside and not trained on. Their mean of chosen less rejected, over a
    grid of cells and of unit length, is multiplied with a fixed random matrix. Rows with a column `user_tokens`,
    `[M][U]`, bring the tokens of another encoder instead, and none is set aside.

    Attributes:
      support: pairs set aside for every user.
      tokens, width: of the embedding, M and U.
      cells: of the grid, along each side.
      seed: of the projection, which is the same for every user and every run.
    """

    support: int = 4
    tokens: int = 8
    width: int = 64
    cells: int = 8
    seed: int = 0


@dataclass(frozen=True)
class ImageData:
    """How rows become images in [-1, 1], and captions.

    Attributes:
      size: pixels along both sides; the short side of every image is resized to it. None = the model's.
      crop: of what is longer than that: "center", or "random", anew in every epoch; both images of a pair the same.
      flip: mirror every second example at random, both images of a pair together.
      ties: pairs that nobody prefers: "skip" counts them and leaves them out; "keep" trains on them, of use to losses
        that read rewards; "error" stops.
      lists: pairs of a scored list: its "extremes", the best and the worst, or "all".
      latent_scale: what latents in the files were multiplied with; a file that says another number is refused.
      empty_states: file whose one row has in `states` what the encoder of the data's texts makes of the empty caption,
        for losses that read it beside captions that are states; None = a single state of zeros.
      segments: cut captions at . ! ? and ; into as many segments at most, each of `data.max_length` tokens and read by
        the text tower alone; 1 = captions are one piece.
      per_prompt: weigh every pair by 1 / num_example_per_prompt.
      users: how users become tokens, for losses that read users.
    """

    size: int | None = None
    crop: Literal["center", "random"] = "center"
    flip: bool = False
    ties: Literal["skip", "keep", "error"] = "skip"
    lists: Literal["extremes", "all"] = "extremes"
    latent_scale: float = 0.18215
    empty_states: OtherFile | None = None
    segments: int = 1
    per_prompt: bool = False
    users: Users = field(default_factory=Users)
