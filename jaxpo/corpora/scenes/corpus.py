"""Scenes as a run's own data files: pictures with captions, judged pairs, pairs of people, and the words as tokens."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from PIL import Image

from jaxpo.corpora.files import reusable, write
from jaxpo.corpora.scenes.captions import VOCABULARY
from jaxpo.corpora.scenes.draw import draw
from jaxpo.corpora.scenes.pairs import Judged, pairs
from jaxpo.corpora.scenes.scene import COLOURS, Scene, render
from jaxpo.corpora.scenes.users import TASTES
from jaxpo.data.tokenizer.tokenizer import SPECIAL_TOKENS

FORMAT = 1
TRAIN, HELD_OUT = "scenes_train.jsonl", "scenes_heldout.jsonl"
PAIRS, HELD_OUT_PAIRS = "pairs_train.jsonl", "pairs_heldout.jsonl"
LONG, HELD_OUT_LONG, MATCHES = "long_train.jsonl", "long_heldout.jsonl", "matches_train.jsonl"
PEOPLE, STRANGERS = "people_train.jsonl", "people_heldout.jsonl"
TOKENIZER = "tokenizer.json"
SEVERAL = (2, 4)
"""Fewest and most things of a long caption."""


@dataclass(frozen=True)
class Scenes:
    """Small pictures whose captions can be checked.

    Attributes:
      scenes, held_out: pictures with captions to train on, and of clauses that no training caption has.
      pairs: judged pairs to train on; an eighth as many are held out.
      reward: what judges them, of `corpora.scenes.REWARDS`.
      ties: share of pairs that hardly differ, with a label by chance.
      long: pictures of two to four things to train on, whose captions have a clause for each, and as many pairs of such
        a picture and one in which one thing has another colour; an eighth as many pictures are held out. 0 = no such
        files.
      people: people of each of the four tastes in the training pairs; as many strangers are held out. 0 = no such file.
      choices: pairs of each of them.
      size: pixels along both sides.
      gains: least and greatest brightness.
      unplaced: share of the captions of single pictures that do not say where a thing is.
      seed: of all chances.
    """

    scenes: int = 4096
    held_out: int = 128
    pairs: int = 1024
    reward: str = "brightness"
    ties: float = 0.0
    long: int = 0
    people: int = 0
    choices: int = 24
    size: int = 8
    gains: tuple[float, float] = (0.6, 1.0)
    unplaced: float = 0.2
    seed: int = 0

    def build(self, directory: Path) -> dict[str, Any]:
        """Write the files, unless they are there."""
        inputs = hashlib.sha256(json.dumps([FORMAT, asdict(self)]).encode()).hexdigest()[:16]
        found = reusable(directory, inputs)
        if found is None:
            report = {"inputs": inputs, "scenes": str(self.scenes), "pairs": str(self.pairs)}
            found = write(directory, self._files(), report)
        tokenizer().save(str(directory / TOKENIZER))
        return found

    def _files(self) -> dict[str, Any]:
        files = {
            TRAIN: self._pictures(self.scenes, self.seed, held_out=False),
            HELD_OUT: self._pictures(self.held_out, self.seed + 1, held_out=True),
            PAIRS: _rows(self._judged(self.pairs, self.seed + 2, held_out=False)),
            HELD_OUT_PAIRS: _rows(self._judged(max(self.pairs // 8, 8), self.seed + 3, held_out=True)),
        }
        if self.long:
            files |= {
                LONG: self._pictures(self.long, self.seed + 4, held_out=False, things=SEVERAL),
                HELD_OUT_LONG: self._pictures(max(self.long // 8, 8), self.seed + 5, held_out=True, things=SEVERAL),
                MATCHES: self._matches(self.long, self.seed + 6),
            }
        if self.people:
            files |= {PEOPLE: self._people("known", self.seed + 1000), STRANGERS: self._people("new", self.seed + 2000)}
        return files

    def _pictures(
        self, count: int, seed: int, *, held_out: bool, things: tuple[int, int] = (1, 1)
    ) -> Iterator[dict[str, Any]]:
        scenes = draw(count, seed, held_out=held_out, things=things, gains=self.gains, unplaced=self.unplaced)
        for scene, pixels in zip(scenes, render(scenes, self.size), strict=True):
            yield {"caption": scene.caption, "image": as_url(pixels)}

    def _matches(self, count: int, seed: int) -> Iterator[dict[str, Any]]:
        """Pictures that fit their captions, beside others that do not in one clause."""
        rng = np.random.default_rng((seed, 2))
        scenes = draw(count, seed, things=SEVERAL, gains=self.gains)
        others = [_recoloured(scene, rng) for scene in scenes]
        for scene, *pixels in zip(scenes, render(scenes, self.size), render(others, self.size), strict=True):
            images = {"chosen_image": as_url(pixels[0]), "rejected_image": as_url(pixels[1])}
            yield {"caption": scene.caption, **images}

    def _judged(self, count: int, seed: int, *, held_out: bool) -> Judged:
        how: dict[str, Any] = {"size": self.size, "ties": self.ties, "gains": self.gains}
        return pairs(count, seed, self.reward, held_out=held_out, **how)

    def _people(self, name: str, seed: int) -> Iterator[dict[str, Any]]:
        """Pairs of everybody in turn; where things are is not said, so that there is something to choose."""
        everybody = [(taste, number) for number in range(self.people) for taste in TASTES]
        for i, (taste, number) in enumerate(everybody):
            judged = pairs(self.choices, seed + i, TASTES[taste], size=self.size, gains=self.gains, unplaced=1.0)
            yield from ({**row, "user": f"{name}-{taste}-{number}"} for row in _rows(judged))


def _rows(judged: Judged) -> Iterator[dict[str, Any]]:
    for caption, chosen, rejected, rewards in zip(
        judged.captions, judged.chosen, judged.rejected, judged.rewards, strict=True
    ):
        images = {"chosen_image": as_url(chosen), "rejected_image": as_url(rejected)}
        yield {"caption": caption, **images, "score_0": float(rewards[0]), "score_1": float(rewards[1])}


def _recoloured(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with another colour of one thing."""
    k = int(rng.integers(len(scene.things)))
    colours = [colour for colour in COLOURS if colour != scene.things[k].colour]
    other = replace(scene.things[k], colour=colours[rng.integers(len(colours))])
    return replace(scene, things=(*scene.things[:k], other, *scene.things[k + 1 :]))


def as_url(pixels: np.ndarray) -> str:
    """A picture in [-1, 1] as a `data:` URL of a PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.clip(np.round((pixels + 1) * 127.5), 0, 255).astype(np.uint8)).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def tokenizer() -> tokenizers.Tokenizer:
    """The words of captions under the numbers of `captions.encode`; jaxpo's special tokens follow them."""
    words = {word: number for number, word in enumerate(VOCABULARY)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=VOCABULARY[0]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_special_tokens(list(SPECIAL_TOKENS))
    return inner
